/* Room for plans, and the plans that need no planner: select, identity, group. */
#include "plan.h"

#include <float.h>
#include <string.h>

/* ---- room ------------------------------------------------------------------------------------ */

static vtc_status check_count(const vtci_call *call, const vtc_plan_count *count, size_t *bytes)
{
    VTCI_REQUIRE_PTR(call, count);
    VTCI_REQUIRE(call,
                 count->n_in <= INT32_MAX && count->n_out <= INT32_MAX && count->n_nnz <= INT32_MAX,
                 VTC_ERR_OVERFLOW, "%zu rows, %zu outputs or %zu entries exceed int32", count->n_in,
                 count->n_out, count->n_nnz);

    /* keep, mass; score, fate; source, weight and, only with these, begin */
    size_t words = vtci_add(vtci_mul(2, count->n_out), vtci_mul(2, count->n_in));

    if (count->n_nnz != 0)
        words = vtci_add(words, vtci_add(vtci_mul(2, count->n_nnz), count->n_out + 1));
    *bytes = vtci_mul(words, sizeof(int32_t));
    VTCI_REQUIRE(call, *bytes != SIZE_MAX, VTC_ERR_OVERFLOW, "the size of the plan overflows");
    return VTC_OK;
}

vtc_status vtc_plan_size(const vtc_plan_count *count, size_t *bytes, const vtc_exec *exec)
{
    vtci_call call;
    size_t needed = 0;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_size", exec));
    VTCI_REQUIRE_PTR(&call, bytes);
    VTCI_TRY(check_count(&call, count, &needed));
    *bytes = needed;
    return VTC_OK;
}

static void *take_words(char **at, size_t n)
{
    void *array = *at;

    if (n != 0)
        *at += n * sizeof(int32_t);
    return array;
}

static void lay_out(vtc_plan *plan, const vtc_plan_count *count, char *at)
{
    const bool has_entries = count->n_nnz != 0;

    plan->cap_in = count->n_in;
    plan->cap_out = count->n_out;
    plan->cap_nnz = count->n_nnz;
    plan->keep = take_words(&at, count->n_out); /* first: vtc_heap_plan_free() counts on it */
    plan->mass = take_words(&at, count->n_out);
    plan->score = take_words(&at, count->n_in);
    plan->fate = take_words(&at, count->n_in);
    plan->begin = has_entries ? take_words(&at, count->n_out + 1) : NULL;
    plan->source = has_entries ? take_words(&at, count->n_nnz) : NULL;
    plan->weight = has_entries ? take_words(&at, count->n_nnz) : NULL;
}

vtc_status vtc_plan_init(vtc_plan *plan, const vtc_plan_count *count, void *memory, size_t bytes,
                         const vtc_exec *exec)
{
    vtci_call call;
    size_t needed = 0;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_init", exec));
    VTCI_TRY(vtci_plan_open(&call, plan, 0, 0, 0));
    VTCI_TRY(check_count(&call, count, &needed));
    VTCI_REQUIRE(&call, memory != NULL || needed == 0, VTC_ERR_NULL, "memory is NULL");
    VTCI_REQUIRE(&call, bytes >= needed, VTC_ERR_ROOM, "the plan needs %zu bytes, memory has %zu",
                 needed, bytes);
    VTCI_REQUIRE(&call, (uintptr_t)memory % sizeof(int32_t) == 0, VTC_ERR_SHAPE,
                 "memory is not 4-byte aligned");
    lay_out(plan, count, memory);
    vtci_plan_finish(plan, 0, 0, 0, VTC_SUM);
    return VTC_OK;
}

/* ---- finishing what a planner wrote ---------------------------------------------------------- */

static void write_selection_entries(vtc_plan *plan)
{
    int32_t n = 0;

    for (size_t j = 0; j < plan->n_out; j++) {
        plan->begin[j] = n;
        if (plan->keep[j] >= 0) {
            plan->source[n] = plan->keep[j];
            plan->weight[n++] = 1.0f;
        }
    }
    plan->begin[plan->n_out] = n;
}

static void write_fate(const vtc_plan *plan)
{
    for (size_t i = 0; i < plan->n_in; i++)
        plan->fate[i] = -1;
    for (size_t j = 0; j < plan->n_out; j++) {
        const vtci_entries row = vtci_plan_entries(plan, j);

        for (size_t e = 0; e < row.n; e++) {
            int32_t *fate = plan->fate + row.source[e];

            /* rows that go to several outputs are rare: look the rival's weight up */
            if (*fate < 0 || row.weight[e] > *vtci_plan_weight(plan, (size_t)*fate, row.source[e]))
                *fate = (int32_t)j;
        }
    }
}

