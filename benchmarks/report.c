/* Lines for people, and CSV in which every line says what machine and build it is from. */
#include "report.h"

#include "../src/kernels/kernels.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

/* ---- the machine ----------------------------------------------------------------------------- */

/* The CPU's name where the system is Linux, "unknown" elsewhere. */
static const char *cpu_model(void)
{
    static char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    const char *model = "unknown";

    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char *colon = strchr(line, ':');

        if (strncmp(line, "model name", strlen("model name")) == 0 && colon != NULL) {
            colon[strcspn(colon, "\n")] = '\0';
            model = colon + strspn(colon, ": ");
            break;
        }
    }
    if (file != NULL)
        fclose(file);
    return model;
}

void bench_print_machine(FILE *file)
{
    fprintf(file, "libvtc %s, %s, %s kernels\n%s\n%s, 1 thread for each call\n\n", VTC_BENCH_COMMIT,
            VTC_BENCH_COMPILER, vtci_kernels_get()->name, cpu_model(), openblas_get_config());
    fprintf(file, "%-40s%3s%13s%8s%10s   %-20s %s\n", "case", "w", "median us", "+- %", "rate",
            "time / limit", "limit");
}

/* ---- lines ----------------------------------------------------------------------------------- */

static const char *verdict(const bench_result *result)
{
    if (result->ratio.high <= result->goal)
        return "met";
    return result->ratio.low > result->goal ? "missed" : "open";
}

static void print_ratio(FILE *file, const bench_result *result)
{
    const bench_interval *ratio = &result->ratio;

    if (isnan(ratio->low))
        fprintf(file, "   %-20s", "too few rounds");
    else
        fprintf(file, "   %5.3f [%5.3f, %5.3f]", ratio->median, ratio->low, ratio->high);
    fprintf(file, " of %s", result->limit_name);
    if (result->goal > 0.0)
        fprintf(file, ", goal %.2f %s", result->goal, verdict(result));
}

void bench_print_result(FILE *file, const bench_result *result)
{
    const bench_spread *t = &result->time;

    fprintf(file, "%-40s%3zu%13.1f%8.1f", result->name, result->n_workers, t->median / 1e3,
            50.0 * (t->q3 - t->q1) / t->median);
    if (result->gflops > 0.0)
        fprintf(file, "%7.1f GF", result->gflops);
    else if (result->gbytes > 0.0)
        fprintf(file, "%7.1f GB", result->gbytes);
    if (result->has_limit)
        print_ratio(file, result);
    fprintf(file, "\n");
    fflush(file);
}

/* ---- CSV ------------------------------------------------------------------------------------- */

void bench_csv_header(FILE *file)
{
    fprintf(file, "case,threads,rounds,median_ns,min_ns,q1_ns,q3_ns,limit,limit_median_ns,ratio,"
                  "ratio_low,ratio_high,gflops,gbytes,goal,commit,compiler,cpu,blas,kernels\n");
}

/* A field that stays empty when there is nothing to say. */
static void csv_number(FILE *file, double value, bool known)
{
    if (known && !isnan(value))
        fprintf(file, ",%.6g", value);
    else
        fprintf(file, ",");
}

void bench_csv_result(FILE *file, const bench_result *r)
{
    fprintf(file, "%s,%zu,%zu,%.1f,%.1f,%.1f,%.1f,%s", r->name, r->n_workers, r->rounds,
            r->time.median, r->time.min, r->time.q1, r->time.q3, r->has_limit ? r->limit_name : "");
    csv_number(file, r->limit.median, r->has_limit);
    csv_number(file, r->ratio.median, r->has_limit);
    csv_number(file, r->ratio.low, r->has_limit);
    csv_number(file, r->ratio.high, r->has_limit);
    csv_number(file, r->gflops, r->gflops > 0.0);
    csv_number(file, r->gbytes, r->gbytes > 0.0);
    csv_number(file, r->goal, r->goal > 0.0);
    fprintf(file, ",\"%s\",\"%s\",\"%s\",\"%s\",%s\n", VTC_BENCH_COMMIT, VTC_BENCH_COMPILER,
            cpu_model(), openblas_get_config(), vtci_kernels_get()->name);
    fflush(file);
}
