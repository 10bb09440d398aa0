/*
 * FocusLLaVA's balance loss: the share of regions that chose each scale against its mean
 * probability. That training has such a loss is known, this form of it is our choice (that of
 * Switch Transformers).
 */
#include "../../include/vtc/sample.h"
#include "../base/call.h"

#include <float.h>
#include <math.h>

static vtc_status check_loss(const vtci_call *call, const float *scores, const int32_t *scale,
                             size_t n_regions, size_t n_scales)
{
    VTCI_REQUIRE(call, n_scales >= 1 && n_scales <= VTC_FOCUSLLAVA_MAX_SCALES, VTC_ERR_RANGE,
                 "n_scales is %zu, 1 to %d is needed", n_scales, VTC_FOCUSLLAVA_MAX_SCALES);
    VTCI_REQUIRE(call, n_regions == 0 || (scores != NULL && scale != NULL), VTC_ERR_NULL,
                 "scores or scale is NULL");
    for (size_t i = 0; i < n_regions; i++) {
        VTCI_REQUIRE(call, scale[i] >= 0 && (size_t)scale[i] < n_scales, VTC_ERR_RANGE,
                     "scale[%zu] is %d, there are %zu scales", i, (int)scale[i], n_scales);
        for (size_t s = 0; s < n_scales; s++)
            VTCI_REQUIRE(call, fabsf(scores[i * n_scales + s]) <= FLT_MAX, VTC_ERR_DATA,
                         "the score of region %zu at scale %zu is not finite", i, s);
    }
    return VTC_OK;
}

/* total += softmax(scores) */
static void add_probabilities(const float *scores, size_t n, double *total)
{
    double power[VTC_FOCUSLLAVA_MAX_SCALES], sum = 0.0;
    float top = scores[0];

    for (size_t s = 1; s < n; s++)
        top = fmaxf(top, scores[s]);
    for (size_t s = 0; s < n; s++)
        sum += power[s] = exp((double)scores[s] - top);
    for (size_t s = 0; s < n; s++)
        total[s] += power[s] / sum;
}

vtc_status vtc_focusllava_balance_loss(const float *scores, const int32_t *scale, size_t n_regions,
                                       size_t n_scales, double *loss, const vtc_exec *exec)
{
    double share[VTC_FOCUSLLAVA_MAX_SCALES] = { 0.0 }, total[VTC_FOCUSLLAVA_MAX_SCALES] = { 0.0 };
    const double n = (double)n_regions;
    vtci_call call;

    VTCI_TRY(vtci_begin(&call, "vtc_focusllava_balance_loss", exec));
    VTCI_REQUIRE_PTR(&call, loss);
    VTCI_TRY(check_loss(&call, scores, scale, n_regions, n_scales));
    for (size_t i = 0; i < n_regions; i++) {
        share[scale[i]] += 1.0;
        add_probabilities(scores + i * n_scales, n_scales, total);
    }
    *loss = 0.0;
    for (size_t s = 0; n_regions != 0 && s < n_scales; s++)
        *loss += (double)n_scales * (share[s] / n) * (total[s] / n);
    return VTC_OK;
}