void vtci_plan_finish(vtc_plan *plan, size_t n_in, size_t n_out, size_t n_nnz, vtc_reduce reduce)
{
    plan->n_in = n_in;
    plan->n_out = n_out;
    plan->reduce = reduce;
    if (n_nnz == 0 && plan->begin != NULL)
        write_selection_entries(plan);
    if (plan->fate != NULL)
        write_fate(plan);
}

/* ---- selections ------------------------------------------------------------------------------ */

/* Checks for n_out rows kept as they are; rows NULL: row j itself. */
static vtc_status open_selection(const vtci_call *call, const vtc_plan *plan, size_t n_in,
                                 const int32_t *rows, size_t n_out, const float *mass)
{
    VTCI_TRY(vtci_plan_open(call, plan, n_in, n_out, 0));
    VTCI_TRY(
        vtci_plan_check_apart(call, plan, n_in, n_out, 0, "rows", rows, n_out * sizeof(*rows)));
    VTCI_TRY(vtci_plan_check_apart(call, plan, n_in, n_out, 0, "mass", mass, n_in * sizeof(*mass)));
    for (size_t j = 0; rows != NULL && j < n_out; j++)
        VTCI_REQUIRE(call, rows[j] >= -1 && rows[j] < (int64_t)n_in, VTC_ERR_RANGE,
                     "rows[%zu] is %d, not within -1 .. %lld", j, (int)rows[j],
                     (long long)n_in - 1);
    for (size_t i = 0; mass != NULL && i < n_in; i++)
        VTCI_REQUIRE(call, mass[i] >= 0.0f && mass[i] <= FLT_MAX, VTC_ERR_DATA,
                     "mass[%zu] is %g, it must be finite and not negative", i, (double)mass[i]);
    return VTC_OK;
}

static void write_selection(vtc_plan *plan, size_t n_in, const int32_t *rows, size_t n_out,
                            const float *mass)
{
    for (size_t j = 0; j < n_out; j++) {
        const int32_t row = rows == NULL ? (int32_t)j : rows[j];

        plan->keep[j] = row;
        plan->mass[j] = row < 0 ? 0.0f : mass == NULL ? 1.0f : mass[row];
    }
    vtci_plan_finish(plan, n_in, n_out, 0, VTC_SUM);
}

vtc_status vtc_plan_select(vtc_plan *plan, size_t n_in, const int32_t *rows, size_t n_out,
                           const float *mass, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_select", exec));
    VTCI_REQUIRE(&call, rows != NULL || n_out == 0, VTC_ERR_NULL, "rows is NULL");
    VTCI_TRY(open_selection(&call, plan, n_in, rows, n_out, mass));
    write_selection(plan, n_in, rows, n_out, mass);
    return VTC_OK;
}

vtc_status vtc_plan_identity(vtc_plan *plan, size_t n, const float *mass, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_identity", exec));
    VTCI_TRY(open_selection(&call, plan, n, NULL, n, mass));
    write_selection(plan, n, NULL, n, mass);
    return VTC_OK;
}

/* ---- groups ---------------------------------------------------------------------------------- */

struct groups {
    size_t n_in, n_out, n_nnz;
    const int32_t *owner, *keep;
    const float *mass;
};

static vtc_status count_owned(const vtci_call *call, struct groups *g)
{
    g->n_nnz = 0;
    for (size_t i = 0; i < g->n_in; i++) {
        VTCI_REQUIRE(call, g->owner[i] >= -1 && g->owner[i] < (int64_t)g->n_out, VTC_ERR_RANGE,
                     "owner[%zu] is %d, not within -1 .. %lld", i, (int)g->owner[i],
                     (long long)g->n_out - 1);
        g->n_nnz += g->owner[i] >= 0;
    }
    return VTC_OK;
}

static vtc_status check_keep_is_in_group(const vtci_call *call, const struct groups *g)
{
    for (size_t j = 0; j < g->n_out; j++) {
        const int32_t row = g->keep[j];

        VTCI_REQUIRE(call, row >= 0 && row < (int64_t)g->n_in, VTC_ERR_RANGE,
                     "keep[%zu] is %d, not within 0 .. %lld", j, (int)row, (long long)g->n_in - 1);
        VTCI_REQUIRE(call, g->owner[row] == (int64_t)j, VTC_ERR_RANGE,
                     "keep[%zu] is row %d, which goes to output %d", j, (int)row,
                     (int)g->owner[row]);
    }
    return VTC_OK;
}

