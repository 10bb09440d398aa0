/*
 * 00_hello.c: sixteen visual tokens become four.
 *
 * A view describes memory that is yours; a parameter struct starts from its defaults; the call
 * returns a status. Most of libvtc looks like this.
 */
#include <stdio.h>
#include <vtc/vtc.h>

int main(void)
{
    /* A 4 x 4 grid of tokens, row by row, of two channels: the token's row and its column. */
    float tokens[16][2], pooled[4][2];
    const vtc_tensor x = vtc_f32_2d(&tokens[0][0], 16, 2);
    vtc_tensor y = vtc_f32_2d(&pooled[0][0], 4, 2);
    vtc_pool2d_params pool = VTC_POOL2D_PARAMS_INIT; /* average, stride 2 */
    vtc_status status;

    for (int i = 0; i < 16; i++) {
        tokens[i][0] = (float)(i / 4);
        tokens[i][1] = (float)(i % 4);
    }

    pool.grid_h = pool.grid_w = 4;
    status = vtc_pool2d(&pool, &x, &y, NULL);
    if (status != VTC_OK) {
        fprintf(stderr, "vtc_pool2d: %s\n", vtc_status_string(status));
        return 1;
    }

    printf("16 tokens -> 4, each the mean of a 2 x 2 window\n");
    for (int i = 0; i < 4; i++)
        printf("token %d  row %.1f  column %.1f\n", i, pooled[i][0], pooled[i][1]);
    return 0;
}
