/* Any-resolution packing. */
#include "support/tensors.h"

#include "reference/pool_reference.h"

#include <stdlib.h>
#include <string.h>

/* ---- layouts --------------------------------------------------------------------------------- */

typedef struct layout_case {
    size_t tiles_h, tiles_w, tile_h, tile_w, image_h, image_w, max_tiles;
    int rounding;
    size_t row0, col0, rows, cols, out_h, out_w;
} layout_case;

/* Made by a transcription of transformers' unpad_image and pack_image_features in Python: images
 * that the two roundings treat differently, limits on tiles, tiles that are not square, and at the
 * end grids whose quotient by the ratio is a whole number that int(h // r) misses. */
/* clang-format off */
static const layout_case layout_cases[] = {
    { 2, 1, 24, 24, 1225, 1176, 0, 0, 11, 0, 26, 24, 26, 24 },
    { 2, 1, 24, 24, 1225, 1176, 0, 1, 12, 0, 24, 24, 24, 24 },
    { 3, 2, 27, 27, 1610, 1610, 0, 0, 13, 0, 55, 54, 55, 54 },
    { 3, 2, 27, 27, 1610, 1610, 0, 1, 14, 0, 53, 54, 53, 54 },
    { 1, 4, 24, 24, 235, 1504, 0, 0, 4, 0, 16, 96, 16, 96 },
    { 1, 4, 24, 24, 235, 1504, 0, 1, 5, 0, 14, 96, 14, 96 },
    { 2, 3, 27, 27, 575, 1725, 0, 0, 13, 0, 28, 81, 28, 81 },
    { 2, 3, 27, 27, 575, 1725, 0, 1, 14, 0, 26, 81, 26, 81 },
    { 4, 4, 27, 27, 1500, 375, 0, 0, 0, 40, 108, 28, 108, 28 },
    { 4, 4, 27, 27, 1500, 375, 0, 1, 0, 41, 108, 26, 108, 26 },
    { 1, 4, 27, 27, 840, 1960, 0, 0, 0, 22, 27, 64, 27, 64 },
    { 1, 4, 27, 27, 840, 1960, 0, 1, 0, 23, 27, 62, 27, 62 },
    { 2, 1, 24, 24, 352, 110, 0, 0, 0, 4, 48, 16, 48, 16 },
    { 2, 1, 24, 24, 352, 110, 0, 1, 0, 5, 48, 14, 48, 14 },
    { 1, 2, 27, 27, 1557, 173, 0, 0, 0, 25, 27, 4, 27, 4 },
    { 1, 2, 27, 27, 1557, 173, 0, 1, 0, 26, 27, 2, 27, 2 },
    { 1, 4, 16, 16, 1712, 1391, 0, 0, 0, 25, 16, 14, 16, 14 },
    { 1, 4, 16, 16, 1712, 1391, 0, 1, 0, 26, 16, 12, 16, 12 },
    { 2, 1, 27, 27, 1323, 1323, 0, 0, 13, 0, 28, 27, 28, 27 },
    { 2, 1, 27, 27, 1323, 1323, 0, 1, 14, 0, 26, 27, 26, 27 },
    { 4, 1, 27, 27, 490, 210, 0, 0, 22, 0, 64, 27, 64, 27 },
    { 4, 1, 27, 27, 490, 210, 0, 1, 23, 0, 62, 27, 62, 27 },
    { 2, 2, 27, 27, 2902, 384, 9, 0, 0, 23, 54, 8, 54, 8 },
    { 5, 2, 27, 27, 511, 1522, 9, 0, 58, 0, 19, 54, 19, 54 },
    { 2, 5, 27, 27, 2926, 2748, 9, 0, 0, 42, 54, 51, 54, 51 },
    { 4, 5, 27, 27, 2202, 2320, 9, 0, 0, 11, 108, 113, 79, 82 },
    { 4, 2, 24, 24, 1492, 1510, 4, 0, 24, 0, 48, 48, 48, 48 },
    { 3, 5, 24, 24, 2058, 1753, 4, 0, 0, 29, 72, 62, 51, 44 },
    { 4, 4, 27, 27, 2032, 2254, 4, 0, 5, 0, 98, 108, 51, 56 },
    { 3, 3, 24, 24, 987, 1465, 4, 0, 12, 0, 48, 72, 39, 58 },
    { 6, 5, 24, 24, 1055, 937, 2, 0, 4, 0, 136, 120, 36, 31 },
    { 4, 2, 27, 27, 1231, 430, 2, 0, 0, 8, 108, 38, 64, 22 },
    { 6, 5, 27, 27, 2153, 1209, 2, 0, 0, 22, 162, 91, 50, 28 },
    { 5, 3, 24, 24, 2253, 1454, 2, 0, 4, 0, 112, 72, 42, 27 },
    { 3, 4, 24, 24, 1440, 2425, 1, 0, 7, 0, 58, 96, 18, 30 },
    { 2, 3, 24, 24, 2915, 600, 1, 0, 0, 31, 48, 10, 48, 10 },
    { 5, 4, 27, 27, 404, 2376, 1, 0, 58, 0, 19, 108, 11, 64 },
    { 3, 4, 24, 24, 2512, 306, 1, 0, 0, 44, 72, 8, 72, 8 },
    { 5, 3, 18, 7, 2414, 2793, 0, 0, 36, 0, 18, 21, 18, 21 },
    { 5, 3, 4, 20, 2641, 1646, 0, 0, 0, 24, 20, 12, 20, 12 },
    { 5, 3, 13, 8, 842, 1058, 0, 0, 23, 0, 19, 24, 19, 24 },
    { 1, 6, 16, 4, 2325, 2653, 0, 0, 0, 3, 16, 18, 16, 18 },
    { 5, 5, 23, 23, 500, 500, 9, 0, 0, 0, 115, 115, 68, 68 },
    { 7, 7, 16, 16, 700, 700, 9, 0, 0, 0, 112, 112, 47, 47 },
    { 5, 5, 4, 4, 500, 500, 9, 0, 0, 0, 20, 20, 11, 11 },
    { 7, 7, 22, 22, 700, 700, 9, 0, 0, 0, 154, 154, 65, 65 },
    { 5, 5, 8, 8, 500, 500, 9, 0, 0, 0, 40, 40, 23, 23 },
};
/* clang-format on */

