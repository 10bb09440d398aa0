/*
 * Operations and cache of a model, in closed form. Doubles throughout: the counts are far beyond 32
 * bits, and exact below 2^53.
 */
#include "../../include/vtc/cost.h"
#include "../base/tensor.h"

/* ---- checks ---------------------------------------------------------------------------------- */

static vtc_status check_decoder(const vtci_call *call, const vtc_decoder *decoder)
{
    VTCI_REQUIRE_PTR(call, decoder);
    VTCI_REQUIRE(call,
                 decoder->n_layers != 0 && decoder->n_hidden != 0 && decoder->n_mlp != 0 &&
                     decoder->n_kv != 0,
                 VTC_ERR_RANGE, "the decoder has %zu layers of width %zu, %zu, %zu; none may be 0",
                 decoder->n_layers, decoder->n_hidden, decoder->n_mlp, decoder->n_kv);
    return VTC_OK;
}

static vtc_status check_convention(const vtci_call *call, vtc_cost_convention convention)
{
    VTCI_REQUIRE(call, (unsigned)convention <= VTC_COST_FLOPS_UNGATED, VTC_ERR_RANGE,
                 "convention is %d", (int)convention);
    return VTC_OK;
}

/* What all operations of a decoder are counted from. */
static vtc_status check_count(const vtci_call *call, const vtc_decoder *decoder,
                              vtc_cost_convention convention, const double *operations)
{
    VTCI_TRY(check_decoder(call, decoder));
    VTCI_REQUIRE_PTR(call, operations);
    return check_convention(call, convention);
}

static vtc_status check_bytes(const vtci_call *call, const vtc_decoder *decoder, size_t bits,
                              const double *bytes)
{
    VTCI_TRY(check_decoder(call, decoder));
    VTCI_REQUIRE_PTR(call, bytes);
    VTCI_REQUIRE(call, bits >= 1 && bits <= 64, VTC_ERR_RANGE, "values of %zu bits", bits);
    return VTC_OK;
}

static vtc_status read_schedule(const vtci_call *call, const vtc_token_schedule *from,
                                vtc_token_schedule *schedule)
{
    static const vtc_token_schedule none = VTC_TOKEN_SCHEDULE_INIT;

    *schedule = none;
    VTCI_REQUIRE(call, from != NULL, VTC_ERR_NULL, "schedule is NULL");
    VTCI_TRY(vtci_params_read(call, schedule, sizeof(*schedule), from));
    VTCI_REQUIRE(call, schedule->n_visual != NULL, VTC_ERR_NULL, "schedule.n_visual is NULL");
    return VTC_OK;
}

/* ---- decoder --------------------------------------------------------------------------------- */

static bool is_gated(vtc_cost_convention convention)
{
    return convention == VTC_COST_FLOPS_GATED || convention == VTC_COST_MACS_GATED;
}

static double per_mac(vtc_cost_convention convention)
{
    return convention == VTC_COST_FLOPS_GATED || convention == VTC_COST_FLOPS_UNGATED ? 2.0 : 1.0;
}

/* Multiply-adds of the matrices of one layer for each token: q, o, k, v and the MLP. */
static double token_macs(const vtc_decoder *decoder, vtc_cost_convention convention)
{
    const double d = (double)decoder->n_hidden;
    const double projections = 2.0 * d * (d + (double)decoder->n_kv);

    return projections + (is_gated(convention) ? 3.0 : 2.0) * d * (double)decoder->n_mlp;
}

/* Logits and values of n queries over m keys. */
static double attention_macs(const vtc_decoder *decoder, double n, double m)
{
    return 2.0 * n * m * (double)decoder->n_hidden;
}

static double layer_macs(const vtc_decoder *decoder, vtc_cost_convention convention, double n)
{
    return n * token_macs(decoder, convention) + attention_macs(decoder, n, n);
}

vtc_status vtc_cost_prefill(const vtc_decoder *decoder, size_t n_visual, size_t n_text,
                            vtc_cost_convention convention, double *operations,
                            const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_prefill", exec));
    VTCI_TRY(check_count(&call, decoder, convention, operations));
    *operations = per_mac(convention) * (double)decoder->n_layers *
                  layer_macs(decoder, convention, (double)n_visual + (double)n_text);
    return VTC_OK;
}

