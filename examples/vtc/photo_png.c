#include "photo.h"

#include <png.h>
#include <stdlib.h>

/* Libpng leaves through longjmp() with its own buffer, so everything that changes lives here. */
struct reader {
    png_structp png;
    png_infop info;
    struct tool *tool;
};

static void fail(png_structp png, png_const_charp message)
{
    tool_fail(png_get_error_ptr(png), "damaged or unsupported PNG: %s", message);
    png_longjmp(png, 1);
}

/* Warnings concern colour profiles, times and texts, never the pixels. */
static void ignore_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

/* Whatever the file has becomes 8-bit RGBA. */
static void ask_for_rgba(const struct reader *reader)
{
    png_set_expand(reader->png);
    png_set_scale_16(reader->png);
    png_set_gray_to_rgb(reader->png);
    png_set_add_alpha(reader->png, 0xff, PNG_FILLER_AFTER);
}

static void read_rows(const struct reader *reader, struct photo *photo, int n_passes)
{
    for (int pass = 0; pass < n_passes; pass++)
        for (size_t y = 0; y < photo->height; y++)
            png_read_row(reader->png, photo->rgb + 4 * photo->width * y, NULL);
}

/* libpng leaves through longjmp() to here: no local variable may change in this function. */
static bool read_pixels(const struct reader *reader, FILE *file, struct photo *photo)
{
    png_structp const png = reader->png;

    if (setjmp(png_jmpbuf(png)) != 0)
        return false;
    png_init_io(png, file);
    png_read_info(png, reader->info);
    if (!photo_allocate(reader->tool, photo, png_get_image_width(png, reader->info),
                        png_get_image_height(png, reader->info), 4))
        return false;
    ask_for_rgba(reader);
    const int n_passes = png_set_interlace_handling(png);
    png_read_update_info(png, reader->info);
    if (png_get_rowbytes(png, reader->info) != 4 * photo->width)
        return tool_fail(reader->tool, "the PNG's pixels cannot be converted to RGB");
    read_rows(reader, photo, n_passes);
    png_read_end(png, NULL);
    return true;
}

/* Lays the picture on white, in place: pixel i is written behind what is still to be read. */
static void flatten_alpha(struct photo *photo)
{
    const size_t n = photo->width * photo->height;

    for (size_t i = 0; i < n; i++) {
        const unsigned alpha = photo->rgb[4 * i + 3];

        for (size_t c = 0; c < 3; c++) {
            const unsigned value = photo->rgb[4 * i + c];

            photo->rgb[3 * i + c] = (uint8_t)((value * alpha + 255 * (255 - alpha) + 127) / 255);
        }
    }
}

bool photo_read_png(struct tool *tool, FILE *file, struct photo *photo)
{
    struct reader *reader = tool_new(tool, 1, sizeof(*reader));
    bool done = false;

    if (reader == NULL)
        return false;
    reader->tool = tool;
    reader->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, tool, fail, ignore_warning);
    reader->info = reader->png != NULL ? png_create_info_struct(reader->png) : NULL;
    if (reader->info == NULL)
        tool_fail(tool, "no memory to read a PNG");
    else
        done = read_pixels(reader, file, photo);
    png_destroy_read_struct(&reader->png, &reader->info, NULL);
    free(reader);
    if (done)
        flatten_alpha(photo);
    return done;
}
