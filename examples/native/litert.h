/* What classify.c uses of LiteRT's C API, as libLiteRt.so 2.3.0 of the Python package
 * ai-edge-litert exports it. The package has no headers; LiteRT's own are below litert/c in
 * https://github.com/google-ai-edge/LiteRT. In earlier releases LiteRtCreateModelFromFile took no
 * environment.
 */
#ifndef LITERT_H
#define LITERT_H

#include <stddef.h>
#include <stdint.h>

typedef struct LiteRtEnvironmentT *LiteRtEnvironment;
typedef struct LiteRtModelT *LiteRtModel;
typedef struct LiteRtOptionsT *LiteRtOptions;
typedef struct LiteRtCompiledModelT *LiteRtCompiledModel;
typedef struct LiteRtSignatureT *LiteRtSignature;
typedef struct LiteRtTensorT *LiteRtTensor;
typedef struct LiteRtTensorBufferT *LiteRtTensorBuffer;
typedef int LiteRtStatus; /* 0 is success */

enum { LITERT_FLOAT32 = 1, LITERT_UINT8 = 3, LITERT_INT8 = 9 };
enum { LITERT_CPU = 1 };
enum { LITERT_HOST_MEMORY = 1 };
enum { LITERT_READ = 0, LITERT_WRITE = 1 };

typedef struct {
  int32_t element_type;
  unsigned int rank : 7;
  unsigned int has_strides : 1;
  int32_t dimensions[8];
  uint32_t strides[8];
} LiteRtRankedTensorType;

typedef struct {
  float scale;
  int64_t zero_point;
} LiteRtQuantizationPerTensor;

LiteRtStatus LiteRtCreateEnvironment(int count, const void *options, LiteRtEnvironment *made);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtEnvironment, const char *path, LiteRtModel *made);
LiteRtStatus LiteRtGetModelSignature(LiteRtModel, size_t index, LiteRtSignature *);
LiteRtStatus LiteRtGetNumSignatureInputs(LiteRtSignature, size_t *);
LiteRtStatus LiteRtGetNumSignatureOutputs(LiteRtSignature, size_t *);
LiteRtStatus LiteRtGetSignatureInputTensorByIndex(LiteRtSignature, size_t index, LiteRtTensor *);
LiteRtStatus LiteRtGetSignatureOutputTensorByIndex(LiteRtSignature, size_t index, LiteRtTensor *);
LiteRtStatus LiteRtGetRankedTensorType(LiteRtTensor, LiteRtRankedTensorType *);
LiteRtStatus LiteRtGetPerTensorQuantization(LiteRtTensor, LiteRtQuantizationPerTensor *);
LiteRtStatus LiteRtGetModelMetadata(LiteRtModel, const char *key, const void **data, size_t *size);

LiteRtStatus LiteRtCreateOptions(LiteRtOptions *made);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtOptions, int accelerators);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtEnvironment, LiteRtModel, LiteRtOptions,
                                       LiteRtCompiledModel *made);
LiteRtStatus LiteRtRunCompiledModel(LiteRtCompiledModel, size_t signature, size_t num_inputs,
                                    LiteRtTensorBuffer *inputs, size_t num_outputs,
                                    LiteRtTensorBuffer *outputs);

LiteRtStatus LiteRtCreateManagedTensorBuffer(LiteRtEnvironment, int buffer_type,
                                             const LiteRtRankedTensorType *, size_t bytes,
                                             LiteRtTensorBuffer *made);
LiteRtStatus LiteRtLockTensorBuffer(LiteRtTensorBuffer, void **memory, int mode);
LiteRtStatus LiteRtUnlockTensorBuffer(LiteRtTensorBuffer);

void LiteRtDestroyTensorBuffer(LiteRtTensorBuffer);
void LiteRtDestroyCompiledModel(LiteRtCompiledModel);
void LiteRtDestroyOptions(LiteRtOptions);
void LiteRtDestroyModel(LiteRtModel);
void LiteRtDestroyEnvironment(LiteRtEnvironment);

#endif
