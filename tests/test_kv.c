/* K/V caches: to new memory and in place. */
#include "support/support.h"

#include "reference/plan_reference.h"

#include <stdlib.h>
#include <string.h>

typedef enum layout { HEADS_TOKENS_D, TOKENS_HEADS_D, HEADS_D_TOKENS, N_LAYOUTS } layout;

/* A cache of n_rows tokens, H heads, D elements of `size` bytes; `pad` rows of room behind. */
typedef struct shape {
    layout layout;
    size_t heads, d, size, n_rows, pad;
} shape;

static size_t bytes_of(const shape *s)
{
    return s->heads * s->d * s->size * (s->n_rows + s->pad);
}

static vtc_kv view_of(const shape *s, void *data, const int32_t *row_slot)
{
    const size_t room = s->n_rows + s->pad, row = s->d * s->size;
    vtc_kv kv = VTC_KV_INIT;

    kv.data = data;
    kv.n_rows = room;
    kv.row_slot = row_slot;
    if (s->layout == HEADS_TOKENS_D) {
        kv.n_outer = s->heads;
        kv.outer_stride = room * row;
        kv.piece = kv.row_stride = row;
    } else if (s->layout == TOKENS_HEADS_D) {
        kv.piece = kv.row_stride = s->heads * row;
    } else {
        kv.n_outer = s->heads;
        kv.outer_stride = room * row;
        kv.n_inner = s->d;
        kv.inner_stride = room * s->size;
        kv.piece = kv.row_stride = s->size;
    }
    return kv;
}

/* The definition: element e of head h of token t, in any layout. */
static const unsigned char *element(const shape *s, const void *data, const int32_t *row_slot,
                                    size_t t, size_t h, size_t e)
{
    const size_t room = s->n_rows + s->pad, slot = row_slot == NULL ? t : (size_t)row_slot[t];
    size_t at = 0;

    if (s->layout == HEADS_TOKENS_D)
        at = (h * room + slot) * s->d + e;
    else if (s->layout == TOKENS_HEADS_D)
        at = (slot * s->heads + h) * s->d + e;
    else
        at = (h * s->d + e) * room + slot;
    return (const unsigned char *)data + at * s->size;
}

static shape random_shape(uint64_t *seed)
{
    const size_t sizes[] = { 1, 2, 4, 8, 34, 3 }; /* 34: a block of 32 in 8-bit quantisation */
    shape s;

    s.layout = (layout)rng_below(seed, N_LAYOUTS);
    s.heads = 1 + rng_below(seed, 4);
    s.d = 1 + rng_below(seed, 6);
    s.size = sizes[rng_below(seed, 6)];
    s.n_rows = 1 + rng_below(seed, 40);
    s.pad = rng_below(seed, 3) * 4;
    return s;
}

static void *random_bytes(uint64_t *seed, size_t n)
{
    unsigned char *x = guard_alloc(n);

    for (size_t i = 0; i < n; i++)
        x[i] = (unsigned char)rng(seed);
    return x;
}

static int32_t *random_slots(uint64_t *seed, size_t n)
{
    int32_t *slot = malloc((n + 1) * sizeof(*slot));

    for (size_t i = 0; i < n; i++) {
        const size_t other = rng_below(seed, i + 1);

        slot[i] = slot[other];
        slot[other] = (int32_t)i;
    }
    return slot;
}

static void assert_moved(const vtc_plan *plan, const shape *from, const void *src,
                         const int32_t *src_slot, const shape *to, const void *dst,
                         const int32_t *dst_slot)
{
    for (size_t j = 0; j < plan->n_out; j++)
        for (size_t h = 0; h < from->heads; h++)
            for (size_t e = 0; e < from->d; e++)
                assert_memory_equal(element(to, dst, dst_slot, j, h, e),
                                    element(from, src, src_slot, (size_t)plan->keep[j], h, e),
                                    from->size);
}

enum { N_VIEWS = 3 };