/* Nothing may be written yet, so outputs are ticked off in a small map, as many at a time as it
 * holds: one pass over `owner` for 32768 outputs. */
static vtc_status check_none_is_empty(const vtci_call *call, const struct groups *g)
{
    enum { MAP_BITS = 32768 };
    unsigned char map[MAP_BITS / 8];

    for (size_t first = 0; first < g->n_out; first += MAP_BITS) {
        memset(map, 0, sizeof(map));
        for (size_t i = 0; i < g->n_in; i++) {
            const size_t bit = (size_t)g->owner[i] - first; /* -1 and others: far outside */

            if (bit < MAP_BITS)
                map[bit / 8] |= (unsigned char)(1u << bit % 8);
        }
        for (size_t j = first; j < g->n_out && j - first < MAP_BITS; j++)
            VTCI_REQUIRE(call, (map[(j - first) / 8] >> (j - first) % 8 & 1) != 0, VTC_ERR_RANGE,
                         "output %zu of %zu owns no row", j, g->n_out);
    }
    return VTC_OK;
}

static vtc_status open_groups(const vtci_call *call, const vtc_plan *plan, struct groups *g)
{
    VTCI_REQUIRE(call, g->owner != NULL || g->n_in == 0, VTC_ERR_NULL, "owner is NULL");
    VTCI_REQUIRE(call, g->n_in <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu rows exceed int32", g->n_in);
    VTCI_TRY(count_owned(call, g));
    VTCI_TRY(vtci_plan_open(call, plan, g->n_in, g->n_out, g->n_nnz));
    VTCI_TRY(vtci_plan_check_apart(call, plan, g->n_in, g->n_out, g->n_nnz, "owner", g->owner,
                                   g->n_in * sizeof(*g->owner)));
    VTCI_TRY(vtci_plan_check_apart(call, plan, g->n_in, g->n_out, g->n_nnz, "keep", g->keep,
                                   g->n_out * sizeof(*g->keep)));
    VTCI_TRY(vtci_plan_check_apart(call, plan, g->n_in, g->n_out, g->n_nnz, "mass", g->mass,
                                   g->n_in * sizeof(*g->mass)));
    VTCI_TRY(vtci_check_masses(call, g->mass, g->n_in));
    return g->keep != NULL ? check_keep_is_in_group(call, g) : check_none_is_empty(call, g);
}

/* A counting sort by owner. begin[j + 1] is first the count, then the place of the next row of
 * output j, and so at last where output j ends. */
static void sort_by_owner(vtc_plan *plan, const struct groups *g)
{
    int32_t *next = plan->begin + 1;
    int32_t n = 0;

    memset(plan->begin, 0, (g->n_out + 1) * sizeof(*plan->begin));
    for (size_t i = 0; i < g->n_in; i++)
        if (g->owner[i] >= 0)
            next[g->owner[i]]++;
    for (size_t j = 0; j < g->n_out; j++) {
        const int32_t count = next[j];

        next[j] = n;
        n += count;
    }
    for (size_t i = 0; i < g->n_in; i++)
        if (g->owner[i] >= 0)
            plan->source[next[g->owner[i]]++] = (int32_t)i;
}

static void weigh_group(vtc_plan *plan, const struct groups *g, size_t j)
{
    double total = 0.0;

    for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
        total += g->mass == NULL ? 1.0 : g->mass[plan->source[e]];
    for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
        plan->weight[e] = (float)((g->mass == NULL ? 1.0 : g->mass[plan->source[e]]) / total);
    plan->mass[j] = (float)total;
    plan->keep[j] = g->keep != NULL ? g->keep[j] : plan->source[plan->begin[j]];
}

vtc_status vtc_plan_group(vtc_plan *plan, size_t n_in, const int32_t *owner, size_t n_out,
                          const int32_t *keep, const float *mass, const vtc_exec *exec)
{
    struct groups g = { n_in, n_out, 0, owner, keep, mass };
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_group", exec));
    VTCI_TRY(open_groups(&call, plan, &g));
    if (n_out != 0)
        sort_by_owner(plan, &g);
    for (size_t j = 0; j < n_out; j++)
        weigh_group(plan, &g, j);
    vtci_plan_finish(plan, n_in, n_out, g.n_nnz, VTC_SUM);
    return VTC_OK;
}
