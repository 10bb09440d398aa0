/*
 * A plan drawn over its image: kept patches as they are, merged regions in colour, dropped patches
 * dimmed.
 */
#ifndef OVERLAY_H
#define OVERLAY_H

#include "tool.h"

#include <cairo.h>

#include <stdint.h>

struct fate_map {
    size_t grid_h, grid_w;
    size_t n_out;
    const int32_t *owner; /* [grid_h * grid_w] output of each patch, -1: dropped            */
    const int32_t *keep;  /* [n_out] the patch each output stands for; NULL: none is marked */
};

/* A picture for cairo from planes [3, height, width] of 0 to 1. NULL without memory; end it with
 * cairo_surface_destroy(). */
cairo_surface_t *picture_from_planes(struct tool *tool, const float *planes, size_t height,
                                     size_t width);

/* Draws `picture` into a rectangle. */
void draw_picture(cairo_t *cr, cairo_surface_t *picture, double x, double y, double width,
                  double height);

/* Draws a plan over what the rectangle shows. */
bool draw_fates(struct tool *tool, cairo_t *cr, const struct fate_map *map, double x, double y,
                double width, double height);

/* Frames the patches that are marked. */
void draw_marked(cairo_t *cr, const unsigned char *marked, size_t grid_h, size_t grid_w, double x,
                 double y, double width, double height);

/* Lines between the patches. */
void draw_grid(cairo_t *cr, size_t grid_h, size_t grid_w, double x, double y, double width,
               double height);

#endif