static void kept_rows_arrive_in_new_memory(void **state)
{
    uint64_t seed = 1;

    (void)state;
    for (int round = 0; round < 300; round++) {
        shape from = random_shape(&seed), to = from;
        const size_t n_out = rng_below(&seed, from.n_rows + 1);
        vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, from.n_rows, n_out);
        vtc_exec exec = test_exec(rng_below(&seed, 4));
        vtc_kv src[N_VIEWS], dst[N_VIEWS];
        int32_t *src_slot = NULL, *dst_slot = NULL;

        to.n_rows = n_out;
        if (rng_below(&seed, 2))
            src_slot = random_slots(&seed, from.n_rows + from.pad);
        if (rng_below(&seed, 2))
            dst_slot = random_slots(&seed, to.n_rows + to.pad);
        for (size_t j = 0; j < n_out; j++) /* any order, rows may repeat */
            plan.keep[j] = plan.keep[rng_below(&seed, n_out)];
        for (size_t v = 0; v < N_VIEWS; v++) {
            src[v] = view_of(&from, random_bytes(&seed, bytes_of(&from)), src_slot);
            dst[v] = view_of(&to, guard_alloc(bytes_of(&to)), dst_slot);
            guard_readonly(src[v].data);
        }
        assert_int_equal(vtc_plan_gather_kv(&plan, src, dst, N_VIEWS, &exec), VTC_OK);
        for (size_t v = 0; v < N_VIEWS; v++) {
            assert_moved(&plan, &from, src[v].data, src_slot, &to, dst[v].data, dst_slot);
            guard_free(src[v].data);
            guard_free(dst[v].data);
        }
        free(src_slot);
        free(dst_slot);
        free_plan(&plan);
    }
}

static void rows_in_place_are_those_of_new_memory(void **state)
{
    uint64_t seed = 2;

    (void)state;
    for (int round = 0; round < 300; round++) {
        const shape s = random_shape(&seed);
        vtc_plan plan =
            random_plan(&seed, PLAN_ASCENDING, s.n_rows, rng_below(&seed, s.n_rows + 1));
        vtc_exec exec = test_exec(rng_below(&seed, 4));
        int32_t *slot = rng_below(&seed, 2) ? random_slots(&seed, s.n_rows + s.pad) : NULL;
        void *before[N_VIEWS];
        vtc_kv views[N_VIEWS];

        for (size_t v = 0; v < N_VIEWS; v++) {
            before[v] = random_bytes(&seed, bytes_of(&s));
            views[v] = view_of(&s, guard_alloc(bytes_of(&s)), slot);
            memcpy(views[v].data, before[v], bytes_of(&s));
        }
        assert_int_equal(vtc_plan_compact_kv(&plan, views, N_VIEWS, &exec), VTC_OK);
        for (size_t v = 0; v < N_VIEWS; v++) {
            assert_moved(&plan, &s, before[v], slot, &s, views[v].data, slot);
            guard_free(before[v]);
            guard_free(views[v].data);
        }
        free(slot);
        free_plan(&plan);
    }
}

static void a_large_view_is_cut_into_tasks_of_rows(void **state)
{
    const shape from = { TOKENS_HEADS_D, 4, 64, 4, 700, 0 },
                to = { TOKENS_HEADS_D, 4, 64, 4, 500, 0 };
    uint64_t seed = 3;
    vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, from.n_rows, to.n_rows);
    vtc_exec exec = test_exec(4);
    vtc_kv src = view_of(&from, random_bytes(&seed, bytes_of(&from)), NULL);
    vtc_kv dst = view_of(&to, guard_alloc(bytes_of(&to)), NULL);

    (void)state;
    assert_int_equal(vtc_plan_gather_kv(&plan, &src, &dst, 1, &exec), VTC_OK);
    assert_moved(&plan, &from, src.data, NULL, &to, dst.data, NULL);
    guard_free(src.data);
    guard_free(dst.data);
    free_plan(&plan);
}

/* Rows that in all exceed the caches take a way of their own. */
static void very_large_moves_arrive_too(void **state)
{
    const shape from = { HEADS_TOKENS_D, 4, 4, 1024, 2300, 0 },
                to = { HEADS_TOKENS_D, 4, 4, 1024, 2100, 0 };
    uint64_t seed = 5;
    vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, from.n_rows, to.n_rows);
    vtc_exec exec = test_exec(2);
    vtc_kv src = view_of(&from, random_bytes(&seed, bytes_of(&from)), NULL);
    vtc_kv dst = view_of(&to, guard_alloc(bytes_of(&to)), NULL);

    (void)state;
    assert_int_equal(vtc_plan_gather_kv(&plan, &src, &dst, 1, &exec), VTC_OK);
    assert_moved(&plan, &from, src.data, NULL, &to, dst.data, NULL);
    assert_int_equal(vtc_plan_compact_kv(&plan, &src, 1, &exec), VTC_OK);
    for (size_t h = 0; h < from.heads; h++)
        assert_memory_equal(element(&from, src.data, NULL, 0, h, 0),
                            element(&to, dst.data, NULL, 0, h, 0), to.n_rows * from.d * from.size);
    guard_free(src.data);
    guard_free(dst.data);
    free_plan(&plan);
}

