#include "case.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double default_atol = 1e-5;

bool case_fault(test_case *c, const char *format, ...)
{
    va_list args;

    if (c->fault[0] != '\0')
        return false;
    va_start(args, format);
    vsnprintf(c->fault, sizeof(c->fault), format, args);
    va_end(args);
    return false;
}

void case_record_error(void *user, vtc_status status, const char *message)
{
    case_fault(user, "%s, %s", vtc_status_string(status), message);
}

static vtc_exec reporting_exec(test_case *c)
{
    vtc_exec exec = VTC_EXEC_INIT;

    exec.on_error = case_record_error;
    exec.user = c;
    return exec;
}

/* ---- the file -------------------------------------------------------------------------------- */

static bool read_atol(test_case *c)
{
    const char *text = vtc_safetensors_metadata(c->file, "atol");
    char *end;

    c->atol = default_atol;
    if (text == NULL)
        return true;
    c->atol = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(c->atol) || c->atol < 0.0)
        return case_fault(c, "atol is \"%s\"", text);
    return true;
}

/* Numbers are read as doubles, which hold every size; case_u64() is for those they do not hold. */
static bool read_params(test_case *c)
{
    json_error_t error;

    c->params_text = vtc_safetensors_metadata(c->file, "params");
    if (c->params_text == NULL)
        return case_fault(c, "the metadata has no params");
    c->params =
        json_loads(c->params_text, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &error);
    if (!json_is_object(c->params))
        return case_fault(c, "params is no JSON object: %s", error.text);
    return true;
}

bool case_open(test_case *c, const char *path)
{
    vtc_exec exec;

    memset(c, 0, sizeof(*c));
    exec = reporting_exec(c);
    if (vtc_safetensors_open(path, &c->file, &exec) != VTC_OK)
        return case_fault(c, "cannot be opened");
    c->method = vtc_safetensors_metadata(c->file, "method");
    c->variant = vtc_safetensors_metadata(c->file, "variant");
    if (c->method == NULL || c->variant == NULL)
        return case_fault(c, "the metadata has no method or no variant");
    return read_atol(c) && read_params(c);
}

void case_close(test_case *c)
{
    json_decref(c->params);
    vtc_safetensors_close(c->file);
}

/* ---- parameters ------------------------------------------------------------------------------ */

bool case_has_param(const test_case *c, const char *name)
{
    const json_t *value = json_object_get(c->params, name);

    return value != NULL && !json_is_null(value);
}

double case_double(test_case *c, const char *name)
{
    const json_t *value = json_object_get(c->params, name);

    if (!json_is_real(value))
        case_fault(c, "params: \"%s\" is missing or no number", name);
    return json_real_value(value);
}

static size_t to_size(test_case *c, const char *name, const json_t *json)
{
    const double value = json_is_real(json) ? json_real_value(json) : -1.0;

    /* every whole double up to 2^53 is the integer that was written */
    if (!(value >= 0.0 && value <= 9007199254740992.0 && value == floor(value))) {
        case_fault(c, "params: \"%s\" is missing or no size", name);
        return 0;
    }
    return (size_t)value;
}

size_t case_size(test_case *c, const char *name)
{
    return to_size(c, name, json_object_get(c->params, name));
}

/* A JSON reader keeps 53 or 63 bits of a number, a seed has 64: take its digits from the text.
 * params is flat, so the first mention of the quoted name is its key. */
uint64_t case_u64(test_case *c, const char *name)
{
    char key[64];
    const char *at;

    snprintf(key, sizeof(key), "\"%s\"", name);
    at = strstr(c->params_text, key);
    if (at == NULL || !json_is_real(json_object_get(c->params, name))) {
        case_fault(c, "params: \"%s\" is missing or no number", name);
        return 0;
    }
    at = strchr(at, ':');
    return strtoull(at + 1, NULL, 10);
}

bool case_flag(test_case *c, const char *name)
{
    const json_t *value = json_object_get(c->params, name);

    if (!json_is_boolean(value))
        case_fault(c, "params: \"%s\" is missing or neither true nor false", name);
    return json_is_true(value);
}

void case_sizes(test_case *c, const char *name, size_t *sizes, size_t n)
{
    const json_t *list = json_object_get(c->params, name);

    if (json_array_size(list) != n)
        case_fault(c, "params: \"%s\" is missing or no list of %zu", name, n);
    for (size_t i = 0; i < n; i++)
        sizes[i] = to_size(c, name, json_array_get(list, i));
}

void case_grid(test_case *c, const char *name, size_t *height, size_t *width)
{
    size_t sizes[2];

    case_sizes(c, name, sizes, 2);
    *height = sizes[0];
    *width = sizes[1];
}

int case_choice(test_case *c, const char *name, const char *const *names)
{
    const char *text = json_string_value(json_object_get(c->params, name));

    for (int i = 0; text != NULL && names[i] != NULL; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    case_fault(c, "params: \"%s\" is %s, not one of those known", name,
               text == NULL ? "missing" : text);
    return 0;
}

vtc_activation case_activation(test_case *c)
{
    static const char *const names[] = { "none", "gelu_erf",   "gelu_tanh", "gelu_quick",
                                         "silu", "hard_swish", "relu2",     NULL };

    return case_has_param(c, "act") ? (vtc_activation)case_choice(c, "act", names)
                                    : VTC_ACT_GELU_ERF;
}

/* ---- tensors --------------------------------------------------------------------------------- */

bool case_has_tensor(const test_case *c, const char *name)
{
    return vtc_safetensors_has(c->file, name) != 0;
}

vtc_tensor case_tensor(test_case *c, const char *name)
{
    const vtc_exec exec = reporting_exec(c);
    vtc_tensor view = { 0 };

    if (vtc_safetensors_tensor(c->file, name, &view, &exec) != VTC_OK)
        case_fault(c, "no tensor \"%s\"", name);
    return view;
}
