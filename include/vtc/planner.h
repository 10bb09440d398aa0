/*
 * vtc/planner.h: every training-free planner behind one interface, as a public table.
 *
 * Engines, tools and test runners walk the table instead of writing glue for each method: a row
 * names the method, what it needs and its parameters, and three calls run any row over one input
 * struct, for one image or a ragged batch of them.
 *
 *     const vtc_planner *planner = vtc_planner_find("tome");
 *     vtc_budget budget = vtc_budget_keep(128);
 *     vtc_planner_count(planner, NULL, &inputs, &budget, &count, exec);    sizes, before any data
 *     vtc_planner_scratch(planner, NULL, &inputs, &budget, exec, &bytes);
 *     vtc_planner_plan(planner, NULL, &inputs, &budget, &plan, NULL, exec);
 */
#ifndef VTC_PLANNER_H
#define VTC_PLANNER_H

#include "plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- inputs ---------------------------------------------------------------------------------- */

/* What a planner may look at. Fill in what you have; a planner that lacks something says so. */
typedef struct vtc_plan_inputs {
    size_t struct_size;

    /* A ragged batch: image b is rows begin[b] .. begin[b + 1] - 1 of every [N, ...] array below
     * (its own grid, when one is given). NULL: one image of all rows. */
    const int32_t *begin;
    size_t n_images;

    size_t n_rows;         /* N; 0: as `features`, `begin` or else the grid say  */
    size_t grid_h, grid_w; /* grid of each image in raster order; 0: unknown     */
    const float *mass;     /* [N] patches each row stands for, > 0; NULL: all 1  */

    const vtc_tensor *features; /* [N, C] tokens, no [CLS] row               */

    /* Vision encoder */
    const vtc_tensor *keys;          /* [H, N, d] keys of the layer that `features` came from     */
    const vtc_tensor *cls_query;     /* [H, d]    query of [CLS]                                  */
    const vtc_tensor *cls_attention; /* [H, N]    attention of [CLS] to each row, after softmax   */

    /* Language model: one decoder layer over a sequence of L rows, vision rows from v_start */
    const vtc_tensor *lm_query;       /* [H, L, d]                                              */
    const vtc_tensor *lm_keys;        /* [H or fewer, L, d], rotated                            */
    const vtc_tensor *lm_log_sum_exp; /* [H, L]                                                 */
    const vtc_tensor *lm_hidden;      /* [L, D]                                                 */
    const vtc_tensor *text_query;     /* [H, M, d] queries of text rows, without the others     */
    const vtc_tensor *text;           /* [M, E] text embeddings                                 */
    float scale;                      /* of all logits; 0: d^-1/2                               */
    size_t v_start,
        n_text;        /* image b begins at row v_start + begin[b]; the last n_text rows are text */
    size_t frame_rows; /* rows of one video frame; 0: no video */

    /* Vision encoder, continued: of the layer that `keys` are of */
    const vtc_tensor *queries; /* [H, N, d]                                                  */
    const vtc_tensor *cls_key; /* [H, d]    key of [CLS]                                     */

    /* Language model, continued */
    const vtc_tensor *lm_embeddings; /* [L, D] input of the first decoder layer              */
    const int32_t *key_rows;         /* [n_key_rows] rows 0 .. N - 1 that are never dropped, */
    size_t n_key_rows;               /* ascending (MustDrop's key tokens)                    */
    size_t first_row; /* set by the library for one image of a batch: its first row. key_rows are */
                      /* then those of the image, and still numbered within the batch             */
} vtc_plan_inputs;

/* clang-format off */
#define VTC_PLAN_INPUTS_INIT \
    { sizeof(vtc_plan_inputs), NULL, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
      NULL, NULL, NULL, 0.0f, 0, 0, 0, NULL, NULL, NULL, NULL, 0, 0 }
/* clang-format on */

