/*
 * Embeddings of images in C or C++, with LiteRT and a header of export-tflite --c-header: see docs/c.md.
 *
 *     embed model.int8.tflite photo.ppm...
 *
 * Prints one line of numbers for each image, a binary .ppm (or .pgm, for an encoder of gray images) of the encoder's size.
 */
#include <stdio.h>
#include <stdlib.h>

#include "litert.h"
#include "model.int8.contract.h"

/* The names of another file: replace them here. */
#define NAME(word) model_int8_##word
#define SIZE(word) MODEL_INT8_##word

#define PIXELS (SIZE(INPUT_HEIGHT) * SIZE(INPUT_WIDTH) * SIZE(INPUT_CHANNELS))
#define TRY(call) try_(call, #call)

static LiteRtCompiledModel compiled;
static LiteRtTensorBuffer input, output;
static uint8_t pixels[PIXELS];
static float embedding[SIZE(EMBEDDING_SIZE)];

static void try_(LiteRtStatus status, const char *call)
{
    if (status != 0) {
        fprintf(stderr, "error: LiteRT answers %d to %s\n", status, call);
        exit(2);
    }
}

static LiteRtTensorBuffer buffer_of(
    LiteRtEnvironment environment, LiteRtTensor tensor, LiteRtTensorBufferRequirements requirements, size_t expected)
{
    LiteRtRankedTensorType type;
    LiteRtTensorBuffer buffer;
    size_t bytes;
    TRY(LiteRtGetRankedTensorType(tensor, &type));
    TRY(LiteRtCreateManagedTensorBufferFromRequirements(environment, &type, requirements, &buffer));
    TRY(LiteRtGetTensorBufferPackedSize(buffer, &bytes));
    if (bytes != expected) {
        fprintf(stderr, "error: a tensor of %zu bytes where the header says %zu: it is another file's\n", bytes, expected);
        exit(2);
    }
    return buffer;
}

static void embed(void)
{
    void *memory;
    TRY(LiteRtLockTensorBuffer(input, &memory, LITERT_WRITE));
    NAME(preprocess)(pixels, (NAME(input) *)memory);
    TRY(LiteRtUnlockTensorBuffer(input));
    TRY(LiteRtRunCompiledModel(compiled, 0, 1, &input, 1, &output));
    TRY(LiteRtLockTensorBuffer(output, &memory, LITERT_READ));
    NAME(embedding)((const NAME(output) *)memory, embedding);
    TRY(LiteRtUnlockTensorBuffer(output));
}

static int read_image(const char *path)
{
    FILE *file = fopen(path, "rb");
    char kind = 0;
    int width = 0, height = 0, most = 0, read;
    if (file == NULL) {
        perror(path);
        return 0;
    }
    read = fscanf(file, "P%c %d %d %d", &kind, &width, &height, &most) == 4 && fgetc(file) != EOF && most == 255 &&
           kind == (SIZE(INPUT_CHANNELS) == 1 ? '5' : '6') && width == SIZE(INPUT_WIDTH) &&
           height == SIZE(INPUT_HEIGHT) && fread(pixels, 1, PIXELS, file) == PIXELS;
    fclose(file);
    if (!read) {
        fprintf(stderr, "error: %s is not a binary .p%cm of %dx%d pixels; resize it as the header says\n", path,
                SIZE(INPUT_CHANNELS) == 1 ? 'g' : 'p', SIZE(INPUT_WIDTH), SIZE(INPUT_HEIGHT));
    }
    for (size_t n = 0; SIZE(BGR) && n < PIXELS; n += 3) {
        const uint8_t red = pixels[n];
        pixels[n] = pixels[n + 2];
        pixels[n + 2] = red;
    }
    return read;
}

int main(int count, char **arguments)
{
    const LiteRtEnvOption settings[2] = {{LITERT_OPTION_ACCELERATORS, {LITERT_ANY_INTEGER, LITERT_CPU}},
                                         {LITERT_OPTION_LOG_LEVEL, {LITERT_ANY_INTEGER, LITERT_ERROR}}};
    LiteRtEnvironment environment;
    LiteRtModel model;
    LiteRtOptions options;
    LiteRtSubgraph graph;
    LiteRtTensor first, last;
    LiteRtTensorBufferRequirements before, after;
    int failed = 0;

    if (count < 2) {
        fprintf(stderr, "usage: %s MODEL.tflite IMAGE.ppm...\n", arguments[0]);
        return 2;
    }
    TRY(LiteRtCreateEnvironment(2, settings, &environment));
    TRY(LiteRtCreateModelFromFile(environment, arguments[1], &model));
    TRY(LiteRtCreateOptions(&options));
    TRY(LiteRtSetOptionsHardwareAccelerators(options, LITERT_CPU));
    TRY(LiteRtCreateCompiledModel(environment, model, options, &compiled));
    TRY(LiteRtGetModelSubgraph(model, 0, &graph));
    TRY(LiteRtGetSubgraphInput(graph, 0, &first));
    TRY(LiteRtGetSubgraphOutput(graph, 0, &last));
    TRY(LiteRtGetCompiledModelInputBufferRequirements(compiled, 0, 0, &before));
    TRY(LiteRtGetCompiledModelOutputBufferRequirements(compiled, 0, 0, &after));
    input = buffer_of(environment, first, before, PIXELS * sizeof(NAME(input)));
    output = buffer_of(environment, last, after, SIZE(EMBEDDING_SIZE) * sizeof(NAME(output)));

    NAME(golden_frame)(pixels);
    embed();
    if (!NAME(is_golden)(embedding)) {
        fprintf(stderr, "error: the golden vector is not what it was at the export: %s or the library is another one "
                        "than %s was made with\n", arguments[1], SIZE(SHA256));
        return 1;
    }
    for (int n = 2; n < count; n++) {
        if (!read_image(arguments[n])) {
            failed = 2;
            continue;
        }
        embed();
        for (int i = 0; i < SIZE(EMBEDDING_SIZE); i++) {
            printf(i == 0 ? "%.9g" : " %.9g", embedding[i]);
        }
        printf("\n");
    }
    LiteRtDestroyTensorBuffer(input);
    LiteRtDestroyTensorBuffer(output);
    LiteRtDestroyCompiledModel(compiled);
    LiteRtDestroyOptions(options);
    LiteRtDestroyModel(model);
    LiteRtDestroyEnvironment(environment);
    return failed;
}
