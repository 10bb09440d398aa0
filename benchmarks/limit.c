/* What cases are compared with: memcpy, and sgemm of the OpenBLAS that the library links. */
#include "bench.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Start of part `index` of `n_parts` of n, at multiples of `unit`. */
static size_t part_start(size_t n, size_t n_parts, size_t index, size_t unit)
{
    return index == n_parts ? n : smaller(n, n / n_parts * index / unit * unit);
}

/* ---- copies ---------------------------------------------------------------------------------- */

void bench_limit_traffic(bench_set *set, size_t moved)
{
    set->limit.copy_bytes = moved / 2;
    set->limit.from = bench_zeros(set, moved / 2);
    set->limit.to = bench_zeros(set, moved / 2);
    memset(set->limit.from, 1, moved / 2);
}

static void copy_part(void *job, size_t index, size_t worker)
{
    const bench_set *set = job;
    const bench_limit *limit = &set->limit;
    const size_t begin = part_start(limit->copy_bytes, set->exec.n_workers, index, 4096);
    const size_t end = part_start(limit->copy_bytes, set->exec.n_workers, index + 1, 4096);

    (void)worker;
    memcpy(limit->to + begin, limit->from + begin, end - begin);
}

/* ---- products -------------------------------------------------------------------------------- */

void bench_limit_product(bench_set *set, size_t count, size_t m, size_t n, size_t k, bool trans_b)
{
    bench_product *p = &set->limit.product[set->limit.n_products++];

    p->count = count;
    p->m = m;
    p->n = n;
    p->k = k;
    p->trans_b = trans_b;
    p->a = bench_random_3d(set, VTC_F32, count, m, k).data;
    p->b = bench_random_3d(set, VTC_F32, count, n, k).data;
    p->c = bench_zeros(set, set->exec.n_workers * m * n * sizeof(*p->c));
}

static void multiply(const bench_product *p, size_t m, size_t n, const float *a, const float *b,
                     float *c)
{
    const size_t ldb = p->trans_b ? p->k : p->n;

    cblas_sgemm(CblasRowMajor, CblasNoTrans, p->trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n,
                (int)p->k, 1.0f, a, (int)p->k, b, (int)ldb, 0.0f, c, (int)p->n);
}

struct product_job {
    const bench_product *product;
    size_t n_parts;
};

static void run_one_of_many(void *arg, size_t index, size_t worker)
{
    const bench_product *p = ((const struct product_job *)arg)->product;

    multiply(p, p->m, p->n, p->a + index * p->m * p->k, p->b + index * p->n * p->k,
             p->c + worker * p->m * p->n);
}

/* The longer side is cut: rows of A and C, or columns of B and C. */
static void run_part_of_one(void *arg, size_t index, size_t worker)
{
    const struct product_job *job = arg;
    const bench_product *p = job->product;
    const bool down = p->m >= p->n;
    const size_t begin = part_start(down ? p->m : p->n, job->n_parts, index, 16);
    const size_t end = part_start(down ? p->m : p->n, job->n_parts, index + 1, 16);

    (void)worker;
    if (down)
        multiply(p, end - begin, p->n, p->a + begin * p->k, p->b, p->c + begin * p->n);
    else
        multiply(p, p->m, end - begin, p->a, p->b + begin * (p->trans_b ? p->k : 1), p->c + begin);
}

void bench_limit_run(bench_set *set)
{
    const size_t n_workers = set->exec.n_workers;

    if (set->limit.copy_bytes != 0)
        bench_parallel(set, n_workers, copy_part, set);
    for (size_t i = 0; i < set->limit.n_products; i++) {
        struct product_job job = { &set->limit.product[i], n_workers };

        if (job.product->count > 1)
            bench_parallel(set, job.product->count, run_one_of_many, &job);
        else
            bench_parallel(set, n_workers, run_part_of_one, &job);
    }
}

/* ---- words ----------------------------------------------------------------------------------- */

void bench_limit_name(const bench_limit *limit, char *name, size_t size)
{
    size_t used = 0;

    name[0] = '\0';
    if (limit->copy_bytes != 0)
        used = (size_t)snprintf(name, size, "memcpy %.3g MB", (double)limit->copy_bytes / 1e6);
    for (size_t i = 0; i < limit->n_products && used < size; i++) {
        const bench_product *p = &limit->product[i];

        used += (size_t)snprintf(name + used, size - used,
                                 used == 0 ? "sgemm "
                                 : i == 0  ? " + sgemm "
                                           : " + ");
        if (used < size && p->count > 1)
            used += (size_t)snprintf(name + used, size - used, "%zu x ", p->count);
        if (used < size)
            used += (size_t)snprintf(name + used, size - used, "%zux%zux%zu%s", p->m, p->n, p->k,
                                     p->trans_b ? " nt" : "");
    }
}

double bench_limit_flops(const bench_limit *limit)
{
    double flops = 0.0;

    for (size_t i = 0; i < limit->n_products; i++) {
        const bench_product *p = &limit->product[i];

        flops += 2.0 * (double)p->count * (double)p->m * (double)p->n * (double)p->k;
    }
    return flops;
}
