/*
 * FiCoCo's view of the attention: sums of rows and correlations, from Q and K without an array of
 * all pairs, from rows of probabilities, or from the caller's S.
 *
 * With c = scale / H a sum over keys is one product, sum_j c q_i . k_j = c q_i . (sum_j k_j), and
 * so is what a row sees through the text, sum_k S_ik S_kj = c (sum_k S_ik q_k) . k_j.
 */
#include "ficoco.h"

#include "../kernels/kernels.h"
#include "../linalg/rows.h"

#include <math.h>
#include <string.h>

enum {
    SHARED = VTCI_PROBS_ROWS, /* rows of one task, when each is a whole row of S        */
    BLOCK = 16,               /* and when text is added to them                         */
    FOLD_FLOATS = 64 << 10    /* that one task copies: less is not worth waking another */
};

static float logit_factor(const vtci_ficoco *f)
{
    return f->l.scale / (float)f->l.n_heads;
}

static float *slice_of(const vtci_ficoco *f, size_t worker)
{
    return (float *)(void *)(f->slices + worker * f->slice_stride);
}

/* ---- whole rows of S or A -------------------------------------------------------------------- */

/* row[a] = row rows[a] (NULL: first + a) of the attention, n <= SHARED of them. */
static void load_rows(const vtci_ficoco *f, const int32_t *rows, size_t first, size_t n,
                      const float *row[SHARED], size_t worker)
{
    const float *probs = NULL;

    if (f->form == VTCI_FICOCO_PROBS)
        probs = vtci_probs_rows(&f->probs, rows, first, n, worker);
    for (size_t a = 0; a < n; a++) {
        const size_t i = rows == NULL ? first + a : (size_t)rows[a];

        row[a] =
            probs != NULL
                ? probs + a * f->n_keys
                : vtci_load_row(vtci_row(&f->s, 0, i), f->s.dtype, f->n_keys,
                                f->s.dtype == VTC_F32 ? NULL : slice_of(f, worker) + a * f->n_keys);
    }
}

struct row_sums {
    const vtci_ficoco *f;
    float weight, text_weight;
    float *y;
};

/* Probabilities of all keys sum to 1: without rounding, so that no order comes of it. */
static float sum_candidates(const vtci_ficoco *f, const float *row)
{
    const float sum = vtci_kernels_get()->dot(row + f->k_first, f->ones, f->n);

    return f->form == VTCI_FICOCO_PROBS && f->n == f->n_keys && isfinite(sum) ? 1.0f : sum;
}

static void sum_rows(void *job, size_t index, size_t worker)
{
    const struct row_sums *s = job;
    const vtci_ficoco *f = s->f;
    const vtci_kernels *k = vtci_kernels_get();
    const size_t begin = index * SHARED, n = vtci_min(SHARED, f->n - begin);
    const float *row[SHARED];

    load_rows(f, NULL, f->q_first + begin, n, row, worker);
    for (size_t a = 0; a < n; a++) {
        s->y[begin + a] = s->weight * sum_candidates(f, row[a]);
        if (f->n_text != 0)
            s->y[begin + a] += s->text_weight * k->dot(row[a] + f->text, f->ones, f->n_text);
    }
}

/* y [H d] = x [G d], each key head for all query heads that share it. */
static void expand(const vtci_logits *l, float *y)
{
    const size_t d = l->width, n_shared = l->n_heads / l->n_groups;

    for (size_t h = l->n_heads; h-- > 0;)
        memmove(y + h * d, y + h / n_shared * d, d * sizeof(*y));
}

/* The one vector whose products with the queries are the sums. A lone weight comes behind them:
 * queries whose sums are equal without rounding then stay equal. */
static void sum_logits(vtci_ficoco *f, float weight, float text_weight, float *y, float *cls)
{
    const size_t width = f->l.n_groups * f->l.width;
    const bool lone = f->n_text == 0;
    const float c = logit_factor(f);
    const float weights[2] = { lone ? c : c * weight, c * text_weight };
    const float *totals[2] = { f->key_total, f->key_total + width };

    if (cls != NULL)
        vtci_logits_fold(&f->l, 0, c, f->x_cls);
    vtci_key_sum(&f->l, f->k_first, f->n, cls == NULL ? NULL : f->x_cls, cls, f->key_partial,
                 f->key_total);
    if (!lone)
        vtci_key_sum(&f->l, f->text, f->n_text, NULL, NULL, f->key_partial, f->key_total + width);
    vtci_kernels_get()->combine(f->row_term, totals, weights, lone ? 1 : 2, width, 0);
    expand(&f->l, f->row_term);
    vtci_logits_of_queries(&f->l, f->row_term, 1, f->q_first, f->n, y, f->n);
    if (lone)
        vtci_kernels_get()->scale(y, y, weight, f->n);
}