static vtc_anyres_params params_of(const layout_case *c)
{
    vtc_anyres_params p = VTC_ANYRES_PARAMS_INIT;

    p.tiles_h = c->tiles_h;
    p.tiles_w = c->tiles_w;
    p.tile_h = c->tile_h;
    p.tile_w = c->tile_w;
    p.image_h = c->image_h;
    p.image_w = c->image_w;
    p.max_tiles = c->max_tiles;
    p.rounding = (vtc_anyres_rounding)c->rounding;
    return p;
}

static void layouts_are_those_of_the_python_code(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(layout_cases) / sizeof(*layout_cases); i++) {
        const layout_case *c = &layout_cases[i];
        const vtc_anyres_params p = params_of(c);
        vtc_anyres_layout l;

        assert_int_equal(vtc_anyres_count(&p, &l, NULL), VTC_OK);
        if (l.row0 != c->row0 || l.col0 != c->col0 || l.rows != c->rows || l.cols != c->cols ||
            l.out_h != c->out_h || l.out_w != c->out_w)
            fail_msg("case %zu: %zu rows from %zu, %zu columns from %zu, out %zux%zu", i, l.rows,
                     l.row0, l.cols, l.col0, l.out_h, l.out_w);
        assert_int_equal(l.n_base, c->tile_h * c->tile_w);
        assert_int_equal(l.row_length, c->out_w + 1);
        assert_int_equal(l.n_tokens, l.n_base + c->out_h * (c->out_w + 1));
    }
}

static const vtc_anyres_params two_by_three = {
    sizeof(vtc_anyres_params), 2, 3, 5, 4, 60, 100, 0, VTC_ANYRES_SPATIAL, VTC_ANYRES_HF, 0, 0
};

