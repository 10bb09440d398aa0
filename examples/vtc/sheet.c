#include "sheet.h"

#include "descriptor.h"
#include "heat.h"
#include "overlay.h"
#include "save.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

/* All lengths are pixels. */
#define N_COLUMNS   3
#define MARGIN      24.0
#define GAP         6.0  /* between the pictures of a cell     */
#define N_PICTURES  3    /* of a cell                          */
#define CELL_GAP    28.0 /* between cells                      */
#define LINE_HEIGHT 21.0
#define TEXT_SIZE   15.0
#define NAME_SIZE   18.0
#define TITLE_SIZE  25.0
#define CELL_LINES  3
#define HEAD_HEIGHT 104.0

struct sheet {
    struct tool *tool;
    const struct contest *contest;
    cairo_t *cr;
    double picture_w, picture_h; /* one of the pictures of a cell */
    double width, height;
};

const char *const legend[] = {
    "This measures redundancy in pixels and descriptors, not a model's accuracy.",
    "Tokens are descriptors of patches (colour DCT, oriented gradients), not a neural network's.",
    "Rebuilt: a patch is drawn by the output it went into, a dropped one by the output most "
    "similar",
    "to its token. PSNR compares that picture with the original. Cosine: of each token and its",
    "nearest output, mean and 5th percentile. Time: the method alone, median of 5 to 21 runs.",
    "Score: what the method ranks by, on a scale of its own; 'vtc methods' and the headers tell.",
    COST_TITLE ": prefill of the visual and 60 text tokens, 2 FLOPs per multiply-add, gated MLP;",
    "K/V cache of the visual tokens, 2 bytes per value, MB of 10^6 bytes. \302\261: standard "
    "deviation",
    "over seeds 0 to 4.",
};
const size_t n_legend = sizeof(legend) / sizeof(legend[0]);

/* ---- text ------------------------------------------------------------------------------------ */

static void draw_text(cairo_t *cr, double x, double y, double size, bool bold, double max_width,
                      const char *format, ...) VTC_PRINTF(7, 8);

/* Text on the baseline y. A line that does not fit is set smaller, never cut. */
static void draw_text(cairo_t *cr, double x, double y, double size, bool bold, double max_width,
                      const char *format, ...)
{
    cairo_text_extents_t extents;
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    cairo_select_font_face(cr, "DejaVu Sans", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cr, size);
    cairo_text_extents(cr, text, &extents);
    if (extents.x_advance > max_width)
        cairo_set_font_size(cr, size * max_width / extents.x_advance);
    cairo_move_to(cr, x, y);
    cairo_show_text(cr, text);
}

static void set_ink(cairo_t *cr, double darkness)
{
    cairo_set_source_rgb(cr, 1.0 - darkness, 1.0 - darkness, 1.0 - darkness);
}

void format_figure(const struct result *result, enum figure figure, char *text, size_t size)
{
    static const int digits[N_FIGURES] = { 3, 2, 3, 3 };
    const double mean = result->mean[figure];

    if (isinf(mean))
        snprintf(text, size, "exact");
    else if (result->n_runs > 1 && figure != FIGURE_TIME)
        snprintf(text, size, "%.*f\302\261%.*f", digits[figure], mean, digits[figure],
                 result->spread[figure]);
    else
        snprintf(text, size, "%.*f", digits[figure], mean);
}

/* ---- cells ----------------------------------------------------------------------------------- */

/* Wide enough for the text below, also when the pictures are narrow */
static double cell_width(const struct sheet *sheet)
{
    return fmax(N_PICTURES * sheet->picture_w + (N_PICTURES - 1) * GAP, 560.0);
}

static double cell_height(const struct sheet *sheet)
{
    return sheet->picture_h + CELL_LINES * LINE_HEIGHT + 10.0;
}

/* Left edge of the i-th picture of a cell that begins at x */
static double picture_x(const struct sheet *sheet, double x, size_t i)
{
    return x + (double)i * (sheet->picture_w + GAP);
}

/* Top left corner of the i-th cell; the original is cell 0. */
static void place_cell(const struct sheet *sheet, size_t i, double *x, double *y)
{
    *x = MARGIN + (double)(i % N_COLUMNS) * (cell_width(sheet) + CELL_GAP);
    *y = HEAD_HEIGHT + (double)(i / N_COLUMNS) * (cell_height(sheet) + CELL_GAP);
}

