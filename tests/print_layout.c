/* Prints sizes, offsets and values that a binding must mirror, for test_prototype.py. */
#include <vtc/vtc.h>

#include <stdio.h>

static void print_field(const char *name, size_t offset, size_t size)
{
    printf("%s %zu %zu\n", name, offset, size);
}

#define SIZE(type) printf(#type " %zu\n", sizeof(type))
#define FIELD(type, name) \
    print_field(#type "." #name, offsetof(type, name), sizeof(((type *)NULL)->name))
#define DTYPE(numpy, number) printf("dtype." numpy " %d\n", number)

static void print_tensor(void)
{
    SIZE(vtc_tensor);
    FIELD(vtc_tensor, data);
    FIELD(vtc_tensor, dtype);
    FIELD(vtc_tensor, rank);
    FIELD(vtc_tensor, dim);
    FIELD(vtc_tensor, stride);
    FIELD(vtc_tensor, reserved);
    DTYPE("float32", VTC_F32);
    DTYPE("float16", VTC_F16);
    DTYPE("int32", VTC_I32);
    DTYPE("int64", VTC_I64);
    DTYPE("uint8", VTC_U8);
    DTYPE("bool", VTC_BOOL);
}

static void print_exec(void)
{
    SIZE(vtc_exec);
    FIELD(vtc_exec, struct_size);
    FIELD(vtc_exec, scratch);
    FIELD(vtc_exec, scratch_size);
    FIELD(vtc_exec, n_workers);
    FIELD(vtc_exec, parallel_for);
    FIELD(vtc_exec, pool);
    FIELD(vtc_exec, on_error);
    FIELD(vtc_exec, user);
    FIELD(vtc_exec, sgemm);
    FIELD(vtc_exec, sgemm_cookie);
}

static void print_plan(void)
{
    SIZE(vtc_plan);
    FIELD(vtc_plan, struct_size);
    FIELD(vtc_plan, n_in);
    FIELD(vtc_plan, n_out);
    FIELD(vtc_plan, cap_in);
    FIELD(vtc_plan, cap_out);
    FIELD(vtc_plan, cap_nnz);
    FIELD(vtc_plan, reduce);
    FIELD(vtc_plan, keep);
    FIELD(vtc_plan, begin);
    FIELD(vtc_plan, source);
    FIELD(vtc_plan, weight);
    FIELD(vtc_plan, mass);
    FIELD(vtc_plan, score);
    FIELD(vtc_plan, fate);
}

static void print_parameters(void)
{
    SIZE(vtc_plan_count);
    FIELD(vtc_plan_count, n_in);
    FIELD(vtc_plan_count, n_out);
    FIELD(vtc_plan_count, n_nnz);
    FIELD(vtc_plan_count, exact);
    SIZE(vtc_tome_params);
    FIELD(vtc_tome_params, struct_size);
    FIELD(vtc_tome_params, n_merge);
    FIELD(vtc_tome_params, class_token);
    FIELD(vtc_tome_params, distill_token);
}

int main(void)
{
    print_tensor();
    print_exec();
    print_plan();
    print_parameters();
    return 0;
}
