#include "stand_in.h"

#include "descriptor.h"
#include "salience.h"
#include "source.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Makes cosines into logits: patches that are alike differ by some units, as in a model's heads. */
#define STAND_IN_SCALE 10.0f

enum {
    LENT_ALWAYS = VTC_NEED_CLS | VTC_NEED_KEYS | VTC_NEED_QUERIES,
    LENT_ABOUT =
        VTC_NEED_TEXT | VTC_NEED_LM | VTC_NEED_HIDDEN | VTC_NEED_EMBEDDINGS | VTC_NEED_LM_OR_HIDDEN
};

/* ---- the region ------------------------------------------------------------------------------ */

/* Whether the centre of cell i of n, over `length` pixels from `start`, lies in begin .. end. */
static bool centre_inside(size_t i, size_t n, size_t start, size_t length, size_t begin, size_t end)
{
    const double centre = (double)start + (double)length * ((double)i + 0.5) / (double)n;

    return centre >= (double)begin && centre < (double)end;
}

/* The cell of n in which a pixel lies, over `length` pixels from `start`. */
static size_t cell_of(size_t pixel, size_t n, size_t start, size_t length)
{
    return (pixel - start) * n / length;
}

static void mark_patches(struct source *source, const size_t r[4])
{
    const struct crop *crop = &source->crop;
    struct stand_ins *s = &source->stand_ins;

    for (size_t n = 0; n < source->n_tokens; n++) {
        s->about[n] = centre_inside(n / source->grid_w, source->grid_h, crop->top, crop->height,
                                    r[1], r[1] + r[3]) &&
                      centre_inside(n % source->grid_w, source->grid_w, crop->left, crop->width,
                                    r[0], r[0] + r[2]);
        s->n_about += s->about[n];
    }
}

bool stand_ins_ask(struct tool *tool, struct source *source, const size_t about[4])
{
    const struct crop *crop = &source->crop;
    struct stand_ins *s = &source->stand_ins;
    const size_t x = about[0] + about[2] / 2, y = about[1] + about[3] / 2;

    if (about[2] == 0)
        return true;
    if (source->planes == NULL)
        return tool_fail(tool, "is a token file; --about asks about a photograph");
    s->about = tool_new(tool, source->n_tokens, 1);
    if (s->about == NULL)
        return false;
    mark_patches(source, about);
    if (s->n_about > 0)
        return true;
    if (x < crop->left || x >= crop->left + crop->width || y < crop->top ||
        y >= crop->top + crop->height)
        return tool_fail(
            tool, "--about %zu,%zu,%zu,%zu is outside the part that is used: %zu,%zu,%zu,%zu",
            about[0], about[1], about[2], about[3], crop->left, crop->top, crop->width,
            crop->height);
    s->about[cell_of(y, source->grid_h, crop->top, crop->height) * source->grid_w +
             cell_of(x, source->grid_w, crop->left, crop->width)] = 1;
    s->n_about = 1;
    return true;
}

/* ---- making ---------------------------------------------------------------------------------- */

static bool make_salience(struct tool *tool, struct source *source)
{
    float *salience = tool_new(tool, source->n_tokens, sizeof(float));

    source->stand_ins.salience = salience;
    if (salience == NULL)
        return false;
    centre_surround(source->tokens, source->grid_h, source->grid_w, DESCRIPTOR_WIDTH, salience);
    source->cls_attention = vtc_f32_2d(salience, 1, source->n_tokens);
    return true;
}

/* A row less the mean, of length 1. A patch like the mean gets a constant row: no length is 0. */
static void unit_row(const float *token, const double *mean, float *row)
{
    double square = 0.0;

    for (size_t c = 0; c < DESCRIPTOR_WIDTH; c++)
        square += ((double)token[c] - mean[c]) * ((double)token[c] - mean[c]);
    for (size_t c = 0; c < DESCRIPTOR_WIDTH; c++)
        row[c] = square > 1e-12 ? (float)(((double)token[c] - mean[c]) / sqrt(square))
                                : (float)(1.0 / sqrt(DESCRIPTOR_WIDTH));
}

static void fill_rows(const struct source *source, float *rows)
{
    const struct stand_ins *s = &source->stand_ins;
    const size_t n_tokens = source->n_tokens;
    double mean[DESCRIPTOR_WIDTH] = { 0.0 };
    float *next = rows + n_tokens * DESCRIPTOR_WIDTH;

    for (size_t i = 0; i < n_tokens * DESCRIPTOR_WIDTH; i++)
        mean[i % DESCRIPTOR_WIDTH] += (double)source->tokens[i] / (double)n_tokens;
    for (size_t n = 0; n < n_tokens; n++)
        unit_row(source->tokens + n * DESCRIPTOR_WIDTH, mean, rows + n * DESCRIPTOR_WIDTH);
    for (size_t n = 0; n < n_tokens && s->about != NULL; n++)
        if (s->about[n]) {
            memcpy(next, rows + n * DESCRIPTOR_WIDTH, DESCRIPTOR_WIDTH * sizeof(*next));
            next += DESCRIPTOR_WIDTH;
        }
}

