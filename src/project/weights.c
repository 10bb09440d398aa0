/* Tensors found by name and put into weights structs. */
#include "../../include/vtc/weights.h"

#include "../base/call.h"
#include "../base/tensor.h"

#include <stdio.h>
#include <string.h>

enum { NAME_SIZE = 256 };

struct binding {
    const vtci_call *call;
    vtc_weight_lookup lookup;
    void *source;
    const char *prefix;
};

/* Some files store matrices as 1x1 convolutions. */
static void drop_trailing_ones(vtc_tensor *t, int rank)
{
    while (t->rank > rank && t->dim[t->rank - 1] == 1) {
        t->rank--;
        t->dim[t->rank] = 0;
        t->stride[t->rank] = 0;
    }
}

/* The view of one tensor, checked as far as its table can tell; absent when it may be. */
static vtc_status find_weight(const struct binding *b, const vtc_weight *weight, vtc_tensor *view)
{
    const vtci_call *call = b->call;
    char name[NAME_SIZE];
    const int length = snprintf(name, sizeof(name), "%s%s", b->prefix, weight->name);

    VTCI_REQUIRE(call, length >= 0 && length < NAME_SIZE, VTC_ERR_RANGE,
                 "the name of tensor %s has %d characters with its prefix", weight->name, length);
    memset(view, 0, sizeof(*view));
    if (!b->lookup(b->source, name, view)) {
        memset(view, 0, sizeof(*view));
        VTCI_REQUIRE(call, weight->optional, VTC_ERR_NULL, "tensor %s is missing", name);
        return VTC_OK;
    }
    if (view->rank <= VTC_MAX_RANK)
        drop_trailing_ones(view, weight->rank);
    return vtci_check_tensor(call, name, view, VTCI_FLOATS, weight->rank, weight->rank, VTCI_IN);
}

vtc_status vtc_weights_bind(const vtc_weight_table *table, vtc_weight_lookup lookup, void *source,
                            const char *prefix, void *weights, const vtc_exec *exec)
{
    vtci_call call;
    vtc_tensor view;

    VTCI_TRY(vtci_begin(&call, "vtc_weights_bind", exec));
    VTCI_REQUIRE_PTR(&call, table);
    VTCI_REQUIRE(&call, table->weights != NULL || table->n == 0, VTC_ERR_NULL,
                 "table->weights is NULL");
    VTCI_REQUIRE(&call, lookup != NULL, VTC_ERR_NULL, "lookup is NULL");
    VTCI_REQUIRE_PTR(&call, weights);

    const struct binding binding = { &call, lookup, source, prefix == NULL ? "" : prefix };

    /* all of them once before any is written */
    for (size_t i = 0; i < table->n; i++)
        VTCI_TRY(find_weight(&binding, &table->weights[i], &view));
    for (size_t i = 0; i < table->n; i++) {
        VTCI_TRY(find_weight(&binding, &table->weights[i], &view));
        memcpy((char *)weights + table->weights[i].offset, &view, sizeof(view));
    }
    return VTC_OK;
}
