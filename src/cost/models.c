/*
 * Extents of named models, from their released configurations.
 *
 * CLIP ViT-L/14: 24 layers of 1024, MLP 4096; 336 pixels make 24 x 24 patches, 224 make 16 x 16.
 * InternViT-300M at 448 pixels is as wide and deep, with 32 x 32 patches, 2 x 2 of them a token.
 * LanguageBind's video encoder adds attention over the 8 frames to each layer of CLIP ViT-L/14.
 */
#include "../../include/vtc/cost.h"

#include <string.h>

#define CLIP_L_14(n_tile_patches)                         \
    {                                                     \
        24, 1024, 4096, 3 * 14 * 14, 1, n_tile_patches, 0 \
    }
#define VICUNA_7B(name)             \
    {                               \
        name, 32, 4096, 11008, 4096 \
    }

static const vtc_model models[] = {
    { "llava-1.5-7b",
      CLIP_L_14(576),
      { 1, 4096, 4096 },
      VICUNA_7B("llava-1.5-7b"),
      576,
      "one image of 336 x 336" },
    { "llava-1.5-13b",
      CLIP_L_14(576),
      { 1, 5120, 5120 },
      { "llava-1.5-13b", 40, 5120, 13824, 5120 },
      576,
      "one image of 336 x 336" },
    { "llava-next-7b",
      CLIP_L_14(576),
      { 1, 4096, 4096 },
      VICUNA_7B("llava-next-7b"),
      2880,
      "an image of 672 x 672: four tiles and the whole" },
    { "qwen2-vl-7b",
      { 32, 1280, 5120, 3 * 2 * 14 * 14, 0, 0, 0 },
      { 4, 5120, 3584 },
      { "qwen2-vl-7b", 28, 3584, 18944, 512 },
      256,
      "one image of 448 x 448" },
    { "internvl2-8b",
      { 24, 1024, 4096, 3 * 14 * 14, 1, 1024, 0 },
      { 4, 4096, 4096 },
      { "internvl2-8b", 32, 4096, 14336, 1024 },
      256,
      "one tile of 448 x 448" },
    { "video-llava-7b",
      { 24, 1024, 4096, 3 * 14 * 14, 1, 256, 8 },
      { 1, 4096, 4096 },
      VICUNA_7B("video-llava-7b"),
      2048,
      "8 frames of 224 x 224" },
};

enum { N_MODELS = sizeof(models) / sizeof(*models) };

const vtc_model *vtc_models(size_t *n)
{
    if (n != NULL)
        *n = N_MODELS;
    return models;
}

const vtc_model *vtc_model_find(const char *name)
{
    for (size_t i = 0; name != NULL && i < N_MODELS; i++)
        if (strcmp(models[i].name, name) == 0)
            return &models[i];
    return NULL;
}

const vtc_decoder *vtc_decoder_find(const char *name)
{
    const vtc_model *model = vtc_model_find(name);

    return model == NULL ? NULL : &model->decoder;
}
