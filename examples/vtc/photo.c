#include "photo.h"

#include "run.h"

#include <stdlib.h>

bool photo_allocate(struct tool *tool, struct photo *photo, size_t width, size_t height,
                    size_t channels)
{
    if (width == 0 || height == 0 || width > MAX_PHOTO_PIXELS / height)
        return tool_fail(tool, "the picture has %zu x %zu pixels; 1 to %zu are accepted", width,
                         height, MAX_PHOTO_PIXELS);
    photo->width = width;
    photo->height = height;
    photo->rgb = tool_new(tool, width * height, channels);
    return photo->rgb != NULL;
}

void photo_free(struct photo *photo)
{
    free(photo->rgb);
    photo->rgb = NULL;
}

/* Sides are below 2^21 and h, w below 2^12, so the products fit. */
struct crop photo_crop(const struct photo *photo, size_t h, size_t w)
{
    struct crop crop = { 0, 0, photo->height, photo->width };

    if (photo->width * h > photo->height * w)
        crop.width = photo->height * w / h;
    else
        crop.height = photo->width * h / w;
    crop.width += crop.width == 0;
    crop.height += crop.height == 0;
    crop.top = (photo->height - crop.height) / 2;
    crop.left = (photo->width - crop.width) / 2;
    return crop;
}

static void cut_plane(const struct photo *photo, const struct crop *crop, size_t channel,
                      float *plane)
{
    for (size_t y = 0; y < crop->height; y++) {
        const uint8_t *row =
            photo->rgb + 3 * ((crop->top + y) * photo->width + crop->left) + channel;

        for (size_t x = 0; x < crop->width; x++)
            *plane++ = (float)row[3 * x] / 255.0f;
    }
}

/* One channel after the other: a large photograph as three planes of floats is a lot of memory. */
static bool resize_planes(struct tool *tool, const struct photo *photo, const struct crop *crop,
                          float *cut, float *planes, size_t out_h, size_t out_w)
{
    const vtc_tensor from = vtc_f32_3d(cut, 1, crop->height, crop->width);

    for (size_t channel = 0; channel < 3; channel++) {
        vtc_tensor to = vtc_f32_3d(planes + channel * out_h * out_w, 1, out_h, out_w);

        cut_plane(photo, crop, channel, cut);
        if (!run_image_resize(tool, &from, &to, NULL))
            return false;
    }
    return true;
}

float *photo_planes(struct tool *tool, const struct photo *photo, size_t out_h, size_t out_w)
{
    const struct crop crop = photo_crop(photo, out_h, out_w);
    float *cut = tool_new(tool, crop.height * crop.width, sizeof(*cut));
    float *planes = tool_new(tool, 3 * out_h * out_w, sizeof(*planes));

    if (cut == NULL || planes == NULL ||
        !resize_planes(tool, photo, &crop, cut, planes, out_h, out_w)) {
        free(planes);
        planes = NULL;
    }
    free(cut);
    return planes;
}
