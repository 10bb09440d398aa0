#include "heat.h"

#include "measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Dark blue, violet, red, orange, pale yellow: the brightness rises evenly, so that the map reads
 * the same in gray. */
static const double anchors[][3] = {
    { 0.04, 0.03, 0.18 }, { 0.33, 0.06, 0.43 }, { 0.73, 0.21, 0.33 },
    { 0.97, 0.55, 0.15 }, { 0.99, 0.97, 0.70 },
};

enum { N_ANCHORS = sizeof(anchors) / sizeof(anchors[0]) };

void heat_colour(double share, double rgb[3])
{
    /* a share that is no number is drawn as the lowest, not as the best */
    const double at = share > 0.0 ? fmin(1.0, share) * (N_ANCHORS - 1) : 0.0;
    const size_t i = at >= N_ANCHORS - 1 ? N_ANCHORS - 2 : (size_t)at;

    for (int c = 0; c < 3; c++)
        rgb[c] = anchors[i][c] + (at - (double)i) * (anchors[i + 1][c] - anchors[i][c]);
}

struct range {
    double low, high;
};

static bool find_range(struct tool *tool, const float *score, size_t n, struct range *range)
{
    float *finite = tool_new(tool, n, sizeof(*finite));
    size_t n_finite = 0;

    if (finite == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        if (isfinite(score[i]))
            finite[n_finite++] = score[i];
    range->low = n_finite > 0 ? quantile_of(finite, n_finite, 0.02) : 0.0;
    range->high = n_finite > 0 ? quantile_of(finite, n_finite, 0.98) : 0.0;
    free(finite);
    return true;
}

/* Equal scores throughout are drawn in the middle of the scale. */
static double share_of(float score, const struct range *range)
{
    if (isinf(score))
        return score > 0.0f ? 1.0 : 0.0;
    return range->high > range->low ? (score - range->low) / (range->high - range->low) : 0.5;
}

bool draw_heat(struct tool *tool, cairo_t *cr, const float *score, size_t grid_h, size_t grid_w,
               double x, double y, double width, double height)
{
    struct range range;

    if (!find_range(tool, score, grid_h * grid_w, &range))
        return false;
    cairo_save(cr);
    cairo_translate(cr, x, y);
    cairo_scale(cr, width / (double)grid_w, height / (double)grid_h);
    cairo_set_antialias(cr, CAIRO_ANTIALIAS_NONE);
    for (size_t n = 0; n < grid_h * grid_w; n++) {
        double rgb[3];

        heat_colour(share_of(score[n], &range), rgb);
        cairo_set_source_rgb(cr, rgb[0], rgb[1], rgb[2]);
        cairo_rectangle(cr, (double)(n % grid_w), (double)(n / grid_w), 1, 1);
        cairo_fill(cr);
    }
    cairo_restore(cr);
    return true;
}
