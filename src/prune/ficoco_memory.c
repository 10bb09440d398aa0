/*
 * FiCoCo-V as released: what the authors' code does apart from the paper.
 *
 * The scores go through a memory of the encoder's 24 x 24 grid that is never reset. Cells that won
 * a window once are taken (+inf); the scores of a layer fill the cells that are left, in order, and
 * the winner of each window is then used as a patch index. From the second compressing layer on,
 * cell and patch are not the same thing any more.
 *
 * Tokens come out in score order while targets are numbered in input order, so that target t adds
 * to whatever token is output t, or t - r from T - r on.
 */
#include "ficoco_memory.h"

#include "../linalg/order.h"
#include "../score/local_penalty.h"

#include <math.h>
#include <string.h>

enum { WINDOW = 2, NO_OUTPUT = -1, NEGATIVE = -2 };

/* ---- the memory ------------------------------------------------------------------------------ */

vtc_status vtci_ficoco_memory_open(const vtci_call *call, const float *memory, size_t n_cells,
                                   vtci_ficoco_memory *m)
{
    m->from = memory;
    m->n_cells = memory == NULL && !call->query ? VTC_FICOCO_CELLS : n_cells;
    if (m->n_cells == 0 && memory == NULL)
        m->n_cells = VTC_FICOCO_CELLS;
    VTCI_REQUIRE(call, m->n_cells <= INT32_MAX, VTC_ERR_OVERFLOW, "%zu cells exceed int32",
                 m->n_cells);
    m->side = (size_t)sqrt((double)m->n_cells);
    VTCI_REQUIRE(call, m->side * m->side == m->n_cells, VTC_ERR_SHAPE,
                 "the score memory has %zu cells, which are no square", m->n_cells);
    if (call->query || memory == NULL || m->n_cells == 0)
        return VTC_OK;

    const size_t nan = vtci_find_nan(memory, m->n_cells);

    VTCI_REQUIRE(call, nan == m->n_cells, VTC_ERR_DATA, "memory[%zu] is NaN", nan);
    return VTC_OK;
}

static size_t windows_of_side(const vtci_ficoco_memory *m)
{
    return m->side / WINDOW;
}

void vtci_ficoco_memory_lay_out(vtci_arena *arena, vtci_ficoco_memory *m)
{
    m->cell = vtci_take(arena, m->n_cells, sizeof(*m->cell));
    m->hit = vtci_take(arena, windows_of_side(m) * windows_of_side(m), sizeof(*m->hit));
}

/* The cell of the window with the smallest value, the first of equals. */
static size_t lowest_cell(const vtci_ficoco_memory *m, size_t window)
{
    const size_t y = window / windows_of_side(m) * WINDOW, x = window % windows_of_side(m) * WINDOW;
    size_t lowest = y * m->side + x;

    for (size_t i = 1; i < WINDOW * WINDOW; i++) {
        const size_t cell = (y + i / WINDOW) * m->side + x + i % WINDOW;

        if (m->cell[cell] < m->cell[lowest])
            lowest = cell;
    }
    return lowest;
}

/* The code keeps the smaller of its scores to be discarded: they are ours with the other sign. */
void vtci_ficoco_memory_penalty(vtci_ficoco_memory *m, float coef, float *score, size_t n)
{
    const size_t n_windows = windows_of_side(m) * windows_of_side(m);
    size_t n_stored = 0;

    for (size_t i = 0; i < m->n_cells; i++) {
        m->cell[i] = m->from == NULL ? VTC_FICOCO_FAR_SCORE : m->from[i];
        if (m->cell[i] != INFINITY && n_stored < n)
            m->cell[i] = -score[n_stored++];
    }
    for (size_t w = 0; w < n_windows; w++)
        m->hit[w] = (int32_t)lowest_cell(m, w);
    for (size_t w = 0; w < n_windows; w++) {
        const size_t i = (size_t)m->hit[w];

        if (i >= n)
            continue;
        score[i] = vtci_penalised(score[i], coef);
        m->cell[i] = INFINITY;
    }
}

/* ---- order and outputs ----------------------------------------------------------------------- */

void vtci_ficoco_score_order(vtci_ficoco *f)
{
    const size_t n_rows = f->n + 1, n_left = n_rows - f->r; /* rows with [CLS] */

    vtci_argsort_falling(f->order, f->score, f->n);
    for (size_t rank = 0; rank < f->n; rank++)
        f->place[f->head + (size_t)f->order[rank]] =
            rank < f->r ? -1 - (int32_t)rank : (int32_t)(rank - f->r);
    if (f->head != 0)
        f->place[0] = (int32_t)(n_left - 1);
    for (size_t t = 0; t < n_rows; t++) {
        const size_t slot = t < n_left ? t : t - f->r;

        f->columns[t] = (int32_t)t;
        f->slot[t] = t >= n_left && t < f->r ? NEGATIVE
                     : slot < f->n_out       ? (int32_t)slot
                                             : NO_OUTPUT; /* [CLS], apart */
    }
}

vtc_status vtci_ficoco_check_slots(const vtci_ficoco *f)
{
    for (size_t rank = 0; rank < f->r; rank++)
        for (size_t e = 0; e < f->n_targets; e++) {
            const int32_t t = f->best_column[rank * f->n_best + e];

            VTCI_REQUIRE(f->call, f->slot[t] != NEGATIVE, VTC_ERR_RANGE,
                         "the released code has no output for target %d of %zu rows, %zu of them "
                         "discarded",
                         (int)t, f->n + 1, f->r);
        }
    return VTC_OK;
}