/* Bits of vtc_planner.needs and .uses */
typedef enum vtc_need {
    VTC_NEED_FEATURES = 1 << 0,
    VTC_NEED_GRID = 1 << 1,
    VTC_NEED_KEYS = 1 << 2,
    VTC_NEED_CLS = 1 << 3, /* cls_attention, or cls_query and keys */
    VTC_NEED_TEXT = 1 << 4,
    VTC_NEED_LM = 1 << 5, /* lm_keys, and lm_query or text_query */
    VTC_NEED_HIDDEN = 1 << 6,
    VTC_NEED_FRAMES = 1 << 7,
    VTC_NEED_QUERIES = 1 << 8,
    VTC_NEED_EMBEDDINGS = 1 << 9, /* lm_embeddings */
    VTC_NEED_KEY_ROWS = 1 << 10,
    VTC_NEED_LM_OR_HIDDEN = 1 << 11, /* what VTC_NEED_LM asks for, or lm_hidden */
    VTC_NEED_IMAGE = 1 << 12 /* acts on pixels before the encoder: no inputs have it, no plan */
} vtc_need;

/* Bits of `needs` that these inputs lack; 0: the planner can run. */
VTC_API unsigned vtc_plan_inputs_lack(const vtc_plan_inputs *inputs, unsigned needs);

/* "features", "[CLS] attention", ... for one bit. */
VTC_API const char *vtc_need_string(vtc_need need);

/* ---- budget ---------------------------------------------------------------------------------- */

typedef enum vtc_budget_kind {
    VTC_BUDGET_TOKENS = 0, /* tokens to keep of each image                                    */
    VTC_BUDGET_RATIO = 1   /* share of each image's rows: ratio * rows to the nearest, halves to  */
                           /* even, at least 1 unless the image has none                          */
} vtc_budget_kind;

typedef struct vtc_budget {
    vtc_budget_kind kind;
    size_t tokens;
    double ratio; /* 0 < ratio <= 1 */
} vtc_budget;

static inline vtc_budget vtc_budget_keep(size_t tokens)
{
    vtc_budget budget;
    budget.kind = VTC_BUDGET_TOKENS;
    budget.tokens = tokens;
    budget.ratio = 0.0;
    return budget;
}

static inline vtc_budget vtc_budget_keep_ratio(double ratio)
{
    vtc_budget budget;
    budget.kind = VTC_BUDGET_RATIO;
    budget.tokens = 0;
    budget.ratio = ratio;
    return budget;
}

/* Tokens to keep of an image of n_rows rows. A number of tokens is passed on as it is: whether the
 * method can meet it is the method's to say. VTC_ERR_RANGE for a ratio outside (0, 1]. */
VTC_API VTC_NODISCARD vtc_status vtc_budget_resolve(const vtc_budget *budget, size_t n_rows,
                                                    size_t *n_keep, const vtc_exec *exec);

/* ---- the table ------------------------------------------------------------------------------- */

typedef enum vtc_param_type {
    VTC_PARAM_SIZE = 0, /* size_t   */
    VTC_PARAM_U64 = 1,  /* uint64_t */
    VTC_PARAM_FLAG = 2, /* int      */
    VTC_PARAM_F32 = 3   /* float    */
} vtc_param_type;

/* One field of a planner's params struct. */
typedef struct vtc_param {
    const char *name;
    vtc_param_type type;
    size_t offset;       /* of the field in the struct */
    double min, max;     /* inclusive                  */
    double initial;      /* the default                */
    const char *meaning; /* one line                   */
} vtc_param;

/*
 * One method. The three calls see one image: `image` has no begin, its n_rows is set, its views and
 * masses hold the rows of that image only, and n_keep is the budget in tokens. Use them through
 * vtc_planner_count(), _scratch() and _plan(), which do the rest. A program may fill a row of its
 * own and gets batches and budgets for its method too.
 */
