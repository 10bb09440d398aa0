/*
 * MustDrop, decode: which rows of each layer's K/V cache are kept.
 *
 * Source: Liu et al., "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large
 * Language Model", arXiv 2411.10803, and the authors' cache code.
 *
 *     R_last = g_last, R_i = g_i[R_{i+1}]        g_i: the rows that pruning layer i handed on
 *     layer l: the R of the first pruning layer >= l; none before the first and after the last
 *
 * The layers between two pruning layers hold the sequence that the earlier one handed on, so all
 * end with the rows that lived to the last layer. The authors' code is for 32 layers and pruning
 * layers 2, 6, 10, 14; here any.
 */
#include "../../include/vtc/mustdrop.h"
#include "../base/apart.h"
#include "../plan/plan.h"

static const int32_t published_layers[4] = { 2, 6, 10, 14 };

struct decode {
    const vtci_call *call;
    vtc_mustdrop_decode_params p;
    const vtc_plan *const *steps;
};

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_layers(const struct decode *d)
{
    const int32_t *layer = d->p.prune_layers;

    for (size_t i = 0; i < d->p.n_prune; i++) {
        VTCI_REQUIRE(d->call, layer[i] >= 0 && (size_t)layer[i] < d->p.n_layers, VTC_ERR_RANGE,
                     "prune_layers[%zu] is %d of %zu layers", i, (int)layer[i], d->p.n_layers);
        VTCI_REQUIRE(d->call, i == 0 || layer[i] > layer[i - 1], VTC_ERR_RANGE,
                     "prune_layers[%zu] is %d behind %d", i, (int)layer[i], (int)layer[i - 1]);
    }
    return VTC_OK;
}

static vtc_status open_params(const vtci_call *call, const vtc_mustdrop_decode_params *from,
                              struct decode *d)
{
    static const vtc_mustdrop_decode_params defaults = VTC_MUSTDROP_DECODE_PARAMS_INIT;

    d->call = call;
    d->p = defaults;
    VTCI_TRY(vtci_params_read(call, &d->p, sizeof(d->p), from));
    VTCI_REQUIRE(call,
                 d->p.positions == VTC_MUSTDROP_RENUMBER || d->p.positions == VTC_MUSTDROP_KEEP,
                 VTC_ERR_RANGE, "positions is %d", (int)d->p.positions);
    VTCI_REQUIRE(call, d->p.next_position >= -1, VTC_ERR_RANGE, "next_position is %lld",
                 (long long)d->p.next_position);
    VTCI_REQUIRE(call, d->p.n_layers <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu layers exceed int32",
                 d->p.n_layers);
    if (d->p.prune_layers == NULL) {
        VTCI_REQUIRE(call, d->p.n_prune == 4 || d->p.n_prune == 0, VTC_ERR_NULL,
                     "prune_layers is NULL, the published layers are 4, not %zu", d->p.n_prune);
        d->p.prune_layers = published_layers;
    }
    return check_layers(d);
}

/* Each step plans on what the one before left. */
static vtc_status open_steps(struct decode *d, const vtc_plan *const *steps)
{
    size_t n_before = 0;

    VTCI_REQUIRE(d->call, steps != NULL || d->p.n_prune == 0, VTC_ERR_NULL, "steps is NULL");
    d->steps = steps;
    for (size_t i = 0; i < d->p.n_prune; i++) {
        vtc_plan step = VTC_PLAN_INIT;

        VTCI_TRY(vtci_plan_read(d->call, "a step", steps[i], &step));
        VTCI_REQUIRE(d->call, i == 0 || step.n_in == n_before, VTC_ERR_SHAPE,
                     "step %zu has %zu input rows, the one before has %zu outputs", i, step.n_in,
                     n_before);
        n_before = step.n_out;
    }
    return VTC_OK;
}

/* A step as a selection of the rows its outputs stand for. Of a step that was read. */
static vtc_plan selection_of(const struct decode *d, size_t i)
{
    vtc_plan step = VTC_PLAN_INIT;

    step.n_in = step.cap_in = d->steps[i]->n_in;
    step.n_out = step.cap_out = d->steps[i]->n_out;
    step.keep = d->steps[i]->keep;
    step.mass = d->steps[i]->mass;
    step.score = d->steps[i]->score;
    return step;
}

