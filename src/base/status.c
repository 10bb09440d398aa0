/* Names of status codes and dtypes, and the version. */
#include "../../include/vtc/vtc.h"

const char *vtc_status_string(vtc_status status)
{
    static const char *const name[] = {
        "VTC_OK",           "VTC_ERR_NULL",    "VTC_ERR_DTYPE",   "VTC_ERR_SHAPE",
        "VTC_ERR_RANGE",    "VTC_ERR_OVERLAP", "VTC_ERR_SCRATCH", "VTC_ERR_ROOM",
        "VTC_ERR_OVERFLOW", "VTC_ERR_DATA",    "VTC_ERR_BUDGET",  "VTC_ERR_UNSUPPORTED",
        "VTC_ERR_IO",       "VTC_ERR_FORMAT",
    };
    const size_t n_names = sizeof(name) / sizeof(*name);

    return status <= 0 && status > -(int)n_names ? name[-status] : "unknown status";
}

size_t vtc_dtype_size(vtc_dtype dtype)
{
    static const unsigned char size[] = { 0, 4, 2, 2, 4, 8, 1, 1 };
    return (unsigned)dtype < sizeof(size) ? size[dtype] : 0;
}

const char *vtc_dtype_string(vtc_dtype dtype)
{
    static const char *const name[] = { "?", "F32", "F16", "BF16", "I32", "I64", "U8", "BOOL" };
    return (unsigned)dtype < sizeof(name) / sizeof(*name) ? name[dtype] : "?";
}

const char *vtc_version(void)
{
    return VTC_VERSION_STRING;
}