static void layouts_may_differ_in_strides(void **state)
{
    const shape from = { TOKENS_HEADS_D, 3, 5, 2, 9, 0 }, to = { HEADS_TOKENS_D, 3, 5, 2, 4, 2 };
    uint64_t seed = 4;
    vtc_plan plan = random_plan(&seed, PLAN_ASCENDING, 9, 4);
    vtc_kv dst = view_of(&to, guard_alloc(bytes_of(&to)), NULL), src = dst;

    (void)state;
    /* [tokens, heads, d] read head by head */
    src.data = random_bytes(&seed, bytes_of(&from));
    src.n_rows = 9;
    src.outer_stride = 5 * 2;
    src.row_stride = 3 * 5 * 2;
    assert_int_equal(vtc_plan_gather_kv(&plan, &src, &dst, 1, NULL), VTC_OK);
    assert_moved(&plan, &from, src.data, NULL, &to, dst.data, NULL);
    guard_free(src.data);
    guard_free(dst.data);
    free_plan(&plan);
}

static void a_source_may_repeat_its_heads(void **state)
{
    const unsigned char rows[4] = { 10, 11, 12, 13 }, want[4] = { 11, 13, 11, 13 };
    const int32_t kept[2] = { 1, 3 };
    unsigned char out[4];
    vtc_plan plan = empty_plan(4, 2, 0);
    const shape to = { HEADS_TOKENS_D, 2, 1, 1, 2, 0 };
    vtc_kv dst = view_of(&to, out, NULL), src = dst;

    (void)state;
    src.data = (void *)(uintptr_t)rows;
    src.n_rows = 4;
    src.outer_stride = 0;
    assert_int_equal(vtc_plan_select(&plan, 4, kept, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_gather_kv(&plan, &src, &dst, 1, NULL), VTC_OK);
    assert_memory_equal(out, want, sizeof(want));
    free_plan(&plan);
}

/* ---- all layers at once ---------------------------------------------------------------------- */

enum { N_LAYERS = 5, N_PER_LAYER = 2, N_ALL = N_LAYERS * N_PER_LAYER };

/* A model's caches: every layer has lengths, a plan and slots of its own, some stay whole. */
typedef struct model {
    shape from[N_LAYERS], to[N_LAYERS];
    vtc_plan plan[N_LAYERS];
    const vtc_plan *plan_of_layer[N_LAYERS];
    int32_t *slot[N_LAYERS];
    void *before[N_ALL];
    vtc_kv src[N_ALL], dst[N_ALL];
} model;

static void open_layer(uint64_t *seed, model *m, size_t l)
{
    shape *s = &m->from[l];

    *s = random_shape(seed);
    m->to[l] = *s;
    m->to[l].n_rows = rng_below(seed, s->n_rows + 1);
    m->plan[l] = random_plan(seed, PLAN_ASCENDING, s->n_rows, m->to[l].n_rows);
    m->plan_of_layer[l] = rng_below(seed, 3) == 0 ? NULL : &m->plan[l];
    m->slot[l] = rng_below(seed, 2) ? random_slots(seed, s->n_rows + s->pad) : NULL;
    for (size_t v = l * N_PER_LAYER; v < (l + 1) * N_PER_LAYER; v++) {
        m->before[v] = random_bytes(seed, bytes_of(s));
        m->src[v] = view_of(s, guard_alloc(bytes_of(s)), m->slot[l]);
        m->dst[v] = view_of(&m->to[l], guard_alloc(bytes_of(&m->to[l])), NULL);
        memcpy(m->src[v].data, m->before[v], bytes_of(s));
        poison(m->dst[v].data, bytes_of(&m->to[l]));
    }
}

static void close_layer(model *m, size_t l)
{
    for (size_t v = l * N_PER_LAYER; v < (l + 1) * N_PER_LAYER; v++) {
        guard_free(m->before[v]);
        guard_free(m->src[v].data);
        guard_free(m->dst[v].data);
    }
    free(m->slot[l]);
    free_plan(&m->plan[l]);
}

static void assert_layer(const model *m, size_t l)
{
    for (size_t v = l * N_PER_LAYER; v < (l + 1) * N_PER_LAYER; v++) {
        const size_t bytes = bytes_of(&m->from[l]);

        if (m->plan_of_layer[l] == NULL) {
            assert_memory_equal(m->src[v].data, m->before[v], bytes);
            assert_true(is_poisoned(m->dst[v].data, bytes_of(&m->to[l])));
            continue;
        }
        assert_moved(&m->plan[l], &m->from[l], m->before[v], m->slot[l], &m->to[l], m->dst[v].data,
                     NULL);
        assert_moved(&m->plan[l], &m->from[l], m->before[v], m->slot[l], &m->from[l],
                     m->src[v].data, m->slot[l]);
    }
}

static void every_layer_moves_by_its_own_plan_and_some_stay_whole(void **state)
{
    uint64_t seed = 6;

    (void)state;
    for (int round = 0; round < 100; round++) {
        vtc_exec exec = test_exec(rng_below(&seed, 6));
        model m;

        for (size_t l = 0; l < N_LAYERS; l++)
            open_layer(&seed, &m, l);
        assert_int_equal(vtc_plan_gather_kv_layers(m.plan_of_layer, N_LAYERS, m.src, m.dst,
                                                   N_PER_LAYER, &exec),
                         VTC_OK);
        assert_int_equal(vtc_plan_compact_kv_layers(m.plan_of_layer, N_LAYERS, m.src, N_PER_LAYER,
                                                    &exec),
                         VTC_OK);
        for (size_t l = 0; l < N_LAYERS; l++) {
            assert_layer(&m, l);
            close_layer(&m, l);
        }
    }
}

static void views_of_layers_that_stay_whole_are_not_looked_at(void **state)
{
    const vtc_plan *none[3] = { NULL, NULL, NULL };
    unsigned char x[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    const shape s = { HEADS_TOKENS_D, 1, 1, 1, 8, 0 };
    const int32_t rows[2] = { 3, 7 };
    vtc_kv views[3] = { VTC_KV_INIT, VTC_KV_INIT, VTC_KV_INIT };
    vtc_plan plan = empty_plan(8, 2, 0);

    (void)state;
    assert_int_equal(vtc_plan_select(&plan, 8, rows, 2, NULL, NULL), VTC_OK);
    assert_int_equal(vtc_plan_compact_kv_layers(none, 3, NULL, 2, NULL), VTC_OK);
    assert_int_equal(vtc_plan_compact_kv_layers(NULL, 0, NULL, 2, NULL), VTC_OK);
    assert_int_equal(vtc_plan_compact_kv_layers(none, 3, views, 0, NULL), VTC_OK);
    none[1] = &plan;
    views[1] = view_of(&s, x, NULL);
    assert_int_equal(vtc_plan_compact_kv_layers(none, 3, views, 1, NULL), VTC_OK);
    assert_true(x[0] == 4 && x[1] == 8 && x[2] == 3);
    free_plan(&plan);
}

static void nothing_to_move_is_fine(void **state)
{
    vtc_plan plan = empty_plan(0, 0, 0);
    vtc_kv view = VTC_KV_INIT;

    (void)state;
    assert_int_equal(vtc_plan_gather_kv(&plan, NULL, NULL, 0, NULL), VTC_OK);
    assert_int_equal(vtc_plan_compact_kv(&plan, &view, 1, NULL), VTC_OK);
    free_plan(&plan);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void refuse(const vtc_plan *plan, const vtc_kv *src, const vtc_kv *dst, vtc_status want,
                   const char *part)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;

    record_errors(&exec, &log);
    assert_failed(&log,
                  dst == NULL ? vtc_plan_compact_kv(plan, src, 1, &exec)
                              : vtc_plan_gather_kv(plan, src, dst, 1, &exec),
                  want, part);
}

typedef struct pair {
    unsigned char src[6 * 8], dst[6 * 8];
    int32_t slot[6];
    vtc_kv from, to;
    vtc_plan plan;
} pair;

static void set_up(pair *p)
{
    const shape s = { HEADS_TOKENS_D, 2, 2, 2, 6, 0 };
    const int32_t rows[3] = { 0, 2, 5 };

    p->plan = empty_plan(6, 3, 0);
    assert_int_equal(vtc_plan_select(&p->plan, 6, rows, 3, NULL, NULL), VTC_OK);
    p->from = view_of(&s, p->src, NULL);
    p->to = view_of(&s, p->dst, NULL);
    for (int32_t i = 0; i < 6; i++)
        p->slot[i] = i;
    poison(p->src, sizeof(p->src));
    poison(p->dst, sizeof(p->dst));
}

static void views_are_checked(void **state)
{
    pair p;
    vtc_kv bad;

    (void)state;
    set_up(&p);
    refuse(NULL, &p.from, &p.to, VTC_ERR_NULL, "plan is NULL");
    refuse(&p.plan, NULL, &p.to, VTC_ERR_NULL, "src is NULL");
    bad = p.from;
    bad.data = NULL;
    refuse(&p.plan, &bad, NULL, VTC_ERR_NULL, "views[0] has no data");
    bad = p.from;
    bad.struct_size = 0;
    refuse(&p.plan, &bad, &p.to, VTC_ERR_RANGE, "src[0] has struct_size 0");
    bad = p.from;
    bad.n_rows = 5;
    refuse(&p.plan, &bad, &p.to, VTC_ERR_SHAPE, "src[0] has 5 rows, the plan needs 6");
    refuse(&p.plan, &bad, NULL, VTC_ERR_SHAPE, "views[0] has 5 rows");
    bad.n_rows = 2;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_SHAPE, "dst[0] has 2 rows, the plan needs 3");
    bad = p.to;
    bad.piece = 2;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_SHAPE, "pieces of 4 bytes");
    bad = p.to;
    bad.row_stride = 3;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_OVERLAP, "pieces of 4 bytes overlap");
    bad = p.to;
    bad.outer_stride = 20;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_OVERLAP, "strides 20, 0 and 4");
    bad = p.to;
    bad.outer_stride = SIZE_MAX / 2;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_OVERFLOW, "size of dst[0]");
    assert_true(is_poisoned(p.dst, sizeof(p.dst)) && is_poisoned(p.src, sizeof(p.src)));
    free_plan(&p.plan);
}