static bool draw_planes(const struct sheet *sheet, const float *planes, size_t height, size_t width,
                        double x, double y, double scale)
{
    cairo_surface_t *picture = picture_from_planes(sheet->tool, planes, height, width);

    if (picture == NULL)
        return false;
    draw_picture(sheet->cr, picture, x, y, (double)width * scale, (double)height * scale);
    cairo_surface_destroy(picture);
    return true;
}

static double picture_scale(const struct sheet *sheet)
{
    return sheet->picture_w / (double)(sheet->contest->source->grid_w * PATCH_SIDE);
}

static bool draw_whole(const struct sheet *sheet, const float *planes, double x, double y)
{
    const struct source *source = sheet->contest->source;

    return draw_planes(sheet, planes, source->grid_h * PATCH_SIDE, source->grid_w * PATCH_SIDE, x,
                       y, picture_scale(sheet));
}

/* The patches that play the question, if any do */
static bool draw_question(const struct sheet *sheet, double x, double y)
{
    const struct source *source = sheet->contest->source;

    if (source->stand_ins.about == NULL)
        return true;
    if (!draw_whole(sheet, source->planes, x, y))
        return false;
    draw_marked(sheet->cr, source->stand_ins.about, source->grid_h, source->grid_w, x, y,
                sheet->picture_w, sheet->picture_h);
    return true;
}

static bool draw_original(const struct sheet *sheet)
{
    const struct source *source = sheet->contest->source;
    const double width = cell_width(sheet);
    double x, y;

    place_cell(sheet, 0, &x, &y);
    if (!draw_whole(sheet, source->planes, x, y) ||
        !draw_whole(sheet, source->planes, picture_x(sheet, x, 1), y))
        return false;
    draw_grid(sheet->cr, source->grid_h, source->grid_w, x, y, sheet->picture_w, sheet->picture_h);
    if (!draw_question(sheet, picture_x(sheet, x, 2), y))
        return false;
    set_ink(sheet->cr, 0.9);
    y += sheet->picture_h + LINE_HEIGHT;
    draw_text(sheet->cr, x, y, NAME_SIZE, true, width, "original  %zu tokens", source->n_tokens);
    set_ink(sheet->cr, 0.75);
    draw_text(sheet->cr, x, y + LINE_HEIGHT, TEXT_SIZE, false, width,
              "%zu x %zu patches of 14 x 14 pixels%s", source->grid_h, source->grid_w,
              source->stand_ins.about != NULL ? "; framed: the region that plays the question"
                                              : "");
    draw_text(sheet->cr, x, y + 2 * LINE_HEIGHT, TEXT_SIZE, false, width,
              COST_TITLE " prefill %.2f TFLOPs, %.0f MB KV", sheet->contest->cost.tera_flops,
              sheet->contest->cost.kv_megabytes);
    return true;
}

static bool draw_fate_picture(const struct sheet *sheet, const struct result *result, double x,
                              double y)
{
    const struct source *source = sheet->contest->source;
    const struct fate_map map = { source->grid_h, source->grid_w, result->n_out, result->owner,
                                  result->keep };

    return draw_whole(sheet, source->planes, x, y) &&
           draw_fates(sheet->tool, sheet->cr, &map, x, y, sheet->picture_w, sheet->picture_h);
}

/* The smaller picture in proportion, in the middle of an empty frame */
static bool draw_smaller(const struct sheet *sheet, const struct result *result, double x, double y)
{
    const double scale = picture_scale(sheet);
    const double width = scale * (double)result->smaller_w;
    const double height = scale * (double)result->smaller_h;

    set_ink(sheet->cr, 0.15);
    cairo_rectangle(sheet->cr, x, y, sheet->picture_w, sheet->picture_h);
    cairo_fill(sheet->cr);
    x += (sheet->picture_w - width) / 2.0;
    y += (sheet->picture_h - height) / 2.0;
    if (!draw_planes(sheet, result->smaller, result->smaller_h, result->smaller_w, x, y, scale))
        return false;
    draw_grid(sheet->cr, result->smaller_h / PATCH_SIDE, result->smaller_w / PATCH_SIDE, x, y,
              width, height);
    return true;
}

