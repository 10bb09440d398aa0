/* What is checked before a plan is written or used, and vtc_plan_validate(). */
#include "plan.h"

#include <float.h>
#include <math.h>

/* ---- the struct and its arrays --------------------------------------------------------------- */

/* Fields are only ever appended; those of the first version must all be there. */
enum { FIRST_SIZE = offsetof(vtc_plan, fate) + sizeof(int32_t *) };

static vtc_status read_struct(const vtci_call *call, const char *what, const vtc_plan *from,
                              vtc_plan *plan)
{
    VTCI_REQUIRE(call, from != NULL, VTC_ERR_NULL, "%s is NULL", what);
    VTCI_REQUIRE(call, from->struct_size >= FIRST_SIZE, VTC_ERR_RANGE,
                 "%s has struct_size %zu; start from VTC_PLAN_INIT", what, from->struct_size);
    return vtci_params_read(call, plan, sizeof(*plan), from);
}

struct array {
    const char *name;
    const void *data;
    size_t bytes;
};

enum { N_ARRAYS = 7 };

/* The arrays of a plan, as far as these sizes reach. */
static void list_arrays(const vtc_plan *p, size_t n_in, size_t n_out, size_t n_entries,
                        struct array list[N_ARRAYS])
{
    const size_t n_begin = n_out + 1;
    const struct array counts[N_ARRAYS] = {
        { "keep", p->keep, n_out },         { "begin", p->begin, n_begin },
        { "source", p->source, n_entries }, { "weight", p->weight, n_entries },
        { "mass", p->mass, n_out },         { "score", p->score, n_in },
        { "fate", p->fate, n_in },
    };

    for (size_t a = 0; a < N_ARRAYS; a++) {
        list[a] = counts[a];
        list[a].bytes = counts[a].data == NULL ? 0 : vtci_mul(counts[a].bytes, sizeof(int32_t));
    }
}

/* Entries that are written for `n_nnz` as vtci_plan_open() takes it. */
static size_t written_entries(const vtc_plan *plan, size_t n_out, size_t n_nnz)
{
    if (n_nnz != 0)
        return n_nnz;
    return plan->begin == NULL ? 0 : n_out;
}

static size_t read_entries(const vtc_plan *plan)
{
    return plan->begin == NULL ? 0 : (size_t)plan->begin[plan->n_out];
}

static vtc_status check_meets_none(const vtci_call *call, const struct array list[N_ARRAYS],
                                   const char *what, const char *which, const void *data,
                                   size_t bytes)
{
    for (size_t a = 0; a < N_ARRAYS; a++)
        VTCI_REQUIRE(call,
                     data == NULL || !vtci_ranges_meet(data, bytes, list[a].data, list[a].bytes),
                     VTC_ERR_OVERLAP, "%s%s overlaps %s of the plan", what, which, list[a].name);
    return VTC_OK;
}

/* ---- before writing -------------------------------------------------------------------------- */

static vtc_status check_int32(const vtci_call *call, const char *what, size_t n_in, size_t n_out,
                              size_t n_nnz)
{
    VTCI_REQUIRE(call, n_in <= INT32_MAX && n_out <= INT32_MAX && n_nnz <= INT32_MAX,
                 VTC_ERR_OVERFLOW, "%s of %zu rows, %zu outputs and %zu entries exceeds int32",
                 what, n_in, n_out, n_nnz);
    return VTC_OK;
}

static vtc_status check_room(const vtci_call *call, const vtc_plan *plan, size_t n_in, size_t n_out,
                             size_t n_entries)
{
    VTCI_REQUIRE(call, n_out <= plan->cap_out, VTC_ERR_ROOM,
                 "needs %zu outputs, plan has room for %zu", n_out, plan->cap_out);
    VTCI_REQUIRE(call, n_entries <= plan->cap_nnz, VTC_ERR_ROOM,
                 "needs %zu entries, plan has room for %zu", n_entries, plan->cap_nnz);
    VTCI_REQUIRE(call, (plan->score == NULL && plan->fate == NULL) || n_in <= plan->cap_in,
                 VTC_ERR_ROOM, "needs %zu input rows, score and fate have room for %zu", n_in,
                 plan->cap_in);
    return VTC_OK;
}

