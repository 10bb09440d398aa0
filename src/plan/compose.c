/*
 * One plan of two: the product of two sparse matrices (of their largest products under MAX).
 *
 * Each output's row is gathered in a dense accumulator over the first plan's input rows (Gustavson,
 * "Two Fast Algorithms for Sparse Matrices", 1978), once to count entries before anything is
 * written and once to write them.
 */
#include "../linalg/order.h"
#include "plan.h"

struct job {
    vtc_plan first, second;
    bool pure; /* both are pure selections */
    vtc_reduce reduce;
    size_t n_nnz;
    int32_t *seen; /* [first.n_in] the last output that each row reached, or -1 */
    float *weight; /* [first.n_in] its weight there                             */
};

static vtc_status open_job(const vtci_call *call, const vtc_plan *first, const vtc_plan *second,
                           struct job *job)
{
    static const vtc_plan none = VTC_PLAN_INIT;

    job->first = none;
    job->second = none;
    job->n_nnz = 0;
    VTCI_TRY(vtci_plan_read(call, "first", first, &job->first));
    VTCI_TRY(vtci_plan_read(call, "second", second, &job->second));
    VTCI_REQUIRE(call, job->second.n_in == job->first.n_out, VTC_ERR_SHAPE,
                 "second has %zu input rows, first has %zu outputs", job->second.n_in,
                 job->first.n_out);
    const bool selects_first = job->first.begin == NULL, selects_second = job->second.begin == NULL;
    job->pure = selects_first && selects_second;
    job->reduce = job->pure ? VTC_SUM : selects_first ? job->second.reduce : job->first.reduce;
    VTCI_REQUIRE(call, selects_first || selects_second || job->first.reduce == job->second.reduce,
                 VTC_ERR_UNSUPPORTED, "first has reduce %d, second has %d", (int)job->first.reduce,
                 (int)job->second.reduce);
    return VTC_OK;
}

static vtc_status check_values(const vtci_call *call, const struct job *job)
{
    VTCI_TRY(vtci_plan_check_keep(call, "first", &job->first, -1));
    VTCI_TRY(vtci_plan_check_keep(call, "second", &job->second, -1));
    VTCI_TRY(vtci_plan_check_entries(call, "first", &job->first));
    return vtci_plan_check_entries(call, "second", &job->second);
}

static void lay_out(vtci_arena *arena, struct job *job)
{
    const size_t n = job->pure ? 0 : job->first.n_in;

    job->seen = vtci_take(arena, n, sizeof(*job->seen));
    job->weight = vtci_take(arena, n, sizeof(*job->weight));
}

/* ---- sizes ----------------------------------------------------------------------------------- */

vtc_status vtc_plan_compose_count(const vtc_plan *first, const vtc_plan *second,
                                  vtc_plan_count *count, const vtc_exec *exec)
{
    vtci_call call;
    struct job job;
    size_t n = 0;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_compose_count", exec));
    VTCI_REQUIRE_PTR(&call, count);
    VTCI_TRY(open_job(&call, first, second, &job));
    VTCI_TRY(check_values(&call, &job));
    for (size_t j = 0; j < job.second.n_out; j++) {
        const vtci_entries row = vtci_plan_entries(&job.second, j);
        size_t products = 0;

        for (size_t e = 0; e < row.n; e++)
            products += vtci_plan_entries(&job.first, (size_t)row.source[e]).n;
        n = vtci_add(n, vtci_min(products, job.first.n_in));
    }
    VTCI_REQUIRE(&call, job.pure || n <= INT32_MAX, VTC_ERR_OVERFLOW,
                 "up to %zu entries exceed int32", n);
    count->n_in = job.first.n_in;
    count->n_out = job.second.n_out;
    count->n_nnz = job.pure ? 0 : n;
    count->exact = 1;
    return VTC_OK;
}

vtc_status vtc_plan_compose_scratch(const vtc_plan *first, const vtc_plan *second,
                                    const vtc_exec *exec, size_t *bytes)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin_query(&call, "vtc_plan_compose_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, first, second, &job));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &job);
    return vtci_end_query(&call, &arena, bytes);
}

/* ---- the product ----------------------------------------------------------------------------- */

static void forget_rows(struct job *job)
{
    for (size_t i = 0; i < job->first.n_in; i++)
        job->seen[i] = -1;
}

static size_t count_entries(struct job *job)
{
    size_t n = 0;

    forget_rows(job);
    for (size_t j = 0; j < job->second.n_out; j++) {
        const vtci_entries outer = vtci_plan_entries(&job->second, j);

        for (size_t t = 0; t < outer.n; t++) {
            const vtci_entries inner = vtci_plan_entries(&job->first, (size_t)outer.source[t]);

            for (size_t e = 0; e < inner.n; e++) {
                n += job->seen[inner.source[e]] != (int32_t)j;
                job->seen[inner.source[e]] = (int32_t)j;
            }
        }
    }
    return n;
}