static void expect_grid(const vtc_anyres_params *p, size_t out_h, size_t out_w, size_t row_length,
                        size_t n_tokens)
{
    vtc_anyres_layout l;

    assert_int_equal(vtc_anyres_count(p, &l, NULL), VTC_OK);
    assert_int_equal(l.out_h, out_h);
    assert_int_equal(l.out_w, out_w);
    assert_int_equal(l.row_length, row_length);
    assert_int_equal(l.n_tokens, n_tokens);
}

static void every_merge_has_its_grid(void **state)
{
    vtc_anyres_params p = two_by_three;

    (void)state;
    expect_grid(&p, 10, 12, 12, 20 + 120);
    p.no_base = 1;
    expect_grid(&p, 10, 12, 12, 120);
    p.merge = VTC_ANYRES_MAXPOOL2X2;
    expect_grid(&p, 5, 6, 6, 30);
    p.merge = VTC_ANYRES_FLAT;
    expect_grid(&p, 30, 4, 4, 120);
    p.merge = VTC_ANYRES_UNPAD; /* int(60 * 12 / 100) = 7 of 10 rows: one more, 3 is odd */
    expect_grid(&p, 8, 12, 13, 104);
    p.no_newline = 1;
    expect_grid(&p, 8, 12, 12, 96);
}

static void tile_0_alone_stays_and_ends_with_a_newline(void **state)
{
    vtc_anyres_params p = two_by_three;

    (void)state;
    p.tiles_h = p.tiles_w = 0;
    p.merge = VTC_ANYRES_UNPAD;
    expect_grid(&p, 0, 0, 0, 21);
    p.no_base = 1;
    expect_grid(&p, 0, 0, 0, 21);
    p.no_newline = 1;
    expect_grid(&p, 0, 0, 0, 20);
    p.no_newline = 0;
    p.merge = VTC_ANYRES_FLAT;
    expect_grid(&p, 0, 0, 0, 20);
}

/* ---- canvases -------------------------------------------------------------------------------- */

typedef struct canvas_case {
    size_t image_h, image_w, best;
} canvas_case;

/* Made by a transcription of select_best_resolution in Python. */
static const canvas_case canvas_cases[] = {
    { 2457, 1004, 4 }, { 564, 2259, 3 },  { 1971, 1545, 2 }, { 298, 2409, 3 },  { 1951, 83, 4 },
    { 2286, 1092, 4 }, { 815, 989, 2 },   { 2245, 1956, 2 }, { 1981, 2281, 2 }, { 646, 1656, 3 },
    { 651, 979, 2 },   { 1627, 2172, 2 }, { 336, 336, 0 },   { 672, 672, 2 },   { 1, 5000, 0 },
    { 5000, 1, 0 },    { 100, 100, 0 },   { 400, 336, 0 },
};

static void canvases_are_those_of_the_python_code(void **state)
{
    static const size_t candidates[][2] = {
        { 672, 336 }, { 336, 672 }, { 672, 672 }, { 336, 1008 }, { 1008, 336 }
    };
    size_t best;

    (void)state;
    for (size_t i = 0; i < sizeof(canvas_cases) / sizeof(*canvas_cases); i++) {
        const canvas_case *c = &canvas_cases[i];

        assert_int_equal(vtc_anyres_canvas(c->image_h, c->image_w, candidates, 5, &best, NULL),
                         VTC_OK);
        assert_int_equal(best, c->best);
    }
}

static void equal_canvases_give_the_first(void **state)
{
    static const size_t candidates[][2] = { { 10, 30 }, { 20, 20 }, { 20, 20 }, { 20, 20 } };
    size_t best = 77;

    (void)state;
    assert_int_equal(vtc_anyres_canvas(15, 15, candidates, 4, &best, NULL), VTC_OK);
    assert_int_equal(best, 1);
}

/* ---- packing --------------------------------------------------------------------------------- */

