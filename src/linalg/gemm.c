/*
 * Matrix products. A product goes through the tile kernel (panels.h) where that is fast or the
 * weights are packed, else each tile of it is one sgemm call; tiles are spread over the workers.
 */
#include "gemm.h"

#include "panels.h"
#include "rows.h"

#include <cblas.h>
#include <limits.h>
#include <string.h>

/*
 * The largest tile. Each panel of columns packs the rows of A again, which costs 3 % of a
 * projection of 576 tokens at 700 columns, 6 % at 512; one panel of all columns would cost nothing
 * and leave the other workers idle. Splitting rows packs the weights again and costs more still, so
 * that the tokens of an image stay together. From TWO_COLS columns on there are panels for two
 * workers.
 */
enum { TILE_ROWS = 1024, TILE_COLS = 704, TWO_COLS = 256 };

/*
 * The tile kernel. Where it is not fast it pays up to PACKED_ROWS rows, because sgemm packs the
 * weights in each call. Raw weights must be packed here too: that is left to sgemm where many rows
 * make it cheap, where few rows do not need it, and where a panel would be half empty. A product of
 * few tasks in a row is cut into rows too, for the workers.
 */
enum { PACKED_ROWS = 64, RAW_LEAST = 12, RAW_MOST = 128, RAW_COLS = 16 };
enum { FEW_ROWS = 64, WIDE_TASKS = 4, SHORT_ROWS = 192 };

enum { LINE = 16 }; /* floats: tiles and pieces of a worker's slice start at cache lines */

/* ---- one product ----------------------------------------------------------------------------- */

/* y [n] = sum over k of a[k] * B[k, :], a batch of rows of B at a time. */
static void add_rows(size_t n, size_t k, const float *a, const float *b, size_t ldb, float *y)
{
    enum { BATCH = 16 };

    for (size_t begin = 0; begin < k; begin += BATCH) {
        const size_t count = vtci_min(BATCH, k - begin);
        const float *row[BATCH];

        for (size_t r = 0; r < count; r++)
            row[r] = b + (begin + r) * ldb;
        vtci_kernels_get()->combine(y, row, a + begin, count, n, begin != 0);
    }
}

static void fill_zero(size_t m, size_t n, float *c, size_t ldc)
{
    for (size_t i = 0; i < m; i++)
        memset(c + i * ldc, 0, n * sizeof(*c));
}

/* A product with a single row or column reads its matrix once. sgemm, which packs it first, is
 * several times slower. False, and nothing done, for all other products. */
static bool multiply_vector(bool trans_b, size_t m, size_t n, size_t k, const float *a, size_t lda,
                            const float *b, size_t ldb, float *c, size_t ldc)
{
    if (trans_b && (m == 1 || n == 1)) {
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++)
                c[i * ldc + j] = vtci_kernels_get()->dot(a + i * lda, b + j * ldb, k);
        return true;
    }
    if (m == 1) {
        add_rows(n, k, a, b, ldb, c);
        return true;
    }
    return false;
}

void vtci_sgemm(const vtci_call *call, bool trans_b, size_t m, size_t n, size_t k, const float *a,
                size_t lda, const float *b, size_t ldb, float *c, size_t ldc)
{
    if (m == 0 || n == 0)
        return;
    if (k == 0) {
        fill_zero(m, n, c, ldc);
        return;
    }
    if (multiply_vector(trans_b, m, n, k, a, lda, b, ldb, c, ldc))
        return;
    if (call->exec.sgemm != NULL) {
        call->exec.sgemm(call->exec.sgemm_cookie, trans_b, m, n, k, a, lda, b, ldb, c, ldc);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                (int)k, 1.0f, a, (int)lda, b, (int)ldb, 0.0f, c, (int)ldc);
}

