/*
 * Files that the tool writes. Each appears whole or not at all.
 */
#ifndef SAVE_H
#define SAVE_H

#include "tool.h"

#include <cairo.h>

/* Makes the folder and those above it; fine when it exists. */
bool make_folder(struct tool *tool, const char *path);

/* "DIR/stem.suffix" for an input path; the stem is its name without folder and last extension.
 * free() it. NULL without memory. */
char *output_path(struct tool *tool, const char *folder, const char *input, const char *suffix);

/* The first two inputs whose outputs would have the same names, as indices; false: none. */
bool find_equal_stems(char *const *inputs, size_t n, size_t *first, size_t *second);

/* Writes a picture as PNG to a temporary file and renames it. */
bool save_picture(struct tool *tool, const char *path, cairo_surface_t *surface);

#endif