vtc_status vtci_plan_open(const vtci_call *call, const vtc_plan *plan, size_t n_in, size_t n_out,
                          size_t n_nnz)
{
    vtc_plan p = VTC_PLAN_INIT;
    struct array list[N_ARRAYS];

    VTCI_TRY(read_struct(call, "plan", plan, &p));
    VTCI_TRY(check_int32(call, "a plan", n_in, n_out, n_nnz));
    const size_t n_entries = written_entries(&p, n_out, n_nnz);
    VTCI_TRY(check_room(call, &p, n_in, n_out, n_entries));
    VTCI_REQUIRE(call, n_out == 0 || (p.keep != NULL && p.mass != NULL), VTC_ERR_NULL,
                 "keep or mass of the plan is NULL");
    VTCI_REQUIRE(call, n_entries == 0 || (p.begin != NULL && p.source != NULL && p.weight != NULL),
                 VTC_ERR_NULL, "the plan has %zu entries, but begin, source or weight is NULL",
                 n_entries);
    list_arrays(&p, n_in, n_out, n_entries, list);
    for (size_t a = 0; a < N_ARRAYS; a++) {
        const struct array one = list[a];

        list[a].bytes = 0; /* an array may meet itself */
        VTCI_TRY(check_meets_none(call, list, one.name, " of the plan", one.data, one.bytes));
    }
    return VTC_OK;
}

vtc_status vtci_plan_check_apart(const vtci_call *call, const vtc_plan *plan, size_t n_in,
                                 size_t n_out, size_t n_nnz, const char *what, const void *data,
                                 size_t bytes)
{
    struct array list[N_ARRAYS];

    list_arrays(plan, n_in, n_out, written_entries(plan, n_out, n_nnz), list);
    return check_meets_none(call, list, what, "", data, bytes);
}

vtc_status vtci_plan_check_apart_from(const vtci_call *call, const vtc_plan *plan, size_t n_in,
                                      size_t n_out, size_t n_nnz, const char *what,
                                      const vtc_plan *part)
{
    struct array list[N_ARRAYS], arrays[N_ARRAYS];

    list_arrays(plan, n_in, n_out, written_entries(plan, n_out, n_nnz), list);
    list_arrays(part, part->n_in, part->n_out, read_entries(part), arrays);
    for (size_t a = 0; a < N_ARRAYS; a++)
        VTCI_TRY(check_meets_none(call, list, what, "", arrays[a].data, arrays[a].bytes));
    return VTC_OK;
}

vtc_status vtci_plan_check_apart_written(const vtci_call *call, const vtc_plan *plan,
                                         const vtci_plan_sizes *sizes, const vtc_plan *other,
                                         const vtci_plan_sizes *other_sizes)
{
    struct array list[N_ARRAYS], arrays[N_ARRAYS];

    list_arrays(plan, sizes->n_in, sizes->n_out, written_entries(plan, sizes->n_out, sizes->n_nnz),
                list);
    list_arrays(other, other_sizes->n_in, other_sizes->n_out,
                written_entries(other, other_sizes->n_out, other_sizes->n_nnz), arrays);
    for (size_t a = 0; a < N_ARRAYS; a++)
        VTCI_TRY(check_meets_none(call, list, arrays[a].name, " of another plan", arrays[a].data,
                                  arrays[a].bytes));
    return VTC_OK;
}

vtc_status vtci_check_masses(const vtci_call *call, const float *mass, size_t n)
{
    double total = 0.0;

    for (size_t i = 0; mass != NULL && i < n; i++) {
        VTCI_REQUIRE(call, mass[i] > 0.0f && mass[i] <= FLT_MAX, VTC_ERR_DATA,
                     "mass[%zu] is %g, it must be positive and finite", i, (double)mass[i]);
        total += mass[i];
    }
    VTCI_REQUIRE(call, total <= FLT_MAX, VTC_ERR_DATA, "the masses add up to %g, too much for F32",
                 total);
    return VTC_OK;
}

/* ---- before reading -------------------------------------------------------------------------- */

vtc_status vtci_plan_read(const vtci_call *call, const char *what, const vtc_plan *from,
                          vtc_plan *plan)
{
    VTCI_TRY(read_struct(call, what, from, plan));
    VTCI_TRY(check_int32(call, what, plan->n_in, plan->n_out, 0));
    VTCI_REQUIRE(call, plan->n_out <= plan->cap_out, VTC_ERR_RANGE,
                 "%s has %zu outputs, but room for %zu", what, plan->n_out, plan->cap_out);
    VTCI_REQUIRE(call, (plan->score == NULL && plan->fate == NULL) || plan->n_in <= plan->cap_in,
                 VTC_ERR_RANGE, "%s has %zu input rows, but room for %zu", what, plan->n_in,
                 plan->cap_in);
    VTCI_REQUIRE(call, plan->reduce == VTC_SUM || plan->reduce == VTC_MAX, VTC_ERR_RANGE,
                 "%s has reduce %d", what, (int)plan->reduce);
    if (call->query)
        return VTC_OK;
    VTCI_REQUIRE(call, plan->n_out == 0 || plan->keep != NULL, VTC_ERR_NULL, "keep of %s is NULL",
                 what);
    VTCI_REQUIRE(call,
                 plan->begin == NULL || plan->cap_nnz == 0 ||
                     (plan->source != NULL && plan->weight != NULL),
                 VTC_ERR_NULL, "%s has begin, but source or weight is NULL", what);
    return VTC_OK;
}

