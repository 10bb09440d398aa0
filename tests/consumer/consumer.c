/* Compiled as C and as C++ against an installed libvtc: one pooling call and one io call. */
#include <vtc/heap.h>
#include <vtc/io.h>
#include <vtc/vtc.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
    const float x_data[4] = { 1.0f, 2.0f, 3.0f, 6.0f };
    float y_data[1] = { 0.0f };
    vtc_tensor x = vtc_f32_2d(x_data, 4, 1);
    vtc_tensor y = vtc_f32_2d(y_data, 1, 1);
    vtc_pool2d_params params = VTC_POOL2D_PARAMS_INIT;
    vtc_safetensors *file = NULL;

    params.grid_h = params.grid_w = 2;
    if (vtc_pool2d(&params, &x, &y, NULL) != VTC_OK || y_data[0] != 3.0f) {
        fprintf(stderr, "pooling failed\n");
        return 1;
    }
    if (vtc_safetensors_open("/nonexistent", &file, NULL) != VTC_ERR_IO) {
        fprintf(stderr, "opening a file that does not exist did not fail\n");
        return 1;
    }
    if (strcmp(vtc_version(), VTC_VERSION_STRING) != 0) {
        fprintf(stderr, "header %s, library %s\n", VTC_VERSION_STRING, vtc_version());
        return 1;
    }
    printf("libvtc %s works here\n", vtc_version());
    return 0;
}