typedef struct pack_case {
    vtc_anyres_params params;
    size_t n_channels;
    vtc_dtype from, newline, to;
    size_t gap;
} pack_case;

static vtc_tensor make_tiles(uint64_t *seed, const pack_case *c)
{
    const vtc_anyres_params *p = &c->params;
    const size_t dim[] = { 1 + p->tiles_h * p->tiles_w, p->tile_h * p->tile_w, c->n_channels };

    return make_random(seed, c->from, 3, dim, c->gap);
}

static vtc_tensor make_packed(const pack_case *c)
{
    vtc_anyres_layout l;

    assert_int_equal(vtc_anyres_count(&c->params, &l, NULL), VTC_OK);
    return make_tensor(c->to, 2, (const size_t[]){ l.n_tokens, c->n_channels }, c->gap);
}

static vtc_tensor packed(const pack_case *c, const vtc_tensor *x, const vtc_tensor *newline,
                         size_t n_workers)
{
    vtc_tensor y = make_packed(c);
    vtc_exec exec = test_exec(n_workers);
    size_t bytes;

    assert_int_equal(vtc_anyres_pack_scratch(&c->params, x, newline, &y, &exec, &bytes), VTC_OK);
    if (c->from == VTC_F32 && c->to == VTC_F32)
        assert_int_equal(bytes, 0);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_anyres_pack(&c->params, x, newline, &y, &exec), VTC_OK);
    exec_scratch_free(&exec);
    return y;
}

/* The output grid [out_h, out_w, C] from the values of all tiles; free() it. */
static double *reference_grid(const pack_case *c, const vtc_anyres_layout *l, const double *x)
{
    const vtc_anyres_params *p = &c->params;
    const size_t n = c->n_channels, tile = p->tile_h * p->tile_w * n;
    const size_t tiles_h = p->merge == VTC_ANYRES_FLAT ? p->tiles_h * p->tiles_w : p->tiles_h;
    const size_t tiles_w = p->merge == VTC_ANYRES_FLAT ? 1 : p->tiles_w;
    double *canvas = calloc(p->tiles_h * p->tiles_w * tile + 1, sizeof(*canvas));
    double *kept = calloc(l->rows * l->cols * n + 1, sizeof(*kept));
    double *grid = calloc(l->rows * l->cols * n + 1, sizeof(*grid));

    ref_join_tiles(x + tile, tiles_h, tiles_w, p->tile_h, p->tile_w, n, canvas);
    ref_crop(canvas, tiles_w * p->tile_w, n, l->row0, l->col0, l->rows, l->cols, kept);
    if (p->merge == VTC_ANYRES_MAXPOOL2X2)
        ref_pool_windows(kept, l->rows, l->cols, n, 2, 2, true, grid);
    else
        ref_pool_bilinear(kept, l->rows, l->cols, n, l->out_h, l->out_w, grid);
    free(canvas);
    free(kept);
    return grid;
}

static void assert_packed(const pack_case *c, const vtc_tensor *x, const vtc_tensor *newline,
                          const vtc_tensor *y)
{
    const size_t n = c->n_channels;
    double *from = values_of(x), *line = values_of(newline), *want = values_of(y), *at = want;
    vtc_anyres_layout l;
    double *grid;

    assert_int_equal(vtc_anyres_count(&c->params, &l, NULL), VTC_OK);
    grid = reference_grid(c, &l, from);
    memcpy(at, from, l.n_base * n * sizeof(*at));
    at += l.n_base * n;
    for (size_t i = 0; i < l.out_h; i++) {
        memcpy(at, grid + i * l.out_w * n, l.out_w * n * sizeof(*at));
        if (l.row_length > l.out_w)
            memcpy(at + l.out_w * n, line, n * sizeof(*at));
        at += l.row_length * n;
    }
    if (l.n_tokens > l.n_base && l.out_h == 0)
        memcpy(at, line, n * sizeof(*at));
    assert_tensor_near(y, want, 1e-6);
    free(grid);
    free(want);
    free(line);
    free(from);
}