vtc_status vtci_plan_check_keep(const vtci_call *call, const char *what, const vtc_plan *plan,
                                int32_t lowest)
{
    for (size_t j = 0; j < plan->n_out; j++)
        VTCI_REQUIRE(call, plan->keep[j] >= lowest && plan->keep[j] < (int64_t)plan->n_in,
                     VTC_ERR_RANGE, "keep[%zu] of %s is %d, not within %d .. %lld", j, what,
                     (int)plan->keep[j], (int)lowest, (long long)plan->n_in - 1);
    return VTC_OK;
}

static vtc_status check_begin(const vtci_call *call, const char *what, const vtc_plan *plan)
{
    const int32_t *begin = plan->begin;

    VTCI_REQUIRE(call, begin[0] == 0, VTC_ERR_RANGE, "begin[0] of %s is %d", what, (int)begin[0]);
    for (size_t j = 0; j < plan->n_out; j++)
        VTCI_REQUIRE(call, begin[j] <= begin[j + 1], VTC_ERR_RANGE,
                     "begin of %s falls from %d to %d at %zu", what, (int)begin[j],
                     (int)begin[j + 1], j);
    VTCI_REQUIRE(call, (size_t)begin[plan->n_out] <= plan->cap_nnz, VTC_ERR_RANGE,
                 "%s has %d entries, but room for %zu", what, (int)begin[plan->n_out],
                 plan->cap_nnz);
    return VTC_OK;
}

vtc_status vtci_plan_check_entries(const vtci_call *call, const char *what, const vtc_plan *plan)
{
    if (plan->begin == NULL)
        return vtci_plan_check_keep(call, what, plan, -1);
    VTCI_TRY(check_begin(call, what, plan));
    for (size_t e = 0; e < read_entries(plan); e++)
        VTCI_REQUIRE(call, plan->source[e] >= 0 && plan->source[e] < (int64_t)plan->n_in,
                     VTC_ERR_RANGE, "source[%zu] of %s is %d, not within 0 .. %lld", e, what,
                     (int)plan->source[e], (long long)plan->n_in - 1);
    return VTC_OK;
}

vtc_status vtci_plan_check_ascending(const vtci_call *call, const char *what, const vtc_plan *plan)
{
    for (size_t j = 0; j < plan->n_out; j++) {
        const vtci_entries row = vtci_plan_entries(plan, j);

        for (size_t e = 1; e < row.n; e++)
            VTCI_REQUIRE(call, row.source[e - 1] < row.source[e], VTC_ERR_DATA,
                         "the sources of output %zu of %s do not ascend: %d, %d", j, what,
                         (int)row.source[e - 1], (int)row.source[e]);
    }
    return VTC_OK;
}

vtc_status vtci_plan_check_mass(const vtci_call *call, const char *what, const vtc_plan *plan)
{
    VTCI_REQUIRE(call, plan->n_out == 0 || plan->mass != NULL, VTC_ERR_NULL, "mass of %s is NULL",
                 what);
    for (size_t j = 0; j < plan->n_out; j++)
        VTCI_REQUIRE(call, plan->mass[j] >= 0.0f && plan->mass[j] <= FLT_MAX, VTC_ERR_DATA,
                     "mass[%zu] of %s is %g, it must be finite and not negative", j, what,
                     (double)plan->mass[j]);
    return VTC_OK;
}

vtc_status vtci_plan_check_output(const vtci_call *call, const vtc_plan *plan, const char *what,
                                  const void *data, size_t bytes)
{
    struct array list[N_ARRAYS];

    if (call->query)
        return VTC_OK;
    list_arrays(plan, plan->n_in, plan->n_out, plan->begin == NULL ? 0 : plan->cap_nnz, list);
    return check_meets_none(call, list, what, "", data, bytes);
}

/* ---- entries --------------------------------------------------------------------------------- */