/* What the method scored each patch, or an empty frame */
static bool draw_score(const struct sheet *sheet, const struct result *result, double x, double y)
{
    const struct source *source = sheet->contest->source;

    if (result->score != NULL)
        return draw_heat(sheet->tool, sheet->cr, result->score, source->grid_h, source->grid_w, x,
                         y, sheet->picture_w, sheet->picture_h);
    set_ink(sheet->cr, 0.06);
    cairo_rectangle(sheet->cr, x, y, sheet->picture_w, sheet->picture_h);
    cairo_fill(sheet->cr);
    set_ink(sheet->cr, 0.5);
    draw_text(sheet->cr, x + 12, y + sheet->picture_h / 2, TEXT_SIZE, false, sheet->picture_w - 24,
              "no scores: nothing is ranked");
    return true;
}

/* Name and counts, and behind them the caption, if there is one */
static void draw_name(const struct sheet *sheet, const struct result *result, double x, double y)
{
    const double end = x + cell_width(sheet);

    draw_text(sheet->cr, x, y, NAME_SIZE, true, end - x, "%s  %zu \342\206\222 %zu", result->title,
              sheet->contest->source->n_tokens, result->n_out);
    if (result->caption[0] == '\0')
        return;
    cairo_get_current_point(sheet->cr, &x, NULL);
    draw_text(sheet->cr, x + 12, y, TEXT_SIZE, false, end - x - 12, "(%s)", result->caption);
}

static void draw_figures(const struct sheet *sheet, const struct result *result, double x, double y)
{
    const struct model_cost *all = &sheet->contest->cost;
    const double width = cell_width(sheet);
    char text[N_FIGURES][32];

    for (int f = 0; f < N_FIGURES; f++)
        format_figure(result, (enum figure)f, text[f], sizeof(text[f]));
    set_ink(sheet->cr, 0.9);
    draw_name(sheet, result, x, y);
    set_ink(sheet->cr, 0.75);
    draw_text(sheet->cr, x, y + LINE_HEIGHT, TEXT_SIZE, false, width,
              "PSNR %s dB   cosine %s, 5 %%: %s   %s ms", text[FIGURE_PSNR], text[FIGURE_COSINE],
              text[FIGURE_COSINE_P5], text[FIGURE_TIME]);
    draw_text(sheet->cr, x, y + 2 * LINE_HEIGHT, TEXT_SIZE, false, width,
              COST_TITLE " prefill %.2f TFLOPs, %.0f MB KV saved", result->cost.tera_flops,
              all->kv_megabytes - result->cost.kv_megabytes);
}

static bool draw_result(const struct sheet *sheet, const struct result *result, size_t cell)
{
    double x, y;
    bool done;

    place_cell(sheet, cell, &x, &y);
    done = result->smaller != NULL ? draw_smaller(sheet, result, x, y)
                                   : draw_fate_picture(sheet, result, x, y);
    done = done && draw_score(sheet, result, picture_x(sheet, x, 1), y) &&
           draw_whole(sheet, result->rebuilt, picture_x(sheet, x, 2), y);
    draw_figures(sheet, result, x, y + sheet->picture_h + LINE_HEIGHT);
    return done;
}

/* ---- the sheet ------------------------------------------------------------------------------- */

static size_t count_results(const struct contest *contest, bool missing)
{
    size_t n = 0;

    for (size_t i = 0; i < contest->n_results; i++)
        n += (contest->results[i].missing[0] != '\0') == missing;
    return n;
}

static void draw_swatch(const struct sheet *sheet, double *x, double y, double r, double g,
                        double b, const char *text)
{
    cairo_text_extents_t extents;

    cairo_set_source_rgb(sheet->cr, r, g, b);
    cairo_rectangle(sheet->cr, *x, y - 14, 18, 18);
    cairo_fill(sheet->cr);
    set_ink(sheet->cr, 0.75);
    draw_text(sheet->cr, *x + 26, y, TEXT_SIZE, false, sheet->width, "%s", text);
    cairo_text_extents(sheet->cr, text, &extents);
    *x += 26 + extents.x_advance + 30;
}

/* The colours of the heat maps, from low to high */
static void draw_scale(const struct sheet *sheet, double *x, double y)
{
    enum { STEPS = 48 };

    for (int i = 0; i < STEPS; i++) {
        double rgb[3];

        heat_colour((i + 0.5) / STEPS, rgb);
        cairo_set_source_rgb(sheet->cr, rgb[0], rgb[1], rgb[2]);
        cairo_rectangle(sheet->cr, *x + 1.5 * i, y - 14, 2.0, 18);
        cairo_fill(sheet->cr);
    }
    *x += 1.5 * STEPS + 8;
    set_ink(sheet->cr, 0.75);
    draw_text(sheet->cr, *x, y, TEXT_SIZE, false, sheet->width, "score, low to high");
    *x += 170;
}