static void check_pack(const pack_case *c, uint64_t *seed)
{
    const vtc_tensor x = make_tiles(seed, c);
    const vtc_tensor newline = make_random(seed, c->newline, 1, &c->n_channels, 0);
    const vtc_tensor one = packed(c, &x, &newline, 0);

    assert_packed(c, &x, &newline, &one);
    for (size_t n_workers = 1; n_workers <= 5; n_workers += 2) {
        const vtc_tensor many = packed(c, &x, &newline, n_workers);

        assert_same_bits(&many, &one);
        guard_free(many.data);
    }
    guard_free(one.data);
    guard_free(newline.data);
    guard_free(x.data);
}

/* Images no thinner than 1 : 4, so that unpadding 2 x 2 tokens still leaves some. */
static pack_case random_pack(uint64_t *seed)
{
    static const vtc_dtype dtypes[] = { VTC_F32, VTC_F16, VTC_BF16 };
    pack_case c = { VTC_ANYRES_PARAMS_INIT, 1 + rng_below(seed, 20), VTC_F32, VTC_F32, VTC_F32,
                    rng_below(seed, 3) };
    vtc_anyres_params *p = &c.params;

    p->tiles_h = 1 + rng_below(seed, 3);
    p->tiles_w = 1 + rng_below(seed, 3);
    p->tile_h = 2 + rng_below(seed, 5);
    p->tile_w = 2 + rng_below(seed, 5);
    p->image_h = 100 + rng_below(seed, 300);
    p->image_w = 100 + rng_below(seed, 300);
    p->merge = (vtc_anyres_merge)rng_below(seed, 4);
    if (p->merge == VTC_ANYRES_UNPAD)
        p->max_tiles = rng_below(seed, 3);
    p->rounding = (vtc_anyres_rounding)rng_below(seed, 2);
    p->no_base = (int)rng_below(seed, 2);
    p->no_newline = (int)rng_below(seed, 2);
    c.from = dtypes[rng_below(seed, 3)];
    c.newline = dtypes[rng_below(seed, 3)];
    c.to = dtypes[rng_below(seed, 3)];
    return c;
}

static void packing_matches_the_reference(void **state)
{
    uint64_t seed = 31;

    (void)state;
    for (int i = 0; i < 200; i++) {
        const pack_case c = random_pack(&seed);

        check_pack(&c, &seed);
    }
}

static void tile_0_alone_is_copied(void **state)
{
    uint64_t seed = 32;

    (void)state;
    for (int i = 0; i < 20; i++) {
        pack_case c = random_pack(&seed);

        c.params.tiles_h = c.params.tiles_w = c.params.max_tiles = 0;
        check_pack(&c, &seed);
    }
}

static void what_is_not_resized_keeps_its_bits(void **state)
{
    pack_case c = { VTC_ANYRES_PARAMS_INIT, 3, VTC_F16, VTC_F16, VTC_F16, 0 };
    uint64_t seed = 33;

    (void)state;
    c.params = two_by_three;
    c.params.merge = VTC_ANYRES_FLAT;
    const vtc_tensor x = make_tiles(&seed, &c);

    guard_writable(x.data);
    memset(x.data, 0x7d, 40); /* NaN with a payload */
    guard_readonly(x.data);
    const vtc_tensor y = packed(&c, &x, NULL, 2);

    assert_memory_equal(x.data, y.data, 7 * 20 * 3 * 2);
    guard_free(x.data);
    guard_free(y.data);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_bad_params(const vtc_anyres_params *p, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtc_anyres_layout l = { 77, 77, 77, 77, 77, 77, 77, 77, 77 };
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_count(p, &l, &exec), want, part);
    assert_true(l.n_tokens == 77 && l.rows == 77 && l.row_length == 77);
}

