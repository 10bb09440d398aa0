/* The tool's JPEG and PNG readers: kinds of pixels, damage, limits, and the centre crop. */
#include "../examples/vtc/photo.h"
#include "support/support.h"

#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>

/* ---- files ----------------------------------------------------------------------------------- */

struct jpeg_kind {
    J_COLOR_SPACE colours;
    int n_channels;
    bool progressive;
};

/* 40 x 30 pixels of one value in each channel */
static FILE *make_jpeg(struct jpeg_kind kind, int value)
{
    struct jpeg_compress_struct jpeg;
    struct jpeg_error_mgr errors;
    JSAMPLE row[40 * 4];
    JSAMPROW rows = row;
    FILE *file = tmpfile();

    assert_non_null(file);
    memset(row, value, sizeof(row));
    jpeg.err = jpeg_std_error(&errors);
    jpeg_create_compress(&jpeg);
    jpeg_stdio_dest(&jpeg, file);
    jpeg.image_width = 40;
    jpeg.image_height = 30;
    jpeg.input_components = kind.n_channels;
    jpeg.in_color_space = kind.colours;
    jpeg_set_defaults(&jpeg);
    if (kind.progressive)
        jpeg_simple_progression(&jpeg);
    jpeg_start_compress(&jpeg, TRUE);
    while (jpeg.next_scanline < 30)
        jpeg_write_scanlines(&jpeg, &rows, 1);
    jpeg_finish_compress(&jpeg);
    jpeg_destroy_compress(&jpeg);
    rewind(file);
    return file;
}

struct png_kind {
    int bits, colours, interlace;
    const unsigned char *row; /* two pixels */
};

