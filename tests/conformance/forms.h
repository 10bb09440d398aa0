/* forms.h: models whose weights have a prefix in the checkpoint, and methods of several forms. */
#ifndef VTC_CONFORMANCE_FORMS_H
#define VTC_CONFORMANCE_FORMS_H

#include "run.h"

/* Binds the weights below "w.", the case's parameter "prefix" and `rest` ("layers.3."). */
vtc_status run_model_weights(run *r, const vtc_weight_table *table, const char *rest,
                             void *weights);

/* Memory of prepared->bytes for an object. */
void run_prepared(run *r, vtc_prepared *prepared);

/* What another form of the method has computed ("prepared") must pass as the first one does, and
 * have the same bits in all runs. */
void run_check_form(run *r, const char *name, const char *form, const vtc_tensor *got);

#endif