static vtci_plan_sizes sizes_of(const struct decode *d, size_t i)
{
    const vtci_plan_sizes sizes = { d->steps[i]->n_in, d->steps[d->p.n_prune - 1]->n_out, 0 };

    return sizes;
}

/* What composing reads, so that it cannot fail once the first plan is written. */
static vtc_status check_steps(const struct decode *d)
{
    for (size_t i = 0; i < d->p.n_prune; i++) {
        const vtc_plan step = selection_of(d, i);

        VTCI_TRY(vtci_plan_check_keep(d->call, "a step", &step, 0));
        VTCI_TRY(vtci_plan_check_mass(d->call, "a step", &step));
    }
    return VTC_OK;
}

/* Plan i: there, with room, apart from the steps and from the plans before it. */
static vtc_status check_plan(const struct decode *d, size_t i, vtc_plan *const *plans)
{
    const vtci_plan_sizes n = sizes_of(d, i);

    VTCI_REQUIRE(d->call, plans[i] != NULL, VTC_ERR_NULL, "plans[%zu] is NULL", i);
    VTCI_TRY(vtci_plan_open(d->call, plans[i], n.n_in, n.n_out, 0));
    for (size_t step = 0; step < d->p.n_prune; step++) {
        VTCI_REQUIRE(d->call, plans[i] != d->steps[step], VTC_ERR_OVERLAP,
                     "plans[%zu] is steps[%zu]", i, step);
        VTCI_TRY(vtci_plan_check_apart_from(d->call, plans[i], n.n_in, n.n_out, 0, "a step",
                                            d->steps[step]));
    }
    for (size_t other = 0; other < i; other++) {
        const vtci_plan_sizes m = sizes_of(d, other);

        VTCI_REQUIRE(d->call, plans[i] != plans[other], VTC_ERR_OVERLAP, "plans[%zu] is plans[%zu]",
                     i, other);
        VTCI_TRY(vtci_plan_check_apart_written(d->call, plans[i], &n, plans[other], &m));
    }
    return VTC_OK;
}

/* The arrays by layer, apart from each other and from all plans. */
static vtc_status check_arrays(const struct decode *d, vtc_plan *const *plans,
                               const vtc_plan **plan_of_layer, const size_t *lengths,
                               const int64_t *next_position)
{
    const size_t n = d->p.n_layers;
    const vtci_memory out[3] = {
        { "plan_of_layer", plan_of_layer, vtci_mul(n, sizeof(*plan_of_layer)) },
        { "lengths", lengths, vtci_mul(n, sizeof(*lengths)) },
        { "next_position", next_position, vtci_mul(n, sizeof(*next_position)) },
    };
    const vtci_memory in[1] = {
        { "prune_layers", d->p.prune_layers, d->p.n_prune * sizeof(int32_t) },
    };

    VTCI_REQUIRE(d->call, plan_of_layer != NULL || n == 0, VTC_ERR_NULL, "plan_of_layer is NULL");
    VTCI_TRY(vtci_check_all_apart(d->call, out, 3, in, 1));
    for (size_t i = 0; i < d->p.n_prune; i++) {
        const vtci_plan_sizes m = sizes_of(d, i);

        VTCI_TRY(vtci_plan_check_apart(d->call, plans[i], m.n_in, m.n_out, 0, in[0].name,
                                       in[0].data, in[0].bytes));
        for (size_t a = 0; a < 3; a++) {
            VTCI_TRY(vtci_plan_check_apart(d->call, plans[i], m.n_in, m.n_out, 0, out[a].name,
                                           out[a].data, out[a].bytes));
            VTCI_TRY(vtci_plan_check_output(d->call, d->steps[i], out[a].name, out[a].data,
                                            out[a].bytes));
        }
    }
    return VTC_OK;
}

/* ---- composing ------------------------------------------------------------------------------- */

static void copy_selection(const vtc_plan *from, vtc_plan *plan)
{
    for (size_t j = 0; j < from->n_out; j++) {
        plan->keep[j] = from->keep[j];
        plan->mass[j] = from->mass[j];
    }
    for (size_t i = 0; plan->score != NULL && i < from->n_in; i++)
        plan->score[i] = from->score == NULL ? 0.0f : from->score[i];
    vtci_plan_finish(plan, from->n_in, from->n_out, 0, VTC_SUM);
}