static void draw_head(const struct sheet *sheet, const char *title)
{
    const struct contest *contest = sheet->contest;
    const size_t n_threads = sheet->tool->exec.n_workers;
    double x = MARGIN;

    set_ink(sheet->cr, 0.9);
    draw_text(sheet->cr, x, 44, TITLE_SIZE, true, sheet->width - 2 * MARGIN,
              "%s: %zu tokens, at most %zu kept, %zu thread%s", title, contest->source->n_tokens,
              contest->n_keep, n_threads, n_threads == 1 ? "" : "s");
    draw_swatch(sheet, &x, 78, 0.85, 0.85, 0.85, "kept as it is (white frame)");
    draw_swatch(sheet, &x, 78, 0.95, 0.55, 0.25,
                "merged: one colour per output, a dot where it stands");
    draw_swatch(sheet, &x, 78, 0.15, 0.15, 0.17, "dropped");
    draw_scale(sheet, &x, 78);
    draw_text(
        sheet->cr, x, 78, TEXT_SIZE, false, sheet->width - MARGIN - x,
        "left: what becomes of each patch   middle: its score   right: the photograph rebuilt "
        "from the outputs");
}

static double foot_height(const struct contest *contest)
{
    return (double)(n_legend + count_results(contest, true)) * LINE_HEIGHT + MARGIN;
}

static void draw_foot(const struct sheet *sheet)
{
    const struct contest *contest = sheet->contest;
    const double width = sheet->width - 2 * MARGIN;
    double y = sheet->height - foot_height(contest) + TEXT_SIZE;

    set_ink(sheet->cr, 0.75);
    for (size_t i = 0; i < contest->n_results; i++)
        if (contest->results[i].missing[0] != '\0') {
            draw_text(sheet->cr, MARGIN, y, TEXT_SIZE, false, width, "not run: %s: %s",
                      contest->results[i].title, contest->results[i].missing);
            y += LINE_HEIGHT;
        }
    for (size_t i = 0; i < n_legend; i++, y += LINE_HEIGHT)
        draw_text(sheet->cr, MARGIN, y, TEXT_SIZE, i == 0, width, "%s", legend[i]);
}

static bool draw_sheet(const struct sheet *sheet, const char *title)
{
    const struct contest *contest = sheet->contest;
    size_t cell = 1;
    bool done;

    cairo_set_source_rgb(sheet->cr, 1, 1, 1);
    cairo_paint(sheet->cr);
    draw_head(sheet, title);
    done = draw_original(sheet);
    for (size_t i = 0; i < contest->n_results && done; i++)
        if (contest->results[i].missing[0] == '\0')
            done = draw_result(sheet, &contest->results[i], cell++);
    draw_foot(sheet);
    return done;
}

/* Pictures of about equal area whatever the grid's shape. */
static void lay_out(struct sheet *sheet)
{
    const struct source *source = sheet->contest->source;
    const double aspect = (double)source->grid_h / (double)source->grid_w;
    const size_t n_cells = 1 + count_results(sheet->contest, false);
    const size_t n_rows = (n_cells + N_COLUMNS - 1) / N_COLUMNS;

    sheet->picture_w = fmin(floor(240.0 / sqrt(aspect)), 480.0);
    sheet->picture_h = ceil(sheet->picture_w * aspect);
    sheet->width = 2 * MARGIN + N_COLUMNS * cell_width(sheet) + (N_COLUMNS - 1) * CELL_GAP;
    sheet->height = HEAD_HEIGHT + (double)n_rows * (cell_height(sheet) + CELL_GAP) +
                    foot_height(sheet->contest);
}

bool save_sheet(struct tool *tool, const struct contest *contest, const char *title,
                const char *path)
{
    struct sheet sheet = { tool, contest, NULL, 0, 0, 0, 0 };
    cairo_surface_t *surface;
    bool done;

    lay_out(&sheet);
    surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)sheet.width, (int)sheet.height);
    sheet.cr = cairo_create(surface);
    done = draw_sheet(&sheet, title) && save_picture(tool, path, surface);
    cairo_destroy(sheet.cr);
    cairo_surface_destroy(surface);
    return done;
}
