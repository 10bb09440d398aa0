#include "forms.h"

#include "compare.h"

#include <stdio.h>

vtc_status run_model_weights(run *r, const vtc_weight_table *table, const char *rest, void *weights)
{
    const char *prefix = json_string_value(json_object_get(r->c->params, "prefix"));
    char name[160];

    snprintf(name, sizeof(name), "w.%s%s", prefix == NULL ? "" : prefix, rest);
    return run_weights(r, table, name, weights);
}

void run_prepared(run *r, vtc_prepared *prepared)
{
    prepared->data = run_temporary(r, VTC_U8, 1, &prepared->bytes).data;
}

void run_check_form(run *r, const char *name, const char *form, const vtc_tensor *got)
{
    char shown[64];
    difference diff;

    snprintf(shown, sizeof(shown), "%s (%s)", name, form);
    if (case_has_tensor(r->c, name)) {
        const vtc_tensor want = case_tensor(r->c, name);

        if (!compare(got, &want, r->c->atol, &diff))
            case_fault(r->c, "%s: %s", shown, diff.reason);
    }
    run_show(r, shown, *got);
}