/* From the last step to the first. */
static vtc_status compose(const struct decode *d, vtc_plan *const *plans)
{
    for (size_t i = d->p.n_prune; i-- > 0;) {
        const vtc_plan step = selection_of(d, i);

        if (i + 1 == d->p.n_prune) {
            copy_selection(&step, plans[i]);
        } else {
            vtc_plan rest = *plans[i + 1];

            rest.struct_size = sizeof(rest);
            rest.begin = NULL; /* its entries say no more than keep */
            VTCI_TRY(vtc_plan_compose(plans[i], &step, &rest, &d->call->exec));
        }
    }
    return VTC_OK;
}

/* The first pruning layer that is not before this one; n_prune: there is none. */
static size_t stage_of(const struct decode *d, size_t layer)
{
    size_t i = 0;

    while (i < d->p.n_prune && (size_t)d->p.prune_layers[i] < layer)
        i++;
    return i;
}

static const vtc_plan *plan_of(const struct decode *d, size_t layer, vtc_plan *const *plans)
{
    const size_t stage = stage_of(d, layer);
    const bool early = d->p.n_prune != 0 && layer < (size_t)d->p.prune_layers[0];

    return stage == d->p.n_prune || (early && d->p.prune_early == 0) ? NULL : plans[stage];
}

/* Rows of a layer's cache once its plan was applied. */
static size_t length_of(const struct decode *d, size_t layer, const vtc_plan *plan)
{
    return plan == NULL && stage_of(d, layer) == 0 ? d->steps[0]->n_in
                                                   : d->steps[d->p.n_prune - 1]->n_out;
}

/* ---- the calls ------------------------------------------------------------------------------- */

vtc_status vtc_mustdrop_decode_count(const vtc_mustdrop_decode_params *params,
                                     const vtc_plan *const *steps, vtc_plan_count *counts,
                                     const vtc_exec *exec)
{
    struct decode d;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_decode_count", exec));
    call.query = true;
    VTCI_TRY(open_params(&call, params, &d));
    VTCI_TRY(open_steps(&d, steps));
    VTCI_REQUIRE(&call, counts != NULL || d.p.n_prune == 0, VTC_ERR_NULL, "counts is NULL");
    for (size_t i = 0; i < d.p.n_prune; i++)
        counts[i] = (vtc_plan_count){ sizes_of(&d, i).n_in, sizes_of(&d, i).n_out, 0, 1 };
    return VTC_OK;
}

static void write_layers(const struct decode *d, vtc_plan *const *plans,
                         const vtc_plan **plan_of_layer, size_t *lengths, int64_t *next_position)
{
    for (size_t l = 0; l < d->p.n_layers; l++) {
        const vtc_plan *plan = plan_of_layer[l] = plan_of(d, l, plans);

        if (lengths != NULL)
            lengths[l] = length_of(d, l, plan);
        if (next_position == NULL)
            continue;
        if (d->p.positions == VTC_MUSTDROP_RENUMBER)
            next_position[l] = (int64_t)length_of(d, l, plan);
        else
            next_position[l] =
                d->p.next_position >= 0 ? d->p.next_position : (int64_t)d->steps[0]->n_in;
    }
}

vtc_status vtc_mustdrop_decode(const vtc_mustdrop_decode_params *params,
                               const vtc_plan *const *steps, vtc_plan *const *plans,
                               const vtc_plan **plan_of_layer, size_t *lengths,
                               int64_t *next_position, const vtc_exec *exec)
{
    struct decode d;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_mustdrop_decode", exec));
    VTCI_TRY(open_params(&call, params, &d));
    VTCI_TRY(open_steps(&d, steps));
    VTCI_TRY(check_steps(&d));
    VTCI_REQUIRE(&call, plans != NULL || d.p.n_prune == 0, VTC_ERR_NULL, "plans is NULL");
    VTCI_REQUIRE(&call,
                 d.p.n_prune != 0 || (lengths == NULL && (next_position == NULL ||
                                                          (d.p.next_position >= 0 &&
                                                           d.p.positions == VTC_MUSTDROP_KEEP))),
                 VTC_ERR_UNSUPPORTED, "without a pruning layer the length is not known");
    for (size_t i = 0; i < d.p.n_prune; i++)
        VTCI_TRY(check_plan(&d, i, plans));
    VTCI_TRY(check_arrays(&d, plans, plan_of_layer, lengths, next_position));
    VTCI_TRY(compose(&d, plans));
    write_layers(&d, plans, plan_of_layer, lengths, next_position);
    return VTC_OK;
}