static void parameters_out_of_range_are_refused(void **state)
{
    vtc_anyres_params p = VTC_ANYRES_PARAMS_INIT;
    vtc_exec exec = test_exec(0);
    error_log log;

    (void)state;
    expect_bad_params(NULL, VTC_ERR_RANGE, "a tile is 0x0");
    p.tile_h = p.tile_w = 4;
    p.tiles_h = 2;
    expect_bad_params(&p, VTC_ERR_RANGE, "2x0 tiles");
    p = two_by_three;
    p.merge = (vtc_anyres_merge)4;
    expect_bad_params(&p, VTC_ERR_RANGE, "merge 4");
    p = two_by_three;
    p.rounding = (vtc_anyres_rounding)2;
    expect_bad_params(&p, VTC_ERR_RANGE, "rounding 2");
    p = two_by_three;
    p.max_tiles = 9;
    expect_bad_params(&p, VTC_ERR_UNSUPPORTED, "max_tiles is 9");
    p = two_by_three;
    p.tile_h = SIZE_MAX / 2;
    expect_bad_params(&p, VTC_ERR_OVERFLOW, "overflow");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_count(&two_by_three, NULL, &exec), VTC_ERR_NULL, "layout");
}

static void a_layout_without_tokens_is_refused(void **state)
{
    vtc_anyres_params p = two_by_three;

    (void)state;
    p.merge = VTC_ANYRES_MAXPOOL2X2;
    p.tiles_h = p.tile_h = 1;
    expect_bad_params(&p, VTC_ERR_RANGE, "larger canvas than 1x12");
    p = two_by_three;
    p.merge = VTC_ANYRES_UNPAD;
    p.image_h = 0;
    expect_bad_params(&p, VTC_ERR_RANGE, "image is 0x100 pixels");
    p.image_h = 1; /* int(1 * 12 / 100) = 0 of 10 rows */
    expect_bad_params(&p, VTC_ERR_RANGE, "unpadding 10x12 tokens to an image of 1x100");
    p = two_by_three;
    p.merge = VTC_ANYRES_UNPAD;
    p.tiles_h = p.tile_h = p.tile_w = 1;
    p.tiles_w = 100;
    p.image_h = 40;
    p.image_w = 4000;
    p.max_tiles = 1;
    expect_bad_params(&p, VTC_ERR_RANGE, "shrinking 1x100 tokens by 10.000 to fit 1 tiles");
}

static void bad_canvases_are_refused(void **state)
{
    static const size_t good[][2] = { { 336, 672 }, { 672, 336 } };
    static const size_t bad[][2] = { { 336, 672 }, { 672, 0 } };
    vtc_exec exec = test_exec(0);
    error_log log;
    size_t best = 77;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(1, 1, NULL, 2, &best, &exec), VTC_ERR_NULL, "candidates");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(1, 1, good, 2, NULL, &exec), VTC_ERR_NULL, "best");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(1, 1, good, 0, &best, &exec), VTC_ERR_RANGE, "is 0");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(9, 0, good, 2, &best, &exec), VTC_ERR_RANGE, "9x0");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(9, 9, bad, 2, &best, &exec), VTC_ERR_RANGE, "672x0");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_canvas(9, (size_t)INT32_MAX + 1, good, 2, &best, &exec),
                  VTC_ERR_OVERFLOW, "2147483648");
    assert_int_equal(best, 77);
}

typedef struct views {
    pack_case c;
    vtc_tensor x, newline, y;
} views;

static views make_views(void)
{
    views v = { { VTC_ANYRES_PARAMS_INIT, 3, VTC_F16, VTC_F32, VTC_BF16, 1 }, { 0 }, { 0 }, { 0 } };
    uint64_t seed = 35;

    v.c.params = two_by_three;
    v.c.params.merge = VTC_ANYRES_UNPAD;
    v.x = make_tiles(&seed, &v.c);
    v.newline = make_random(&seed, v.c.newline, 1, &v.c.n_channels, 0);
    v.y = make_packed(&v.c);
    return v;
}

static void free_views(const views *v)
{
    guard_free(v->x.data);
    guard_free(v->newline.data);
    guard_free(v->y.data);
}

