/* Head-mean logits of chosen rows and columns, as a public function; the work is logits.c's. */
#include "../../include/vtc/score.h"
#include "../linalg/rows.h"
#include "logits.h"

#include <math.h>

enum { PANEL = 64, BLOCK = 16 }; /* query rows that are folded together, and by one task */

struct chosen {
    vtci_logits l;
    const int32_t *rows, *columns;
    size_t n_rows, n_columns;
    vtci_rows y;
    size_t begin; /* of the panel                                        */
    float *x;     /* [PANEL, G d] folded queries                         */
    float *tile;  /* [PANEL, n_columns] of floats, where y has others    */
};

static vtc_status check_indices(const vtci_call *call, const char *what, const int32_t *rows,
                                size_t n, size_t n_all)
{
    for (size_t i = 0; rows != NULL && !call->query && i < n; i++)
        VTCI_REQUIRE(call, rows[i] >= 0 && (size_t)rows[i] < n_all, VTC_ERR_RANGE,
                     "%s[%zu] is %d, there are %zu", what, i, (int)rows[i], n_all);
    return VTC_OK;
}

static vtc_status check_output(const vtci_call *call, const struct chosen *c, const vtc_tensor *q,
                               const vtc_tensor *k, const vtc_tensor *y)
{
    const size_t bytes = vtci_span_bytes(y);

    VTCI_REQUIRE(call, y->dim[0] == c->n_rows && y->dim[1] == c->n_columns, VTC_ERR_SHAPE,
                 "y is [%zu, %zu] for %zu rows and %zu columns", y->dim[0], y->dim[1], c->n_rows,
                 c->n_columns);
    VTCI_TRY(vtci_check_apart(call, "y", y, "q", q));
    VTCI_TRY(vtci_check_apart(call, "y", y, "k", k));
    VTCI_REQUIRE(call,
                 call->query ||
                     (!vtci_ranges_meet(y->data, bytes, c->rows,
                                        c->rows == NULL ? 0 : c->n_rows * sizeof(*c->rows)) &&
                      !vtci_ranges_meet(y->data, bytes, c->columns,
                                        c->columns == NULL ? 0
                                                           : c->n_columns * sizeof(*c->columns))),
                 VTC_ERR_OVERLAP, "y overlaps the lists of rows or columns");
    return VTC_OK;
}

static vtc_status open_job(const vtci_call *call, const vtc_tensor *q, const vtc_tensor *k,
                           float scale, const int32_t *rows, size_t n_rows, const int32_t *columns,
                           size_t n_columns, const vtc_tensor *y, struct chosen *c)
{
    VTCI_TRY(vtci_logits_open(call, q, k, NULL, NULL, scale, &c->l));
    VTCI_TRY(vtci_check_tensor(call, "y", y, VTCI_FLOATS, 2, 2, VTCI_OUT));
    c->rows = rows;
    c->columns = columns;
    c->n_rows = rows == NULL ? q->dim[1] : n_rows;
    c->n_columns = columns == NULL ? k->dim[1] : n_columns;
    c->y = vtci_rows_of(y);
    VTCI_TRY(check_indices(call, "rows", rows, n_rows, q->dim[1]));
    VTCI_TRY(check_indices(call, "columns", columns, n_columns, k->dim[1]));
    return check_output(call, c, q, k, y);
}

static void lay_out(vtci_arena *arena, struct chosen *c)
{
    const size_t n = vtci_min(PANEL, c->n_rows), width = vtci_mul(c->l.n_groups, c->l.width);

    vtci_logits_lay_out(arena, &c->l);
    c->x = vtci_take(arena, vtci_mul(n, width), sizeof(*c->x));
    c->tile =
        vtci_take(arena, c->y.dtype == VTC_F32 ? 0 : vtci_mul(n, c->n_columns), sizeof(*c->tile));
}

static size_t panel_rows(const struct chosen *c)
{
    return vtci_min(PANEL, c->n_rows - c->begin);
}

static void fold_rows(void *job, size_t index, size_t worker)
{
    const struct chosen *c = job;

    (void)worker;
    for (size_t a = index * BLOCK; a < vtci_min((index + 1) * BLOCK, panel_rows(c)); a++) {
        const size_t at = c->begin + a, i = c->rows == NULL ? at : (size_t)c->rows[at];

        vtci_logits_fold(&c->l, i, c->l.scale / (float)c->l.n_heads,
                         c->x + a * c->l.n_groups * c->l.width);
    }
}

static void multiply_panel(struct chosen *c)
{
    const size_t n = panel_rows(c);
    const bool direct = c->y.dtype == VTC_F32;
    float *y = direct ? (float *)(void *)vtci_row(&c->y, 0, c->begin) : c->tile;

    vtci_parallel(c->l.call, vtci_ceil_div(n, BLOCK), fold_rows, c);
    vtci_logits_of_keys(&c->l, c->x, n, c->columns, 0, c->n_columns, y,
                        direct ? c->y.row_stride / sizeof(float) : c->n_columns);
    for (size_t i = 0; !direct && i < n; i++)
        vtci_store_row(vtci_row(&c->y, 0, c->begin + i), c->y.dtype, c->n_columns,
                       c->tile + i * c->n_columns);
}

vtc_status vtc_head_mean_logits_scratch(const vtc_tensor *q, const vtc_tensor *k, float scale,
                                        const int32_t *rows, size_t n_rows, const int32_t *columns,
                                        size_t n_columns, const vtc_tensor *y, const vtc_exec *exec,
                                        size_t *bytes)
{
    struct chosen c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin_query(&call, "vtc_head_mean_logits_scratch", exec, bytes));
    VTCI_TRY(open_job(&call, q, k, scale, rows, n_rows, columns, n_columns, y, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &c);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_head_mean_logits(const vtc_tensor *q, const vtc_tensor *k, float scale,
                                const int32_t *rows, size_t n_rows, const int32_t *columns,
                                size_t n_columns, vtc_tensor *y, const vtc_exec *exec)
{
    struct chosen c;
    vtci_call call;
    vtci_arena arena;

    VTCI_TRY(vtci_begin(&call, "vtc_head_mean_logits", exec));
    VTCI_TRY(open_job(&call, q, k, scale, rows, n_rows, columns, n_columns, y, &c));
    arena = vtci_arena_open(&call);
    lay_out(&arena, &c);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    for (c.begin = 0; c.begin < c.n_rows && c.n_columns != 0; c.begin += PANEL)
        multiply_panel(&c);
    return VTC_OK;
}
