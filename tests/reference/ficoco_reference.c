#include "ficoco_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *zeros(size_t n, size_t size)
{
    void *memory = calloc(n + 1, size);

    if (memory == NULL)
        abort();
    return memory;
}

/* ---- attention ------------------------------------------------------------------------------- */

double *ficoco_attention(const double *q, const double *k, size_t n_heads, size_t n_groups,
                         size_t t, size_t d, double scale, bool probs)
{
    double *s = zeros(t * t, sizeof(*s)), *row = zeros(t, sizeof(*row));

    for (size_t h = 0; h < n_heads; h++)
        for (size_t i = 0; i < t; i++) {
            const size_t g = h / (n_heads / n_groups);
            double top = -INFINITY, sum = 0.0;

            for (size_t j = 0; j < t; j++) {
                row[j] = 0.0;
                for (size_t c = 0; c < d; c++)
                    row[j] += scale * q[(h * t + i) * d + c] * k[(g * t + j) * d + c];
                top = fmax(top, row[j]);
            }
            for (size_t j = 0; probs && j < t; j++)
                sum += row[j] = exp(row[j] - top);
            for (size_t j = 0; j < t; j++)
                s[i * t + j] += (probs ? row[j] / sum : row[j]) / (double)n_heads;
        }
    free(row);
    return s;
}

double *ficoco_key_cosine(const double *k, size_t n_groups, size_t t, size_t d)
{
    double *m = zeros(t * d, sizeof(*m)), *mean = zeros(d, sizeof(*mean));
    double *a = zeros(t, sizeof(*a)), length = 0.0;

    for (size_t g = 0; g < n_groups; g++)
        for (size_t i = 0; i < t * d; i++) {
            m[i] += k[g * t * d + i] / (double)n_groups;
            mean[i % d] += k[g * t * d + i] / (double)n_groups / (double)t;
        }
    for (size_t c = 0; c < d; c++)
        length += mean[c] * mean[c];
    for (size_t i = 0; i < t; i++) {
        double dot = 0.0, own = 0.0;

        for (size_t c = 0; c < d; c++) {
            dot += m[i * d + c] * mean[c];
            own += m[i * d + c] * m[i * d + c];
        }
        a[i] = -dot / sqrt(own) / sqrt(length);
    }
    free(m);
    free(mean);
    return a;
}

/* ---- orders ---------------------------------------------------------------------------------- */

/* Numbers of x by falling value, the lower first on ties; the margin shrinks to the smallest gap
 * between the first `n_first` and behind them. */