vtci_entries vtci_plan_entries(const vtc_plan *plan, size_t j)
{
    static const float one = 1.0f;
    vtci_entries entries = { plan->keep[j] >= 0, plan->keep + j, &one };

    if (plan->begin != NULL) {
        entries.n = (size_t)(plan->begin[j + 1] - plan->begin[j]);
        entries.source = plan->source + plan->begin[j];
        entries.weight = plan->weight + plan->begin[j];
    }
    return entries;
}

const float *vtci_plan_weight(const vtc_plan *plan, size_t j, int32_t source)
{
    const vtci_entries entries = vtci_plan_entries(plan, j);
    size_t low = 0, high = entries.n;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;

        if (entries.source[middle] < source)
            low = middle + 1;
        else
            high = middle;
    }
    return low < entries.n && entries.source[low] == source ? entries.weight + low : NULL;
}

size_t vtci_plan_nnz(const vtc_plan *plan)
{
    size_t n = 0;

    if (plan->begin != NULL)
        return read_entries(plan);
    for (size_t j = 0; j < plan->n_out; j++)
        n += plan->keep[j] >= 0;
    return n;
}

/* ---- all that a plan promises ---------------------------------------------------------------- */

static vtc_status validate_row(const vtci_call *call, const vtc_plan *plan, size_t j)
{
    const vtci_entries row = vtci_plan_entries(plan, j);

    VTCI_REQUIRE(call, (plan->keep[j] < 0) == (row.n == 0), VTC_ERR_DATA,
                 "keep[%zu] is %d, but the output has %zu entries", j, (int)plan->keep[j], row.n);
    for (size_t e = 0; e < row.n; e++) {
        VTCI_REQUIRE(call, isfinite(row.weight[e]), VTC_ERR_DATA,
                     "the weight of row %d in output %zu is not finite", (int)row.source[e], j);
        VTCI_REQUIRE(call, plan->reduce == VTC_SUM || row.weight[e] > 0.0f, VTC_ERR_DATA,
                     "the weight of row %d in output %zu is %g, MAX needs > 0", (int)row.source[e],
                     j, (double)row.weight[e]);
    }
    return VTC_OK;
}

/* `fate` is right when it names an entry wherever it is not -1 and no entry is better. */
static vtc_status validate_fate(const vtci_call *call, const vtc_plan *plan)
{
    for (size_t i = 0; i < plan->n_in; i++) {
        const int64_t f = plan->fate[i];

        VTCI_REQUIRE(call, f >= -1 && f < (int64_t)plan->n_out, VTC_ERR_RANGE,
                     "fate[%zu] is %lld of %zu outputs", i, (long long)f, plan->n_out);
        VTCI_REQUIRE(call, f < 0 || vtci_plan_weight(plan, (size_t)f, (int32_t)i) != NULL,
                     VTC_ERR_DATA, "fate[%zu] is %lld, which has no entry of that row", i,
                     (long long)f);
    }
    for (size_t j = 0; j < plan->n_out; j++) {
        const vtci_entries row = vtci_plan_entries(plan, j);

        for (size_t e = 0; e < row.n; e++) {
            const int32_t f = plan->fate[row.source[e]];
            const float *best = f < 0 ? NULL : vtci_plan_weight(plan, (size_t)f, row.source[e]);

            VTCI_REQUIRE(call,
                         best != NULL &&
                             (*best > row.weight[e] || (*best == row.weight[e] && (size_t)f <= j)),
                         VTC_ERR_DATA, "fate[%d] is %d, output %zu takes more of that row",
                         (int)row.source[e], (int)f, j);
        }
    }
    return VTC_OK;
}

vtc_status vtc_plan_validate(const vtc_plan *plan, const vtc_exec *exec)
{
    vtci_call call;
    vtc_plan p = VTC_PLAN_INIT;

    VTCI_TRY(vtci_begin(&call, "vtc_plan_validate", exec));
    VTCI_TRY(vtci_plan_read(&call, "plan", plan, &p));
    VTCI_TRY(vtci_plan_check_keep(&call, "plan", &p, -1));
    VTCI_TRY(vtci_plan_check_entries(&call, "plan", &p));
    VTCI_TRY(vtci_plan_check_ascending(&call, "plan", &p));
    VTCI_TRY(vtci_plan_check_mass(&call, "plan", &p));
    for (size_t j = 0; j < p.n_out; j++)
        VTCI_TRY(validate_row(&call, &p, j));
    return p.fate == NULL ? VTC_OK : validate_fate(&call, &p);
}
