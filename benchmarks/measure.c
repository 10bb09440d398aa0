/*
 * Case and limit are timed in turns, A B A B ..., in one process on the same workers. A turn is as
 * many calls as fill a millisecond. Where data are cold in real use, calls go round over working
 * sets that together are larger than any cache; elsewhere a call before the clock starts brings
 * back what the other side has displaced.
 */
#include "measure.h"

#include "set.h"

#include <math.h>
#include <time.h>

enum {
    COLD_BYTES = 128 << 20, /* several times the last-level cache that a few cores share */
    MAX_SETS = 64,
    TURN_NS = 1000000,
    MAX_CALLS = 10000
};

/* One of the two sides that take turns. */
struct side {
    void (*run)(bench_set *set);
    bool cold;
    bench_set *sets;
    size_t n_sets, next;
    size_t calls; /* in a turn */
};

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void run_next(struct side *side)
{
    side->run(&side->sets[side->next]);
    side->next = (side->next + 1) % side->n_sets;
}

/* Nanoseconds of one call in this turn. */
static double take_turn(struct side *side)
{
    if (!side->cold)
        run_next(side);

    const double start = now_ns();

    for (size_t i = 0; i < side->calls; i++)
        run_next(side);
    return (now_ns() - start) / (double)side->calls;
}

/* Touches every page that calls use, then learns how long one takes. */
static void warm_up(struct side *side)
{
    side->calls = side->n_sets;
    take_turn(side);
    side->calls = 1;
    side->calls = (size_t)fmin(TURN_NS / take_turn(side) + 1.0, MAX_CALLS);
}

/* Without a run of its own the case is the limit, and there is nothing to compare. */
static void take_turns(struct side *method, struct side *limit, bench_result *result)
{
    double ns[BENCH_MAX_ROUNDS], limit_ns[BENCH_MAX_ROUNDS], ratio[BENCH_MAX_ROUNDS];

    warm_up(method);
    if (result->has_limit)
        warm_up(limit);
    for (size_t r = 0; r < result->rounds; r++) {
        ns[r] = take_turn(method);
        if (result->has_limit) {
            limit_ns[r] = take_turn(limit);
            ratio[r] = ns[r] / limit_ns[r];
        }
    }
    result->time = bench_spread_of(ns, result->rounds);
    if (result->has_limit) {
        result->limit = bench_spread_of(limit_ns, result->rounds);
        result->ratio = bench_interval_of(ratio, result->rounds);
    }
}

static size_t open_sets(const bench_case *c, bench_workers *workers, bench_set *sets)
{
    size_t n = 0, bytes = 0;

    do {
        bench_set_open(&sets[n], workers, c);
        bytes += sets[n++].bytes;
    } while (c->cold && bytes < COLD_BYTES && n < MAX_SETS);
    return n;
}

bench_result bench_measure(const bench_case *c, bench_workers *workers, size_t rounds)
{
    bench_set sets[MAX_SETS];
    const size_t n_sets = open_sets(c, workers, sets);
    const bench_limit *work = &sets[0].limit;
    struct side method = { c->run != NULL ? c->run : bench_limit_run, c->cold, sets, n_sets, 0, 1 };
    struct side limit = { bench_limit_run, c->cold, sets, n_sets, 0, 1 };
    bench_result result = {
        .name = c->name, .n_workers = sets[0].exec.n_workers, .rounds = rounds, .goal = c->goal
    };

    result.has_limit = c->run != NULL && (work->copy_bytes != 0 || work->n_products != 0);
    bench_limit_name(work, result.limit_name, sizeof(result.limit_name));
    take_turns(&method, &limit, &result);
    result.gflops = bench_limit_flops(work) / result.time.median;
    result.gbytes = 2.0 * (double)work->copy_bytes / result.time.median;
    for (size_t i = 0; i < n_sets; i++)
        bench_set_close(&sets[i]);
    return result;
}
