/* Messages about an output name it as the call's parameter is named. */
#include "support/weights.h"

#include <stdio.h>
#include <string.h>
#include <vtc/gated_xattn.h>

/* ---- gated cross-attention ------------------------------------------------------------------- */

enum { D = 4, INNER = 4, D_MEDIA = 6, HIDDEN = 8 };

typedef struct gated {
    weight_set set;
    vtc_gated_xattn_params params;
    vtc_gated_xattn_weights weights;
    vtc_prepared prepared;
    vtc_exec exec;
    error_log log;
} gated;

static void open_gated(gated *g)
{
    const vtc_gated_xattn_params params = VTC_GATED_XATTN_PARAMS_INIT;
    vtc_gated_xattn_weights *w = &g->weights;

    memset(g, 0, sizeof(*g));
    g->params = params;
    g->params.heads = 1;
    w->attn_norm = norm_of(&g->set, D);
    w->to_q = matrix_of(&g->set, INNER, D);
    w->to_kv = matrix_of(&g->set, 2 * INNER, D_MEDIA);
    w->to_out = matrix_of(&g->set, D, INNER);
    w->attn_gate = vector_of(&g->set, 1);
    w->ff_norm = norm_of(&g->set, D);
    w->ff_up = matrix_of(&g->set, HIDDEN, D);
    w->ff_down = matrix_of(&g->set, D, HIDDEN);
    w->ff_gate = vector_of(&g->set, 1);
    g->exec = test_exec(0);
    record_errors(&g->exec, &g->log);
    assert_int_equal(vtc_gated_xattn_prepare_size(&g->params, w, &g->exec, &g->prepared.bytes),
                     VTC_OK);
    g->prepared.data = guard_alloc(g->prepared.bytes);
    assert_int_equal(vtc_gated_xattn_prepare(&g->params, w, &g->prepared, &g->exec), VTC_OK);
    guard_readonly(g->prepared.data);
}

static void close_gated(gated *g)
{
    guard_free(g->prepared.data);
    weights_free(&g->set);
}

/* Both outputs in `memory`, which is called `other`. */
static void refuse_overlap(gated *g, void *memory, const char *other)
{
    static float text[D], media[D_MEDIA];
    const vtc_tensor x = vtc_f32_2d(text, 1, D), m = vtc_f32_3d(media, 1, 1, D_MEDIA);
    vtc_tensor kv = vtc_f32_3d(memory, 1, 1, 2 * INNER), y = vtc_f32_2d(memory, 1, D);
    char message[128];

    snprintf(message, sizeof(message), "vtc_gated_xattn_encode_media: kv overlaps %s", other);
    assert_failed(&g->log,
                  vtc_gated_xattn_encode_media(&g->params, &g->weights, &g->prepared, &m, &kv,
                                               &g->exec),
                  VTC_ERR_OVERLAP, message);
    g->log.count = 0;
    snprintf(message, sizeof(message), "vtc_gated_xattn: y overlaps %s", other);
    assert_failed(&g->log,
                  vtc_gated_xattn(&g->params, &g->weights, &g->prepared, &x, &m, NULL, NULL, &y,
                                  &g->exec),
                  VTC_ERR_OVERLAP, message);
    g->log.count = 0;
}

static void gated_cross_attention_names_what_a_weight_overlaps(void **state)
{
    const vtc_weight_table *table = &vtc_gated_xattn_table;
    gated g;

    (void)state;
    open_gated(&g);
    for (size_t i = 0; i < table->n; i++) {
        const char *at = (const char *)&g.weights + table->weights[i].offset;

        refuse_overlap(&g, ((const vtc_tensor *)(const void *)at)->data, table->weights[i].name);
    }
    close_gated(&g);
}

static void gated_cross_attention_names_what_its_object_overlaps(void **state)
{
    gated g;

    (void)state;
    open_gated(&g);
    refuse_overlap(&g, g.prepared.data, "the prepared object");
    close_gated(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gated_cross_attention_names_what_a_weight_overlaps),
        cmocka_unit_test(gated_cross_attention_names_what_its_object_overlaps),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
