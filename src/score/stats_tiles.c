/*
 * Attention statistics fed by tiles of rows. The totals live in the caller's state, behind a header
 * that says what it was begun with. A block of 64 rows that a tile cuts stays open there.
 */
#include "stats.h"

#include <string.h>

/* What a state begins with. */
struct header {
    uint64_t magic;
    size_t n_heads, n_rows, n_keys;
    /* of the parameters it was begun with; of scale, the bits */
    size_t want, scale, causal, row_offset, first_col, n_cols, n_voters, n_chosen;
    size_t next_row;
    size_t has_lse; /* 0 or 1; SIZE_MAX before the first tile */
};

#define MAGIC UINT64_C(0x7674632d73746174)

static struct header *lay_out_state(vtci_arena *arena, vtci_stats *s)
{
    const size_t n = s->params.n_cols, word = sizeof(float);
    const size_t heads = vtci_stats_has_sums(s) ? vtci_mul(s->n_heads, n) : 0;
    const size_t sums = (s->params.want & VTCI_STATS_SUMS) != 0 && heads == 0 ? n : 0;
    const size_t max = (s->params.want & VTC_STATS_COL_MAX) != 0 ? n : 0;
    struct header *header = vtci_take(arena, 1, sizeof(*header));
    vtci_stats_totals t;

    t.head_sum = vtci_take(arena, heads, word);
    t.head_open = vtci_take(arena, heads, word);
    t.sum = vtci_take(arena, sums, word);
    t.open = vtci_take(arena, sums, word);
    t.max = vtci_take(arena, max, word);
    t.rows = vtci_take(arena, vtci_mul(s->params.n_chosen, n), word);
    if (!vtci_stats_has_sums(s))
        t.head_sum = t.head_open = NULL;
    if (vtci_stats_has_sums(s) || (s->params.want & VTCI_STATS_SUMS) == 0)
        t.sum = t.open = NULL;
    if ((s->params.want & VTC_STATS_COL_MAX) == 0)
        t.max = NULL;
    s->totals = t;
    return header;
}

static struct header header_of(const vtci_stats *s)
{
    const vtc_attention_stats_params *p = &s->params;
    uint32_t scale;

    memcpy(&scale, &p->scale, sizeof(scale));

    const struct header header = { .magic = MAGIC,
                                   .n_heads = s->n_heads,
                                   .n_rows = s->n_rows,
                                   .n_keys = s->n_keys,
                                   .want = p->want,
                                   .scale = scale,
                                   .causal = p->causal != 0,
                                   .row_offset = p->row_offset,
                                   .first_col = p->first_col,
                                   .n_cols = p->n_cols,
                                   .n_voters = p->voters == NULL ? SIZE_MAX : p->n_voters,
                                   .n_chosen = p->n_chosen,
                                   .next_row = 0,
                                   .has_lse = SIZE_MAX };

    return header;
}

static vtci_stats_piece state_piece(const vtci_stats *s, const void *state)
{
    vtci_arena arena = { NULL, 0, false };
    vtci_stats copy = *s;

    lay_out_state(&arena, &copy);
    return (vtci_stats_piece){ "state", state, arena.used };
}

static vtc_status check_address(const vtci_call *call, const void *state)
{
    VTCI_REQUIRE(call, state != NULL, VTC_ERR_NULL, "state is NULL");
    VTCI_REQUIRE(call, (uintptr_t)state % 64 == 0, VTC_ERR_SCRATCH,
                 "the state must be 64-byte aligned");
    return VTC_OK;
}

/* Opens the parameters and a state that was begun with them. */
static vtc_status open_state(const vtci_call *call, const vtc_attention_stats_params *params,
                             const void *state, vtci_stats *s, struct header **header)
{
    vtci_arena arena = { NULL, 0, false };
    struct header got, want;

    VTCI_TRY(check_address(call, state));
    memcpy(&got, state, sizeof(got));
    VTCI_REQUIRE(call, got.magic == MAGIC, VTC_ERR_RANGE, "the state was not begun");
    VTCI_TRY(vtci_stats_open_params(call, params, got.n_heads, got.n_rows, got.n_keys, s));
    want = header_of(s);
    want.next_row = got.next_row;
    want.has_lse = got.has_lse;
    VTCI_REQUIRE(call, memcmp(&got, &want, sizeof(got)) == 0, VTC_ERR_RANGE,
                 "the state was begun with other parameters");
    arena.base = (char *)(uintptr_t)state;
    *header = lay_out_state(&arena, s);
    s->first_row = got.next_row;
    return VTC_OK;
}