static void memory_that_is_written_must_be_apart(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtc_kv bad, twice[2];
    pair p;

    (void)state;
    set_up(&p);
    bad = p.to;
    bad.data = p.src + 40;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_OVERLAP, "dst[0] overlaps src[0]");
    bad = p.to;
    bad.data = p.plan.keep;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_OVERLAP, "dst overlaps keep");
    bad = p.from;
    bad.row_slot = (const int32_t *)(const void *)p.src;
    memset(p.src, 0, 24);
    refuse(&p.plan, &bad, NULL, VTC_ERR_OVERLAP, "overlaps row_slot");
    twice[0] = twice[1] = p.from;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv(&p.plan, twice, 2, &exec), VTC_ERR_OVERLAP,
                  "views[1] is the same memory as views[0]");
    free_plan(&p.plan);
}

static void rows_and_slots_are_checked(void **state)
{
    vtc_exec exec = VTC_EXEC_INIT;
    error_log log;
    vtc_kv bad, two[2];
    pair p;

    (void)state;
    set_up(&p);
    p.slot[4] = 6;
    bad = p.from;
    bad.row_slot = p.slot;
    refuse(&p.plan, &bad, &p.to, VTC_ERR_RANGE, "row_slot[4] of src[0] is 6 of 6");
    refuse(&p.plan, &bad, NULL, VTC_ERR_RANGE, "row_slot[4] of views[0]");
    p.slot[1] = -1;
    bad = p.to;
    bad.row_slot = p.slot;
    refuse(&p.plan, &p.from, &bad, VTC_ERR_RANGE, "row_slot[1] of dst[0] is -1");
    two[0] = two[1] = p.from;
    two[1].struct_size++;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv(&p.plan, two, 2, &exec), VTC_ERR_RANGE,
                  "views[1] has struct_size");
    p.plan.keep[1] = -1;
    refuse(&p.plan, &p.from, &p.to, VTC_ERR_RANGE, "keep[1] of plan is -1");
    p.plan.keep[1] = 5;
    refuse(&p.plan, &p.from, NULL, VTC_ERR_RANGE, "keep must ascend in place, keep[2] is 5");
    assert_int_equal(vtc_plan_gather_kv(&p.plan, &p.from, &p.to, 1, NULL), VTC_OK);
    free_plan(&p.plan);
}