typedef struct vtc_planner {
    size_t struct_size;
    const char *name;    /* "tome"                                                             */
    const char *title;   /* "ToMe"                                                             */
    const char *paper;   /* authors, title, venue; "control" for controls                      */
    const char *checked; /* what it was checked against                                        */
    unsigned needs;      /* vtc_need bits it cannot run without                                */
    unsigned uses;       /* bits it uses when given                                            */
    int merges;          /* outputs may be made of several rows                                */
    int exact;           /* count() is exact; else an upper bound                              */
    size_t params_size;  /* of its params struct; 0: it has none                               */
    const vtc_param *params;
    size_t n_params;

    /* From sizes alone: no data is read. */
    vtc_status (*count)(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                        vtc_plan_count *count, const vtc_exec *exec);
    vtc_status (*scratch)(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                          const vtc_exec *exec, size_t *bytes);

    /* Returns the error in the data for which plan() would refuse them; NULL: there is none. Called
     * for every image of a batch before the first plan is written. */
    vtc_status (*check)(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                        const vtc_exec *exec);

    /* NULL in rows that act on pixels (VTC_NEED_IMAGE). */
    vtc_status (*plan)(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                       vtc_plan *plan, const vtc_exec *exec);

    /* Multiply-adds of plan(), to leading order, from sizes alone; NULL: none to speak of. */
    double (*cost)(const void *params, const vtc_plan_inputs *image, size_t n_keep);

    /* NULL where images do not depend on each other. Else it tells how many tokens this image would
     * keep, 0: the others do not bind it. Called for every image of a batch after check(); all are
     * then planned with the largest of these numbers as n_keep, where their own is smaller. Uses
     * the scratch memory of plan(). */
    vtc_status (*settle)(const void *params, const vtc_plan_inputs *image, size_t n_keep,
                         size_t *settled, const vtc_exec *exec);
} vtc_planner;

/* Planner i of the table, or NULL from the last one on. The order is fixed. */
VTC_API const vtc_planner *vtc_planner_at(size_t i);

/* The planner of that name, or NULL. */
VTC_API const vtc_planner *vtc_planner_find(const char *name);

/*
 * The three calls below run one row over all images of `inputs`. `params` is its params struct or
 * NULL for the defaults. They return VTC_ERR_NULL when the inputs lack what the planner needs (the
 * message lists it), VTC_ERR_SHAPE when views, grid or begin do not fit each other,
 * VTC_ERR_UNSUPPORTED for a plan by a planner that acts on pixels, and what the method returns;
 * rows and tokens in the method's own messages count within the image.
 */

/* Outputs and entries of all images for this budget, from sizes alone: no data is read. Of a
 * planner that acts on pixels: tokens of the smaller picture, in and out; its grid is needed. */
VTC_API VTC_NODISCARD vtc_status vtc_planner_count(const vtc_planner *planner, const void *params,
                                                   const vtc_plan_inputs *inputs,
                                                   const vtc_budget *budget, vtc_plan_count *count,
                                                   const vtc_exec *exec);

VTC_API VTC_NODISCARD vtc_status vtc_planner_scratch(const vtc_planner *planner, const void *params,
                                                     const vtc_plan_inputs *inputs,
                                                     const vtc_budget *budget, const vtc_exec *exec,
                                                     size_t *bytes);

/*
 * The plan of all images (block diagonal), one after another in the arrays of `plan`.
 *
 *   plan       room for vtc_planner_count(); score and fate as in every plan
 *   out_begin  [n_images + 1]  out   first output of each image, then the number of all; NULL: not
 *                                    wanted
 */
VTC_API VTC_NODISCARD vtc_status vtc_planner_plan(const vtc_planner *planner, const void *params,
                                                  const vtc_plan_inputs *inputs,
                                                  const vtc_budget *budget, vtc_plan *plan,
                                                  int32_t *out_begin, const vtc_exec *exec);

/* Multiply-adds that the planner spends on all images for this budget: to leading order, from sizes
 * alone, without applying the plan. 0 for planners that look at no data. */
VTC_API VTC_NODISCARD vtc_status vtc_planner_cost(const vtc_planner *planner, const void *params,
                                                  const vtc_plan_inputs *inputs,
                                                  const vtc_budget *budget, double *multiply_adds,
                                                  const vtc_exec *exec);

/* Fills a params struct of planner->params_size bytes with the defaults. */
VTC_API VTC_NODISCARD vtc_status vtc_planner_params_init(const vtc_planner *planner, void *params,
                                                         const vtc_exec *exec);

/* Sets one field by name; VTC_ERR_RANGE for an unknown name, or a value outside [min, max] or not
 * whole where the field is. */
VTC_API VTC_NODISCARD vtc_status vtc_planner_params_set(const vtc_planner *planner, void *params,
                                                        const char *name, double value,
                                                        const vtc_exec *exec);

#ifdef __cplusplus
}
#endif
#endif