static bool make_rows(struct tool *tool, struct source *source)
{
    struct stand_ins *s = &source->stand_ins;
    const size_t n = source->n_tokens, n_all = n + s->n_about, c = DESCRIPTOR_WIDTH;

    s->rows = tool_new(tool, n_all * c, sizeof(float));
    if (s->rows == NULL)
        return false;
    fill_rows(source, s->rows);
    source->keys = source->queries = vtc_f32_3d(s->rows, 1, n, c);
    source->lm_query = source->lm_keys = vtc_f32_3d(s->rows, 1, n_all, c);
    source->lm_hidden = source->lm_embeddings = vtc_f32_2d(s->rows, n_all, c);
    source->text = vtc_f32_2d(s->rows + n * c, s->n_about, c);
    source->text_query = vtc_f32_3d(s->rows + n * c, 1, s->n_about, c);
    return true;
}

/* ---- lending --------------------------------------------------------------------------------- */

/* What a planner needs and this source lends. */
static unsigned lent_bits(const struct source *source, const vtc_planner *planner)
{
    const unsigned about = source->stand_ins.about != NULL ? (unsigned)LENT_ABOUT : 0;

    return source->planes == NULL ? 0 : planner->needs & ((unsigned)LENT_ALWAYS | about);
}

static const vtc_tensor *if_lent(bool lent, const vtc_tensor *view)
{
    return lent ? view : NULL;
}

static void put_inputs(struct source *source, unsigned lent)
{
    vtc_plan_inputs *in = &source->inputs;
    const bool lm = (lent & (VTC_NEED_LM | VTC_NEED_LM_OR_HIDDEN)) != 0;

    in->cls_attention = if_lent((lent & VTC_NEED_CLS) != 0, &source->cls_attention);
    in->keys = if_lent((lent & VTC_NEED_KEYS) != 0, &source->keys);
    in->queries = if_lent((lent & VTC_NEED_QUERIES) != 0, &source->queries);
    in->lm_query = if_lent(lm, &source->lm_query);
    in->lm_keys = if_lent(lm, &source->lm_keys);
    in->text_query = if_lent(lm, &source->text_query);
    in->lm_hidden = if_lent((lent & VTC_NEED_HIDDEN) != 0, &source->lm_hidden);
    in->lm_embeddings = if_lent((lent & VTC_NEED_EMBEDDINGS) != 0, &source->lm_embeddings);
    in->text = if_lent((lent & VTC_NEED_TEXT) != 0, &source->text);
    in->n_text = (lent & LENT_ABOUT) != 0 ? source->stand_ins.n_about : 0;
    in->scale = (lent & ~(unsigned)VTC_NEED_CLS) != 0 ? STAND_IN_SCALE : 0.0f;
}

static void write_caption(unsigned lent, char *caption, size_t size)
{
    const bool salience = (lent & VTC_NEED_CLS) != 0;
    const bool rows = (lent & (VTC_NEED_KEYS | VTC_NEED_QUERIES)) != 0;
    const bool question = (lent & LENT_ABOUT) != 0;

    snprintf(caption, size, "%s%s%s%s%s", salience ? SALIENCE_CAPTION : "",
             salience && rows ? "; " : "", rows ? "descriptors stand in for keys" : "",
             (salience || rows) && question ? "; " : "",
             question ? "a region stands in for the question" : "");
}

bool stand_ins_lend(struct tool *tool, struct source *source, const vtc_planner *planner,
                    char *caption, size_t size)
{
    const unsigned lent = lent_bits(source, planner);
    const bool needs_rows = (lent & ~(unsigned)VTC_NEED_CLS) != 0;

    write_caption(lent, caption, size);
    if (source->planes == NULL)
        return true;
    if ((lent & VTC_NEED_CLS) != 0 && source->stand_ins.salience == NULL &&
        !make_salience(tool, source))
        return false;
    if (needs_rows && source->stand_ins.rows == NULL && !make_rows(tool, source))
        return false;
    put_inputs(source, lent);
    return true;
}

bool stand_ins_lack(const struct source *source, const vtc_planner *planner, char *text,
                    size_t size)
{
    const unsigned lent = lent_bits(source, planner);
    unsigned lack = vtc_plan_inputs_lack(&source->inputs, planner->needs) & ~lent;
    size_t used = 0;

    if (source->planes != NULL)
        lack &= ~(unsigned)VTC_NEED_IMAGE;
    for (unsigned bit = 1; bit <= VTC_NEED_IMAGE; bit <<= 1)
        if ((lack & bit) != 0 && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     vtc_need_string((vtc_need)bit));
    return lack != 0;
}

void stand_ins_free(struct stand_ins *stand_ins)
{
    free(stand_ins->salience);
    free(stand_ins->rows);
    free(stand_ins->about);
    memset(stand_ins, 0, sizeof(*stand_ins));
}
