/*
 * Photographs from JPEG and PNG files, as 8-bit RGB.
 *
 * Files are taken for hostile: the size is checked before anything is allocated, and a file with
 * any damage is refused, even where the decoder would fill the missing part with gray.
 */
#ifndef PHOTO_H
#define PHOTO_H

#include "tool.h"

#include <stdint.h>
#include <stdio.h>

#define MAX_PHOTO_PIXELS ((size_t)64 * 1024 * 1024)

struct photo {
    size_t width, height;
    uint8_t *rgb; /* [height, width, 3] */
};

/* Reads a JPEG or PNG file from its first byte. photo_free() in either case. */
bool photo_read_jpeg(struct tool *tool, FILE *file, struct photo *photo);
bool photo_read_png(struct tool *tool, FILE *file, struct photo *photo);
void photo_free(struct photo *photo);

/* Sets the size and allocates the pixels; `channels` is what the decoder writes per pixel. */
bool photo_allocate(struct tool *tool, struct photo *photo, size_t width, size_t height,
                    size_t channels);

/* Pixels of a photograph */
struct crop {
    size_t top, left, height, width;
};

/* The largest centred part of the shape out_h : out_w. */
struct crop photo_crop(const struct photo *photo, size_t out_h, size_t out_w);

/*
 * photo_planes() cuts that part and resizes it.
 *
 *   planes  [3, out_h, out_w]  out   R, G, B from 0 to 1; free() it. NULL on failure
 */
float *photo_planes(struct tool *tool, const struct photo *photo, size_t out_h, size_t out_w);

#endif
