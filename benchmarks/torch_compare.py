#!/usr/bin/env python3
"""libvtc beside PyTorch: the ratio of their times, measured in turns.

    python3 benchmarks/torch_compare.py --bench build/release/benchmarks/vtc_bench

Each round runs vtc_bench and then PyTorch, which stays alive in a process of its own, on the same
shapes with the same number of threads. A turn is as many calls as fill a millisecond, a side's time
the median of its turns in the round. Where vtc_bench rotates its working sets so that the data come
from main memory, so does the PyTorch side. Printed are the median of the rounds' ratios and the
interval that holds the true median with 95 %; a goal is met when the whole interval is below it.

PyTorch is measured twice: "published" is the operation as the models' authors wrote it, "careful"
the same result by someone who knows where the time goes: channels-last layouts, one copy instead
of two, outputs that are reused.
"""
import argparse
import csv
import ctypes
import math
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Callable, Optional

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    torch = None

FORMS = ("published", "careful")

# ---- operations ----------------------------------------------------------------------------------
#
# A builder makes the data of one working set and returns the call that is timed.


def grid_pool(pool, careful):
    """LLaVA-NeXT's get_2dPool on 32 frames. The published copy to channels-first is not needed."""
    def build():
        x = torch.rand(32, 27 * 27, 1152)

        def run():
            grid = x.view(32, 27, 27, 1152).permute(0, 3, 1, 2)
            pooled = pool(grid if careful else grid.contiguous())
            return pooled.permute(0, 2, 3, 1).flatten(1, 2)
        return run
    return build


def bilinear(grid):
    return F.interpolate(grid, size=(14, 14), mode="bilinear")


def average(grid):
    return F.avg_pool2d(grid, 2)


def maximum(grid):
    return F.max_pool2d(grid, 2)


