/*
 * FiCoCo, Compress: the plan in which each kept row gets its shares of discarded ones, and what all
 * variants do before it: checks, scratch, ranking.
 */
#include "ficoco.h"

#include "../linalg/order.h"
#include "../score/quantile.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- the door -------------------------------------------------------------------------------- */

vtc_status vtci_ficoco_check_params(const vtci_call *call, size_t profile, float eps)
{
    VTCI_REQUIRE(call, profile <= VTC_FICOCO_PAPER, VTC_ERR_RANGE,
                 "profile is %zu, 0 to 2 is needed", profile);
    VTCI_REQUIRE(call, eps >= 0.0f && eps <= 1.0f, VTC_ERR_RANGE, "eps is %g, 0 to 1 is needed",
                 (double)eps);
    return VTC_OK;
}

vtc_status vtci_ficoco_switch(const vtci_call *call, const char *name, size_t value,
                              bool by_profile, bool *on)
{
    VTCI_REQUIRE(call, value <= VTC_FICOCO_OFF, VTC_ERR_RANGE, "%s is %zu, 0 to 2 is needed", name,
                 value);
    *on = value == VTC_FICOCO_BY_PROFILE ? by_profile : value == VTC_FICOCO_ON;
    return VTC_OK;
}

vtc_plan_count vtci_ficoco_count(bool official, float eps, size_t n, size_t r, size_t head,
                                 size_t n_columns)
{
    vtc_plan_count count = { vtci_add(head, n), vtci_add(head, n - r), 0, 1 };
    size_t n_targets = 0;

    if (n_columns != 0) {
        const vtci_quantile rank = vtci_quantile_rank(n_columns, eps);

        n_targets = official ? n_columns - 1 - rank.lo : n_columns - rank.hi;
    }
    if (r != 0 && n_targets != 0)
        count.n_nnz = vtci_add(count.n_out, vtci_mul(r, n_targets));
    return count;
}

static vtc_plan_count count_of(const vtci_ficoco *f)
{
    return vtci_ficoco_count(f->official, f->eps, f->n, f->r, f->head, f->n_columns);
}

vtci_ficoco_array vtci_ficoco_view(const char *name, const vtc_tensor *t)
{
    const vtci_ficoco_array none = { name, NULL, 0 };

    return t == NULL ? none : (vtci_ficoco_array){ name, t->data, vtci_span_bytes(t) };
}

enum { N_OUTPUTS = 7 };

static void list_outputs(const vtci_ficoco *f, const vtc_ficoco_trace *t,
                         const vtci_ficoco_array *extra, vtci_ficoco_array list[N_OUTPUTS])
{
    const vtc_plan_count count = count_of(f);
    const size_t word = sizeof(int32_t);
    const size_t n_targets = count.n_nnz == 0 ? 0 : count.n_nnz - count.n_out;
    const vtci_ficoco_array outputs[N_OUTPUTS] = {
        { "discard of the trace", t->discard, vtci_mul(f->r, word) },
        { "target of the trace", t->target, vtci_mul(n_targets, word) },
        { "weight of the trace", t->weight, vtci_mul(n_targets, word) },
        { "alpha of the trace", t->alpha, vtci_mul(vtci_mul(f->r, f->n - f->r), word) },
        { "pos of the trace", t->pos, vtci_mul(f->n - f->r, word) },
        { "a_cls of the trace", t->a_cls, vtci_mul(f->n, word) },
        *extra,
    };

    for (size_t i = 0; i < N_OUTPUTS; i++) {
        list[i] = outputs[i];
        if (list[i].data == NULL)
            list[i].bytes = 0;
    }
}

vtc_status vtci_ficoco_check_outputs(const vtci_ficoco *f, const vtc_plan *plan,
                                     const vtc_ficoco_trace *trace, const vtci_ficoco_array *inputs,
                                     size_t n_inputs, const vtci_ficoco_array *extra)
{
    const vtc_plan_count n = count_of(f);
    vtci_ficoco_array output[N_OUTPUTS];

    VTCI_TRY(vtci_plan_open(f->call, plan, n.n_in, n.n_out, n.n_nnz));
    list_outputs(f, trace, extra, output);
    for (size_t i = 0; i < n_inputs; i++)
        VTCI_TRY(vtci_plan_check_apart(f->call, plan, n.n_in, n.n_out, n.n_nnz, inputs[i].name,
                                       inputs[i].data, inputs[i].bytes));
    for (size_t i = 0; i < N_OUTPUTS; i++) {
        VTCI_TRY(vtci_plan_check_apart(f->call, plan, n.n_in, n.n_out, n.n_nnz, output[i].name,
                                       output[i].data, output[i].bytes));
        for (size_t j = 0; j < n_inputs + i; j++) {
            const vtci_ficoco_array *other = j < n_inputs ? &inputs[j] : &output[j - n_inputs];

            VTCI_REQUIRE(f->call,
                         !vtci_ranges_meet(output[i].data, output[i].bytes, other->data,
                                           other->bytes),
                         VTC_ERR_OVERLAP, "%s overlaps %s", output[i].name, other->name);
        }
    }
    return vtci_check_masses(f->call, f->mass, n.n_in);
}

