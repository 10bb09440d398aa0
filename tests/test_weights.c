/* Tensors found by name. */
#include "support/models.h"

#include <string.h>
#include <vtc/shuffle.h>

/* ---- a checkpoint ---------------------------------------------------------------------------- */

typedef struct entry {
    const char *name;
    vtc_tensor view;
} entry;

typedef struct checkpoint {
    entry entries[8];
    size_t n;
    size_t n_lookups;
} checkpoint;

static float memory[64];

static void add(checkpoint *c, const char *name, int rank, const size_t *dim)
{
    c->entries[c->n].name = name;
    c->entries[c->n++].view = vtc_tensor_nd(memory, VTC_F32, rank, dim);
}

static int look_up(void *source, const char *name, vtc_tensor *view)
{
    checkpoint *c = source;

    c->n_lookups++;
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->entries[i].name, name) == 0) {
            *view = c->entries[i].view;
            return 1;
        }
    /* what a lookup leaves when it finds nothing must not matter */
    memset(view, 0x55, sizeof(*view));
    return 0;
}

static checkpoint linear_checkpoint(void)
{
    checkpoint c = { 0 };

    add(&c, "a.weight", 2, (const size_t[]){ 3, 4 });
    add(&c, "a.bias", 1, (const size_t[]){ 3 });
    add(&c, "b.weight", 4, (const size_t[]){ 5, 1, 1, 1 });
    return c;
}

/* ---- facts ----------------------------------------------------------------------------------- */

static void views_are_found_below_the_prefix(void **state)
{
    checkpoint c = linear_checkpoint();
    vtc_linear layer;

    (void)state;
    memset(&layer, 0x77, sizeof(layer));
    assert_int_equal(vtc_weights_bind(&vtc_linear_table, look_up, &c, "a.", &layer, NULL), VTC_OK);
    assert_memory_equal(&layer.weight, &c.entries[0].view, sizeof(vtc_tensor));
    assert_memory_equal(&layer.bias, &c.entries[1].view, sizeof(vtc_tensor));
}

static void no_prefix_is_an_empty_one(void **state)
{
    checkpoint c = { 0 };
    vtc_linear layer;

    (void)state;
    add(&c, "weight", 2, (const size_t[]){ 3, 4 });
    assert_int_equal(vtc_weights_bind(&vtc_linear_table, look_up, &c, NULL, &layer, NULL), VTC_OK);
    assert_int_equal(layer.weight.dim[1], 4);
}

static void optional_tensors_become_absent(void **state)
{
    checkpoint c = linear_checkpoint();
    vtc_linear layer;

    (void)state;
    memset(&layer, 0x77, sizeof(layer));
    assert_int_equal(vtc_weights_bind(&vtc_linear_table, look_up, &c, "b.", &layer, NULL), VTC_OK);
    assert_true(vtc_tensor_is_absent(&layer.bias));
    assert_false(vtc_tensor_is_absent(&layer.weight));
}

static void trailing_ones_are_dropped_but_not_below_the_rank(void **state)
{
    checkpoint c = linear_checkpoint();
    vtc_linear layer;

    (void)state;
    assert_int_equal(vtc_weights_bind(&vtc_linear_table, look_up, &c, "b.", &layer, NULL), VTC_OK);
    assert_int_equal(layer.weight.rank, 2);
    assert_int_equal(layer.weight.dim[0], 5);
    assert_int_equal(layer.weight.dim[1], 1);
    assert_int_equal(layer.weight.stride[1], 1);
}

/* Two prefixes of one checkpoint fill one struct. */
static void tables_leave_other_views_alone(void **state)
{
    checkpoint c = { 0 };
    vtc_llama4_weights weights;

    (void)state;
    add(&c, "v.mlp.fc1.weight", 2, (const size_t[]){ 3, 4 });
    add(&c, "v.mlp.fc2.weight", 2, (const size_t[]){ 2, 3 });
    add(&c, "m.linear_1.weight", 2, (const size_t[]){ 5, 2 });
    assert_int_equal(vtc_weights_bind(&vtc_llama4_adapter_table, look_up, &c, "v.", &weights, NULL),
                     VTC_OK);
    assert_int_equal(vtc_weights_bind(&vtc_llama4_projector_table, look_up, &c, "m.", &weights,
                                      NULL),
                     VTC_OK);
    assert_int_equal(weights.fc1.weight.dim[0], 3);
    assert_int_equal(weights.fc2.weight.dim[0], 2);
    assert_int_equal(weights.linear_1.weight.dim[0], 5);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void expect_refused(checkpoint *c, const char *prefix, vtc_status want, const char *part)
{
    vtc_exec exec = test_exec(0);
    vtc_linear layer, untouched;
    error_log log;

    memset(&layer, 0x77, sizeof(layer));
    memset(&untouched, 0x77, sizeof(untouched));
    record_errors(&exec, &log);
    assert_failed(&log, vtc_weights_bind(&vtc_linear_table, look_up, c, prefix, &layer, &exec),
                  want, part);
    assert_memory_equal(&layer, &untouched, sizeof(layer));
}

static void missing_and_unfit_tensors_are_refused(void **state)
{
    checkpoint c = linear_checkpoint();
    char longest[300];

    (void)state;
    expect_refused(&c, "model.a.", VTC_ERR_NULL, "tensor model.a.weight is missing");
    memset(longest, 'p', sizeof(longest));
    longest[249] = '\0'; /* 249 + 6 characters fit, "bias" is never asked for */
    expect_refused(&c, longest, VTC_ERR_NULL, "is missing");
    longest[249] = 'p';
    longest[250] = '\0';
    expect_refused(&c, longest, VTC_ERR_RANGE, "256 characters");
    c.entries[1].view.rank = 2; /* found last: the weight is not written either */
    c.entries[1].view.dim[1] = 2;
    expect_refused(&c, "a.", VTC_ERR_SHAPE, "a.bias has rank 2");
    c.entries[1] = c.entries[0];
    c.entries[0].view.dtype = VTC_I64;
    expect_refused(&c, "a.", VTC_ERR_DTYPE, "a.weight has dtype I64");
    c.entries[0].view.dtype = VTC_F32;
    c.entries[0].view.rank = 9;
    expect_refused(&c, "a.", VTC_ERR_SHAPE, "a.weight has rank 9");
}

static void missing_arguments_are_refused(void **state)
{
    checkpoint c = linear_checkpoint();
    vtc_exec exec = test_exec(0);
    vtc_linear layer;
    error_log log;

    (void)state;
    record_errors(&exec, &log);
    assert_failed(&log, vtc_weights_bind(NULL, look_up, &c, "a.", &layer, &exec), VTC_ERR_NULL,
                  "table");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_weights_bind(&vtc_linear_table, NULL, &c, "a.", &layer, &exec),
                  VTC_ERR_NULL, "lookup");
    record_errors(&exec, &log);
    assert_failed(&log, vtc_weights_bind(&vtc_linear_table, look_up, &c, "a.", NULL, &exec),
                  VTC_ERR_NULL, "weights");
    assert_int_equal(c.n_lookups, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_found_below_the_prefix),
        cmocka_unit_test(no_prefix_is_an_empty_one),
        cmocka_unit_test(optional_tensors_become_absent),
        cmocka_unit_test(trailing_ones_are_dropped_but_not_below_the_rank),
        cmocka_unit_test(tables_leave_other_views_alone),
        cmocka_unit_test(missing_and_unfit_tensors_are_refused),
        cmocka_unit_test(missing_arguments_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
