/*
 * The part of LiteRT's C API that embed.c calls. The wheel ai-edge-litert ships libLiteRt.so without headers, so its
 * functions are declared here, as they are in version 2.3.0 on Linux. Another version may have others: embed.c replays
 * the file's golden vector before anything else.
 */
#ifndef LITERT_H
#define LITERT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef int LiteRtStatus; /* 0: success */
typedef struct LiteRtEnvironmentT *LiteRtEnvironment;
typedef struct LiteRtModelT *LiteRtModel;
typedef struct LiteRtSubgraphT *LiteRtSubgraph;
typedef struct LiteRtTensorT *LiteRtTensor;
typedef struct LiteRtOptionsT *LiteRtOptions;
typedef struct LiteRtCompiledModelT *LiteRtCompiledModel;
typedef struct LiteRtTensorBufferT *LiteRtTensorBuffer;
typedef struct LiteRtTensorBufferRequirementsT *LiteRtTensorBufferRequirements;

/* Type and shape of a tensor: 72 bytes, which only the library looks at. */
typedef struct {
    uint64_t opaque[16];
} LiteRtRankedTensorType;

typedef struct {
    int tag;
    struct {
        int type;
        int64_t value;
    } any;
} LiteRtEnvOption;

enum {
    LITERT_ANY_INTEGER = 2,
    LITERT_OPTION_ACCELERATORS = 24, /* which are looked for: a bit field */
    LITERT_OPTION_LOG_LEVEL = 25,    /* the least that is logged */
    LITERT_CPU = 1,
    LITERT_ERROR = 3,
    LITERT_READ = 0,
    LITERT_WRITE = 1
};

LiteRtStatus LiteRtCreateEnvironment(int count, const LiteRtEnvOption *options, LiteRtEnvironment *environment);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment environment, const char *path, LiteRtModel *model);
LiteRtStatus LiteRtGetModelSubgraph(LiteRtModel model, size_t index, LiteRtSubgraph *subgraph);
LiteRtStatus LiteRtGetSubgraphInput(LiteRtSubgraph subgraph, size_t index, LiteRtTensor *tensor);
LiteRtStatus LiteRtGetSubgraphOutput(LiteRtSubgraph subgraph, size_t index, LiteRtTensor *tensor);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor tensor, LiteRtRankedTensorType *type);
LiteRtStatus LiteRtCreateOptions(LiteRtOptions *options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions options, int accelerators);
LiteRtStatus LiteRtCreateCompiledModel(
    LiteRtEnvironment environment, LiteRtModel model, LiteRtOptions options, LiteRtCompiledModel *compiled);
LiteRtStatus LiteRtGetCompiledModelInputBufferRequirements(
    LiteRtCompiledModel compiled, size_t signature, size_t index, LiteRtTensorBufferRequirements *requirements);
LiteRtStatus LiteRtGetCompiledModelOutputBufferRequirements(
    LiteRtCompiledModel compiled, size_t signature, size_t index, LiteRtTensorBufferRequirements *requirements);
LiteRtStatus LiteRtCreateManagedTensorBufferFromRequirements(
    LiteRtEnvironment environment, const LiteRtRankedTensorType *type, LiteRtTensorBufferRequirements requirements,
    LiteRtTensorBuffer *buffer);
LiteRtStatus LiteRtGetTensorBufferPackedSize(LiteRtTensorBuffer buffer, size_t *bytes);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer buffer, void **memory, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer buffer);
LiteRtStatus LiteRtRunCompiledModel(
    LiteRtCompiledModel compiled, size_t signature, size_t inputs, LiteRtTensorBuffer *input, size_t outputs,
    LiteRtTensorBuffer *output);
void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer buffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel compiled);
void LiteRtDestroyOptions(LiteRtOptions options);
void LiteRtDestroyModel(LiteRtModel model);
void LiteRtDestroyEnvironment(LiteRtEnvironment environment);

#ifdef __cplusplus
}
#endif

#endif
