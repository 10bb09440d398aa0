/* Plans as dense matrices. */
#include "reference/plan_reference.h"

#include "support/support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);

    if (memory == NULL)
        abort();
    return memory;
}

/* ---- dense matrices -------------------------------------------------------------------------- */

static dense_plan dense_new(size_t n_in, size_t n_out, bool max)
{
    dense_plan d = { n_in, n_out, max, NULL, NULL, NULL };

    d.has = allocate(n_in * n_out, sizeof(*d.has));
    d.weight = allocate(n_in * n_out, sizeof(*d.weight));
    d.keep = allocate(n_out, sizeof(*d.keep));
    return d;
}

void dense_free(dense_plan *d)
{
    free(d->has);
    free(d->weight);
    free(d->keep);
}

static void put(dense_plan *d, size_t j, size_t i, double weight)
{
    double *w = &d->weight[j * d->n_in + i];
    bool *has = &d->has[j * d->n_in + i];

    if (!*has)
        *w = weight;
    else
        *w = d->max ? fmax(*w, weight) : *w + weight;
    *has = true;
}

dense_plan dense_of(const vtc_plan *plan)
{
    dense_plan d = dense_new(plan->n_in, plan->n_out, plan->reduce == VTC_MAX);

    for (size_t j = 0; j < plan->n_out; j++) {
        d.keep[j] = plan->keep[j];
        if (plan->begin == NULL) {
            if (plan->keep[j] >= 0)
                put(&d, j, (size_t)plan->keep[j], 1.0);
            continue;
        }
        for (int32_t e = plan->begin[j]; e < plan->begin[j + 1]; e++)
            put(&d, j, (size_t)plan->source[e], plan->weight[e]);
    }
    return d;
}

dense_plan dense_compose(const dense_plan *first, const dense_plan *second)
{
    dense_plan d = dense_new(first->n_in, second->n_out, first->max || second->max);

    for (size_t j = 0; j < d.n_out; j++) {
        for (size_t t = 0; t < second->n_in; t++)
            for (size_t i = 0; i < d.n_in; i++)
                if (second->has[j * second->n_in + t] && first->has[t * d.n_in + i])
                    put(&d, j, i,
                        second->weight[j * second->n_in + t] * first->weight[t * d.n_in + i]);
        d.keep[j] = second->keep[j] < 0 ? -1 : first->keep[second->keep[j]];
    }
    return d;
}

dense_plan dense_concat(const dense_plan *a, const dense_plan *b)
{
    dense_plan d = dense_new(a->n_in + b->n_in, a->n_out + b->n_out, a->max || b->max);

    for (size_t j = 0; j < d.n_out; j++) {
        const bool in_a = j < a->n_out;
        const dense_plan *part = in_a ? a : b;
        const size_t row = in_a ? j : j - a->n_out, shift = in_a ? 0 : a->n_in;

        d.keep[j] = part->keep[row] < 0 ? -1 : part->keep[row] + (int32_t)shift;
        for (size_t i = 0; i < part->n_in; i++)
            if (part->has[row * part->n_in + i])
                put(&d, j, shift + i, part->weight[row * part->n_in + i]);
    }
    return d;
}

void dense_apply(const dense_plan *d, const double *x, size_t c, double *y)
{
    for (size_t j = 0; j < d->n_out; j++) {
        for (size_t k = 0; k < c; k++) {
            double sum = 0.0, top = -INFINITY;
            bool any = false;

            for (size_t i = 0; i < d->n_in; i++) {
                if (!d->has[j * d->n_in + i])
                    continue;
                any = true;
                sum += d->weight[j * d->n_in + i] * x[i * c + k];
                top = fmax(top, d->weight[j * d->n_in + i] * x[i * c + k]);
            }
            y[j * c + k] = d->max && any ? top : sum;
        }
    }
}

void dense_fate(const dense_plan *d, int32_t *fate)
{
    for (size_t i = 0; i < d->n_in; i++) {
        fate[i] = -1;
        for (size_t j = 0; j < d->n_out; j++)
            if (d->has[j * d->n_in + i] &&
                (fate[i] < 0 ||
                 d->weight[j * d->n_in + i] > d->weight[(size_t)fate[i] * d->n_in + i]))
                fate[i] = (int32_t)j;
    }
}

