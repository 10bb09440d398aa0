/* mustdrop_encode_cases.h: what the tests of MustDrop's encode step share: random batches, and room
 * for what is made of them. */
#ifndef VTC_TESTS_MUSTDROP_ENCODE_CASES_H
#define VTC_TESTS_MUSTDROP_ENCODE_CASES_H

#include "support/tensors.h"

#include "reference/mustdrop_reference.h"
#include "reference/plan_reference.h"

enum { MAX_IMAGES = 3 };

typedef struct merge {
    vtc_mustdrop_encode_params params;
    mustdrop_grid grid;
    size_t n_images, n_rows, n_windows;
    vtc_tensor hidden;
    float *mass;
} merge;

typedef struct result {
    vtc_plan plan[MAX_IMAGES];
    size_t n_merged[MAX_IMAGES];
    float *similarity;
    int32_t *windows, *unmerged;
} result;

/* Some windows of alike tokens, some of unlike ones. */
static inline vtc_tensor make_hidden(uint64_t *seed, const merge *m, size_t c, vtc_dtype dtype)
{
    const size_t dim[3] = { m->n_images, m->n_rows, c };
    const vtc_tensor t = make_tensor(dtype, 3, dim, rng_below(seed, 3));
    const size_t across = m->grid.w / m->grid.win_w + 1;
    float base[64], amplitude[64];

    for (size_t i = 0; i < n_elements(&t); i++) {
        const size_t row = i / c % m->n_rows,
                     cell = row < m->params.prefix ? 0 : row - m->params.prefix;
        const size_t window = m->grid.w == 0 ? 0
                                             : cell / m->grid.w / m->grid.win_h * across +
                                                   cell % m->grid.w / m->grid.win_w;

        if (i == 0)
            for (size_t w = 0; w < 64; w++) {
                base[w] = 0.5f + rng_f32(seed);
                amplitude[w] = 1.0f + rng_f32(seed);
            }
        set_element(t.data, dtype, element_at(&t, i),
                    base[window % 64] + amplitude[window % 64] * rng_f32(seed));
    }
    guard_readonly(t.data);
    return t;
}

static inline merge make_merge(uint64_t *seed, const mustdrop_grid *grid, size_t n_images,
                               size_t prefix, size_t c, vtc_dtype dtype)
{
    const vtc_mustdrop_encode_params params = VTC_MUSTDROP_ENCODE_PARAMS_INIT;
    merge m = { .params = params, .grid = *grid, .n_images = n_images };

    m.params.win_h = grid->win_h;
    m.params.win_w = grid->win_w;
    m.params.prefix = prefix;
    m.params.ragged_edges = grid->h % grid->win_h != 0 || grid->w % grid->win_w != 0;
    m.params.threshold = 0.2f + 0.4f * rng_f32(seed);
    m.n_rows = prefix + grid->h * grid->w;
    m.n_windows = mustdrop_windows(grid);
    m.hidden = make_hidden(seed, &m, c, dtype);
    if (rng_below(seed, 2) == 0)
        return m;
    m.mass = guard_alloc(n_images * m.n_rows * sizeof(*m.mass));
    for (size_t i = 0; i < n_images * m.n_rows; i++)
        m.mass[i] = 2.5f + rng_f32(seed) * 2.0f;
    guard_readonly(m.mass);
    return m;
}

static inline void free_merge(merge *m)
{
    guard_free(m->hidden.data);
    guard_free(m->mass);
}

static inline result open_result(const merge *m)
{
    const size_t n_cells = m->n_images * m->grid.h * m->grid.w;
    const size_t n_windows = m->n_images * m->n_windows;
    vtc_plan_count count;
    result r;

    assert_int_equal(vtc_mustdrop_encode_count(&m->params, m->grid.h, m->grid.w, &count, NULL),
                     VTC_OK);
    assert_int_equal(count.n_in, m->n_rows);
    for (size_t b = 0; b < m->n_images; b++)
        r.plan[b] = empty_plan(count.n_in, count.n_out, count.n_nnz);
    r.similarity = guard_alloc(n_windows * sizeof(float));
    r.windows = guard_alloc(n_windows * sizeof(int32_t));
    r.unmerged = guard_alloc(n_cells * sizeof(int32_t));
    return r;
}

static inline void free_result(const merge *m, result *r)
{
    for (size_t b = 0; b < m->n_images; b++)
        free_plan(&r->plan[b]);
    guard_free(r->similarity);
    guard_free(r->windows);
    guard_free(r->unmerged);
}

/* With exactly the scratch and the room it asks for. */
static inline result run(const merge *m, size_t n_workers)
{
    vtc_mustdrop_encode_trace trace = VTC_MUSTDROP_ENCODE_TRACE_INIT;
    vtc_exec exec = test_exec(n_workers);
    result r = open_result(m);
    vtc_plan *plans[MAX_IMAGES] = { &r.plan[0], &r.plan[1], &r.plan[2] };
    size_t bytes;

    trace.n_merged = r.n_merged;
    trace.similarity = r.similarity;
    trace.windows = r.windows;
    trace.unmerged = r.unmerged;
    assert_int_equal(vtc_mustdrop_encode_scratch(&m->params, &m->hidden, m->grid.h, m->grid.w,
                                                 &exec, &bytes),
                     VTC_OK);
    exec_scratch(&exec, bytes);
    assert_int_equal(vtc_mustdrop_encode(&m->params, &m->hidden, m->grid.h, m->grid.w, m->mass,
                                         plans, &trace, &exec),
                     VTC_OK);
    exec_scratch_free(&exec);
    for (size_t b = 0; b < m->n_images; b++)
        assert_int_equal(vtc_plan_validate(&r.plan[b], NULL), VTC_OK);
    return r;
}

#endif
