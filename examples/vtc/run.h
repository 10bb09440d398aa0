/*
 * Running the library's methods on a source: memory, the calls in their order, the clock.
 */
#ifndef RUN_H
#define RUN_H

#include "source.h"

/*
 * run_planner() makes a plan. vtc_heap_plan_free() it in either case.
 *
 *   params        of the planner, NULL: its defaults
 *   milliseconds  out  median of several more runs; NULL: not wanted
 *
 * Entries are always there, also in a pure selection, so that every plan reads the same. `score` is
 * NULL when the method has none.
 */
bool run_planner(struct tool *tool, const struct source *source, const vtc_planner *planner,
                 const void *params, const vtc_budget *budget, vtc_plan *plan,
                 double *milliseconds);

/* y = plan x, with y [n_out, C] */
bool run_plan(struct tool *tool, const vtc_plan *plan, const vtc_tensor *x, vtc_tensor *y);

/* One of the library's poolings as the tool offers it. */
struct pooling {
    const char *name;
    const char *title;
    vtc_pool_mode mode;
    bool fixed_ratio; /* kernel and stride 2; else the budget's grid */
    const char *paper;
    const char *checked;
};

extern const struct pooling poolings[];
extern const size_t n_poolings;

/* The parameters that pool this grid to at most `budget` tokens, or by 2 x 2, with the output grid
 * in out_h and out_w. */
bool fit_pooling(struct tool *tool, const struct pooling *pooling, size_t grid_h, size_t grid_w,
                 size_t budget, vtc_pool2d_params *params);

bool run_pooling(struct tool *tool, const vtc_pool2d_params *params, const vtc_tensor *x,
                 vtc_tensor *y, double *milliseconds);

/*
 * run_image_resize() resizes a picture.
 *
 *   from  [3, h, w]    in
 *   to    [3, h', w']  out
 */
bool run_image_resize(struct tool *tool, const vtc_tensor *from, vtc_tensor *to,
                      double *milliseconds);

#endif