void vtci_ficoco_row_sums(vtci_ficoco *f, float weight, float text_weight, float *y, float *cls)
{
    struct row_sums s = { f, weight, text_weight, y };
    const float *row[SHARED];

    if (f->n == 0)
        return;
    if (f->form == VTCI_FICOCO_LOGITS) {
        sum_logits(f, weight, text_weight, y, cls);
        return;
    }
    for (size_t i = 0; i < vtci_max(f->n, f->n_text); i++)
        f->ones[i] = 1.0f;
    vtci_parallel(f->call, vtci_ceil_div(f->n, SHARED), sum_rows, &s);
    if (cls == NULL)
        return;
    load_rows(f, NULL, 0, 1, row, 0);
    memcpy(cls, row[0] + f->k_first, f->n * sizeof(*cls));
}

/* ---- correlations from Q and K --------------------------------------------------------------- */

struct panel {
    vtci_ficoco *f;
    size_t begin, n;
};

static size_t fold_block(const vtci_ficoco *f)
{
    return vtci_max(1, FOLD_FLOATS / (f->l.n_groups * f->l.width));
}

static void fold_rows(void *job, size_t index, size_t worker)
{
    const struct panel *p = job;
    const vtci_ficoco *f = p->f;

    const size_t block = fold_block(f);

    (void)worker;
    for (size_t a = index * block; a < vtci_min((index + 1) * block, p->n); a++)
        vtci_logits_fold(&f->l, f->q_first + (size_t)f->order[p->begin + a], logit_factor(f),
                         f->x + a * f->l.n_groups * f->l.width);
}

/* gamma x + bridge c sum over text of S_ik q_k, of one head of one row. */
static void bridge_row(const vtci_ficoco *f, size_t group, size_t a)
{
    const vtci_logits *l = &f->l;
    const size_t d = l->width, n_shared = l->n_heads / l->n_groups;
    const float c = logit_factor(f) * f->bridge;
    float *x = f->x + (a * l->n_groups + group) * d;
    const float *logit = f->text_logit + a * f->n_text;
    vtci_combine sum;

    vtci_kernels_get()->scale(x, x, f->gamma, d);
    vtci_combine_begin(&sum, x, d, l->q.main.dtype, false);
    sum.started = true; /* go on from what x is */
    for (size_t k = 0; k < f->n_text; k++)
        for (size_t h = group * n_shared; h < (group + 1) * n_shared; h++) {
            vtc_dtype dtype;

            vtci_combine_add(&sum, vtci_head_rows_at(&l->q, h, f->text + k, &dtype), c * logit[k]);
        }
    vtci_combine_end(&sum);
}

/* Some rows of a panel, one key head: that head of the text's queries stays in cache. */
static void bridge_rows(void *job, size_t index, size_t worker)
{
    const struct panel *p = job;
    const size_t n_blocks = vtci_ceil_div(p->n, BLOCK), begin = index % n_blocks * BLOCK;

    (void)worker;
    for (size_t a = begin; a < vtci_min(begin + BLOCK, p->n); a++)
        bridge_row(p->f, index / n_blocks, a);
}

static void correlate_logits(struct panel *p)
{
    vtci_ficoco *f = p->f;

    vtci_parallel(f->call, vtci_ceil_div(p->n, fold_block(f)), fold_rows, p);
    if (f->bridged) {
        vtci_logits_of_keys(&f->l, f->x, p->n, NULL, f->text, f->n_text, f->text_logit, f->n_text);
        vtci_parallel(f->call, f->l.n_groups * vtci_ceil_div(p->n, BLOCK), bridge_rows, p);
    }
    vtci_logits_of_keys(&f->l, f->x, p->n, f->columns, 0, f->n_columns, f->c, f->n_columns);
}

/* ---- correlations from whole rows ------------------------------------------------------------ */

/* y [n] = gamma A_ij + bridge sum over text of A_ik A_kj, for all visual j. */
static const float *bridge_whole_row(const vtci_ficoco *f, const float *row, float *y, float *sum)
{
    const bool stored = f->form == VTCI_FICOCO_PROBS;
    const vtc_dtype dtype = stored ? VTC_F32 : f->s.dtype;
    const float weights[2] = { f->gamma, f->bridge };
    const float *terms[2] = { row + f->k_first, sum };
    vtci_combine through;

    vtci_combine_begin(&through, sum, f->n, dtype, false);
    for (size_t k = 0; k < f->n_text; k++)
        vtci_combine_add(&through,
                         stored
                             ? (const void *)(f->text_rows + k * f->n)
                             : vtci_row(&f->s, 0, f->text + k) + f->k_first * vtc_dtype_size(dtype),
                         row[f->text + k]);
    vtci_combine_end(&through);
    vtci_kernels_get()->combine(y, terms, weights, 2, f->n, 0);
    return y - f->k_first;
}