static vtc_status open_begin(const vtci_call *call, const vtc_attention_stats_params *params,
                             size_t n_heads, size_t n_rows, size_t n_keys, vtci_stats *s)
{
    VTCI_REQUIRE(call, n_rows != SIZE_MAX, VTC_ERR_OVERFLOW, "n_rows is SIZE_MAX");
    return vtci_stats_open_params(call, params, n_heads, n_rows, n_keys, s);
}

vtc_status vtc_attention_stats_state(const vtc_attention_stats_params *params, size_t n_heads,
                                     size_t n_rows, size_t n_keys, const vtc_exec *exec,
                                     size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_stats s;

    VTCI_TRY(vtci_begin_query(&call, "vtc_attention_stats_state", exec, bytes));
    VTCI_TRY(open_begin(&call, params, n_heads, n_rows, n_keys, &s));
    arena = vtci_arena_open(&call);
    lay_out_state(&arena, &s);
    return vtci_end_query(&call, &arena, bytes);
}

vtc_status vtc_attention_stats_begin(const vtc_attention_stats_params *params, size_t n_heads,
                                     size_t n_rows, size_t n_keys, void *state, size_t state_bytes,
                                     const vtc_exec *exec)
{
    vtci_stats_piece whole = { "state", state, state_bytes }, inputs[VTCI_STATS_N_INPUTS];
    vtci_arena arena = { state, 0, false };
    struct header *header;
    vtci_call call;
    vtci_stats s;

    VTCI_TRY(vtci_begin(&call, "vtc_attention_stats_begin", exec));
    VTCI_TRY(open_begin(&call, params, n_heads, n_rows, n_keys, &s));
    VTCI_TRY(check_address(&call, state));
    header = lay_out_state(&arena, &s);
    VTCI_REQUIRE(&call, !arena.overflow, VTC_ERR_OVERFLOW,
                 "the size of the state overflows size_t");
    VTCI_REQUIRE(&call, state_bytes >= arena.used, VTC_ERR_SCRATCH,
                 "needs a state of %zu bytes, %zu are given", arena.used, state_bytes);
    vtci_stats_list_inputs(&s, NULL, NULL, NULL, inputs);
    VTCI_TRY(vtci_stats_check_apart(&call, &whole, inputs, VTCI_STATS_N_INPUTS));
    vtci_stats_start(&s);
    *header = header_of(&s);
    return VTC_OK;
}

vtc_status vtc_attention_stats_update_scratch(const vtc_attention_stats_params *params,
                                              size_t n_keys, const vtc_tensor *q,
                                              const vtc_tensor *k, const vtc_exec *exec,
                                              size_t *bytes)
{
    vtci_call call;
    vtci_arena arena;
    vtci_stats s;

    VTCI_TRY(vtci_begin_query(&call, "vtc_attention_stats_update_scratch", exec, bytes));
    VTCI_TRY(vtci_stats_check_views(&call, q, k));
    VTCI_TRY(vtci_stats_open_params(&call, params, q->dim[0], SIZE_MAX, n_keys, &s));
    vtci_stats_set_views(&s, q, k);
    arena = vtci_arena_open(&call);
    vtci_stats_lay_out(&arena, &s);
    return vtci_end_query(&call, &arena, bytes);
}