/* ---- scratch --------------------------------------------------------------------------------- */

void vtci_ficoco_lay_out(vtci_arena *arena, vtci_ficoco *f)
{
    const size_t word = sizeof(int32_t), panel = vtci_min(VTCI_FICOCO_PANEL, f->r);

    f->n_best = vtci_ficoco_n_best(f->eps, f->n_columns);
    f->score = vtci_take(arena, f->n, word);
    f->order = vtci_take(arena, f->n, word);
    f->columns = vtci_take(arena, f->n_columns, word);
    f->slot = vtci_take(arena, f->n_columns, word);
    f->place = vtci_take(arena, vtci_add(f->head, f->n), word);
    f->best = vtci_take(arena, vtci_mul(f->r, f->n_best), word);
    f->best_column = vtci_take(arena, vtci_mul(f->r, f->n_best), word);
    f->n_above = vtci_take(arena, f->r, word);
    f->bad = vtci_take(arena, f->r, word);
    f->size = vtci_take(arena, f->n_out, word);
    f->out_mass = vtci_take(arena, f->n_out, word);
    f->at = vtci_take(arena, f->n_out, word);
    f->last = vtci_take(arena, f->n_out, word);
    f->c = vtci_take(arena, vtci_mul(panel, f->n_columns), word);
    vtci_ficoco_lay_out_attention(arena, f);
}

/* ---- ranking --------------------------------------------------------------------------------- */

vtc_status vtci_ficoco_check_scores(const vtci_ficoco *f)
{
    const size_t nan = f->n == 0 ? 0 : vtci_find_nan(f->score, f->n);

    VTCI_REQUIRE(f->call, nan == f->n, VTC_ERR_DATA, "the score of row %zu is NaN", f->head + nan);
    return VTC_OK;
}

void vtci_ficoco_rank(vtci_ficoco *f)
{
    int32_t *place = f->place + f->head;
    size_t n_placed = f->head;

    if (f->head != 0)
        f->place[0] = 0;
    if (f->n == 0)
        return;
    vtci_top_k(f->order, f->score, f->n, f->r);
    memset(place, 0, f->n * sizeof(*place));
    for (size_t rank = 0; rank < f->r; rank++)
        place[f->order[rank]] = -1 - (int32_t)rank;
    for (size_t i = 0; i < f->n; i++)
        if (place[i] >= 0) {
            f->order[f->r + n_placed - f->head] = (int32_t)i;
            place[i] = (int32_t)n_placed++;
        }
}

void vtci_ficoco_kept_columns(vtci_ficoco *f)
{
    for (size_t b = 0; b < f->n_columns; b++) {
        f->columns[b] = (int32_t)f->k_first + f->order[f->r + b];
        f->slot[b] = (int32_t)(f->head + b);
    }
}

/* ---- what each output gets ------------------------------------------------------------------- */

/* The discarded row's share e: its output, or -1. */
static int32_t output_of(const vtci_ficoco *f, size_t rank, size_t e)
{
    return f->slot[f->best_column[rank * f->n_best + e]];
}

vtc_status vtci_ficoco_measure(vtci_ficoco *f)
{
    for (size_t j = 0; j < f->n_out; j++)
        f->size[j] = f->out_mass[j] = 0.0f;
    for (size_t i = 0; i < f->head + f->n; i++) {
        const float mass = f->mass == NULL ? 1.0f : f->mass[i];

        if (f->place[i] >= 0) {
            f->size[f->place[i]] += 1.0f;
            f->out_mass[f->place[i]] += mass;
            continue;
        }
        const size_t rank = (size_t)(-1 - f->place[i]);

        for (size_t e = 0; e < f->n_targets; e++)
            if (output_of(f, rank, e) >= 0) {
                f->size[output_of(f, rank, e)] += f->best[rank * f->n_best + e];
                f->out_mass[output_of(f, rank, e)] += f->best[rank * f->n_best + e] * mass;
            }
    }
    for (size_t j = 0; j < f->n_out; j++)
        VTCI_REQUIRE(f->call,
                     f->size[j] > 0.0f && f->size[j] <= FLT_MAX && f->out_mass[j] >= 0.0f &&
                         f->out_mass[j] <= FLT_MAX,
                     VTC_ERR_DATA, "output %zu would have size %g and mass %g", j,
                     (double)f->size[j], (double)f->out_mass[j]);
    return VTC_OK;
}

/* ---- the plan -------------------------------------------------------------------------------- */

/* Row i's part w of output j: a new entry, or more of the last one. Without weights entries are
 * only counted. */
static void add_entry(vtci_ficoco *f, int32_t j, size_t i, float w, int32_t *source, float *weight)
{
    const bool again = f->last[j] == (int32_t)i;
    const float share = f->divide ? w / f->size[j] : w;

    f->last[j] = (int32_t)i;
    if (!again)
        f->at[j]++;
    if (weight == NULL)
        return;
    source[f->at[j] - 1] = (int32_t)i;
    weight[f->at[j] - 1] = again ? weight[f->at[j] - 1] + share : share;
}

