/*
 * The contact sheet of a contest: one picture that a person can read.
 */
#ifndef SHEET_H
#define SHEET_H

#include "contest.h"

/* Draws the sheet and writes it as PNG. */
bool save_sheet(struct tool *tool, const struct contest *contest, const char *title,
                const char *path);

/* One figure as the table and the sheet show it: "21.34", "21.34±0.12" over seeds, "exact". */
void format_figure(const struct result *result, enum figure figure, char *text, size_t size);

/* What the figures mean: lines for the sheet and for the printed table */
extern const char *const legend[];
extern const size_t n_legend;

#endif