/* The tile continues the rows, and its keys are those that its rows see. */
static vtc_status check_tile(const vtci_stats *s, const vtc_tensor *q, const vtc_tensor *k)
{
    const size_t m = q->dim[1], n = k->dim[1];
    size_t seen = s->n_keys;

    VTCI_REQUIRE(s->call, q->dim[0] == s->n_heads, VTC_ERR_SHAPE, "q has %zu heads, the state %zu",
                 q->dim[0], s->n_heads);
    VTCI_REQUIRE(s->call, m <= s->n_rows - s->first_row, VTC_ERR_RANGE,
                 "%zu rows after %zu are more than the %zu of the whole", m, s->first_row,
                 s->n_rows);
    VTCI_REQUIRE(s->call, n <= s->n_keys, VTC_ERR_SHAPE, "k has %zu keys, the whole %zu", n,
                 s->n_keys);
    for (size_t i = 0; s->params.causal && i < m; i++)
        seen = vtci_max(i == 0 ? 0 : seen, vtci_stats_seen(s, s->first_row + i));
    VTCI_REQUIRE(s->call, m == 0 || s->n_heads == 0 || n >= seen, VTC_ERR_SHAPE,
                 "rows %zu to %zu see %zu keys, k has %zu", s->first_row, s->first_row + m, seen,
                 n);
    return VTC_OK;
}

vtc_status vtc_attention_stats_update(const vtc_attention_stats_params *params, void *state,
                                      const vtc_tensor *q, const vtc_tensor *k,
                                      const vtc_tensor *lse, const vtc_exec *exec)
{
    vtci_stats_piece whole, inputs[VTCI_STATS_N_INPUTS];
    struct header *header;
    vtci_call call;
    vtci_arena arena;
    vtci_stats s;

    VTCI_TRY(vtci_begin(&call, "vtc_attention_stats_update", exec));
    VTCI_TRY(open_state(&call, params, state, &s, &header));
    VTCI_TRY(vtci_stats_check_views(&call, q, k));
    VTCI_TRY(check_tile(&s, q, k));
    vtci_stats_set_views(&s, q, k);
    VTCI_TRY(vtci_stats_set_lse(&s, lse));
    VTCI_REQUIRE(&call, header->has_lse == SIZE_MAX || header->has_lse == (lse != NULL),
                 VTC_ERR_NULL, "lse is %s, but was %s before", lse == NULL ? "NULL" : "given",
                 lse == NULL ? "given" : "NULL");
    vtci_stats_list_inputs(&s, q, k, lse, inputs);
    whole = state_piece(&s, state);
    VTCI_TRY(vtci_stats_check_apart(&call, &whole, inputs, VTCI_STATS_N_INPUTS));
    arena = vtci_arena_open(&call);
    vtci_stats_lay_out(&arena, &s);
    VTCI_TRY(vtci_arena_check(&call, &arena));
    vtci_stats_run(&s);
    header->next_row += s.q.n_rows;
    header->has_lse = lse != NULL;
    return VTC_OK;
}

vtc_status vtc_attention_stats_finish(const vtc_attention_stats_params *params, const void *state,
                                      const vtc_attention_stats_out *out, const vtc_exec *exec)
{
    vtc_attention_stats_out results;
    vtci_stats_piece inputs[VTCI_STATS_N_INPUTS];
    struct header *header;
    vtci_call call;
    vtci_stats s;

    VTCI_TRY(vtci_begin(&call, "vtc_attention_stats_finish", exec));
    VTCI_TRY(open_state(&call, params, state, &s, &header));
    VTCI_REQUIRE(&call, header->next_row == s.n_rows, VTC_ERR_RANGE, "%zu of %zu rows have come",
                 header->next_row, s.n_rows);
    vtci_stats_list_inputs(&s, NULL, NULL, NULL, inputs);
    inputs[0] = state_piece(&s, state);
    VTCI_TRY(vtci_stats_open_outputs(&s, out, inputs, &results));
    vtci_stats_write_sums(&s, &results);
    if (s.totals.max != NULL)
        memcpy(results.col_max, s.totals.max, s.params.n_cols * sizeof(float));
    if (s.params.n_chosen * s.params.n_cols != 0)
        memcpy(results.rows, s.totals.rows, s.params.n_chosen * s.params.n_cols * sizeof(float));
    return VTC_OK;
}
