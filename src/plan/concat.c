/* Plans beside each other: the block-diagonal matrix. */
#include "plan.h"

#include <string.h>

/* Sizes before a part, or of all parts. */
struct place {
    size_t n_in, n_out, n_nnz;
};

static void step_over(struct place *at, const vtc_plan *part)
{
    at->n_in = vtci_add(at->n_in, part->n_in);
    at->n_out = vtci_add(at->n_out, part->n_out);
    at->n_nnz = vtci_add(at->n_nnz, vtci_plan_nnz(part));
}

static vtc_status open_parts(const vtci_call *call, const vtc_plan *const *parts, size_t n_parts,
                             struct place *sum, vtc_reduce *reduce)
{
    bool has_entries = false;

    *reduce = VTC_SUM;
    for (size_t p = 0; p < n_parts; p++) {
        vtc_plan part = VTC_PLAN_INIT;

        VTCI_TRY(vtci_plan_read(call, "a part", parts[p], &part));
        VTCI_TRY(vtci_plan_check_keep(call, "a part", &part, -1));
        VTCI_TRY(vtci_plan_check_entries(call, "a part", &part));
        VTCI_TRY(vtci_plan_check_ascending(call, "a part", &part));
        VTCI_TRY(vtci_plan_check_mass(call, "a part", &part));
        step_over(sum, &part);
        if (part.begin == NULL)
            continue;
        VTCI_REQUIRE(call, !has_entries || part.reduce == *reduce, VTC_ERR_UNSUPPORTED,
                     "part %zu has reduce %d, those before it have %d", p, (int)part.reduce,
                     (int)*reduce);
        has_entries = true;
        *reduce = part.reduce;
    }
    if (!has_entries)
        sum->n_nnz = 0; /* a pure selection again */
    return VTC_OK;
}

static vtc_status check_parts_apart(const vtci_call *call, const vtc_plan *plan,
                                    const vtc_plan *const *parts, size_t n_parts,
                                    const struct place *sum)
{
    for (size_t p = 0; p < n_parts; p++) {
        VTCI_REQUIRE(call, parts[p] != plan, VTC_ERR_OVERLAP, "part %zu is the plan itself", p);
        VTCI_TRY(vtci_plan_check_apart_from(call, plan, sum->n_in, sum->n_out, sum->n_nnz, "a part",
                                            parts[p]));
    }
    return VTC_OK;
}

static void write_entries(vtc_plan *plan, const vtc_plan *part, const struct place *at)
{
    size_t n = at->n_nnz;

    for (size_t j = 0; j < part->n_out; j++) {
        const vtci_entries row = vtci_plan_entries(part, j);

        plan->begin[at->n_out + j] = (int32_t)n;
        for (size_t e = 0; e < row.n; e++, n++) {
            plan->source[n] = row.source[e] + (int32_t)at->n_in;
            plan->weight[n] = row.weight[e];
        }
    }
    plan->begin[at->n_out + part->n_out] = (int32_t)n;
}

static void write_part(vtc_plan *plan, const vtc_plan *part, const struct place *at)
{
    for (size_t j = 0; j < part->n_out; j++) {
        const bool zero = part->keep[j] < 0 || vtci_plan_entries(part, j).n == 0;

        plan->keep[at->n_out + j] = zero ? -1 : part->keep[j] + (int32_t)at->n_in;
        plan->mass[at->n_out + j] = part->mass[j];
    }
    for (size_t i = 0; plan->score != NULL && i < part->n_in; i++)
        plan->score[at->n_in + i] = part->score == NULL ? 0.0f : part->score[i];
}

vtc_status vtc_plan_concat(vtc_plan *plan, const vtc_plan *const *parts, size_t n_parts,
                           const vtc_exec *exec)
{
    struct place sum = { 0, 0, 0 }, at = { 0, 0, 0 };
    vtc_reduce reduce;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_concat", exec));
    VTCI_REQUIRE(&call, parts != NULL || n_parts == 0, VTC_ERR_NULL, "parts is NULL");
    VTCI_TRY(open_parts(&call, parts, n_parts, &sum, &reduce));
    VTCI_TRY(vtci_plan_open(&call, plan, sum.n_in, sum.n_out, sum.n_nnz));
    VTCI_TRY(check_parts_apart(&call, plan, parts, n_parts, &sum));

    for (size_t p = 0; p < n_parts; p++) {
        write_part(plan, parts[p], &at);
        if (sum.n_nnz != 0)
            write_entries(plan, parts[p], &at);
        step_over(&at, parts[p]);
    }
    vtci_plan_finish(plan, sum.n_in, sum.n_out, sum.n_nnz, reduce);
    return VTC_OK;
}