vtc_status vtc_cost_prefill_schedule(const vtc_decoder *decoder, const vtc_token_schedule *schedule,
                                     vtc_cost_convention convention, double *operations,
                                     const vtc_exec *exec)
{
    vtc_token_schedule s;
    vtci_call call;
    double macs = 0.0;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_prefill_schedule", exec));
    VTCI_TRY(check_count(&call, decoder, convention, operations));
    VTCI_TRY(read_schedule(&call, schedule, &s));
    for (size_t l = 0; l < decoder->n_layers; l++)
        macs += layer_macs(decoder, convention, (double)s.n_visual[l] + (double)s.n_text);
    *operations = per_mac(convention) * macs;
    return VTC_OK;
}

/* Visual and text rows in the cache of layer l. */
static double cached_rows(const vtc_token_schedule *s, size_t l)
{
    return (double)(s->n_cached != NULL ? s->n_cached : s->n_visual)[l] + (double)s->n_text;
}

vtc_status vtc_cost_decode(const vtc_decoder *decoder, const vtc_token_schedule *schedule,
                           size_t n_new, vtc_cost_convention convention, double *operations,
                           const vtc_exec *exec)
{
    const double n = (double)n_new;
    vtc_token_schedule s;
    vtci_call call;
    double macs = 0.0;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_decode", exec));
    VTCI_TRY(check_count(&call, decoder, convention, operations));
    VTCI_TRY(read_schedule(&call, schedule, &s));
    /* the new tokens see cached + 1, cached + 2, ... cached + n keys */
    for (size_t l = 0; l < decoder->n_layers; l++)
        macs += n * token_macs(decoder, convention) +
                attention_macs(decoder, 1.0, n * cached_rows(&s, l) + n * (n + 1.0) / 2.0);
    *operations = per_mac(convention) * macs;
    return VTC_OK;
}

vtc_status vtc_schedule_steps(size_t n_layers, size_t n_first, const size_t *after,
                              const size_t *n_left, size_t n_steps, size_t *n_visual,
                              const vtc_exec *exec)
{
    vtci_call call;
    size_t step = 0, n = n_first;

    VTCI_TRY(vtci_begin(&call, "vtc_schedule_steps", exec));
    VTCI_REQUIRE(&call, n_visual != NULL || n_layers == 0, VTC_ERR_NULL, "n_visual is NULL");
    VTCI_REQUIRE(&call, (after != NULL && n_left != NULL) || n_steps == 0, VTC_ERR_NULL,
                 "after or n_left is NULL");
    VTCI_REQUIRE(&call,
                 !vtci_ranges_meet(n_visual, vtci_mul(n_layers, sizeof(*n_visual)), after,
                                   vtci_mul(n_steps, sizeof(*after))) &&
                     !vtci_ranges_meet(n_visual, vtci_mul(n_layers, sizeof(*n_visual)), n_left,
                                       vtci_mul(n_steps, sizeof(*n_left))),
                 VTC_ERR_OVERLAP, "n_visual overlaps after or n_left");
    for (size_t i = 0; i < n_steps; i++) {
        VTCI_REQUIRE(&call, after[i] < n_layers && (i == 0 || after[i] > after[i - 1]),
                     VTC_ERR_RANGE, "step %zu is behind layer %zu of %zu; steps must ascend", i,
                     after[i], n_layers);
        VTCI_REQUIRE(&call, n_left[i] <= (i == 0 ? n_first : n_left[i - 1]), VTC_ERR_RANGE,
                     "step %zu leaves %zu tokens of %zu", i, n_left[i],
                     i == 0 ? n_first : n_left[i - 1]);
    }
    for (size_t l = 0; l < n_layers; l++) {
        n_visual[l] = n;
        if (step < n_steps && after[step] == l)
            n = n_left[step++];
    }
    return VTC_OK;
}

/* ---- encoder and projector ------------------------------------------------------------------- */

static vtc_status check_model(const vtci_call *call, const vtc_model *model,
                              const double *operations, vtc_cost_convention convention)
{
    VTCI_REQUIRE_PTR(call, model);
    VTCI_REQUIRE_PTR(call, operations);
    VTCI_REQUIRE(call, model->projector.n_joined != 0, VTC_ERR_RANGE,
                 "the projector joins 0 patches");
    return check_convention(call, convention);
}