/* ---- random plans ---------------------------------------------------------------------------- */

vtc_plan empty_plan(size_t n_in, size_t n_out, size_t n_nnz)
{
    vtc_plan plan = VTC_PLAN_INIT;

    plan.cap_in = n_in;
    plan.cap_out = n_out;
    plan.cap_nnz = n_nnz;
    plan.keep = allocate(n_out, sizeof(*plan.keep));
    plan.mass = allocate(n_out, sizeof(*plan.mass));
    plan.score = allocate(n_in, sizeof(*plan.score));
    plan.fate = allocate(n_in, sizeof(*plan.fate));
    if (n_nnz != 0) {
        plan.begin = allocate(n_out + 1, sizeof(*plan.begin));
        plan.source = allocate(n_nnz, sizeof(*plan.source));
        plan.weight = allocate(n_nnz, sizeof(*plan.weight));
    }
    return plan;
}

void free_plan(vtc_plan *plan)
{
    free(plan->keep);
    free(plan->mass);
    free(plan->score);
    free(plan->fate);
    free(plan->begin);
    free(plan->source);
    free(plan->weight);
}

static void choose_rows(uint64_t *state, vtc_plan *plan, plan_kind kind)
{
    size_t next = 0;

    for (size_t j = 0; j < plan->n_out; j++) {
        if (kind == PLAN_ASCENDING) {
            next += rng_below(state, plan->n_in - next - (plan->n_out - j) + 1);
            plan->keep[j] = (int32_t)next++;
        } else {
            plan->keep[j] = (int32_t)rng_below(state, plan->n_in + 1) - 1;
        }
    }
}

static void choose_entries(uint64_t *state, vtc_plan *plan, plan_kind kind, const int32_t *owner)
{
    int32_t n = 0;

    for (size_t j = 0; j < plan->n_out; j++) {
        const size_t sparsity = 1 + rng_below(state, 6);

        plan->begin[j] = n;
        for (size_t i = 0; i < plan->n_in; i++) {
            const float magnitude = (float)(1 + rng_below(state, 8)) / 8.0f; /* ties happen */
            const bool negative = kind == PLAN_OVERLAP && rng_below(state, 4) == 0;

            if (kind == PLAN_GROUPS ? owner[i] != (int32_t)j : rng_below(state, sparsity) != 0)
                continue;
            plan->source[n] = (int32_t)i;
            plan->weight[n++] = negative ? -magnitude : magnitude;
        }
        plan->begin[j + 1] = n;
        plan->keep[j] = -1;
        if (n != plan->begin[j])
            plan->keep[j] = plan->source[plan->begin[j] +
                                         (int32_t)rng_below(state, (size_t)(n - plan->begin[j]))];
    }
}

vtc_plan random_plan(uint64_t *state, plan_kind kind, size_t n_in, size_t n_out)
{
    const bool pure = kind == PLAN_SELECTION || kind == PLAN_ASCENDING;
    vtc_plan plan = empty_plan(n_in, n_out, pure ? 0 : n_in * n_out + 1);
    int32_t *owner = allocate(n_in, sizeof(*owner));

    plan.n_in = n_in;
    plan.n_out = n_out;
    plan.reduce = kind == PLAN_MAX ? VTC_MAX : VTC_SUM;
    for (size_t i = 0; i < n_in; i++) {
        owner[i] = (int32_t)rng_below(state, n_out + 1) - 1;
        plan.score[i] = rng_f32(state);
    }
    if (pure)
        choose_rows(state, &plan, kind);
    else
        choose_entries(state, &plan, kind, owner);
    for (size_t j = 0; j < n_out; j++)
        plan.mass[j] = plan.keep[j] < 0 ? 0.0f : (float)(1 + rng_below(state, 9));

    dense_plan d = dense_of(&plan);
    dense_fate(&d, plan.fate);
    dense_free(&d);
    free(owner);
    return plan;
}
