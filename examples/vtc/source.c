#include "source.h"

#include "descriptor.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- photographs ----------------------------------------------------------------------------- */

static bool describe_planes(struct tool *tool, struct source *source)
{
    const size_t n = source->grid_h * source->grid_w;

    source->n_tokens = n;
    source->patches = tool_new(tool, n * PATCH_VALUES, sizeof(float));
    source->tokens = tool_new(tool, n * DESCRIPTOR_WIDTH, sizeof(float));
    if (source->patches == NULL || source->tokens == NULL)
        return false;
    cut_patches(source->planes, source->grid_h, source->grid_w, source->patches);
    describe_patches(source->patches, n, source->tokens);
    source->features = vtc_f32_2d(source->tokens, n, DESCRIPTOR_WIDTH);
    return true;
}

static bool open_photo(struct tool *tool, FILE *file, bool is_jpeg, struct source *source)
{
    struct photo photo = { 0, 0, NULL };
    const bool done =
        is_jpeg ? photo_read_jpeg(tool, file, &photo) : photo_read_png(tool, file, &photo);

    if (source->grid_h == 0)
        source->grid_h = source->grid_w = DEFAULT_GRID_SIDE;
    if (done) {
        const size_t height = source->grid_h * PATCH_SIDE, width = source->grid_w * PATCH_SIDE;

        source->crop = photo_crop(&photo, height, width);
        source->planes = photo_planes(tool, &photo, height, width);
    }
    photo_free(&photo);
    return source->planes != NULL && describe_planes(tool, source);
}

/* ---- any file -------------------------------------------------------------------------------- */

/* A folder, a device or a pipe is no input: it could not be mapped, or block for ever. */
static FILE *open_regular(struct tool *tool, const char *path)
{
    struct stat status;
    FILE *file = NULL;

    if (stat(path, &status) != 0)
        tool_fail(tool, "%s", strerror(errno));
    else if (S_ISDIR(status.st_mode))
        tool_fail(tool, "is a folder; name the files in it");
    else if (!S_ISREG(status.st_mode))
        tool_fail(tool, "is not a regular file");
    else if ((file = fopen(path, "rb")) == NULL)
        tool_fail(tool, "%s", strerror(errno));
    return file;
}

static bool open_by_kind(struct tool *tool, FILE *file, const char *path, struct source *source)
{
    unsigned char start[9] = { 0 }; /* 8 bytes of length and '{' begin a .safetensors file */
    const size_t n = fread(start, 1, sizeof(start), file);

    if (ferror(file))
        return tool_fail(tool, "%s", strerror(errno));
    if (n == 0)
        return tool_fail(tool, "is empty");
    rewind(file);
    if (memcmp(start, "\xff\xd8\xff", 3) == 0)
        return open_photo(tool, file, true, source);
    if (memcmp(start, "\x89PNG", 4) == 0)
        return open_photo(tool, file, false, source);
    if (memcmp(start, "\x93NUMPY", 6) == 0)
        return source_open_npy(tool, path, source);
    if (start[8] == '{')
        return source_open_safetensors(tool, path, source);
    return tool_fail(tool, "is neither a JPEG, PNG, .npy nor .safetensors file");
}

static bool check_grid(struct tool *tool, const struct source *source)
{
    if (source->grid_h == 0 || source->grid_h * source->grid_w == source->n_tokens)
        return true;
    return tool_fail(tool, "a grid of %zu x %zu has %zu tokens, the file %zu", source->grid_h,
                     source->grid_w, source->grid_h * source->grid_w, source->n_tokens);
}

bool source_open(struct tool *tool, const char *path, size_t grid_h, size_t grid_w,
                 struct source *source)
{
    const vtc_plan_inputs none = VTC_PLAN_INPUTS_INIT;
    FILE *file;
    bool done;

    memset(source, 0, sizeof(*source));
    source->inputs = none;
    source->grid_h = grid_h;
    source->grid_w = grid_w;
    tool->why[0] = '\0';
    file = open_regular(tool, path);
    if (file == NULL)
        return false;
    done = open_by_kind(tool, file, path, source) && check_grid(tool, source);
    fclose(file);
    source->inputs.features = &source->features;
    source->inputs.grid_h = source->grid_h;
    source->inputs.grid_w = source->grid_w;
    return done;
}

void source_close(struct source *source)
{
    free(source->planes);
    free(source->patches);
    free(source->tokens);
    stand_ins_free(&source->stand_ins);
    vtc_safetensors_close(source->file);
    vtc_npy_close(source->array);
    memset(source, 0, sizeof(*source));
}