def shuffle_twice(x):
    """InternVL's pixel_shuffle, ps_version v2, by one half: two copies."""
    n, h, w, c = x.shape
    x = x.view(n, h, w // 2, 2 * c).permute(0, 2, 1, 3).contiguous()
    return x.view(n, w // 2, h // 2, 4 * c).permute(0, 2, 1, 3).contiguous()


def shuffle_once(x, out):
    n, h, w, c = x.shape
    out.view(n, h // 2, w // 2, 2, 2 * c).copy_(
        x.view(n, h // 2, 2, w // 2, 2 * c).transpose(2, 3))
    return out


def shuffle_published():
    x = torch.rand(8, 32, 32, 1024)
    return lambda: shuffle_twice(x)


def shuffle_careful():
    x, out = torch.rand(8, 32, 32, 1024), torch.empty(8, 16, 16, 4096)
    return lambda: shuffle_once(x, out)


def reusing_layers(n, first, second):
    """Linear, GELU, linear of n tokens into memory that is reused. Not LayerNorm: given memory for
    its result, PyTorch 1.13 makes the result elsewhere and copies it."""
    hidden, y = torch.empty(n, first.out_features), torch.empty(n, second.out_features)

    def run(x):
        torch.addmm(first.bias, x, first.weight.t(), out=hidden)
        torch._C._nn.gelu(hidden, out=hidden)
        return torch.addmm(second.bias, hidden, second.weight.t(), out=y)
    return run


def llava_published():
    x, mlp = torch.rand(576, 1024), nn.Sequential(nn.Linear(1024, 4096), nn.GELU(),
                                                  nn.Linear(4096, 4096))
    return lambda: mlp(x)


def llava_careful():
    x, layers = torch.rand(576, 1024), reusing_layers(576, nn.Linear(1024, 4096),
                                                      nn.Linear(4096, 4096))
    return lambda: layers(x)


def qwen2vl_published():
    x, norm = torch.rand(1024, 1280), nn.LayerNorm(1280, eps=1e-6)
    mlp = nn.Sequential(nn.Linear(5120, 5120), nn.GELU(), nn.Linear(5120, 3584))
    return lambda: mlp(norm(x).view(-1, 5120))


def qwen2vl_careful():
    x, norm = torch.rand(1024, 1280), nn.LayerNorm(1280, eps=1e-6)
    layers = reusing_layers(256, nn.Linear(5120, 5120), nn.Linear(5120, 3584))
    return lambda: layers(norm(x).view(-1, 5120))


def internvl_published():
    x = torch.rand(1, 32, 32, 1024)
    mlp1 = nn.Sequential(nn.LayerNorm(4096), nn.Linear(4096, 4096), nn.GELU(),
                         nn.Linear(4096, 4096))
    return lambda: mlp1(shuffle_twice(x).view(-1, 4096))


def internvl_careful():
    x, joined = torch.rand(1, 32, 32, 1024), torch.empty(1, 16, 16, 4096)
    norm = nn.LayerNorm(4096)
    layers = reusing_layers(256, nn.Linear(4096, 4096), nn.Linear(4096, 4096))
    return lambda: layers(norm(shuffle_once(x, joined).view(256, 4096)))


def tome_published():
    """The authors' matching with a class token, then merge_wavg of the tokens."""
    x, metric, r = torch.rand(1, 577, 1024), torch.rand(1, 577, 1024) - 0.5, 64

    def merge(tokens, unmerged, merged, partner):
        a, b, c = tokens[:, ::2], tokens[:, 1::2], tokens.shape[-1]
        kept = a.gather(1, unmerged.expand(-1, -1, c))
        sums = b.scatter_reduce(1, partner.expand(-1, -1, c),
                                a.gather(1, merged.expand(-1, -1, c)), reduce="sum")
        return torch.cat([kept, sums], 1)

    def run():
        unit = metric / metric.norm(dim=-1, keepdim=True)
        scores = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
        scores[:, 0] = -torch.inf
        best, column = scores.max(-1)
        order = best.argsort(-1, descending=True)[..., None]
        unmerged, merged = order[:, r:].sort(1)[0], order[:, :r]
        way = unmerged, merged, column[..., None].gather(1, merged)
        mass = torch.ones_like(x[..., :1])
        return merge(x * mass, *way) / merge(mass, *way)
    return run


def tome_careful():
    """Two-dimensional, every large array reused, only the rows that receive others rescaled."""
    x, metric, r = torch.rand(577, 1024), torch.rand(577, 1024) - 0.5, 64
    unit, scores, y = torch.empty_like(metric), torch.empty(289, 288), torch.empty(577 - r, 1024)

    def run():
        torch.mul(metric, metric.norm(dim=1, keepdim=True).reciprocal_(), out=unit)
        torch.mm(unit[::2], unit[1::2].t(), out=scores)
        scores[0] = -torch.inf
        best, column = scores.max(1)
        order = best.argsort(descending=True)
        merged = order[:r]
        partner = column[merged]
        torch.index_select(x[::2], 0, order[r:].sort()[0], out=y[:289 - r])
        sums = y[289 - r:].copy_(x[1::2])
        sums.index_add_(0, partner, x[::2].index_select(0, merged))
        mass = torch.ones(288).index_add_(0, partner, torch.ones(r))
        changed = partner.unique()
        sums[changed] /= mass[changed, None]
        return y
    return run


def ficoco_step(s, x, r, published):
    """A compressing layer of the released FiCoCo-V on head-mean attention. The published code takes
    the softmax of every row; only those of discarded rows are used."""
    cls, red = F.normalize(s[0, 1:], dim=0), F.normalize(s[1:, 1:].mean(1), dim=0)
    score = 0.35 * cls - 0.65 * red
    cells = score.view(12, 2, 12, 2).transpose(1, 2).reshape(144, 4)
    lowest = torch.zeros_like(cells).scatter_(1, cells.argmin(1, keepdim=True), 1.0)
    lowest = lowest.view(12, 12, 2, 2).transpose(1, 2).reshape(576) > 0
    score = torch.where(lowest, torch.where(score > 0, score / 2, score * 2), score)
    order = torch.cat([score.new_full((1,), math.inf), score]).argsort()
    gone, kept = order[:r], order[r:]
    rows = s[gone]
    k = int((rows > torch.quantile(rows, 0.998, dim=1, keepdim=True)).sum(1).max())
    if published:
        value, target = F.softmax(s, -1).topk(k, -1)
        share, target = (value / value.sum(-1, keepdim=True))[gone], target[gone].reshape(-1)
    else:
        value, target = rows.topk(k, -1)
        share, target = value.softmax(-1), target.reshape(-1)
    target = torch.where(target >= len(kept), target - r, target)

    def compress(t):
        added = (t[gone].unsqueeze(1) * share.unsqueeze(-1)).reshape(-1, t.shape[-1])
        return t.index_select(0, kept).index_add_(0, target, added)
    if published:
        return compress(x) / compress(torch.ones_like(x[:, :1]))
    y, size = compress(x), compress(torch.ones_like(x[:, :1]))
    return y.div_(size)


def ficoco_published():
    """Attention is given to it, libvtc computes what it needs from Q and K."""
    attention, x = torch.softmax(torch.rand(16, 577, 577) * 4, -1), torch.rand(577, 1024)
    return lambda: ficoco_step(attention.mean(0), x, 64, True)


def ficoco_careful():
    attention, x = torch.softmax(torch.rand(16, 577, 577) * 4, -1), torch.rand(577, 1024)
    return lambda: ficoco_step(attention.mean(0), x, 64, False)


def column_mean(n_heads, n, d, causal):
    """The mean over heads and rows of a layer's whole attention, as the methods' authors do it."""
    def build():
        q, k = torch.rand(n_heads, n, d) * 2 - 1, torch.rand(n_heads, n, d) * 2 - 1
        hidden = torch.full((n, n), -torch.inf).triu(1)

        def run():
            logits = q @ k.transpose(1, 2) / math.sqrt(d)
            if causal:
                logits = logits + hidden
            return logits.softmax(-1).mean(0).mean(0)
        return run
    return build


def column_mean_careful(n_heads, n, d, causal):
    """Blocks of 64 rows into one reused array; causal ones end at the diagonal."""
    def build():
        q = (torch.rand(n_heads, n, d) * 2 - 1) / math.sqrt(d)
        k = torch.rand(n_heads, n, d) * 2 - 1
        hidden, room = torch.full((n, n), -torch.inf).triu(1), torch.empty(64 * n)

        def run():
            total = torch.zeros(n)
            for h in range(n_heads):
                for begin in range(0, n, 64):
                    end = min(n, begin + 64)
                    seen = end if causal else n
                    logits = room[:(end - begin) * seen].view(end - begin, seen)
                    torch.mm(q[h, begin:end], k[h, :seen].t(), out=logits)
                    if causal:
                        logits += hidden[begin:end, :seen]
                    total[:seen] += logits.softmax(-1).sum(0)
            return total.div_(n * n_heads)
        return run
    return build


def last_row_published():
    """FastV's score, as it would be from Q and K: the authors read it off the whole attention."""
    q, k = torch.rand(32, 704, 128), torch.rand(32, 704, 128)
    return lambda: (q[:, -1:] @ k.transpose(1, 2) / math.sqrt(128)).softmax(-1).mean(0)


def last_row_careful():
    q, k, logits = torch.rand(32, 128, 1), torch.rand(32, 704, 128), torch.empty(32, 704, 1)

    def run():
        torch.bmm(k, q, out=logits)
        return logits.squeeze(2).mul_(128 ** -0.5).softmax(1).mean(0)
    return run


class PerceiverLayer(nn.Module if torch else object):
    """OpenFlamingo's PerceiverAttention and FeedForward for one media item, without biases."""

    def __init__(self, dim=1024, inner=512):
        super().__init__()
        self.norm_media, self.norm_latents = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim, bias=False), nn.GELU(),
            nn.Linear(4 * dim, dim, bias=False))

    def heads(self, rows):
        return rows.view(-1, 8, 64).transpose(0, 1)

    def forward(self, x, latents):
        media, normed = self.norm_media(x), self.norm_latents(latents)
        q = self.heads(self.to_q(normed)) * 64 ** -0.5
        k, v = self.to_kv(torch.cat((media, normed), 0)).chunk(2, -1)
        logits = q @ self.heads(k).transpose(-1, -2)
        weights = (logits - logits.amax(-1, keepdim=True)).softmax(-1)
        gathered = (weights @ self.heads(v)).transpose(0, 1).reshape(-1, 512)
        latents = self.to_out(gathered) + latents
        return self.feed_forward(latents) + latents


def perceiver_published():
    """OpenFlamingo's PerceiverResampler: an image of 256 tokens, six layers, 64 latents."""
    x, latents, norm = torch.randn(256, 1024), torch.randn(64, 1024), nn.LayerNorm(1024)
    layers = [PerceiverLayer() for _ in range(6)]

    def run():
        z = latents
        for layer in layers:
            z = layer(x, z)
        return norm(z)

    return run


def alike_windows():
    """577 tokens of which every other 3x3 window is merged, and the cells of all windows."""
    grid = torch.rand(8, 1, 8, 1, 1024) - 0.5
    alike = (torch.arange(8).view(8, 1, 1, 1, 1) + torch.arange(8).view(1, 1, 8, 1, 1)) % 2 == 0
    x = torch.rand(577, 1024)
    spread = torch.where(alike, 0.2, 2.0) * (torch.rand(8, 3, 8, 3, 1024) - 0.5)
    x[1:] = (grid + spread).view(-1, 1024)
    return x, torch.arange(576).view(8, 3, 8, 3).permute(0, 2, 1, 3).reshape(64, 9)


def mustdrop_published():
    """The authors' 9x9 cosines of every window, then their weighted merge."""
    x, cells = alike_windows()
    x = x[None]

    def run():
        cls, patches = x[:, :1], x[:, 1:]
        tiles = patches.view(1, 8, 3, 8, 3, 1024).permute(0, 1, 3, 5, 2, 4)
        tiles = tiles.reshape(1, 8, 8, 1024, 9)
        similar = F.cosine_similarity(tiles.unsqueeze(-1), tiles.unsqueeze(-2), dim=3)
        similar = (similar * (1 - torch.eye(9))).sum((-1, -2)).view(1, 64) / 72
        best = similar.topk(int((similar >= 0.8).sum(1).min()), -1)[1]
        stays = torch.ones(64, dtype=torch.bool)
        stays[best[0]] = False
        unmerged, merged = cells[stays].reshape(-1).sort()[0], cells[best[0]]
        size = torch.ones(1, 576, 1)
        sizes = torch.cat([torch.ones(1, 1, 1), size[0, merged].sum(1)[None], size[:, unmerged]], 1)
        return torch.cat([cls, patches[0, merged].sum(1)[None], patches[:, unmerged]], 1) / sizes
    return run


def mustdrop_careful():
    """Sums of unit vectors instead of all cosines, every large array reused."""
    x, cells = alike_windows()
    unit, y = torch.empty(576, 1024), torch.empty(321, 1024)
    windows = unit.view(8, 3, 8, 3, 1024).permute(0, 2, 1, 3, 4)

    def run():
        torch.mul(x[1:], x[1:].norm(dim=1, keepdim=True).clamp_min_(1e-8).reciprocal_(), out=unit)
        sums = windows.reshape(64, 9, 1024).sum(1)
        similar = (sums.square_().sum(-1) - 9) / 72
        best = similar.topk(int((similar >= 0.8).sum()))[1]
        stays = torch.ones(64, dtype=torch.bool)
        stays[best] = False
        n = len(best)
        y[0] = x[0]
        torch.mean(x[1:].index_select(0, cells[best].view(-1)).view(n, 9, 1024), 1, out=y[1:1 + n])
        torch.index_select(x[1:], 0, cells[stays].view(-1).sort()[0], out=y[1 + n:])
        return y
    return run


def fastv_published():
    """LLaVA-1.5 7B, 35 rows before the image and 53 of text: one row of attention, 288 tokens kept."""
    q, k = torch.rand(32, 1, 128) * 2 - 1, torch.rand(32, 664, 128) * 2 - 1

    def run():
        attention = (q @ k.transpose(1, 2) / math.sqrt(128)).softmax(-1)
        score = attention.mean(0)[0, 35:35 + 576]
        return score.topk(288).indices.sort().values
    return run


def visionzip_published():
    """The authors' steps: 54 dominant tokens, 10 contextual ones, on 16 heads of 64."""
    q, k = torch.rand(16, 1, 64) * 2 - 1, torch.rand(16, 576, 64) * 2 - 1
    k_cls, hidden = torch.rand(16, 1, 64) * 2 - 1, torch.rand(576, 1024)

    def run():
        keys = torch.cat([k_cls, k], 1)
        attention = (q @ keys.transpose(1, 2) / 8).softmax(-1)[:, 0, 1:]
        dominant = attention.sum(0).topk(54).indices.sort().values
        left = torch.ones(576, dtype=torch.bool)
        left[dominant] = False
        metric, others = k.mean(0)[left], hidden[left]
        metric = metric / metric.norm(dim=-1, keepdim=True)
        targets = torch.arange(0, len(metric), len(metric) // 10)[:10]
        joins = torch.ones(len(metric), dtype=torch.bool)
        joins[targets] = False
        nearest = (metric[joins] @ metric[targets].t()).argmax(1)
        hot = torch.zeros(len(nearest), 10).scatter_(1, nearest[:, None], 1)
        mean = (hot.t() @ others[joins]) / hot.sum(0).clamp(min=1)[:, None]
        return torch.cat([hidden[dominant], others[targets] + mean])
    return run


def sparsevlm(careful):
    """The authors' steps on LLaVA-1.5 7B: raters, their rows of the layer's whole attention, 300
    tokens kept, 83 clustered. With care only the raters' rows are computed."""
    def build():
        embeddings, hidden = (torch.rand(664, 4096) - 0.5) * 0.1, torch.rand(664, 4096) * 2 - 1
        q, k = torch.rand(32, 664, 128) * 2 - 1, torch.rand(32, 664, 128) * 2 - 1
        unseen = torch.full((664, 664), -torch.inf).triu(1)

        def cluster(x, n):
            distance = torch.cdist(x, x) / math.sqrt(x.shape[1])
            nearest = distance.topk(n, dim=1, largest=False).values
            density = (-(nearest ** 2).mean(1)).exp() + torch.rand(len(x)) * 1e-6
            denser = density[None] > density[:, None]
            indicator = torch.where(denser, distance, distance.max()).min(1).values
            centres = (indicator * density).topk(n).indices
            joined = distance[centres].argmin(0)
            joined[centres] = torch.arange(n)
            count = torch.zeros(n).index_add_(0, joined, torch.ones(len(x))) + 1e-6
            return torch.zeros(n, x.shape[1]).index_add_(0, joined, x / count[joined, None])

        def run():
            vision, text = embeddings[35:611], embeddings[611:]
            weight = (vision @ text.t()).softmax(1).mean(0)
            rows = 611 + torch.where(weight > weight.mean())[0]
            if careful:
                logits = q[:, rows] @ k.transpose(1, 2) / math.sqrt(128) + unseen[rows]
                attention = logits.softmax(-1).mean(0)
            else:
                logits = q @ k.transpose(1, 2) / math.sqrt(128) + unseen
                attention = logits.softmax(-1).mean(0)[rows]
            score = attention.mean(0)[35:611]
            keep = score.topk(300).indices
            left = torch.ones(576, dtype=torch.bool)
            left[keep] = False
            dropped = torch.where(left)[0]
            recycled = dropped[score[dropped].topk(83).indices]
            return keep.sort().values, cluster(hidden[35 + recycled], 9)
        return run
    return build


def caches():
    kept = torch.randperm(704)[:192].sort()[0]
    return [torch.rand(32, 704, 128) for _ in range(64)], kept


def gather_published():
    full, kept = caches()
    return lambda: [cache.index_select(1, kept) for cache in full]


def gather_careful():
    full, kept = caches()
    few = [torch.empty(32, 192, 128) for _ in full]
    return lambda: [torch.index_select(a, 1, kept, out=b) for a, b in zip(full, few)]


def norm_published():
    x, norm = torch.rand(576, 1024), nn.LayerNorm(1024)
    return lambda: norm(x)


def gelu_published():
    x = torch.rand(576, 4096) * 8 - 4
    return lambda: F.gelu(x)


def gelu_careful():
    x = torch.rand(576, 4096) * 8 - 4
    y = torch.empty_like(x)
    return lambda: torch._C._nn.gelu(x, out=y)


def softmax_published():
    x = torch.rand(16, 577, 577)
    return lambda: x.softmax(-1)


def softmax_careful():
    x = torch.rand(16, 577, 577)
    return lambda: torch.softmax(x, -1, out=x)


def qformer_layers():
    """BLIP-2's layers: every second one reads the image."""
    def norm():
        return nn.LayerNorm(768, eps=1e-12)

    for i in range(12):
        layer = nn.ModuleDict({name: nn.Linear(768, 768) for name in ("q", "k", "v", "o")})
        layer.update({"norm": norm(), "up": nn.Linear(768, 3072), "down": nn.Linear(3072, 768),
                      "last_norm": norm()})
        if i % 2 == 0:
            layer.update({"cross_q": nn.Linear(768, 768), "cross_k": nn.Linear(1408, 768),
                          "cross_v": nn.Linear(1408, 768), "cross_o": nn.Linear(768, 768),
                          "cross_norm": norm()})
        yield layer


def qformer_attention(q, k, v):
    q, k, v = (t.view(-1, 12, 64).transpose(0, 1) for t in (q, k, v))
    p = (q @ k.transpose(1, 2) / 8).softmax(-1)
    return (p @ v).transpose(0, 1).reshape(-1, 768)


def qformer_published():
    queries, image = torch.randn(32, 768), torch.rand(257, 1408)
    norm, layers = nn.LayerNorm(768, eps=1e-12), list(qformer_layers())

    def run():
        x = norm(queries)
        for layer in layers:
            y = qformer_attention(layer["q"](x), layer["k"](x), layer["v"](x))
            x = layer["norm"](layer["o"](y) + x)
            if "cross_q" in layer:
                y = qformer_attention(layer["cross_q"](x), layer["cross_k"](image),
                                      layer["cross_v"](image))
                x = layer["cross_norm"](layer["cross_o"](y) + x)
            x = layer["last_norm"](layer["down"](F.gelu(layer["up"](x))) + x)
        return x
    return run


# ---- workloads -----------------------------------------------------------------------------------


@dataclass
class Workload:
    name: str
    case: str  # of vtc_bench
    published: Callable
    careful: Optional[Callable]  # None: nothing is gained by care
    megabytes: float  # of a working set; WARM: its data are in the caches
    goals: dict = field(default_factory=dict)  # (form, threads): largest ratio

    def forms(self):
        return [form for form in FORMS if getattr(self, form) is not None]


def at_most(ratio, forms=FORMS, threads=(1, 2)):
    return {(form, n): ratio for form in forms for n in threads}


WARM = math.inf
COLD_MEGABYTES = 135  # vtc_bench rotates over as much, several times the last-level cache

WORKLOADS = [
    Workload("bilinear pooling 32x729x1152", "pool/bilinear_32x27x27x1152_f32",
             grid_pool(bilinear, False), grid_pool(bilinear, True), 136,
             at_most(1.1, ["careful"])),
    Workload("average pooling 32x729x1152", "pool/average_32x27x27x1152_f32",
             grid_pool(average, False), grid_pool(average, True), 132, at_most(0.85, ["careful"])),
    Workload("max pooling 32x729x1152", "pool/max_32x27x27x1152_f32",
             grid_pool(maximum, False), grid_pool(maximum, True), 132, at_most(0.7, ["careful"])),
    Workload("pixel shuffle 8x32x32x1024", "shuffle/pixel_8x32x32x1024_f32",
             shuffle_published, shuffle_careful, 67),
    Workload("LLaVA MLP 576x1024->4096->4096", "project/llava_576x1024_4096_f32",
             llava_published, llava_careful, 105, at_most(1.02)),
    Workload("LLaVA MLP, prepared weights", "project/llava_576x1024_4096_prepared_f32",
             llava_published, llava_careful, 105, at_most(1.02)),
    Workload("Qwen2-VL 1024x1280->256x3584", "project/qwen2vl_1024x1280_256x3584_f32",
             qwen2vl_published, qwen2vl_careful, 187, at_most(1.02)),
    Workload("Qwen2-VL, prepared weights", "project/qwen2vl_1024x1280_256x3584_prepared_f32",
             qwen2vl_published, qwen2vl_careful, 187, at_most(1.02)),
    Workload("InternVL 1024x1024->256x4096", "project/internvl_1024x1024_256x4096_f32",
             internvl_published, internvl_careful, 143, at_most(1.02)),
    Workload("InternVL, prepared weights", "project/internvl_1024x1024_256x4096_prepared_f32",
             internvl_published, internvl_careful, 143, at_most(1.02)),
    Workload("BLIP-2 Q-Former 32 of 257x1408", "qformer/blip2_257x1408_f32",
             qformer_published, None, 420, at_most(0.65)),
    Workload("ToMe 577x1024 r=64, tokens merged", "tome/n577_c1024_r64_merge",
             tome_published, tome_careful, WARM, at_most(0.75)),
    Workload("FiCoCo-V step 577x1024 r=64", "ficoco_v/n577_c1024_r64_official_step",
             ficoco_published, ficoco_careful, WARM, at_most(0.35, ["published"])),
    Workload("MustDrop encode 24x24x1024", "mustdrop/encode_24x24x1024_3x3",
             mustdrop_published, mustdrop_careful, WARM,
             {**at_most(0.03, ["published"]), **at_most(0.4, ["careful"])}),
    Workload("causal column mean 32x704x128", "score/column_mean_32x704x128_causal",
             column_mean(32, 704, 128, True), column_mean_careful(32, 704, 128, True), 23.1,
             {**at_most(0.25, ["published"]), **at_most(0.5, ["careful"])}),
    Workload("column mean 16x577x64", "score/column_mean_16x577x64",
             column_mean(16, 577, 64, False), column_mean_careful(16, 577, 64, False), WARM,
             {**at_most(0.42, ["published"]), **at_most(0.35, ["careful"])}),
    Workload("last row 32x704x128", "score/last_row_32x704x128",
             last_row_published, last_row_careful, 11.5,
             {**at_most(1.0, threads=[1]), **at_most(0.6, threads=[2])}),
    Workload("Perceiver 256x1024 -> 64", "resample/perceiver_256x1024_64_f32",
             perceiver_published, None, 253, at_most(0.75)),
    Workload("FastV, LLaVA-1.5", "fastv/llava15_keep288", fastv_published, None, WARM,
             at_most(0.5)),
    Workload("VisionZip 54+10, tokens merged", "visionzip/n576_c1024_54_10_merge",
             visionzip_published, None, WARM, at_most(0.5)),
    Workload("SparseVLM, LLaVA-1.5", "sparsevlm/llava15_keep300", sparsevlm(False), sparsevlm(True),
             WARM, at_most(0.5, ["published"])),
    Workload("K/V gather 64x32x704x128->192", "kv/gather_64x32x704x128_192_f32",
             gather_published, gather_careful, 940, at_most(0.6, threads=[2])),
    Workload("LayerNorm 576x1024", "kernels/layer_norm_576x1024",
             norm_published, None, 4.7, at_most(0.6)),
    Workload("GELU (erf) 576x4096", "kernels/gelu_erf_576x4096",
             gelu_published, gelu_careful, 18.9, at_most(1.05)),
    Workload("softmax 16x577x577", "kernels/softmax_16x577x577",
             softmax_published, softmax_careful, 42.6, at_most(0.5)),
]

# ---- the PyTorch side ----------------------------------------------------------------------------

TURN_SECONDS = 1e-3


class Side:
    """One form of one workload, ready to take turns."""

    def __init__(self, workload, form):
        build = getattr(workload, form)
        n_sets = max(1, round(COLD_MEGABYTES / workload.megabytes))
        self.warm = workload.megabytes == WARM
        self.runs = [build() for _ in range(n_sets)]
        self.next = 0
        self.calls = n_sets
        self.turn()  # touches every page
        self.calls = 1
        self.calls = int(TURN_SECONDS / self.turn()) + 1

    def run_next(self):
        self.runs[self.next]()
        self.next = (self.next + 1) % len(self.runs)

    def turn(self):
        """Seconds of one call."""
        if self.warm:
            self.run_next()
        start = time.perf_counter()
        for _ in range(self.calls):
            self.run_next()
        return (time.perf_counter() - start) / self.calls


def describe_torch():
    blas = ctypes.CDLL("libopenblas.so.0")
    blas.openblas_get_config.restype = ctypes.c_char_p
    kind = {0: "serial", 1: "pthread", 2: "openmp"}.get(blas.openblas_get_parallel(), "?")
    vectors = torch.__config__.show().partition("CPU capability usage: ")[2].split("\n")[0]
    return (f"PyTorch {torch.__version__}, {vectors} kernels, {torch.get_num_threads()} threads, "
            f"{blas.openblas_get_config().decode()} ({kind})")


def serve():
    """Answers "open WORKLOAD" with the seconds of a call and "FORM TURNS" with their median."""
    torch.set_grad_enabled(False)
    print(describe_torch(), flush=True)
    for line in sys.stdin:
        verb, number = line.split()
        if verb == "open":
            sides = None  # frees the memory of the last workload first
            workload = WORKLOADS[int(number)]
            sides = {form: Side(workload, form) for form in workload.forms()}
            print(min(side.turn() for side in sides.values()), flush=True)
        else:
            print(statistics.median(sides[verb].turn() for _ in range(int(number))), flush=True)


class Torch:
    def __init__(self, threads, blas_folder):
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads),
                           OPENBLAS_NUM_THREADS=str(threads))
        # OMP_PROC_BIND stays unset: bound to a core, the first thread would hand its core down to
        # the threads of OpenBLAS's pthread build, and two of them would share it.
        if blas_folder:
            environment["LD_LIBRARY_PATH"] = blas_folder
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", __file__, "--serve"],
                                        env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.description = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit("torch_compare: the PyTorch process has ended")
        return line.strip()

    def ask(self, question):
        print(question, file=self.process.stdin, flush=True)
        return float(self.answer())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- the libvtc side -----------------------------------------------------------------------------


def run_bench(bench, *arguments):
    environment = dict(os.environ, OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    try:
        done = subprocess.run([bench, *arguments], env=environment, stdout=subprocess.PIPE,
                              text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"torch_compare: {error}; --bench names vtc_bench")
    return done.stdout


def bench_seconds(bench, case, threads, turns):
    table = run_bench(bench, "--filter", case, "--threads", str(threads), "--rounds", str(turns),
                      "--csv", "-")
    return next(float(row["median_ns"]) * 1e-9 for row in csv.DictReader(table.splitlines())
                if row["case"] == case)


# ---- rounds and what is said about them ----------------------------------------------------------


def interval_of(values):
    """Median and order statistics around it: each value is below the true median with chance 1/2,
    so the number that are is binomial. NaN bounds for fewer than 6 values."""
    values, n = sorted(values), len(values)
    low = high = math.nan
    chance = tail = 0.5 ** n
    k = 0
    while tail <= 0.025:
        low, high = values[k], values[n - 1 - k]
        chance *= (n - k) / (k + 1)
        tail += chance
        k += 1
    return statistics.median(values), low, high


def print_line(workload, threads, form, vtc, other):
    ratio, low, high = interval_of([a / b for a, b in zip(vtc, other)])
    goal = workload.goals.get((form, threads))
    span = "too few rounds" if math.isnan(low) else f"[{low:5.3f}, {high:5.3f}]"
    verdict = ""
    if goal is not None and not math.isnan(high):
        verdict = f"  <= {goal:<4} {'met' if high <= goal else 'missed'}"
    print(f"{workload.name:<34}{threads:>2}  {form:<9}{statistics.median(vtc) * 1e3:>9.3f}"
          f"{statistics.median(other) * 1e3:>10.3f}   {ratio:5.3f} {span}{verdict}", flush=True)


def compare(index, threads, process, options):
    workload = WORKLOADS[index]
    seconds = process.ask(f"open {index}")
    turns = max(3, min(15, int(0.1 / seconds)))
    vtc, other = [], {form: [] for form in workload.forms()}
    for _ in range(options.rounds):
        vtc.append(bench_seconds(options.bench, workload.case, threads, turns))
        for form in other:
            other[form].append(process.ask(f"{form} {turns}"))
    for form in other:
        print_line(workload, threads, form, vtc, other[form])


def thread_counts(text):
    return [int(n) for n in text.split(",")]


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="build/release/benchmarks/vtc_bench", metavar="PATH",
                        help="vtc_bench (default %(default)s)")
    parser.add_argument("--threads", default="1,2", type=thread_counts, metavar="LIST",
                        help="numbers of threads (default %(default)s)")
    parser.add_argument("--filter", default="", metavar="TEXT",
                        help="only workloads whose name contains TEXT")
    parser.add_argument("--rounds", type=int, default=15,
                        help="pairs of each form; an interval needs 6 (default %(default)s)")
    parser.add_argument("--torch-blas", default="", metavar="FOLDER",
                        help="where PyTorch shall find libopenblas.so.0; with several threads "
                        "the build of libopenblas0-openmp is its faster one")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1 or min(options.threads) < 1:
        parser.error("--rounds and --threads are at least 1")
    return options


def main():
    options = parse_options()
    if torch is None:
        sys.exit(f"torch_compare: {sys.executable} has no PyTorch. On Debian: "
                 "apt-get install python3-torch, and run it with /usr/bin/python3.")
    if options.serve:
        return serve()
    if os.getloadavg()[0] > 0.5:
        print(f"the load is {os.getloadavg()[0]:.1f} before the first turn: wait until the machine "
              "is quiet for numbers to quote, above all with several threads")
    cases = run_bench(options.bench, "--list").split()
    wanted = [i for i, w in enumerate(WORKLOADS) if options.filter in w.name]
    if not wanted:
        sys.exit(f'torch_compare: no workload has a name with "{options.filter}"')
    for index in wanted:
        if WORKLOADS[index].case not in cases:
            print(f"left out: {WORKLOADS[index].name}, vtc_bench has no {WORKLOADS[index].case}")
    for threads in options.threads:
        process = Torch(threads, options.torch_blas)
        print(f"{process.description}\n{'workload':<34}{'w':>2}  {'form':<9}{'libvtc ms':>9}"
              f"{'torch ms':>10}   libvtc / torch, 95 %  goal")
        for index in wanted:
            if WORKLOADS[index].case in cases:
                compare(index, threads, process, options)
        process.close()


if __name__ == "__main__":
    main()
