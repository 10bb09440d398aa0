/*
 * Scores of the patches as a heat map: dark for low, bright for high.
 */
#ifndef HEAT_H
#define HEAT_H

#include "tool.h"

#include <cairo.h>

/* Fills the rectangle with a colour for each patch. Colours span the finite scores but for the
 * lowest and the highest 2 %, so that single patches do not darken all others; infinite scores have
 * the colours at the ends. */
bool draw_heat(struct tool *tool, cairo_t *cr, const float *score, size_t grid_h, size_t grid_w,
               double x, double y, double width, double height);

/* The colour of a share from 0 to 1. */
void heat_colour(double share, double rgb[3]);

#endif