/* One layer on `n` rows that attend to each other. */
static double encoder_layer_macs(const vtc_encoder *e, double n)
{
    const double c = (double)e->n_hidden;

    return n * (4.0 * c * c + 2.0 * c * (double)e->n_mlp) + 2.0 * n * n * c;
}

vtc_status vtc_cost_encoder(const vtc_model *model, size_t n_visual, vtc_cost_convention convention,
                            double *operations, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_encoder", exec));
    VTCI_TRY(check_model(&call, model, operations, convention));

    const vtc_encoder *e = &model->encoder;
    const size_t n_patches = vtci_mul(n_visual, model->projector.n_joined);
    const size_t n_tile = e->n_tile_patches == 0 ? n_patches : e->n_tile_patches;
    const size_t n_tiles = n_tile == 0 ? 0 : n_patches / n_tile;
    const size_t n_group = vtci_max(1, e->n_frames);

    VTCI_REQUIRE(&call, n_patches != SIZE_MAX, VTC_ERR_OVERFLOW,
                 "%zu visual tokens of %zu patches each overflow size_t", n_visual,
                 model->projector.n_joined);
    VTCI_REQUIRE(&call, n_tile == 0 || n_patches % n_tile == 0, VTC_ERR_RANGE,
                 "%zu patches are no whole tiles of %zu", n_patches, n_tile);
    VTCI_REQUIRE(&call, n_tiles % n_group == 0, VTC_ERR_RANGE,
                 "%zu frames are no whole groups of %zu", n_tiles, n_group);

    const double c = (double)e->n_hidden, n_rows = (double)n_tile + (double)e->n_special;
    const double tiles = (double)n_tiles;
    double layer = tiles * encoder_layer_macs(e, n_rows);

    /* attention over frames: four more matrices, and each row sees its place in every frame */
    if (e->n_frames != 0)
        layer += tiles * n_rows * (4.0 * c * c + 2.0 * (double)e->n_frames * c);
    *operations = per_mac(convention) *
                  ((double)e->n_layers * layer + (double)n_patches * (double)e->n_patch * c);
    return VTC_OK;
}

vtc_status vtc_cost_projector(const vtc_model *model, size_t n_visual,
                              vtc_cost_convention convention, double *operations,
                              const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_projector", exec));
    VTCI_TRY(check_model(&call, model, operations, convention));

    const vtc_projector *p = &model->projector;
    const double n_in = (double)p->n_joined * (double)model->encoder.n_hidden;

    *operations =
        per_mac(convention) * (double)n_visual * (double)p->n_hidden * (n_in + (double)p->n_out);
    return VTC_OK;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Bytes of `rows` tokens in the cache of one layer. */
static double layer_bytes(const vtc_decoder *decoder, double rows, size_t bits)
{
    return 2.0 * (double)decoder->n_kv * rows * (double)bits / 8.0;
}

vtc_status vtc_cost_kv_bytes(const vtc_decoder *decoder, size_t n_tokens, size_t bits,
                             double *bytes, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_kv_bytes", exec));
    VTCI_TRY(check_bytes(&call, decoder, bits, bytes));
    *bytes = (double)decoder->n_layers * layer_bytes(decoder, (double)n_tokens, bits);
    return VTC_OK;
}

vtc_status vtc_cost_kv_bytes_schedule(const vtc_decoder *decoder,
                                      const vtc_token_schedule *schedule, size_t n_new, size_t bits,
                                      double *bytes, const vtc_exec *exec)
{
    vtc_token_schedule s;
    vtci_call call;
    double sum = 0.0;

    VTCI_TRY(vtci_begin(&call, "vtc_cost_kv_bytes_schedule", exec));
    VTCI_TRY(check_bytes(&call, decoder, bits, bytes));
    VTCI_TRY(read_schedule(&call, schedule, &s));
    for (size_t l = 0; l < decoder->n_layers; l++)
        sum += layer_bytes(decoder, cached_rows(&s, l) + (double)n_new, bits);
    *bytes = sum;
    return VTC_OK;
}