static size_t *falling(const double *x, size_t n, size_t n_first, double *margin)
{
    size_t *order = zeros(n, sizeof(*order));
    double size = 1e-30;

    for (size_t i = 0; i < n; i++) {
        size_t at = i;

        for (; at > 0 && x[order[at - 1]] < x[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
        if (isfinite(x[i]))
            size = fmax(size, fabs(x[i]));
    }
    for (size_t i = 1; i < n && i <= n_first; i++)
        if (isfinite(x[order[i]]) && isfinite(x[order[i - 1]]))
            *margin = fmin(*margin, (x[order[i - 1]] - x[order[i]]) / size);
    return order;
}

static void unit(double *x, size_t n)
{
    double sum = 0.0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        x[i] /= fmax(sqrt(sum), 1e-12);
}

static double raised(double s, double coef)
{
    return s > 0.0 ? s * coef : s / coef;
}

/* ---- targets --------------------------------------------------------------------------------- */

/* The correlations of a discarded row, and their columns by falling value. The output that a column
 * stands for is its slot; -1: none, -2: impossible. */
struct row {
    double *c;
    size_t *order;
};

static double quantile(const struct row *row, size_t n, double eps, size_t *lo, size_t *hi)
{
    const float position = (float)eps * (float)(n - 1);
    const double w = position - floorf(position);
    double low, high;

    *lo = (size_t)floorf(position);
    *hi = (size_t)ceilf(position);
    low = row->c[row->order[n - 1 - *lo]];
    high = row->c[row->order[n - 1 - *hi]];
    return w < 0.5 ? low + w * (high - low) : high - (high - low) * (1.0 - w);
}

static size_t count_targets(const struct row *rows, size_t r, size_t n, const ficoco_rules *rules)
{
    size_t most = 0, lo, hi;

    if (n == 0)
        return 0;
    for (size_t a = 0; a < r; a++) {
        const double tau = quantile(&rows[a], n, rules->eps, &lo, &hi);
        size_t count = 0;

        for (size_t b = 0; b < n; b++)
            count += rules->official ? rows[a].c[b] > tau : rows[a].c[b] >= tau;
        if (!rules->official && count > n - hi)
            count = n - hi;
        if (count > most)
            most = count;
    }
    return most;
}

static void share_out(ficoco_reference *f, const struct row *rows, const int32_t *slot,
                      const double *mass, const ficoco_rules *rules)
{
    for (size_t a = 0; a < f->r; a++) {
        const struct row *row = &rows[a];
        double sum = 0.0;

        for (size_t e = 0; e < f->n_targets; e++)
            sum += rules->linear ? row->c[row->order[e]]
                                 : exp(row->c[row->order[e]] - row->c[row->order[0]]);
        for (size_t e = 0; e < f->n_targets; e++) {
            const size_t b = row->order[e];
            const double w =
                (rules->linear ? row->c[b] : exp(row->c[b] - row->c[row->order[0]])) / sum;

            if (slot[b] == -2)
                f->impossible = true;
            if (slot[b] < 0)
                continue;
            f->weight[(size_t)slot[b] * f->n_in + (size_t)f->discard[a]] += w;
            f->mass[slot[b]] += w * mass[f->discard[a]];
        }
    }
}

/* Weights from correlations c [r, n] (taken over) and slots. */
static void compress(ficoco_reference *f, double *c, size_t n, const int32_t *slot,
                     const double *mass, bool divide, const ficoco_rules *rules)
{
    struct row *rows = zeros(f->r, sizeof(*rows));
    const size_t n_first = n == 0 ? 0 : n - (size_t)floorf((float)rules->eps * (float)(n - 1));

    for (size_t a = 0; a < f->r; a++) {
        rows[a].c = c + a * n;
        rows[a].order = falling(rows[a].c, n, n_first, &f->margin);
    }
    f->n_targets = count_targets(rows, f->r, n, rules);
    f->weight = zeros(f->n_out * f->n_in, sizeof(*f->weight));
    f->mass = zeros(f->n_out, sizeof(*f->mass));
    for (size_t j = 0; j < f->n_out; j++) {
        f->weight[j * f->n_in + (size_t)f->remain[j]] = 1.0;
        f->mass[j] = mass[f->remain[j]];
    }
    share_out(f, rows, slot, mass, rules);
    for (size_t j = 0; divide && j < f->n_out; j++) {
        double size = 0.0;

        for (size_t i = 0; i < f->n_in; i++)
            size += f->weight[j * f->n_in + i];
        for (size_t i = 0; i < f->n_in; i++)
            f->weight[j * f->n_in + i] /= size;
    }
    for (size_t a = 0; a < f->r; a++)
        free(rows[a].order);
    free(rows);
    free(c);
}

static ficoco_reference open_reference(size_t n_in, size_t r)
{
    ficoco_reference f = { .n_in = n_in, .n_out = n_in - r, .r = r, .margin = INFINITY };

    f.discard = zeros(r, sizeof(*f.discard));
    f.remain = zeros(n_in - r, sizeof(*f.remain));
    f.score = zeros(n_in, sizeof(*f.score));
    return f;
}

/* discard and remain: rows from `head` on by score, the kept ones ascending. */
static void choose(ficoco_reference *f, size_t head)
{
    size_t *order = falling(f->score + head, f->n_in - head, f->r, &f->margin), n = 0;
    bool *gone = zeros(f->n_in, sizeof(*gone));

    for (size_t a = 0; a < f->r; a++) {
        f->discard[a] = (int32_t)(order[a] + head);
        gone[order[a] + head] = true;
    }
    for (size_t i = 0; i < f->n_in; i++)
        if (!gone[i])
            f->remain[n++] = (int32_t)i;
    free(gone);
    free(order);
}

/* ---- V --------------------------------------------------------------------------------------- */

static void grid_penalty(double *score, size_t n, const ficoco_rules *rules, double *margin)
{
    const size_t w = rules->window;
    double *raw = zeros(n, sizeof(*raw));

    memcpy(raw, score, n * sizeof(*raw));
    free(falling(raw, n, n, margin));
    for (size_t y = 0; y + w <= rules->grid_h; y += w)
        for (size_t x = 0; x + w <= rules->grid_w; x += w) {
            size_t best = n;

            for (size_t c = 0; c < w * w; c++)
                for (size_t i = 0; i < n; i++) {
                    const size_t cell = rules->pos == NULL ? i : (size_t)rules->pos[i];

                    if (cell == (y + c / w) * rules->grid_w + x + c % w &&
                        (best == n || raw[i] > raw[best]))
                        best = i;
                }
            if (best != n)
                score[best] = raised(raw[best], rules->coef);
        }
    free(raw);
}

static void memory_penalty(double *score, size_t n, const ficoco_rules *rules, double *margin)
{
    float *memory = rules->memory;
    const size_t side = rules->side;
    bool *hit = zeros(side * side, sizeof(*hit));
    size_t at = 0;

    free(falling(score, n, n, margin));
    for (size_t c = 0; c < side * side; c++)
        if (memory[c] != INFINITY && at < n)
            memory[c] = (float)-score[at++];
    for (size_t y = 0; y + 2 <= side; y += 2)
        for (size_t x = 0; x + 2 <= side; x += 2) {
            const size_t cells[4] = { y * side + x, y * side + x + 1, (y + 1) * side + x,
                                      (y + 1) * side + x + 1 };
            size_t low = cells[0];

            for (int c = 1; c < 4; c++)
                if (memory[cells[c]] < memory[low])
                    low = cells[c];
            hit[low] = true;
        }
    for (size_t c = 0; c < side * side && c < n; c++)
        if (hit[c]) {
            score[c] = raised(score[c], rules->coef);
            memory[c] = INFINITY;
        }
    free(hit);
}

static void score_v(ficoco_reference *f, const double *s, const double *a_cls, size_t head,
                    const ficoco_rules *rules)
{
    const size_t n = f->n_in - head;
    double *a = zeros(n, sizeof(*a)), *p = zeros(n, sizeof(*p));

    for (size_t i = 0; i < n; i++) {
        a[i] = head == 0 ? a_cls[i] : s[1 + i];
        for (size_t j = 0; j < n; j++)
            p[i] += s[(head + i) * f->n_in + head + j] / (double)n;
    }
    if (rules->l2) {
        unit(a, n);
        unit(p, n);
    }
    for (size_t i = 0; i < n; i++)
        f->score[head + i] = rules->lam * p[i] - (1.0 - rules->lam) * a[i];
    if (head != 0)
        f->score[0] = -INFINITY;
    if (rules->official)
        memory_penalty(f->score + head, n, rules, &f->margin);
    else
        grid_penalty(f->score + head, n, rules, &f->margin);
    free(a);
    free(p);
}

/* The released order and the outputs it adds to. */
static void official_order(ficoco_reference *f, int32_t *slot)
{
    size_t *order = falling(f->score, f->n_in, f->n_in, &f->margin);

    for (size_t i = 0; i < f->n_in; i++) {
        if (i < f->r)
            f->discard[i] = (int32_t)order[i];
        else
            f->remain[i - f->r] = (int32_t)order[i];
        slot[i] = i < f->n_in - f->r ? (int32_t)i : i >= f->r ? (int32_t)(i - f->r) : -2;
    }
    free(order);
}

ficoco_reference ficoco_reference_v(const double *s, size_t t, const double *a_cls,
                                    const double *mass, const ficoco_rules *rules)
{
    const size_t head = a_cls == NULL;
    ficoco_reference f = open_reference(t, rules->r);
    int32_t *slot = zeros(t, sizeof(*slot));
    const size_t first = rules->official ? 0 : head;
    const size_t n = rules->official ? t : t - head - rules->r;
    double *c = zeros(rules->r * n, sizeof(*c));

    score_v(&f, s, a_cls, head, rules);
    if (rules->official)
        official_order(&f, slot);
    else
        choose(&f, head);
    for (size_t b = 0; !rules->official && b < n; b++)
        slot[b] = (int32_t)(b + first);
    for (size_t a = 0; a < f.r; a++)
        for (size_t b = 0; b < n; b++) {
            const size_t column = rules->official ? b : (size_t)f.remain[b + first];

            c[a * n + b] = s[(size_t)f.discard[a] * t + column];
        }
    compress(&f, c, n, slot, mass, true, rules);
    free(slot);
    return f;
}

/* ---- L --------------------------------------------------------------------------------------- */

ficoco_reference ficoco_reference_l(const double *s, size_t l, size_t v_start, size_t n_visual,
                                    size_t text, const double *mass, const ficoco_rules *rules)
{
    ficoco_reference f = open_reference(n_visual, rules->r);
    const size_t n = rules->official ? n_visual : f.n_out;
    const double n_text = text == l ? 1.0 : (double)(l - text);
    int32_t *slot = zeros(n_visual, sizeof(*slot));
    double *c = zeros(rules->r * n, sizeof(*c));

    for (size_t i = 0; i < n_visual; i++) {
        double vision = 0.0, task = 0.0;

        for (size_t j = 0; j < n_visual; j++)
            vision += s[(v_start + i) * l + v_start + j];
        for (size_t k = text; k < l; k++)
            task += s[(v_start + i) * l + k];
        f.score[i] = rules->beta * vision / (rules->mean_vision ? (double)n_visual : 1.0) -
                     (1.0 - rules->beta) * task / (rules->mean_text ? n_text : 1.0);
        if (rules->official && i < rules->protect)
            f.score[i] = -INFINITY;
    }
    choose(&f, 0);
    for (size_t j = 0; j < n_visual; j++)
        slot[j] = -1;
    for (size_t j = 0; j < f.n_out; j++)
        slot[rules->official ? (size_t)f.remain[j] : j] = (int32_t)j;
    for (size_t a = 0; a < f.r; a++)
        for (size_t b = 0; b < n; b++) {
            const size_t i = v_start + (size_t)f.discard[a];
            const size_t j = v_start + (rules->official ? b : (size_t)f.remain[b]);
            double through = 0.0;

            for (size_t k = text; k < l; k++)
                through += s[i * l + k] * s[k * l + j];
            c[a * n + b] = rules->gamma * s[i * l + j] +
                           (1.0 - rules->gamma) * through / (rules->mean_bridge ? n_text : 1.0);
            if (rules->official && i == j)
                c[a * n + b] = -INFINITY;
        }
    compress(&f, c, n, slot, mass, !rules->official, rules);
    free(slot);
    return f;
}

void ficoco_reference_free(ficoco_reference *f)
{
    free(f->discard);
    free(f->remain);
    free(f->score);
    free(f->weight);
    free(f->mass);
}
