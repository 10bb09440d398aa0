#include "descriptor.h"

#include <math.h>

#define PI           3.14159265358979323846
#define N_DIRECTIONS 8
#define N_FREQUENCY  4 /* DCT frequencies 0 .. 3 in each direction */

static const float constant = 0.5f, detail_gain = 2.0f, chroma_gain = 2.0f, gradient_gain = 2.0f;

/* ---- patches --------------------------------------------------------------------------------- */

/* Where value i of patch n lies in the planes: channel, then row, then column. */
static size_t place_in_planes(size_t grid_h, size_t grid_w, size_t n, size_t i)
{
    const size_t channel = i / PATCH_PIXELS, pixel = i % PATCH_PIXELS;
    const size_t y = n / grid_w * PATCH_SIDE + pixel / PATCH_SIDE;
    const size_t x = n % grid_w * PATCH_SIDE + pixel % PATCH_SIDE;

    return (channel * grid_h * PATCH_SIDE + y) * grid_w * PATCH_SIDE + x;
}

void cut_patches(const float *planes, size_t grid_h, size_t grid_w, float *patches)
{
    for (size_t n = 0; n < grid_h * grid_w; n++)
        for (size_t i = 0; i < PATCH_VALUES; i++)
            *patches++ = planes[place_in_planes(grid_h, grid_w, n, i)];
}

void join_patches(const float *patches, size_t grid_h, size_t grid_w, float *planes)
{
    for (size_t n = 0; n < grid_h * grid_w; n++)
        for (size_t i = 0; i < PATCH_VALUES; i++)
            planes[place_in_planes(grid_h, grid_w, n, i)] = *patches++;
}

/* ---- one token ------------------------------------------------------------------------------- */

/* Row u is the DCT-II basis of frequency u, with mean square 1. */
static void make_basis(float basis[N_FREQUENCY][PATCH_SIDE])
{
    for (int u = 0; u < N_FREQUENCY; u++)
        for (int x = 0; x < PATCH_SIDE; x++)
            basis[u][x] =
                (float)((u == 0 ? 1.0 : sqrt(2.0)) * cos((2 * x + 1) * u * PI / (2 * PATCH_SIDE)));
}

/* RGB patch to Y, Cb, Cr as in JPEG */
static void convert_to_ycc(const float *patch, float ycc[3][PATCH_PIXELS])
{
    for (size_t i = 0; i < PATCH_PIXELS; i++) {
        const float r = patch[i], g = patch[PATCH_PIXELS + i], b = patch[2 * PATCH_PIXELS + i];
        const float y = 0.299f * r + 0.587f * g + 0.114f * b;

        ycc[0][i] = y;
        ycc[1][i] = (b - y) / 1.772f;
        ycc[2][i] = (r - y) / 1.402f;
    }
}

static float dct_coefficient(const float *plane, const float *basis_v, const float *basis_u)
{
    float sum = 0.0f;

    for (size_t y = 0; y < PATCH_SIDE; y++)
        for (size_t x = 0; x < PATCH_SIDE; x++)
            sum += plane[y * PATCH_SIDE + x] * basis_v[y] * basis_u[x];
    return sum / PATCH_PIXELS;
}

/* Coefficients with u + v < n_orders, lowest order first; returns where the next value goes. */
static float *add_dct(const float *plane, float basis[N_FREQUENCY][PATCH_SIDE], int n_orders,
                      float gain, float *out)
{
    for (int order = 0; order < n_orders; order++)
        for (int v = 0; v <= order; v++)
            *out++ = gain * dct_coefficient(plane, basis[v], basis[order - v]);
    return out;
}

/* Each gradient is shared between the two directions that it lies between. */
static void add_gradients(const float *luma, float *out)
{
    for (int i = 0; i < PATCH_PIXELS; i++) {
        const int x = i % PATCH_SIDE, y = i / PATCH_SIDE, last = PATCH_SIDE - 1;
        const float gx = luma[x < last ? i + 1 : i] - luma[x > 0 ? i - 1 : i];
        const float gy = luma[y < last ? i + PATCH_SIDE : i] - luma[y > 0 ? i - PATCH_SIDE : i];
        const double turn = atan2(gy, gx) / PI + 1.0; /* in half circles, 0 .. 2 */
        const double place = fmod(turn, 1.0) * N_DIRECTIONS;
        const int bin = (int)place;
        const float share = (float)(place - bin);
        const float strength = gradient_gain * 0.5f * sqrtf(gx * gx + gy * gy) / PATCH_PIXELS;

        out[bin % N_DIRECTIONS] += (1.0f - share) * strength;
        out[(bin + 1) % N_DIRECTIONS] += share * strength;
    }
}

static void describe(const float *patch, float basis[N_FREQUENCY][PATCH_SIDE], float *token)
{
    float ycc[3][PATCH_PIXELS];
    float *out = token + 1;

    convert_to_ycc(patch, ycc);
    token[0] = constant;
    out = add_dct(ycc[0], basis, 4, detail_gain, out);
    out = add_dct(ycc[1], basis, 2, chroma_gain, out);
    out = add_dct(ycc[2], basis, 2, chroma_gain, out);
    token[1] = token[1] / detail_gain - 0.5f;
    for (int i = 0; i < N_DIRECTIONS; i++)
        out[i] = 0.0f;
    add_gradients(ycc[0], out);
}

void describe_patches(const float *patches, size_t n_patches, float *tokens)
{
    float basis[N_FREQUENCY][PATCH_SIDE];

    make_basis(basis);
    for (size_t n = 0; n < n_patches; n++)
        describe(patches + n * PATCH_VALUES, basis, tokens + n * DESCRIPTOR_WIDTH);
}
