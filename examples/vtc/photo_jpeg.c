#include "photo.h"

#include <stdlib.h> /* before jpeglib.h, which needs size_t and FILE */

#include <jerror.h>
#include <jpeglib.h>
#include <setjmp.h>

/* A progressive file may repeat scans over the whole picture almost without end, each of them a few
 * bytes long and a second of work. Real files have about ten. */
#define MAX_SCANS 500

struct reader {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf failed;
    struct tool *tool;
};

static void fail(j_common_ptr jpeg)
{
    struct reader *reader = jpeg->client_data;
    char message[JMSG_LENGTH_MAX];

    jpeg->err->format_message(jpeg, message);
    tool_fail(reader->tool, "damaged or unsupported JPEG: %s", message);
    longjmp(reader->failed, 1);
}

/* libjpeg warns of damage and carries on with gray; here that is a failure. Level -1 is a warning,
 * the rest are traces. Harmless: stray bytes between markers, and unknown versions of markers that
 * describe the file. */
static void judge_warning(j_common_ptr jpeg, int level)
{
    const int code = jpeg->err->msg_code;

    if (level < 0 && code != JWRN_EXTRANEOUS_DATA && code != JWRN_JFIF_MAJOR &&
        code != JWRN_ADOBE_XFORM)
        fail(jpeg);
}

static void count_scans(j_common_ptr jpeg)
{
    struct reader *reader = jpeg->client_data;

    if (reader->jpeg.input_scan_number <= MAX_SCANS)
        return;
    tool_fail(reader->tool, "the JPEG has more than %d scans", MAX_SCANS);
    longjmp(reader->failed, 1);
}

/* libjpeg leaves through longjmp() to here: no local variable may change in this function. */
static bool read_pixels(struct reader *reader, FILE *file, struct photo *photo)
{
    struct jpeg_decompress_struct *const jpeg = &reader->jpeg;

    if (setjmp(reader->failed) != 0)
        return false;
    jpeg_create_decompress(jpeg);
    jpeg->progress = &reader->progress;
    jpeg_stdio_src(jpeg, file);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK)
        return tool_fail(reader->tool, "a CMYK JPEG: convert it to RGB first");
    jpeg->out_color_space = JCS_RGB;
    if (!photo_allocate(reader->tool, photo, jpeg->image_width, jpeg->image_height, 3))
        return false;
    jpeg_start_decompress(jpeg);
    while (jpeg->output_scanline < jpeg->output_height) {
        JSAMPROW row = photo->rgb + 3 * photo->width * jpeg->output_scanline;

        jpeg_read_scanlines(jpeg, &row, 1);
    }
    jpeg_finish_decompress(jpeg);
    return true;
}

bool photo_read_jpeg(struct tool *tool, FILE *file, struct photo *photo)
{
    struct reader *reader = tool_new(tool, 1, sizeof(*reader));
    bool done;

    if (reader == NULL)
        return false;
    reader->tool = tool;
    reader->jpeg.err = jpeg_std_error(&reader->errors);
    reader->jpeg.client_data = reader;
    reader->errors.error_exit = fail;
    reader->errors.emit_message = judge_warning;
    reader->progress.progress_monitor = count_scans;
    done = read_pixels(reader, file, photo);
    jpeg_destroy_decompress(&reader->jpeg);
    free(reader);
    return done;
}
