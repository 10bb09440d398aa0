#include "overlay.h"

#include <math.h>
#include <stdlib.h>

/* ---- pictures -------------------------------------------------------------------------------- */

static uint32_t byte_of(float value)
{
    return value <= 0.0f ? 0 : value >= 1.0f ? 255 : (uint32_t)(value * 255.0f + 0.5f);
}

cairo_surface_t *picture_from_planes(struct tool *tool, const float *planes, size_t height,
                                     size_t width)
{
    const size_t n = height * width;
    cairo_surface_t *picture =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)width, (int)height);
    unsigned char *pixels = cairo_image_surface_get_data(picture);

    if (cairo_surface_status(picture) != CAIRO_STATUS_SUCCESS) {
        tool_fail(tool, "no memory for a picture of %zu x %zu", width, height);
        cairo_surface_destroy(picture);
        return NULL;
    }
    cairo_surface_flush(picture);
    for (size_t i = 0; i < n; i++) {
        unsigned char *row = pixels + i / width * (size_t)cairo_image_surface_get_stride(picture);
        uint32_t *pixel = (uint32_t *)(void *)row + i % width;

        *pixel =
            byte_of(planes[i]) << 16 | byte_of(planes[n + i]) << 8 | byte_of(planes[2 * n + i]);
    }
    cairo_surface_mark_dirty(picture);
    return picture;
}

void draw_picture(cairo_t *cr, cairo_surface_t *picture, double x, double y, double width,
                  double height)
{
    cairo_save(cr);
    cairo_translate(cr, x, y);
    cairo_scale(cr, width / cairo_image_surface_get_width(picture),
                height / cairo_image_surface_get_height(picture));
    cairo_set_source_surface(cr, picture, 0, 0);
    cairo_pattern_set_filter(cairo_get_source(cr), CAIRO_FILTER_GOOD);
    /* without this the border fades into the background when the picture is scaled */
    cairo_pattern_set_extend(cairo_get_source(cr), CAIRO_EXTEND_PAD);
    cairo_rectangle(cr, 0, 0, cairo_image_surface_get_width(picture),
                    cairo_image_surface_get_height(picture));
    cairo_fill(cr);
    cairo_restore(cr);
}

void draw_grid(cairo_t *cr, size_t grid_h, size_t grid_w, double x, double y, double width,
               double height)
{
    cairo_set_source_rgba(cr, 1, 1, 1, 0.35);
    cairo_set_line_width(cr, 0.5);
    for (size_t i = 1; i < grid_w; i++) {
        cairo_move_to(cr, x + width * (double)i / (double)grid_w, y);
        cairo_rel_line_to(cr, 0, height);
    }
    for (size_t i = 1; i < grid_h; i++) {
        cairo_move_to(cr, x, y + height * (double)i / (double)grid_h);
        cairo_rel_line_to(cr, width, 0);
    }
    cairo_stroke(cr);
}

void draw_marked(cairo_t *cr, const unsigned char *marked, size_t grid_h, size_t grid_w, double x,
                 double y, double width, double height)
{
    const double patch_w = width / (double)grid_w, patch_h = height / (double)grid_h;

    cairo_set_source_rgb(cr, 1.0, 0.85, 0.1);
    cairo_set_line_width(cr, 1.5);
    for (size_t n = 0; n < grid_h * grid_w; n++) {
        if (!marked[n])
            continue;
        cairo_rectangle(cr, x + patch_w * (double)(n % grid_w), y + patch_h * (double)(n / grid_w),
                        patch_w, patch_h);
        cairo_stroke(cr);
    }
}

/* ---- fates ----------------------------------------------------------------------------------- */

/* Where the plan is drawn, in a unit of one patch */
struct place {
    cairo_t *cr;
    const struct fate_map *map;
    const size_t *members; /* [n_out] patches of each output */
};

/* Hues a golden angle apart: neighbouring outputs, and any few of them, look different. */
static void set_colour(cairo_t *cr, int32_t output, double value, double alpha)
{
    const double hue = fmod(0.11 + 0.618033988749895 * output, 1.0) * 6.0;
    const double strength = 0.85;
    double channel[3];

    for (int c = 0; c < 3; c++) {
        const double k = fmod(5.0 - 2.0 * c + hue, 6.0);

        channel[c] = value - value * strength * fmax(0.0, fmin(1.0, fmin(k, 4.0 - k)));
    }
    cairo_set_source_rgba(cr, channel[0], channel[1], channel[2], alpha);
}