static void expect_bad_views(const views *v, const vtc_tensor *x, const vtc_tensor *newline,
                             vtc_tensor y, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log, vtc_anyres_pack(&v->c.params, x, newline, &y, &exec), want, part);
}

static void views_that_do_not_fit_are_refused(void **state)
{
    const views v = make_views();
    vtc_tensor bad = v.x;

    (void)state;
    expect_bad_views(&v, NULL, &v.newline, v.y, VTC_ERR_NULL, "x is NULL");
    bad.dim[0] = 6;
    expect_bad_views(&v, &bad, &v.newline, v.y, VTC_ERR_SHAPE,
                     "1 + 2x3 tiles of 5x4 tokens are needed, x is 6x20");
    bad = v.x;
    bad.dim[2] = 2;
    expect_bad_views(&v, &bad, &v.newline, v.y, VTC_ERR_SHAPE, "y is 124x3, 124x2 is needed");
    bad = v.y;
    bad.dim[0] = 123;
    expect_bad_views(&v, &v.x, &v.newline, bad, VTC_ERR_SHAPE, "y is 123x3, 124x3 is needed");
    bad = v.y;
    bad.dtype = VTC_I32;
    expect_bad_views(&v, &v.x, &v.newline, bad, VTC_ERR_DTYPE, "y has dtype I32");
    bad = v.y;
    bad.data = v.x.data;
    expect_bad_views(&v, &v.x, &v.newline, bad, VTC_ERR_OVERLAP, "y overlaps x");
    assert_untouched(&v.y);
    free_views(&v);
}

static void newlines_that_do_not_fit_are_refused(void **state)
{
    const views v = make_views();
    vtc_tensor bad = v.newline;

    (void)state;
    expect_bad_views(&v, &v.x, NULL, v.y, VTC_ERR_NULL, "newline is NULL");
    bad.dim[0] = 2;
    expect_bad_views(&v, &v.x, &bad, v.y, VTC_ERR_SHAPE, "newline has 2 channels, y has 3");
    bad = v.newline;
    bad.dtype = VTC_U8;
    expect_bad_views(&v, &v.x, &bad, v.y, VTC_ERR_DTYPE, "newline has dtype U8");
    bad = v.newline;
    bad.data = v.y.data;
    bad.dtype = VTC_BF16;
    expect_bad_views(&v, &v.x, &bad, v.y, VTC_ERR_OVERLAP, "y overlaps newline");
    assert_untouched(&v.y);
    free_views(&v);
}

static void scratch_is_exact(void **state)
{
    const views v = make_views();
    vtc_exec exec = test_exec(2);
    vtc_tensor y = v.y;
    error_log log;
    size_t bytes;

    (void)state;
    record_errors(&exec, &log);
    assert_int_equal(vtc_anyres_pack_scratch(&v.c.params, &v.x, &v.newline, &v.y, &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    exec.scratch_size = bytes - 1;
    assert_failed(&log, vtc_anyres_pack(&v.c.params, &v.x, &v.newline, &y, &exec), VTC_ERR_SCRATCH,
                  "bytes of scratch");
    assert_untouched(&v.y);
    exec_scratch_free(&exec);
    free_views(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layouts_are_those_of_the_python_code),
        cmocka_unit_test(every_merge_has_its_grid),
        cmocka_unit_test(tile_0_alone_stays_and_ends_with_a_newline),
        cmocka_unit_test(canvases_are_those_of_the_python_code),
        cmocka_unit_test(equal_canvases_give_the_first),
        cmocka_unit_test(packing_matches_the_reference),
        cmocka_unit_test(tile_0_alone_is_copied),
        cmocka_unit_test(what_is_not_resized_keeps_its_bits),
        cmocka_unit_test(parameters_out_of_range_are_refused),
        cmocka_unit_test(a_layout_without_tokens_is_refused),
        cmocka_unit_test(bad_canvases_are_refused),
        cmocka_unit_test(views_that_do_not_fit_are_refused),
        cmocka_unit_test(newlines_that_do_not_fit_are_refused),
        cmocka_unit_test(scratch_is_exact),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