/* All entries by rising row, so that those of an output ascend. */
static void add_entries(vtci_ficoco *f, int32_t *source, float *weight)
{
    for (size_t j = 0; j < f->n_out; j++)
        f->last[j] = -1;
    for (size_t i = 0; i < f->head + f->n; i++) {
        const int32_t place = f->place[i];

        if (place >= 0) {
            add_entry(f, place, i, 1.0f, source, weight);
            continue;
        }
        const size_t rank = (size_t)(-1 - place);

        for (size_t e = 0; e < f->n_targets; e++)
            if (output_of(f, rank, e) >= 0)
                add_entry(f, output_of(f, rank, e), i, f->best[rank * f->n_best + e], source,
                          weight);
    }
}

static size_t write_entries(vtci_ficoco *f, vtc_plan *plan)
{
    int32_t n = 0;

    memset(f->at, 0, f->n_out * sizeof(*f->at));
    add_entries(f, NULL, NULL);
    for (size_t j = 0; j < f->n_out; j++) {
        const int32_t count = f->at[j];

        plan->begin[j] = f->at[j] = n;
        n += count;
    }
    plan->begin[f->n_out] = n;
    add_entries(f, plan->source, plan->weight);
    return (size_t)n;
}

static void write_plan(vtci_ficoco *f, vtc_plan *plan)
{
    const vtc_plan_count count = count_of(f);
    size_t n_nnz = 0;

    for (size_t i = 0; i < count.n_in; i++)
        if (f->place[i] >= 0)
            plan->keep[f->place[i]] = (int32_t)i;
    for (size_t j = 0; j < f->n_out; j++)
        plan->mass[j] = f->out_mass[j];
    if (count.n_nnz != 0)
        n_nnz = write_entries(f, plan);
    for (size_t i = 0; plan->score != NULL && i < count.n_in; i++)
        plan->score[i] = i < f->head ? -INFINITY : f->score[i - f->head];
    vtci_plan_finish(plan, count.n_in, count.n_out, n_nnz, VTC_SUM);
}

/* ---- the trace ------------------------------------------------------------------------------- */

/* The row of the plan that a row of K is, or -1. */
static int32_t plan_row(const vtci_ficoco *f, int32_t key_row)
{
    const int32_t row = key_row - (int32_t)f->k_first + (int32_t)f->head;

    return row < 0 ? -1 : row;
}

static void write_targets(const vtci_ficoco *f, const vtc_ficoco_trace *t)
{
    const size_t n = f->n_targets;

    for (size_t rank = 0; rank < f->r; rank++)
        for (size_t e = 0; e < n; e++) {
            const size_t at = rank * f->n_best + e;

            if (t->target != NULL)
                t->target[rank * n + e] = plan_row(f, f->columns[f->best_column[at]]);
            if (t->weight != NULL)
                t->weight[rank * n + e] = f->best[at];
        }
}

static void write_alpha(const vtci_ficoco *f, float *alpha)
{
    const size_t n_kept = f->n - f->r;

    for (size_t i = 0; i < f->r * n_kept; i++)
        alpha[i] = 0.0f;
    for (size_t rank = 0; rank < f->r; rank++)
        for (size_t e = 0; e < f->n_targets; e++)
            alpha[rank * n_kept + (size_t)f->best_column[rank * f->n_best + e]] =
                f->best[rank * f->n_best + e];
}

static void write_trace(const vtci_ficoco *f, vtc_ficoco_trace *t)
{
    t->n_targets = f->n_targets;
    for (size_t rank = 0; t->discard != NULL && rank < f->r; rank++)
        t->discard[rank] = (int32_t)f->head + f->order[rank];
    write_targets(f, t);
    if (t->alpha != NULL && !f->official)
        write_alpha(f, t->alpha);
    for (size_t j = 0; t->pos != NULL && !f->official && j < f->n - f->r; j++)
        t->pos[j] = f->pos == NULL ? f->order[f->r + j] : f->pos[f->order[f->r + j]];
    for (size_t i = 0; t->a_cls != NULL && f->a_cls != NULL && i < f->n; i++)
        t->a_cls[i] = f->a_cls[i];
}

void vtci_ficoco_write(vtci_ficoco *f, vtc_plan *plan, vtc_ficoco_trace *trace)
{
    write_trace(f, trace);
    write_plan(f, plan);
}

/* ---- schedule -------------------------------------------------------------------------------- */

vtc_status vtc_ficoco_schedule(size_t n_layers, size_t n_in, size_t n_keep, size_t *per_layer,
                               const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_ficoco_schedule", exec));
    VTCI_REQUIRE(&call, per_layer != NULL || n_layers == 0, VTC_ERR_NULL, "per_layer is NULL");
    VTCI_REQUIRE(&call, n_keep <= n_in && (n_layers != 0 || n_keep == n_in), VTC_ERR_BUDGET,
                 "cannot keep %zu of %zu rows in %zu layers", n_keep, n_in, n_layers);
    for (size_t i = 0; i < n_layers; i++)
        per_layer[i] = (n_in - n_keep) / n_layers + (i < (n_in - n_keep) % n_layers);
    return VTC_OK;
}