vtc_status vtci_check_gemm(const vtci_call *call, size_t m, size_t n, size_t k)
{
    VTCI_REQUIRE(call, m <= INT_MAX && n <= INT_MAX && k <= INT_MAX, VTC_ERR_OVERFLOW,
                 "a product of %zu x %zu x %zu exceeds the BLAS integer", m, n, k);
    return VTC_OK;
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* Length of equal pieces of n, rounded so that they start at cache lines. */
static size_t piece_length(size_t n, size_t n_pieces)
{
    return vtci_ceil_div(vtci_ceil_div(n, vtci_max(1, n_pieces)), LINE) * LINE;
}

static bool is_present(const vtci_rows *rows)
{
    return rows->dtype != (vtc_dtype)0;
}

/* A query may know their layout alone. */
static bool is_packed(const vtci_gemm *g)
{
    return g->packed != NULL && g->packed->dtype != (vtc_dtype)0;
}

static size_t tile_rows(const vtci_gemm *g)
{
    return piece_length(g->c.n_rows, vtci_ceil_div(g->c.n_rows, TILE_ROWS));
}

/* The number of panels is even: two workers finish together. */
static size_t tile_cols(const vtci_gemm *g)
{
    const size_t n = g->c.n_cols, n_panels = vtci_ceil_div(n, TILE_COLS);

    return piece_length(n, n < TWO_COLS ? n_panels : n_panels + n_panels % 2);
}

/* Leading dimension of a view that sgemm can use as it is; 0 when its rows must be copied. */
static size_t leading_dim(const vtci_rows *rows)
{
    const size_t ld = rows->row_stride / sizeof(float);

    if (rows->dtype != VTC_F32)
        return 0;
    if (rows->n_rows <= 1)
        return vtci_max(1, rows->n_cols);
    return rows->row_stride % sizeof(float) == 0 && ld >= rows->n_cols && ld <= INT_MAX ? ld : 0;
}

static bool uses_panels(const vtci_call *call, const vtci_gemm *g)
{
    const bool fast = vtci_kernels_get()->gemm_is_fast;

    if (g->a.n_cols == 0)
        return false;
    if (is_packed(g))
        return fast || g->c.n_rows <= PACKED_ROWS || !is_present(&g->b);
    /* many products of one task each are spread over the workers by the tiles of sgemm */
    if (g->b.n_batch > 1 && g->c.n_cols <= VTCI_PANELS_COLS)
        return false;
    return fast && call->exec.sgemm == NULL && g->c.n_rows >= RAW_LEAST &&
           g->c.n_rows <= RAW_MOST && g->c.n_cols >= RAW_COLS;
}

/* Floats of the parts of a worker's slice. */
struct parts {
    size_t a, b, c, residual;
};

static size_t part_floats(const vtci_rows *rows, size_t n_rows, size_t n_cols)
{
    const size_t padded = vtci_add(vtci_mul(n_rows, n_cols), LINE - 1);

    if (leading_dim(rows) != 0)
        return 0;
    return padded == SIZE_MAX ? SIZE_MAX : padded / LINE * LINE;
}

static struct parts slice_parts(const vtci_gemm *g)
{
    const size_t m = tile_rows(g), n = tile_cols(g), k = g->a.n_cols;
    const bool wide_residual = is_present(&g->residual) && g->residual.dtype != VTC_F32;
    const struct parts parts = { part_floats(&g->a, m, k), part_floats(&g->b, n, k),
                                 part_floats(&g->c, m, n), wide_residual ? n : 0 };

    return parts;
}

static size_t sum_of_parts(struct parts parts)
{
    return vtci_add(vtci_add(parts.a, parts.b), vtci_add(parts.c, parts.residual));
}

/* Where in a worker's slice, `before` floats after its start. A product that copies nothing has no
 * slices. */
static float *slice_at(const vtci_gemm *g, size_t worker, size_t before)
{
    if (g->slices == NULL)
        return NULL;
    return (float *)(void *)(g->slices + worker * g->slice_stride) + before;
}

struct block {
    size_t batch, row, n_rows, col, n_cols;
};

/* The block of C that a task computes. */
static struct block tile_at(const vtci_gemm *g, size_t index)
{
    const size_t rows = tile_rows(g), cols = tile_cols(g);
    const size_t n_across = vtci_ceil_div(g->c.n_cols, cols);
    const size_t n_down = vtci_ceil_div(g->c.n_rows, rows);
    const size_t row = index / n_across % n_down * rows, col = index % n_across * cols;
    const struct block tile = { index / n_across / n_down, row, vtci_min(rows, g->c.n_rows - row),
                                col, vtci_min(cols, g->c.n_cols - col) };

    return tile;
}

static char *block_row(const vtci_rows *rows, const struct block *at, size_t r)
{
    /* an operand with a single batch serves all batches */
    const size_t batch = rows->n_batch > 1 ? at->batch : 0;

    return vtci_row(rows, batch, at->row + r) + at->col * vtc_dtype_size(rows->dtype);
}

/* The block as floats: in place where sgemm can read it there, else widened into tmp. */
static const float *load_block(const vtci_rows *rows, const struct block *at, float *tmp,
                               size_t *ld)
{
    *ld = leading_dim(rows);
    if (at->n_cols == 0 || at->n_rows == 0) /* there may be no memory at all */
        return tmp;
    if (*ld != 0)
        return (const float *)(const void *)block_row(rows, at, 0);
    *ld = at->n_cols;
    for (size_t r = 0; r < at->n_rows; r++) {
        float *to = tmp + r * at->n_cols;

        if (rows->dtype == VTC_F32)
            memcpy(to, block_row(rows, at, r), at->n_cols * sizeof(*to));
        else
            vtci_load_row(block_row(rows, at, r), rows->dtype, at->n_cols, to);
    }
    return tmp;
}

/* Bias, activation, residual and narrowing, a row at a time: `from` is a tile that sgemm has just
 * written. */
static void finish_tile(const vtci_gemm *g, const struct block *at, float *from, size_t ld,
                        float *tmp)
{
    const vtci_kernels *k = vtci_kernels_get();
    const float *bias = g->bias_row == NULL ? NULL : g->bias_row + at->col;

    for (size_t r = 0; r < at->n_rows; r++) {
        float *row = from + r * ld;

        if (bias != NULL || g->act != VTCI_ACT_NONE)
            k->activate(g->act, row, row, bias, at->n_cols);
        if (is_present(&g->residual))
            k->add(row, row,
                   vtci_load_row(block_row(&g->residual, at, r), g->residual.dtype, at->n_cols,
                                 tmp),
                   at->n_cols);
        vtci_store_row(block_row(&g->c, at, r), g->c.dtype, at->n_cols, row);
    }
}

/* Where a tile of C is computed: in place, or at `tmp`. */
static float *tile_buffer(const vtci_gemm *g, const struct block *c, float *tmp, size_t *ld)
{
    *ld = leading_dim(&g->c);
    if (*ld != 0)
        return (float *)(void *)block_row(&g->c, c, 0);
    *ld = c->n_cols;
    return tmp;
}

static void run_tile(void *job, size_t index, size_t worker)
{
    const vtci_gemm *g = job;
    const struct parts parts = slice_parts(g);
    const struct block c = tile_at(g, index);
    const size_t k = g->a.n_cols;
    const struct block a = { c.batch, c.row, c.n_rows, 0, k };
    const struct block b = { c.batch, g->trans_b ? c.col : 0, g->trans_b ? c.n_cols : k,
                             g->trans_b ? 0 : c.col, g->trans_b ? k : c.n_cols };
    size_t lda, ldb, ldc;
    const float *a_data = load_block(&g->a, &a, slice_at(g, worker, 0), &lda);
    const float *b_data = load_block(&g->b, &b, slice_at(g, worker, parts.a), &ldb);
    float *out = tile_buffer(g, &c, slice_at(g, worker, parts.a + parts.b), &ldc);

    vtci_sgemm(g->call, g->trans_b, c.n_rows, c.n_cols, k, a_data, lda, b_data, ldb, out, ldc);
    finish_tile(g, &c, out, ldc, slice_at(g, worker, parts.a + parts.b + parts.c));
}

static void run_tiles(const vtci_call *call, vtci_gemm *g)
{
    const size_t n_across = g->c.n_cols == 0 ? 0 : vtci_ceil_div(g->c.n_cols, tile_cols(g));
    const size_t n_down = g->c.n_rows == 0 ? 0 : vtci_ceil_div(g->c.n_rows, tile_rows(g));

    vtci_parallel(call, vtci_mul(g->c.n_batch, n_down * n_across), run_tile, g);
}

/* ---- by the tile kernel ------------------------------------------------------------------------
 */

/* Rows that are packed at once, in equal blocks. */
static size_t block_rows(const vtci_gemm *g)
{
    const size_t n_blocks = vtci_max(1, vtci_ceil_div(g->c.n_rows, TILE_ROWS));
    const size_t rows = vtci_ceil_div(g->c.n_rows, n_blocks);

    return vtci_ceil_div(rows, VTCI_PANELS_ROWS) * VTCI_PANELS_ROWS;
}

static size_t task_cols(const vtci_gemm *g)
{
    return g->c.n_rows <= FEW_ROWS ? VTCI_PANELS_COLS : VTCI_PANELS_MOST;
}

static size_t task_rows(const vtci_gemm *g)
{
    const bool wide = vtci_ceil_div(g->c.n_cols, task_cols(g)) >= WIDE_TASKS;

    return wide ? block_rows(g) : vtci_min(SHORT_ROWS, block_rows(g));
}

static vtci_panels panels_of(const vtci_gemm *g)
{
    const vtci_panels b = { is_packed(g) ? g->packed : NULL, g->b, g->trans_b, g->a.n_cols };

    return b;
}

/* Packing rows and what follows take turns in a slice. */
static struct parts panel_parts(const vtci_gemm *g)
{
    const vtci_panels b = panels_of(g);
    const size_t n = vtci_min(task_cols(g), g->c.n_cols);
    const struct parts parts = { vtci_panels_pack_floats(&g->a), vtci_panels_floats(&b, n),
                                 part_floats(&g->c, task_rows(g), n),
                                 is_present(&g->residual) && g->residual.dtype != VTC_F32 ? n : 0 };

    return parts;
}

/* A block of rows, and the tasks it is cut into. */
struct panel_run {
    const vtci_gemm *g;
    vtci_panels b;
    size_t batch, row, n_rows, n_across;
};

static void pack_task(void *job, size_t index, size_t worker)
{
    const struct panel_run *run = job;
    const vtci_gemm *g = run->g;

    vtci_panels_pack_rows(g->rows, &g->a, g->a.n_batch > 1 ? run->batch : 0, run->row, run->n_rows,
                          index * VTCI_PANELS_ROWS, slice_at(g, worker, 0));
}

static void panel_task(void *job, size_t index, size_t worker)
{
    const struct panel_run *run = job;
    const vtci_gemm *g = run->g;
    const struct parts parts = panel_parts(g);
    const size_t first = index / run->n_across * task_rows(g);
    const size_t col = index % run->n_across * task_cols(g);
    const struct block c = { run->batch, run->row + first,
                             vtci_min(task_rows(g), run->n_rows - first), col,
                             vtci_min(task_cols(g), g->c.n_cols - col) };
    size_t ldc;
    float *out = tile_buffer(g, &c, slice_at(g, worker, parts.a + parts.b), &ldc);

    vtci_panels_multiply(&run->b, g->b.n_batch > 1 ? run->batch : 0, col, c.n_cols, g->rows,
                         run->n_rows, first, c.n_rows, out, ldc, slice_at(g, worker, parts.a));
    finish_tile(g, &c, out, ldc, slice_at(g, worker, parts.a + parts.b + parts.c));
}

static void run_panels(const vtci_call *call, const vtci_gemm *g)
{
    const size_t rows = vtci_max(1, block_rows(g));
    struct panel_run run = { .g = g, .b = panels_of(g) };

    run.n_across = vtci_ceil_div(g->c.n_cols, task_cols(g));
    for (run.batch = 0; run.batch < g->c.n_batch; run.batch++)
        for (run.row = 0; run.row < g->c.n_rows; run.row += rows) {
            run.n_rows = vtci_min(rows, g->c.n_rows - run.row);
            vtci_parallel(call, vtci_ceil_div(run.n_rows, VTCI_PANELS_ROWS), pack_task, &run);
            vtci_parallel(call, vtci_ceil_div(run.n_rows, task_rows(g)) * run.n_across, panel_task,
                          &run);
        }
}

/* ---- products ----------------------------------------------------------------------------------
 */

/* Whether rows of all batches have one common stride. */
static bool is_one_matrix(const vtci_rows *rows, size_t n_batch)
{
    return !is_present(rows) ||
           (rows->n_batch == n_batch && rows->batch_stride == rows->n_rows * rows->row_stride);
}

static void join_batches(vtci_rows *rows)
{
    if (!is_present(rows))
        return;
    rows->n_rows *= rows->n_batch;
    rows->n_batch = 1;
}

/* One product in place of many where a single B serves them all. Both are done by tiles, so that
 * the bits are the same. */
static vtci_gemm flattened(const vtci_call *call, const vtci_gemm *g)
{
    vtci_gemm flat = *g;

    if (g->c.n_batch <= 1 || g->b.n_batch > 1 || !is_one_matrix(&g->a, g->c.n_batch) ||
        !is_one_matrix(&g->c, g->c.n_batch) || !is_one_matrix(&g->residual, g->c.n_batch))
        return flat;
    join_batches(&flat.a);
    join_batches(&flat.c);
    join_batches(&flat.residual);
    return uses_panels(call, g) && uses_panels(call, &flat) ? flat : *g;
}

void vtci_gemm_lay_out(vtci_arena *arena, const vtci_call *call, vtci_gemm *g)
{
    const vtci_gemm flat = flattened(call, g);
    const bool panels = uses_panels(call, &flat);
    const size_t floats = sum_of_parts(panels ? panel_parts(&flat) : slice_parts(&flat));

    g->wide_bias = g->rows = NULL;
    if (is_present(&g->bias) && g->bias.dtype != VTC_F32)
        g->wide_bias = vtci_take(arena, g->c.n_cols, sizeof(float));
    if (panels)
        g->rows = vtci_take(arena, vtci_panels_rows_floats(block_rows(&flat), g->a.n_cols),
                            sizeof(float));
    g->slices = vtci_take_slices(arena, call, vtci_mul(floats, sizeof(float)), &g->slice_stride);
}

void vtci_gemm_run(const vtci_call *call, vtci_gemm *g)
{
    vtci_gemm flat = flattened(call, g);

    flat.call = call;
    flat.bias_row = NULL;
    if (is_present(&g->bias))
        flat.bias_row = vtci_load_row(g->bias.data, g->bias.dtype, g->c.n_cols, g->wide_bias);
    if (uses_panels(call, &flat))
        run_panels(call, &flat);
    else
        run_tiles(call, &flat);
}