/* Adds `weight` of a row to output j. True when it is the row's first time there. */
static bool reach(struct job *job, size_t j, int32_t row, float weight)
{
    const bool first_time = job->seen[row] != (int32_t)j;

    if (first_time)
        job->weight[row] = weight;
    else if (job->reduce == VTC_SUM)
        job->weight[row] += weight;
    else if (weight > job->weight[row])
        job->weight[row] = weight;
    job->seen[row] = (int32_t)j;
    return first_time;
}

static size_t write_row(vtc_plan *plan, struct job *job, size_t j, size_t n)
{
    const vtci_entries outer = vtci_plan_entries(&job->second, j);
    const size_t begin = n;

    for (size_t t = 0; t < outer.n; t++) {
        const vtci_entries inner = vtci_plan_entries(&job->first, (size_t)outer.source[t]);

        for (size_t e = 0; e < inner.n; e++)
            if (reach(job, j, inner.source[e], outer.weight[t] * inner.weight[e]))
                plan->source[n++] = inner.source[e];
    }
    vtci_sort_i32(plan->source + begin, n - begin);
    for (size_t e = begin; e < n; e++)
        plan->weight[e] = job->weight[plan->source[e]];
    return n;
}

/* A row without entries is a zero token and stands for nothing. One with entries whose
 * representative was a zero token of the first plan stands for its heaviest row instead. */
static int32_t composed_keep(const vtc_plan *plan, const struct job *job, size_t j)
{
    const int32_t middle = job->second.keep[j];
    int32_t e = plan->begin[j], top = e;

    if (e == plan->begin[j + 1])
        return -1;
    if (middle >= 0 && job->first.keep[middle] >= 0)
        return job->first.keep[middle];
    for (; e < plan->begin[j + 1]; e++)
        if (plan->weight[e] > plan->weight[top])
            top = e;
    return plan->source[top];
}

static void write_product(vtc_plan *plan, struct job *job)
{
    size_t n = 0;

    forget_rows(job);
    for (size_t j = 0; j < job->second.n_out; j++) {
        plan->begin[j] = (int32_t)n;
        n = write_row(plan, job, j, n);
        plan->begin[j + 1] = (int32_t)n;
        plan->keep[j] = composed_keep(plan, job, j);
    }
}

static void write_selection(vtc_plan *plan, const struct job *job)
{
    for (size_t j = 0; j < job->second.n_out; j++) {
        const int32_t middle = job->second.keep[j];

        plan->keep[j] = job->pure && middle >= 0 ? job->first.keep[middle] : -1;
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

static vtc_status open_plan(const vtci_call *call, const vtc_plan *plan, const struct job *job)
{
    const size_t n_in = job->first.n_in, n_out = job->second.n_out;

    VTCI_REQUIRE(call, job->n_nnz <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu entries exceed int32",
                 job->n_nnz);
    VTCI_TRY(vtci_plan_open(call, plan, n_in, n_out, job->n_nnz));
    VTCI_TRY(vtci_plan_check_apart_from(call, plan, n_in, n_out, job->n_nnz, "first", &job->first));
    return vtci_plan_check_apart_from(call, plan, n_in, n_out, job->n_nnz, "second", &job->second);
}

vtc_status vtc_plan_compose(vtc_plan *plan, const vtc_plan *first, const vtc_plan *second,
                            const vtc_exec *exec)
{
    vtci_call call;
    struct job job;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_compose", exec));
    VTCI_REQUIRE_PTR(&call, plan);
    VTCI_REQUIRE(&call, plan != first && plan != second, VTC_ERR_OVERLAP,
                 "plan is one of the two it is made of");
    VTCI_TRY(open_job(&call, first, second, &job));
    VTCI_TRY(check_values(&call, &job));
    VTCI_TRY(vtci_plan_check_mass(&call, "second", &job.second));
    vtci_arena arena = vtci_arena_open(&call);
    lay_out(&arena, &job);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    job.n_nnz = job.pure ? 0 : count_entries(&job);
    VTCI_TRY(open_plan(&call, plan, &job));

    if (job.n_nnz != 0)
        write_product(plan, &job);
    else
        write_selection(plan, &job);
    for (size_t j = 0; j < job.second.n_out; j++)
        plan->mass[j] = job.second.mass[j];
    for (size_t i = 0; plan->score != NULL && i < job.first.n_in; i++)
        plan->score[i] = job.first.score == NULL ? 0.0f : job.first.score[i];
    vtci_plan_finish(plan, job.first.n_in, job.second.n_out, job.n_nnz, job.reduce);
    return VTC_OK;
}