static void views_of_a_later_version_keep_their_distance(void **state)
{
    struct {
        vtc_kv kv;
        size_t later_field;
    } views[2];
    const unsigned char want[4] = { 1, 3, 11, 13 };
    unsigned char a[4] = { 0, 1, 2, 3 }, b[4] = { 10, 11, 12, 13 };
    const int32_t rows[2] = { 1, 3 };
    vtc_plan plan = empty_plan(4, 2, 0);
    const shape s = { HEADS_TOKENS_D, 1, 1, 1, 4, 0 };

    (void)state;
    assert_int_equal(vtc_plan_select(&plan, 4, rows, 2, NULL, NULL), VTC_OK);
    memset(views, 0, sizeof(views));
    views[0].kv = view_of(&s, a, NULL);
    views[1].kv = view_of(&s, b, NULL);
    views[0].kv.struct_size = views[1].kv.struct_size = sizeof(views[0]);
    assert_int_equal(vtc_plan_compact_kv(&plan, &views[0].kv, 2, NULL), VTC_OK);
    assert_memory_equal(a, want, 2);
    assert_memory_equal(b, want + 2, 2);
    views[1].later_field = 1;
    assert_int_equal(vtc_plan_compact_kv(&plan, &views[0].kv, 2, NULL), VTC_ERR_UNSUPPORTED);
    free_plan(&plan);
}

