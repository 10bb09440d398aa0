/*
 * vtc_conformance FILE...: runs conformance cases through the library.
 *
 * Each case runs with 1, 2 and 5 workers and once with inputs at padded strides; all runs must give
 * the same bits, and those what the file expects. Prints the largest differences of each tensor.
 * Exit status: 0 when every case passed, 1 when one failed, 2 without a file.
 */
#include "compare.h"
#include "methods.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>

static const struct {
    size_t n_workers;
    bool padded;
} settings[] = { { 1, false }, { 2, false }, { 5, false }, { 2, true } };

enum { N_SETTINGS = sizeof(settings) / sizeof(*settings) };

static bool variant_matches(const char *pattern, const char *variant)
{
    for (; *pattern != '\0'; pattern++)
        if (*pattern != '#') {
            if (*variant++ != *pattern)
                return false;
        } else {
            const size_t n_digits = strspn(variant, "0123456789");

            if (n_digits == 0)
                return false;
            variant += n_digits;
        }
    return *variant == '\0';
}

static const method *find_method(const test_case *c)
{
    /* clang-format off */
    static const method *const families[] = {
        ficoco_methods,
        fuse_methods,
        guided_methods,
        hyper_attention_methods,
        idefics2_methods,
        mustdrop_methods,
        pooling_methods,
        project_conv_methods,
        project_methods,
        prune_methods,
        qformer_methods,
        resample_methods,
        resampler_methods,
        sample_methods,
        shuffle_methods,
        vlora_methods,
    };
    /* clang-format on */

    for (size_t f = 0; f < sizeof(families) / sizeof(*families); f++)
        for (const method *m = families[f]; m->name != NULL; m++)
            if (strcmp(m->name, c->method) == 0 && variant_matches(m->variant, c->variant))
                return m;
    return NULL;
}

static bool execute(const method *m, run *r)
{
    const vtc_status status = m->run(r);

    if (status != VTC_OK) /* the library's own message came first, and stays */
        case_fault(r->c, "%s without a message", vtc_status_string(status));
    return r->c->fault[0] == '\0';
}

/* Every out.* of the file against what the first run left. */
static bool check_outputs(test_case *c, const run *r)
{
    const size_t n = vtc_safetensors_count(c->file);
    size_t n_outputs = 0;

    for (size_t i = 0; i < n; i++) {
        const char *name = vtc_safetensors_name(c->file, i);
        const vtc_tensor *got = run_find(r, name);
        vtc_tensor want;
        difference diff;

        if (strncmp(name, "out.", 4) != 0)
            continue;
        n_outputs++;
        want = case_tensor(c, name);
        if (got == NULL)
            case_fault(c, "%s: the library produced nothing", name);
        if (got == NULL || want.dtype == 0)
            continue;
        if (!compare(got, &want, c->atol, &diff))
            case_fault(c, "%s: %s", name, diff.reason);
        printf("  %-16s %-22s max abs %-10.3g max rel %-10.3g %s\n", name, describe(&want).s,
               diff.max_abs, diff.max_rel, diff.reason[0] == '\0' ? "ok" : "FAILED");
    }
    return n_outputs > 0 || case_fault(c, "the file has no out.* tensor");
}

static void check_same_bits(test_case *c, const run *first, const run *other, size_t setting)
{
    for (size_t i = 0; i < first->n_outputs; i++) {
        const output *o = &first->outputs[i];
        const vtc_tensor *view = run_find(other, o->name);

        if (view == NULL || !same_bits(&o->view, view))
            case_fault(c, "%s: other bits with %zu workers%s", o->name, settings[setting].n_workers,
                       settings[setting].padded ? " and padded inputs" : "");
    }
}

static void check_method(test_case *c, const method *m)
{
    run runs[N_SETTINGS];
    size_t n = 0;
    bool ok = true;

    while (ok && n < N_SETTINGS) {
        run_open(&runs[n], c, settings[n].n_workers, settings[n].padded);
        ok = execute(m, &runs[n]);
        n++;
    }
    if (ok && check_outputs(c, &runs[0]))
        for (size_t i = 1; i < n; i++)
            check_same_bits(c, &runs[0], &runs[i], i);
    while (n > 0)
        run_close(&runs[--n]);
}

static bool check_file(const char *path)
{
    const char *slash = strrchr(path, '/');
    test_case c;
    bool passed;

    printf("%s\n", slash == NULL ? path : slash + 1);
    if (case_open(&c, path)) {
        const method *m = find_method(&c);

        if (m != NULL)
            check_method(&c, m);
        else
            case_fault(&c, "unknown method or variant %s/%s", c.method, c.variant);
    }
    passed = c.fault[0] == '\0';
    printf("  %s%s\n", passed ? "passed" : "FAILED: ", c.fault);
    case_close(&c);
    return passed;
}

int main(int argc, char **argv)
{
    int failed = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: vtc_conformance FILE...\n");
        return 2;
    }
    openblas_set_num_threads(1); /* the workers are the cases' own */
    for (int i = 1; i < argc; i++)
        failed += !check_file(argv[i]);
    printf("%d passed, %d failed\n", argc - 1 - failed, failed);
    return failed == 0 ? 0 : 1;
}