static bool is_region(const struct place *place, int32_t output)
{
    return output >= 0 && place->members[output] > 1;
}

static void paint_patch(const struct place *place, size_t n)
{
    const struct fate_map *map = place->map;
    const int32_t output = map->owner[n];

    if (output >= 0 && !is_region(place, output))
        return;
    if (output < 0)
        cairo_set_source_rgba(place->cr, 0.07, 0.07, 0.09, 0.78);
    else
        set_colour(place->cr, output, 1.0, 0.42);
    cairo_rectangle(place->cr, (double)(n % map->grid_w), (double)(n / map->grid_w), 1, 1);
    cairo_fill(place->cr);
}

/* A line along one side of patch n where its region ends; drawn just inside, so that two regions
 * that meet both show their colour. */
static void draw_side(const struct place *place, size_t n, int dy, int dx)
{
    const struct fate_map *map = place->map;
    const long y = (long)(n / map->grid_w), x = (long)(n % map->grid_w);
    const long to_y = y + dy, to_x = x + dx;
    const double inset = 0.05;
    const double centre_y = (double)y + 0.5 + dy * (0.5 - inset);
    const double centre_x = (double)x + 0.5 + dx * (0.5 - inset);

    if (to_y >= 0 && to_x >= 0 && to_y < (long)map->grid_h && to_x < (long)map->grid_w &&
        map->owner[to_y * (long)map->grid_w + to_x] == map->owner[n])
        return;
    cairo_move_to(place->cr, centre_x - 0.5 * (dx == 0), centre_y - 0.5 * (dy == 0));
    cairo_line_to(place->cr, centre_x + 0.5 * (dx == 0), centre_y + 0.5 * (dy == 0));
    cairo_stroke(place->cr);
}

static void draw_border(const struct place *place, size_t n)
{
    const int32_t output = place->map->owner[n];

    if (output < 0)
        return;
    if (is_region(place, output))
        set_colour(place->cr, output, 0.95, 1.0);
    else
        cairo_set_source_rgba(place->cr, 1, 1, 1, 0.75);
    draw_side(place, n, -1, 0);
    draw_side(place, n, 1, 0);
    draw_side(place, n, 0, -1);
    draw_side(place, n, 0, 1);
}

/* A dot on the patch that a region stands for, which lends its position and its K/V row. */
static void mark_keep(const struct place *place, int32_t output)
{
    const struct fate_map *map = place->map;
    const int32_t n = map->keep[output];

    if (n < 0 || !is_region(place, output))
        return;
    cairo_arc(place->cr, (double)((size_t)n % map->grid_w) + 0.5,
              (double)((size_t)n / map->grid_w) + 0.5, 0.16, 0, 6.2832);
    cairo_set_source_rgb(place->cr, 1, 1, 1);
    cairo_fill_preserve(place->cr);
    cairo_set_source_rgb(place->cr, 0, 0, 0);
    cairo_set_line_width(place->cr, 0.05);
    cairo_stroke(place->cr);
}

static void draw_all(const struct place *place)
{
    const size_t n_patches = place->map->grid_h * place->map->grid_w;

    for (size_t n = 0; n < n_patches; n++)
        paint_patch(place, n);
    cairo_set_line_width(place->cr, 0.1);
    for (size_t n = 0; n < n_patches; n++)
        draw_border(place, n);
    for (size_t i = 0; i < place->map->n_out && place->map->keep != NULL; i++)
        mark_keep(place, (int32_t)i);
}

bool draw_fates(struct tool *tool, cairo_t *cr, const struct fate_map *map, double x, double y,
                double width, double height)
{
    size_t *members = tool_new(tool, map->n_out, sizeof(*members));
    const struct place place = { cr, map, members };

    if (members == NULL)
        return false;
    for (size_t n = 0; n < map->grid_h * map->grid_w; n++)
        if (map->owner[n] >= 0)
            members[map->owner[n]]++;
    cairo_save(cr);
    cairo_translate(cr, x, y);
    cairo_scale(cr, width / (double)map->grid_w, height / (double)map->grid_h);
    cairo_set_antialias(cr, CAIRO_ANTIALIAS_NONE);
    draw_all(&place);
    cairo_restore(cr);
    free(members);
    return true;
}