static void layers_are_checked_before_any_moves(void **state)
{
    const vtc_plan *plans[2];
    vtc_exec exec = VTC_EXEC_INIT;
    vtc_kv views[2];
    error_log log;
    pair p, other;

    (void)state;
    set_up(&p);
    set_up(&other);
    plans[0] = &p.plan;
    plans[1] = &other.plan;
    views[0] = p.from;
    views[1] = other.from;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv_layers(NULL, 2, views, 1, &exec), VTC_ERR_NULL,
                  "plan_of_layer is NULL");
    views[1].n_rows = 5;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv_layers(plans, 2, views, 1, &exec), VTC_ERR_SHAPE,
                  "views[1] has 5 rows, the plan needs 6");
    views[1] = p.from;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv_layers(plans, 2, views, 1, &exec), VTC_ERR_OVERLAP,
                  "views[1] is the same memory as views[0]");
    views[1] = other.from;
    other.plan.keep[1] = 0;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_compact_kv_layers(plans, 2, views, 1, &exec), VTC_ERR_RANGE,
                  "keep must ascend in place");
    other.plan.keep[1] = 6;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_plan_gather_kv_layers(plans, 2, views, views, 1, &exec), VTC_ERR_RANGE,
                  "keep[1] of plan is 6");
    assert_true(is_poisoned(p.src, sizeof(p.src)));
    free_plan(&p.plan);
    free_plan(&other.plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_rows_arrive_in_new_memory),
        cmocka_unit_test(rows_in_place_are_those_of_new_memory),
        cmocka_unit_test(a_large_view_is_cut_into_tasks_of_rows),
        cmocka_unit_test(very_large_moves_arrive_too),
        cmocka_unit_test(layouts_may_differ_in_strides),
        cmocka_unit_test(a_source_may_repeat_its_heads),
        cmocka_unit_test(every_layer_moves_by_its_own_plan_and_some_stay_whole),
        cmocka_unit_test(views_of_layers_that_stay_whole_are_not_looked_at),
        cmocka_unit_test(layers_are_checked_before_any_moves),
        cmocka_unit_test(nothing_to_move_is_fine),
        cmocka_unit_test(views_are_checked),
        cmocka_unit_test(memory_that_is_written_must_be_apart),
        cmocka_unit_test(rows_and_slots_are_checked),
        cmocka_unit_test(views_of_a_later_version_keep_their_distance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