static void correlate_rows(void *job, size_t index, size_t worker)
{
    const struct panel *p = job;
    const vtci_ficoco *f = p->f;
    const size_t begin = index * SHARED, n = vtci_min(SHARED, p->n - begin);
    float *wide = slice_of(f, worker) + SHARED * f->n_keys; /* behind the rows of S */
    const float *row[SHARED];
    int32_t number[SHARED] = { 0 };

    for (size_t a = 0; a < n; a++)
        number[a] = (int32_t)f->q_first + f->order[p->begin + begin + a];
    load_rows(f, number, 0, n, row, worker);
    for (size_t a = 0; a < n; a++) {
        const float *from = row[a];
        float *c = f->c + (begin + a) * f->n_columns;

        if (f->bridged)
            from = bridge_whole_row(f, from, wide + f->k_first, wide + f->k_first + f->n);
        for (size_t b = 0; b < f->n_columns; b++)
            c[b] = from[f->columns[b]];
    }
}

static void store_text_rows(void *job, size_t index, size_t worker)
{
    const vtci_ficoco *f = job;
    const size_t begin = index * SHARED, n = vtci_min(SHARED, f->n_text - begin);
    const float *row[SHARED];

    load_rows(f, NULL, f->text + begin, n, row, worker);
    for (size_t a = 0; a < n; a++)
        memcpy(f->text_rows + (begin + a) * f->n, row[a] + f->k_first, f->n * sizeof(float));
}

void vtci_ficoco_prepare_text(vtci_ficoco *f)
{
    if (f->bridged && f->form == VTCI_FICOCO_PROBS && f->n != 0)
        vtci_parallel(f->call, vtci_ceil_div(f->n_text, SHARED), store_text_rows, f);
}

void vtci_ficoco_correlations(vtci_ficoco *f, size_t begin, size_t n)
{
    struct panel p = { f, begin, n };

    if (f->form == VTCI_FICOCO_LOGITS)
        correlate_logits(&p);
    else
        vtci_parallel(f->call, vtci_ceil_div(n, SHARED), correlate_rows, &p);
}

/* ---- scratch --------------------------------------------------------------------------------- */

static void lay_out_logits(vtci_arena *arena, vtci_ficoco *f)
{
    const size_t panel = vtci_min(VTCI_FICOCO_PANEL, f->r);
    const size_t width = vtci_mul(f->l.n_groups, f->l.width);

    vtci_logits_lay_out(arena, &f->l);
    f->x = vtci_take(arena, vtci_mul(panel, width), sizeof(float));
    f->text_logit = vtci_take(arena, vtci_mul(panel, f->n_text), sizeof(float));
    f->row_term = vtci_take(arena, vtci_mul(f->l.n_heads, f->l.width), sizeof(float));
    f->key_total = vtci_take(arena, vtci_mul(2, width), sizeof(float));
    f->x_cls = vtci_take(arena, width, sizeof(float));
    f->key_partial =
        vtci_take(arena, vtci_key_sum_floats(&f->l, vtci_max(f->n, f->n_text)), sizeof(float));
}

/* Rows of S, and of what is seen through the text: [SHARED, n_keys] and [k_first + 2 n]. */
static size_t slice_floats(const vtci_ficoco *f)
{
    if (f->form == VTCI_FICOCO_LOGITS)
        return 0;
    return vtci_add(vtci_mul(SHARED, f->n_keys),
                    f->bridged ? vtci_add(f->k_first, vtci_mul(2, f->n)) : 0);
}

void vtci_ficoco_lay_out_attention(vtci_arena *arena, vtci_ficoco *f)
{
    size_t floats = slice_floats(f);

    if (f->form == VTCI_FICOCO_LOGITS) {
        lay_out_logits(arena, f);
    } else {
        f->ones = vtci_take(arena, vtci_max(f->n, f->n_text), sizeof(float));
        if (f->form == VTCI_FICOCO_PROBS) {
            vtci_logits_lay_out(arena, &f->l);
            vtci_probs_lay_out(arena, &f->l, &f->probs);
            f->text_rows =
                vtci_take(arena, f->bridged ? vtci_mul(f->n_text, f->n) : 0, sizeof(float));
        }
    }
    /* a worker's ranking of one row takes its turn in the same memory */
    floats = vtci_max(floats, f->n_columns);
    f->slices = vtci_take_slices(arena, f->call, vtci_mul(floats, sizeof(float)), &f->slice_stride);
}

/* ---- the caller's S -------------------------------------------------------------------------- */

vtc_status vtci_ficoco_open_matrix(vtci_ficoco *f, const vtc_tensor *s)
{
    VTCI_TRY(vtci_check_tensor(f->call, "s", s, VTCI_FLOATS, 2, 2, VTCI_IN));
    VTCI_REQUIRE(f->call, s->dim[0] == s->dim[1], VTC_ERR_SHAPE, "s is [%zu, %zu], not square",
                 s->dim[0], s->dim[1]);
    f->form = VTCI_FICOCO_MATRIX;
    f->s = vtci_rows_of(s);
    f->n_keys = s->dim[1];
    return VTC_OK;
}
