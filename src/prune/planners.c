/* The table of planners and their parameters by name. A new planner is one line here. */
#include "planners.h"

#include "../base/call.h"

#include <math.h>
#include <string.h>

static const vtc_planner *const planners[] = {
    &vtci_planner_tome,
    &vtci_planner_ficoco_v,
    &vtci_planner_ficoco_l,
    &vtci_planner_mustdrop_encode,
    &vtci_planner_mustdrop_prefill,
    &vtci_planner_focusllava_vision,
    &vtci_planner_focusllava_text,
    &vtci_planner_fastv,
    &vtci_planner_visionzip,
    &vtci_planner_sparsevlm,
    &vtci_planner_random,
    &vtci_planner_strided,
    &vtci_planner_mean_pool,
    &vtci_planner_image_resize,
};

const vtc_planner *vtc_planner_at(size_t i)
{
    return i < sizeof(planners) / sizeof(*planners) ? planners[i] : NULL;
}

const vtc_planner *vtc_planner_find(const char *name)
{
    const vtc_planner *planner = NULL;

    for (size_t i = 0; name != NULL && (planner = vtc_planner_at(i)) != NULL; i++)
        if (strcmp(planner->name, name) == 0)
            break;
    return planner;
}

/* ---- parameters by name ---------------------------------------------------------------------- */

/* Stores a checked value. Fields are copied bytewise: the struct's type is not known here. */
static void set_field(void *params, const vtc_param *param, double value)
{
    char *field = (char *)params + param->offset;

    switch (param->type) {
    case VTC_PARAM_SIZE:
        memcpy(field, &(size_t){ (size_t)value }, sizeof(size_t));
        break;
    case VTC_PARAM_U64:
        memcpy(field, &(uint64_t){ (uint64_t)value }, sizeof(uint64_t));
        break;
    case VTC_PARAM_FLAG:
        memcpy(field, &(int){ (int)value }, sizeof(int));
        break;
    case VTC_PARAM_F32:
        memcpy(field, &(float){ (float)value }, sizeof(float));
        break;
    }
}

vtc_status vtc_planner_params_init(const vtc_planner *planner, void *params, const vtc_exec *exec)
{
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_planner_params_init", exec));
    VTCI_REQUIRE_PTR(&call, planner);
    if (planner->params_size == 0)
        return VTC_OK;
    VTCI_REQUIRE_PTR(&call, params);
    memset(params, 0, planner->params_size);
    memcpy(params, &planner->params_size, sizeof(planner->params_size));
    for (size_t i = 0; i < planner->n_params; i++)
        set_field(params, &planner->params[i], planner->params[i].initial);
    return VTC_OK;
}

static const vtc_param *find_param(const vtc_planner *planner, const char *name)
{
    for (size_t i = 0; i < planner->n_params; i++)
        if (strcmp(planner->params[i].name, name) == 0)
            return &planner->params[i];
    return NULL;
}

vtc_status vtc_planner_params_set(const vtc_planner *planner, void *params, const char *name,
                                  double value, const vtc_exec *exec)
{
    const vtc_param *param;
    size_t known;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_planner_params_set", exec));
    VTCI_REQUIRE_PTR(&call, planner);
    VTCI_REQUIRE_PTR(&call, name);
    param = find_param(planner, name);
    VTCI_REQUIRE(&call, param != NULL, VTC_ERR_RANGE, "%s has no parameter %s", planner->name,
                 name);
    VTCI_REQUIRE_PTR(&call, params);
    memcpy(&known, params, sizeof(known));
    VTCI_REQUIRE(&call, known >= planner->params_size, VTC_ERR_RANGE,
                 "struct_size is %zu, the params of %s have %zu bytes", known, planner->name,
                 planner->params_size);
    VTCI_REQUIRE(&call, value >= param->min && value <= param->max, VTC_ERR_RANGE,
                 "%s is %g, %g to %g is needed", name, value, param->min, param->max);
    VTCI_REQUIRE(&call, param->type == VTC_PARAM_F32 || value == floor(value), VTC_ERR_RANGE,
                 "%s is %g, it must be a whole number", name, value);
    set_field(params, param, value);
    return VTC_OK;
}
