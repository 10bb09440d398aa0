/* MustDrop: encode, prefill and decode. */
#include "methods.h"

#include <stdio.h>
#include <string.h>

/* ---- encode ---------------------------------------------------------------------------------- */

static vtc_mustdrop_encode_params encode_params(run *r)
{
    static const char *const orders[] = { "official", "raster", NULL };
    vtc_mustdrop_encode_params p = VTC_MUSTDROP_ENCODE_PARAMS_INIT;

    if (case_has_param(r->c, "window"))
        case_grid(r->c, "window", &p.win_h, &p.win_w);
    if (case_has_param(r->c, "threshold"))
        p.threshold = (float)case_double(r->c, "threshold");
    if (case_has_param(r->c, "r"))
        p.n_merge = case_size(r->c, "r");
    p.prefix = case_size(r->c, "prefix");
    if (case_has_param(r->c, "order"))
        p.raster_order = case_choice(r->c, "order", orders);
    if (case_has_param(r->c, "batch")) {
        static const char *const rules[] = { "least count", "per image", NULL };

        p.per_image = case_choice(r->c, "batch", rules);
    }
    return p;
}

/* Image b of a [B, ...] view. */
static vtc_tensor image_of(const vtc_tensor *t, size_t b)
{
    vtc_tensor image = *t;

    image.rank--;
    for (int axis = 0; axis < image.rank; axis++) {
        image.dim[axis] = t->dim[axis + 1];
        image.stride[axis] = t->stride[axis + 1];
    }
    image.data = (char *)t->data + b * t->stride[0] * vtc_dtype_size(t->dtype);
    return image;
}

/* out.<name>[b] = row[0 .. n - 1], where the library wrote every image's list apart. */
static void show_lists(run *r, const char *name, const int32_t *const *row, size_t n_images,
                       size_t n)
{
    const vtc_tensor all = run_temporary(r, VTC_I32, 2, (const size_t[]){ n_images, n });

    for (size_t b = 0; b < n_images; b++)
        memcpy((int32_t *)all.data + b * n, row[b], n * sizeof(**row));
    run_show(r, name, all);
}

static vtc_status apply_images(run *r, const vtc_tensor *hidden, const vtc_plan *plans)
{
    const size_t n_images = hidden->dim[0], n_out = n_images == 0 ? 0 : plans[0].n_out;
    const size_t dim[] = { n_images, n_out, hidden->dim[2] };
    vtc_tensor y = run_output(r, "out.hidden", 3, dim);

    for (size_t b = 0; b < n_images; b++) {
        const vtc_tensor in = image_of(hidden, b);
        vtc_tensor out = image_of(&y, b);
        size_t bytes;

        TRY(vtc_plan_apply_scratch(&plans[b], &in, &out, &r->exec, &bytes));
        run_scratch(r, bytes);
        TRY(vtc_plan_apply(&plans[b], &in, &out, &r->exec));
    }
    return VTC_OK;
}

static void show_images(run *r, const vtc_mustdrop_encode_params *p, const vtc_plan *plans,
                        const vtc_mustdrop_encode_trace *trace, size_t n_images, size_t n_windows)
{
    const size_t n_cells = plans[0].n_in - p->prefix, n_merged = trace->n_merged[0];
    const vtc_tensor size =
        run_temporary(r, VTC_F32, 2, (const size_t[]){ n_images, plans[0].n_out });
    const int32_t *windows[16], *unmerged[16], *owner[16];

    for (size_t b = 0; b < n_images && b < 16; b++) {
        windows[b] = trace->windows + b * n_windows;
        unmerged[b] = trace->unmerged + b * n_cells;
        owner[b] = plans[b].fate + p->prefix;
        if (plans[b].n_out != plans[0].n_out) {
            case_fault(r->c, "image %zu has %zu tokens, image 0 has %zu", b, plans[b].n_out,
                       plans[0].n_out);
            return;
        }
        memcpy((float *)size.data + b * plans[0].n_out, plans[b].mass,
               plans[0].n_out * sizeof(float));
    }
    run_show(r, "out.size", size);
    run_show(r, "out.similarity", vtc_f32_2d(trace->similarity, n_images, n_windows));
    show_lists(r, "out.windows", windows, n_images, n_merged);
    show_lists(r, "out.unmerged", unmerged, n_images, n_cells - n_merged * p->win_h * p->win_w);
    show_lists(r, "out.owner", owner, n_images, n_cells);
    if (case_has_param(r->c, "merged_windows") && n_merged != case_size(r->c, "merged_windows"))
        case_fault(r->c, "%zu windows merged, the case has another number", n_merged);
}