/* Two equal rows of two pixels; palette entry 0 is (10, 20, 30), 1 transparent black. */
static FILE *make_png(struct png_kind kind)
{
    const png_color palette[] = { { 10, 20, 30 }, { 0, 0, 0 } };
    const png_byte alpha[] = { 255, 0 };
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    FILE *file = tmpfile();

    assert_non_null(file);
    assert_int_equal(setjmp(png_jmpbuf(png)), 0);
    png_init_io(png, file);
    png_set_IHDR(png, info, 2, 2, kind.bits, kind.colours, kind.interlace,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (kind.colours == PNG_COLOR_TYPE_PALETTE) {
        png_set_PLTE(png, info, palette, 2);
        png_set_tRNS(png, info, alpha, 2, NULL);
    }
    png_write_info(png, info);
    for (int pass = png_set_interlace_handling(png); pass > 0; pass--)
        for (int y = 0; y < 2; y++)
            png_write_row(png, kind.row);
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    rewind(file);
    return file;
}

/* The first `n` bytes of a file, which is closed. */
static FILE *cut_short(FILE *file, size_t n)
{
    char bytes[4096];
    FILE *part = tmpfile();

    assert_non_null(part);
    assert_true(n <= sizeof(bytes));
    assert_int_equal(fread(bytes, 1, n, file), n);
    assert_int_equal(fwrite(bytes, 1, n, part), n);
    fclose(file);
    rewind(part);
    return part;
}

static size_t size_of(FILE *file)
{
    long size;

    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    rewind(file);
    return (size_t)size;
}

/* ---- reading --------------------------------------------------------------------------------- */

typedef bool (*reader)(struct tool *tool, FILE *file, struct photo *photo);

static void assert_reads(reader read, FILE *file, size_t width, size_t height,
                         const uint8_t *first_pixels, size_t n_pixels)
{
    struct tool tool = { VTC_EXEC_INIT, "" };
    struct photo photo = { 0, 0, NULL };

    if (!read(&tool, file, &photo))
        fail_msg("%s", tool.why);
    assert_int_equal(photo.width, width);
    assert_int_equal(photo.height, height);
    assert_memory_equal(photo.rgb, first_pixels, 3 * n_pixels);
    photo_free(&photo);
    fclose(file);
}

static void assert_refuses(reader read, FILE *file, const char *part)
{
    struct tool tool = { VTC_EXEC_INIT, "" };
    struct photo photo = { 0, 0, NULL };

    assert_false(read(&tool, file, &photo));
    if (strstr(tool.why, part) == NULL)
        fail_msg("'%s' does not say '%s'", tool.why, part);
    photo_free(&photo);
    fclose(file);
}

static void gray_and_progressive_jpegs_become_rgb(void **state)
{
    const uint8_t gray[] = { 90, 90, 90, 90, 90, 90 };

    (void)state;
    assert_reads(photo_read_jpeg, make_jpeg((struct jpeg_kind){ JCS_GRAYSCALE, 1, false }, 90), 40,
                 30, gray, 2);
    assert_reads(photo_read_jpeg, make_jpeg((struct jpeg_kind){ JCS_RGB, 3, true }, 90), 40, 30,
                 gray, 2);
}

static void cmyk_jpeg_is_refused(void **state)
{
    (void)state;
    assert_refuses(photo_read_jpeg, make_jpeg((struct jpeg_kind){ JCS_CMYK, 4, false }, 90),
                   "CMYK");
}

static void jpeg_cut_anywhere_is_refused(void **state)
{
    const struct jpeg_kind kind = { JCS_RGB, 3, false };
    FILE *whole = make_jpeg(kind, 90);
    const size_t size = size_of(whole);

    (void)state;
    fclose(whole);
    for (size_t n = 4; n < size; n += 7)
        assert_refuses(photo_read_jpeg, cut_short(make_jpeg(kind, 90), n), "JPEG");
    assert_refuses(photo_read_jpeg, cut_short(make_jpeg(kind, 90), size - 1), "JPEG");
}

static void every_kind_of_png_becomes_rgb_on_white(void **state)
{
    static const struct {
        struct png_kind kind;
        uint8_t want[6];
    } cases[] = {
        { { 8, PNG_COLOR_TYPE_RGB, 0, (const unsigned char *)"\1\2\3\4\5\6" },
          { 1, 2, 3, 4, 5, 6 } },
        { { 8, PNG_COLOR_TYPE_RGB, 1, (const unsigned char *)"\1\2\3\4\5\6" },
          { 1, 2, 3, 4, 5, 6 } },
        { { 1, PNG_COLOR_TYPE_GRAY, 0, (const unsigned char *)"\x80" },
          { 255, 255, 255, 0, 0, 0 } },
        { { 16, PNG_COLOR_TYPE_GRAY, 0, (const unsigned char *)"\x80\x80\x01\x01" },
          { 128, 128, 128, 1, 1, 1 } },
        { { 8, PNG_COLOR_TYPE_GRAY_ALPHA, 0, (const unsigned char *)"\x10\xff\x10\x00" },
          { 16, 16, 16, 255, 255, 255 } },
        { { 8, PNG_COLOR_TYPE_RGB_ALPHA, 1, (const unsigned char *)"\0\0\0\x80\1\2\3\xff" },
          { 127, 127, 127, 1, 2, 3 } },
        { { 1, PNG_COLOR_TYPE_PALETTE, 0, (const unsigned char *)"\x40" },
          { 10, 20, 30, 255, 255, 255 } },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_reads(photo_read_png, make_png(cases[i].kind), 2, 2, cases[i].want, 2);
}

static void png_cut_anywhere_is_refused(void **state)
{
    const struct png_kind kind = { 8, PNG_COLOR_TYPE_RGB, 0,
                                   (const unsigned char *)"\1\2\3\4\5\6" };
    FILE *whole = make_png(kind);
    const size_t size = size_of(whole);

    (void)state;
    fclose(whole);
    for (size_t n = 0; n < size; n++)
        assert_refuses(photo_read_png, cut_short(make_png(kind), n), "PNG");
}

static void size_is_limited_before_memory_is_taken(void **state)
{
    struct tool tool = { VTC_EXEC_INIT, "" };
    struct photo photo = { 0, 0, NULL };

    (void)state;
    assert_false(photo_allocate(&tool, &photo, 8193, 8192, 3));
    assert_non_null(strstr(tool.why, "8193 x 8192"));
    assert_false(photo_allocate(&tool, &photo, 0, 5, 3));
    assert_false(photo_allocate(&tool, &photo, SIZE_MAX, SIZE_MAX, 4));
    assert_null(photo.rgb);
}

/* ---- planes ---------------------------------------------------------------------------------- */

static void planes_show_the_centre_in_the_asked_shape(void **state)
{
    struct tool tool;
    struct photo photo = { 0, 0, NULL };
    float *planes;

    (void)state;
    tool_start(&tool, 1);
    assert_true(photo_allocate(&tool, &photo, 30, 10, 3));
    for (size_t i = 0; i < 30 * 10; i++) /* red, green and blue squares side by side */
        photo.rgb[3 * i + i % 30 / 10] = 255;
    planes = photo_planes(&tool, &photo, 4, 4);
    assert_non_null(planes);
    for (size_t i = 0; i < 3 * 16; i++)
        assert_true(planes[i] == (i / 16 == 1 ? 1.0f : 0.0f));
    free(planes);
    photo_free(&photo);
    tool_end(&tool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gray_and_progressive_jpegs_become_rgb),
        cmocka_unit_test(cmyk_jpeg_is_refused),
        cmocka_unit_test(jpeg_cut_anywhere_is_refused),
        cmocka_unit_test(every_kind_of_png_becomes_rgb_on_white),
        cmocka_unit_test(png_cut_anywhere_is_refused),
        cmocka_unit_test(size_is_limited_before_memory_is_taken),
        cmocka_unit_test(planes_show_the_centre_in_the_asked_shape),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