static vtc_status key_tokens(run *r)
{
    const vtc_tensor attention = run_input(r, "in.cls_attention");
    vtc_mustdrop_keys_params p = VTC_MUSTDROP_KEYS_PARAMS_INIT;
    size_t n_keys = 0, bytes;

    if (case_has_param(r->c, "key_rate"))
        p.rate = case_double(r->c, "key_rate");
    p.prefix = case_size(r->c, "prefix");
    TRY(vtc_mustdrop_key_count(&p, attention.dim[2] - p.prefix, &n_keys, &r->exec));

    const vtc_tensor keys =
        run_temporary(r, VTC_I32, 2, (const size_t[]){ attention.dim[0], n_keys });

    run_show(r, "out.key_tokens", keys);
    TRY(vtc_mustdrop_keys_scratch(&p, &attention, &r->exec, &bytes));
    run_scratch(r, bytes);
    return vtc_mustdrop_keys(&p, &attention, keys.data, NULL, &r->exec);
}

enum { MAX_IMAGES = 16 };

static vtc_status encode(run *r)
{
    const vtc_tensor hidden = run_input(r, "in.hidden");
    const vtc_mustdrop_encode_params p = encode_params(r);
    vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    const size_t n_images = hidden.dim[0];
    vtc_plan plans[MAX_IMAGES], *list[MAX_IMAGES];
    size_t grid_h, grid_w, n_windows, bytes, n_merged[MAX_IMAGES];
    vtc_plan_count count;

    if (n_images > MAX_IMAGES) {
        case_fault(r->c, "%zu images, the runner takes %d", n_images, MAX_IMAGES);
        return VTC_ERR_UNSUPPORTED;
    }
    case_grid(r->c, "grid", &grid_h, &grid_w);
    TRY(vtc_window_count(grid_h, grid_w, p.win_h, p.win_w, 0, &n_windows, &r->exec));
    TRY(vtc_mustdrop_encode_count(&p, grid_h, grid_w, &count, &r->exec));
    for (size_t b = 0; b < n_images; b++) {
        TRY(run_plan(r, &count, &plans[b]));
        list[b] = &plans[b];
    }
    trace.n_merged = n_merged;
    trace.similarity = run_temporary(r, VTC_F32, 2, (const size_t[]){ n_images, n_windows }).data;
    trace.windows = run_temporary(r, VTC_I32, 2, (const size_t[]){ n_images, n_windows }).data;
    trace.unmerged =
        run_temporary(r, VTC_I32, 2, (const size_t[]){ n_images, grid_h * grid_w }).data;
    TRY(vtc_mustdrop_encode_scratch(&p, &hidden, grid_h, grid_w, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_mustdrop_encode(&p, &hidden, grid_h, grid_w, NULL, list, &trace, &r->exec));
    if (n_images != 0)
        show_images(r, &p, plans, &trace, n_images, n_windows);
    TRY(apply_images(r, &hidden, plans));
    return case_has_tensor(r->c, "in.cls_attention") ? key_tokens(r) : VTC_OK;
}

/* ---- rows of integers from a case ------------------------------------------------------------ */

/* The name with the number of a step. */
typedef struct step_name {
    char s[64];
} step_name;

static step_name name_of(const char *stem, size_t step)
{
    step_name name;

    snprintf(name.s, sizeof(name.s), "%s_%zu", stem, step);
    return name;
}

/* ---- prefill --------------------------------------------------------------------------------- */

static void show_trace(run *r, size_t step, const vtc_mustdrop_prefill_trace *trace,
                       const vtc_plan *plan, size_t n_vision)
{
    run_show(r, name_of("out.sum", step).s, vtc_f32_1d(trace->col_sum, n_vision));
    run_show(r, name_of("out.max", step).s, vtc_f32_1d(trace->col_max, n_vision));
    run_show_i32(r, name_of("out.kept", step).s, trace->kept, trace->n_kept);
    run_show_i32(r, name_of("out.vision", step).s, trace->vision, trace->n_vision);
    run_show_i32(r, name_of("out.keys", step).s, trace->keys, trace->n_keys);
    run_show_i32(r, name_of("out.gather", step).s, plan->keep, plan->n_out);
}

/* Ids before the step: those of the case, or those that the step before left; NULL: 0, 1, ... */
static vtc_status show_positions(run *r, size_t step, const vtc_plan *plan, vtc_tensor *ids)
{
    static const char *const rules[] = { "keep", "official", NULL };
    const step_name name = name_of("out.positions", step);
    vtc_positions_params p = VTC_POSITIONS_PARAMS_INIT;
    vtc_tensor out = run_temporary(r, VTC_I64, 1, &plan->n_out);
    int64_t next;

    p.visual = !case_has_param(r->c, "positions") || case_choice(r->c, "positions", rules) == 1
                   ? VTC_VISUAL_RENUMBER
                   : VTC_VISUAL_KEEP;
    TRY(vtc_plan_positions(&p, plan, ids->data == NULL ? NULL : ids, &out, &next, &r->exec));
    if (case_has_tensor(r->c, name.s))
        run_show(r, name.s, out);
    *ids = out;
    return VTC_OK;
}

/* The text rows of in.q_<step>, the last ones. */
static vtc_tensor text_rows(run *r, size_t step, size_t n_text)
{
    vtc_tensor q = run_input(r, name_of("in.q", step).s);
    const size_t first = q.dim[1] >= n_text ? q.dim[1] - n_text : 0;

    q.dim[1] -= first;
    q.data = (char *)q.data + first * q.stride[1] * vtc_dtype_size(q.dtype);
    return q;
}

static vtc_status prefill_step(run *r, const vtc_mustdrop_prefill_params *p, size_t step,
                               vtc_tensor *ids)
{
    const vtc_tensor q = text_rows(r, step, case_size(r->c, "n_text"));
    const vtc_tensor k = run_input(r, name_of("in.k", step).s);
    vtc_mustdrop_prefill_trace trace = VTC_MUSTDROP_PREFILL_TRACE_INIT;
    size_t n_keys, n_one, bytes;
    const int32_t *keys = run_ints(r, name_of("in.keys", step).s, &n_keys);
    const int32_t *n_vision = run_ints(r, name_of("in.n_vision", step).s, &n_one);
    const size_t n = n_one == 1 ? (size_t)n_vision[0] : 0;
    vtc_plan_count count;
    vtc_plan plan;

    TRY(vtc_mustdrop_prefill_count(p, n, k.dim[1], n_keys, &count, &r->exec));
    TRY(run_plan(r, &count, &plan));
    trace.col_sum = run_temporary(r, VTC_F32, 1, &n).data;
    trace.col_max = run_temporary(r, VTC_F32, 1, &n).data;
    trace.kept = run_temporary(r, VTC_I32, 1, &n).data;
    trace.vision = run_temporary(r, VTC_I32, 1, &n).data;
    trace.keys = run_temporary(r, VTC_I32, 1, &n_keys).data;
    TRY(vtc_mustdrop_prefill_scratch(p, &q, &k, NULL, n, &r->exec, &bytes));
    run_scratch(r, bytes);
    TRY(vtc_mustdrop_prefill(p, &q, &k, NULL, n, keys, n_keys, NULL, &plan, &trace, &r->exec));
    show_trace(r, step, &trace, &plan, n);
    return show_positions(r, step, &plan, ids);
}

static vtc_status prefill(run *r)
{
    vtc_mustdrop_prefill_params p = VTC_MUSTDROP_PREFILL_PARAMS_INIT;
    const size_t n_steps = case_size(r->c, "steps");
    vtc_tensor ids = vtc_tensor_1d(NULL, VTC_I64, 0);

    if (case_has_param(r->c, "global_thr"))
        p.global_thr = (float)case_double(r->c, "global_thr");
    if (case_has_param(r->c, "individual_thr"))
        p.individual_thr = (float)case_double(r->c, "individual_thr");
    p.v_start = case_size(r->c, "v_start");
    if (case_has_param(r->c, "scale"))
        p.scale = (float)case_double(r->c, "scale");
    if (case_has_param(r->c, "n_keep"))
        p.n_keep = case_size(r->c, "n_keep");
    for (size_t step = 0; step < n_steps; step++)
        TRY(prefill_step(r, &p, step, &ids));
    return VTC_OK;
}

/* ---- decode ---------------------------------------------------------------------------------- */

enum { MAX_STEPS = 16, MAX_LAYERS = 256 };

typedef struct decoding {
    vtc_mustdrop_decode_params params;
    int32_t layers[MAX_STEPS];
    vtc_plan steps[MAX_STEPS], plans[MAX_STEPS];
    const vtc_plan *step_list[MAX_STEPS];
    vtc_plan *plan_list[MAX_STEPS];
    const vtc_plan *plan_of_layer[MAX_LAYERS];
    vtc_plan whole[MAX_LAYERS];
    size_t lengths[MAX_LAYERS];
    int64_t next_position[MAX_LAYERS];
} decoding;

static size_t first_number(run *r, const char *name, size_t index)
{
    size_t n;
    const int32_t *numbers = run_ints(r, name, &n);

    return index < n ? (size_t)numbers[index] : 0;
}

/* The gathers as plans over the sequence that each step saw. */
static vtc_status open_steps(run *r, decoding *d)
{
    size_t n_before = d->params.n_layers == 0 ? 0 : first_number(r, "in.lengths", 0);

    for (size_t i = 0; i < d->params.n_prune; i++) {
        size_t n;
        const int32_t *rows = run_ints(r, name_of("in.gather", i).s, &n);
        const vtc_plan_count count = { n_before, n, 0, 1 };

        TRY(run_plan(r, &count, &d->steps[i]));
        TRY(vtc_plan_select(&d->steps[i], n_before, rows, n, NULL, &r->exec));
        d->step_list[i] = &d->steps[i];
        n_before = n;
    }
    return VTC_OK;
}

static vtc_status compose_steps(run *r, decoding *d)
{
    vtc_plan_count counts[MAX_STEPS];

    TRY(vtc_mustdrop_decode_count(&d->params, d->step_list, counts, &r->exec));
    for (size_t i = 0; i < d->params.n_prune; i++) {
        TRY(run_plan(r, &counts[i], &d->plans[i]));
        d->plan_list[i] = &d->plans[i];
    }
    TRY(vtc_mustdrop_decode(&d->params, d->step_list, d->plan_list, d->plan_of_layer, d->lengths,
                            d->next_position, &r->exec));
    for (size_t i = 0; i < d->params.n_prune; i++)
        run_show_i32(r, name_of("out.rows", i).s, d->plans[i].keep, d->plans[i].n_out);
    return VTC_OK;
}

static void show_layers(run *r, const decoding *d)
{
    const size_t n = d->params.n_layers;
    const vtc_tensor lengths = run_temporary(r, VTC_I64, 1, &n);
    const vtc_tensor next = run_temporary(r, VTC_I64, 1, &n);

    for (size_t l = 0; l < n; l++) {
        ((int64_t *)lengths.data)[l] = (int64_t)d->lengths[l];
        ((int64_t *)next.data)[l] = d->next_position[l];
    }
    run_show(r, "out.lengths", lengths);
    if (case_has_tensor(r->c, "out.next_position"))
        run_show(r, "out.next_position", next);
}

static vtc_kv cache_of(const vtc_tensor *t)
{
    const size_t size = vtc_dtype_size(t->dtype);
    vtc_kv kv = VTC_KV_INIT;

    kv.data = t->data;
    kv.n_outer = t->dim[0];
    kv.outer_stride = t->stride[0] * size;
    kv.n_rows = t->dim[1];
    kv.row_stride = t->stride[1] * size;
    kv.piece = t->dim[2] * size;
    return kv;
}

/* K or V of one stored layer, and where its kept rows go. */
static void open_cache(run *r, const decoding *d, const char *letter, size_t layer, vtc_kv *src,
                       vtc_kv *dst)
{
    char in_name[8], out_name[8];

    snprintf(in_name, sizeof(in_name), "in.%s", letter);
    snprintf(out_name, sizeof(out_name), "out.%s", letter);

    const vtc_tensor in = run_input(r, name_of(in_name, layer).s);
    const size_t dim[] = { in.dim[0], d->lengths[layer], in.dim[2] };
    const vtc_tensor out = run_temporary(r, in.dtype, 3, dim); /* rows are copied as they are */

    run_show(r, name_of(out_name, layer).s, out);
    *src = cache_of(&in);
    *dst = cache_of(&out);
}

/* All stored layers in one call; those that stay whole are copied by an identity. */
static vtc_status gather_caches(run *r, decoding *d)
{
    const vtc_plan *plan_of_layer[MAX_LAYERS];
    vtc_kv src[2 * MAX_LAYERS], dst[2 * MAX_LAYERS];
    size_t n_stored = 0;

    for (size_t layer = 0; layer < d->params.n_layers; layer++) {
        const vtc_plan_count count = { d->lengths[layer], d->lengths[layer], 0, 1 };

        if (!case_has_tensor(r->c, name_of("in.k", layer).s))
            continue;
        open_cache(r, d, "k", layer, &src[2 * n_stored], &dst[2 * n_stored]);
        open_cache(r, d, "v", layer, &src[2 * n_stored + 1], &dst[2 * n_stored + 1]);
        plan_of_layer[n_stored] = d->plan_of_layer[layer];
        if (plan_of_layer[n_stored] == NULL) {
            TRY(run_plan(r, &count, &d->whole[layer]));
            TRY(vtc_plan_identity(&d->whole[layer], count.n_in, NULL, &r->exec));
            plan_of_layer[n_stored] = &d->whole[layer];
        }
        n_stored++;
    }
    return vtc_plan_gather_kv_layers(plan_of_layer, n_stored, src, dst, 2, &r->exec);
}

static vtc_status decode(run *r)
{
    const vtc_mustdrop_decode_params defaults = VTC_MUSTDROP_DECODE_PARAMS_INIT;
    size_t numbers[MAX_STEPS];
    decoding *d = run_temporary(r, VTC_U8, 1, (const size_t[]){ sizeof(*d) + 64 }).data;

    d = (decoding *)(void *)(((uintptr_t)d + 63) / 64 * 64);
    d->params = defaults;
    d->params.n_layers = case_size(r->c, "n_layers");
    d->params.n_prune = 0;
    while (d->params.n_prune < MAX_STEPS &&
           case_has_tensor(r->c, name_of("in.gather", d->params.n_prune).s))
        d->params.n_prune++;
    if (d->params.n_layers > MAX_LAYERS) {
        case_fault(r->c, "%zu layers, the runner takes %d", d->params.n_layers, MAX_LAYERS);
        return VTC_ERR_UNSUPPORTED;
    }
    case_sizes(r->c, "prune_layers", numbers, d->params.n_prune);
    for (size_t i = 0; i < d->params.n_prune; i++)
        d->layers[i] = (int32_t)numbers[i];
    d->params.prune_layers = d->layers;
    if (case_has_param(r->c, "prune_early"))
        d->params.prune_early = case_flag(r->c, "prune_early");
    TRY(open_steps(r, d));
    TRY(compose_steps(r, d));
    show_layers(r, d);
    return gather_caches(r, d);
}

const method mustdrop_methods[] = {
    { "mustdrop", "encode", encode },
    { "mustdrop", "prefill", prefill },
    { "mustdrop", "decode", decode },
    { NULL, NULL, NULL },
};
