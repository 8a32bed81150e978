/* Classifies pictures with an exported file, on LiteRT's C API and XNNPACK.
 *
 *     classify MODEL.tflite IMAGE.ppm ... [--codes=FILE]
 *
 * The file must bear metadata (`ddq export --labels=FILE --input_range=LOW,HIGH`), its input be an
 * image of int8 or uint8, its output as well. Pictures are binary PPM of the model's own size;
 * `ffmpeg` or ImageMagick make these. --codes=FILE keeps the output's codes, one picture after the
 * other.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "litert.h"

typedef struct {
  LiteRtTensorBuffer buffer;
  LiteRtRankedTensorType type;
  LiteRtQuantizationPerTensor grid;
  size_t size; /* in codes, which are bytes */
} End;

typedef struct {
  float mean[3], std[3];
  bool is_bgr;
} Normalization;

typedef struct {
  unsigned char *bytes;
  size_t size;
} Bytes;

static _Noreturn void fail(const char *what, const char *more) {
  fprintf(stderr, "classify: %s%s\n", what, more);
  exit(1);
}

static void check(LiteRtStatus status, const char *what) {
  char text[32];
  snprintf(text, sizeof text, ": LiteRT's status %d", status);
  if (status != 0) fail(what, text);
}

static Bytes read_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail("cannot read ", path);
  fseek(file, 0, SEEK_END);
  long size = ftell(file);
  rewind(file);
  Bytes content = {malloc(size > 0 ? (size_t)size : 1), size > 0 ? (size_t)size : 0};
  if (content.bytes == NULL || fread(content.bytes, 1, content.size, file) != content.size)
    fail("cannot read ", path);
  fclose(file);
  return content;
}

/* --- Metadata: a flatbuffer of metadata_schema.fbs. 0 stands for what is absent. --- */

static uint32_t number_at(Bytes data, size_t at, int width) {
  uint32_t number = 0;
  if (at + (size_t)width > data.size) fail("the file's metadata are damaged", "");
  for (int i = 0; i < width; i++) number |= (uint32_t)data.bytes[at + (size_t)i] << 8 * i;
  return number;
}

static size_t field(Bytes data, size_t table, unsigned place) {
  if (table == 0) return 0;
  size_t fields = table - (size_t)(int32_t)number_at(data, table, 4);
  if (4 + 2 * place >= number_at(data, fields, 2)) return 0;
  uint32_t offset = number_at(data, fields + 4 + 2 * place, 2);
  return offset == 0 ? 0 : table + offset;
}

static size_t followed(Bytes data, size_t at) { return at == 0 ? 0 : at + number_at(data, at, 4); }

static size_t child(Bytes data, size_t table, unsigned place) {
  return followed(data, field(data, table, place));
}

/* The first element of a vector of tables. */
static size_t first(Bytes data, size_t table, unsigned place) {
  size_t vector = child(data, table, place);
  return vector == 0 || number_at(data, vector, 4) == 0 ? 0 : followed(data, vector + 4);
}

static void three_floats(Bytes data, size_t table, unsigned place, float *values) {
  size_t vector = child(data, table, place);
  uint32_t count = vector == 0 ? 0 : number_at(data, vector, 4);
  if (count != 1 && count != 3) fail("mean and std must have 1 or 3 numbers", "");
  for (uint32_t i = 0; i < 3; i++) {
    uint32_t bits = number_at(data, vector + 4 + 4 * (i % count), 4);
    memcpy(&values[i], &bits, sizeof bits);
  }
}

static Normalization normalization(LiteRtModel model) {
  const void *content;
  size_t size;
  if (LiteRtGetModelMetadata(model, "TFLITE_METADATA", &content, &size) != 0)
    fail("the file has no metadata: export it with --labels and --input_range", "");
  Bytes data = {(unsigned char *)(uintptr_t)content, size};
  size_t graph = first(data, number_at(data, 0, 4), 3);
  size_t unit = first(data, first(data, graph, 2), 4);
  size_t kind = field(data, unit, 0), options = child(data, unit, 1);
  if (kind == 0 || number_at(data, kind, 1) != 1 || options == 0)
    fail("the file does not tell its input range: export it with --input_range", "");
  Normalization found;
  three_floats(data, options, 0, found.mean);
  three_floats(data, options, 1, found.std);
  size_t fitting = child(data, first(data, graph, 9), 1);
  found.is_bgr = false;
  for (size_t i = 0; fitting != 0 && i + 12 <= number_at(data, fitting, 4); i++)
    if (memcmp(data.bytes + fitting + 4 + i, "channels=bgr", 12) == 0) found.is_bgr = true;
  return found;
}

/* --- Labels: the one file, not compressed, of the zip archive behind the model. --- */

static char *labels_of(Bytes file) {
  for (size_t at = file.size < 22 ? 0 : file.size - 22; at > 0; at--) {
    if (memcmp(file.bytes + at, "PK\5\6", 4) != 0) continue;
    size_t entry = number_at(file, at + 16, 4), local = number_at(file, entry + 42, 4);
    size_t size = number_at(file, entry + 24, 4);
    size_t start = local + 30 + number_at(file, local + 26, 2) + number_at(file, local + 28, 2);
    if (number_at(file, entry + 10, 2) != 0 || start + size > file.size) break;
    char *text = calloc(size + 1, 1);
    return memcpy(text, file.bytes + start, size);
  }
  fail("the file has no labels: export it with --labels", "");
}

static const char *line_of(const char *text, size_t index, char *line, size_t size) {
  while (index-- > 0 && text != NULL) text = strchr(text, '\n') ? strchr(text, '\n') + 1 : NULL;
  snprintf(line, size, "%.*s", text == NULL ? 0 : (int)strcspn(text, "\n"), text ? text : "");
  return line;
}

/* --- Pictures --- */

/* Returns width * height pixels of 3 bytes, of a binary PPM file. */
static unsigned char *pixels_of(const char *path, int width, int height) {
  FILE *file = fopen(path, "rb");
  if (file == NULL) fail("cannot read ", path);
  int found[3];
  char magic[3] = "";
  if (fscanf(file, "%2s %d %d %d", magic, &found[0], &found[1], &found[2]) != 4 ||
      strcmp(magic, "P6") != 0 || found[2] != 255 || fgetc(file) == EOF)
    fail("no binary PPM picture of 8 bits: ", path);
  if (found[0] != width || found[1] != height) {
    char wanted[64];
    snprintf(wanted, sizeof wanted, "the model takes %d x %d pixels; resize ", width, height);
    fail(wanted, path);
  }
  size_t size = 3 * (size_t)width * (size_t)height;
  unsigned char *pixels = malloc(size);
  if (pixels == NULL || fread(pixels, 1, size, file) != size) fail("half a picture: ", path);
  fclose(file);
  return pixels;
}

/* The nearest code, halves to even, computed in float32 as Keras and TFLite's QUANTIZE do. */
static unsigned char code_of(float value, const End *end) {
  bool is_signed = end->type.element_type == LITERT_INT8;
  float low = is_signed ? -128 : 0, high = is_signed ? 127 : 255;
  float code = rintf(value * (1.0f / end->grid.scale)) + (float)end->grid.zero_point;
  return (unsigned char)(int)fminf(fmaxf(code, low), high);
}

static void fill(unsigned char *codes, const unsigned char *pixels, const End *input,
                 Normalization how) {
  unsigned char table[3][256];
  for (int channel = 0; channel < 3; channel++) {
    volatile float step = (float)(1.0 / (double)how.std[channel]); /* volatile: no fused sum */
    float low = (float)(-(double)how.mean[channel] / (double)how.std[channel]);
    for (int level = 0; level < 256; level++) {
      volatile float product = (float)level * step;
      table[channel][level] = code_of(product + low, input);
    }
  }
  for (size_t i = 0; i < input->size; i++) {
    size_t channel = i % 3;
    codes[i] = table[channel][pixels[how.is_bgr ? i - channel + 2 - channel : i]];
  }
}

/* --- The model --- */

static End end_of(LiteRtEnvironment environment, LiteRtTensor tensor) {
  End end = {0};
  check(LiteRtGetRankedTensorType(tensor, &end.type), "an input or output without a shape");
  if (end.type.element_type != LITERT_INT8 && end.type.element_type != LITERT_UINT8)
    fail("input and output must be int8 or uint8: export with other types", "");
  check(LiteRtGetPerTensorQuantization(tensor, &end.grid), "an input or output without a scale");
  end.size = 1;
  for (unsigned axis = 0; axis < end.type.rank; axis++) end.size *= (size_t)end.type.dimensions[axis];
  check(LiteRtCreateManagedTensorBuffer(environment, LITERT_HOST_MEMORY, &end.type, end.size,
                                        &end.buffer),
        "no memory for a tensor");
  return end;
}

static void print_best(const char *path, const unsigned char *codes, const End *output,
                       const char *labels, double milliseconds) {
  bool is_signed = output->type.element_type == LITERT_INT8;
  size_t best = 0;
  for (size_t i = 1; i < output->size; i++) {
    int code = is_signed ? (signed char)codes[i] : codes[i];
    if (code > (is_signed ? (signed char)codes[best] : codes[best])) best = i;
  }
  char label[256];
  printf("%s: %s, %.2f ms\n", path, line_of(labels, best, label, sizeof label), milliseconds);
}

static double milliseconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void classify(LiteRtCompiledModel compiled, End *input, End *output, const char *path,
                     Normalization how, const char *labels, FILE *kept) {
  void *memory;
  unsigned char *pixels = pixels_of(path, input->type.dimensions[2], input->type.dimensions[1]);
  check(LiteRtLockTensorBuffer(input->buffer, &memory, LITERT_WRITE), "cannot write the input");
  fill(memory, pixels, input, how);
  check(LiteRtUnlockTensorBuffer(input->buffer), "cannot write the input");
  free(pixels);
  double start = milliseconds_now();
  check(LiteRtRunCompiledModel(compiled, 0, 1, &input->buffer, 1, &output->buffer),
        "the model does not run");
  double milliseconds = milliseconds_now() - start;
  check(LiteRtLockTensorBuffer(output->buffer, &memory, LITERT_READ), "cannot read the output");
  print_best(path, memory, output, labels, milliseconds);
  if (kept != NULL && fwrite(memory, 1, output->size, kept) != output->size)
    fail("cannot write the codes", "");
  check(LiteRtUnlockTensorBuffer(output->buffer), "cannot read the output");
}

int main(int count, char **arguments) {
  const char *codes = NULL;
  if (count > 2 && strncmp(arguments[count - 1], "--codes=", 8) == 0)
    codes = arguments[--count] + 8;
  if (count < 3) fail("usage: classify MODEL.tflite IMAGE.ppm ... [--codes=FILE]", "");

  LiteRtEnvironment environment;
  LiteRtModel model;
  LiteRtSignature signature;
  LiteRtTensor tensors[2];
  size_t ends[2];
  check(LiteRtCreateEnvironment(0, NULL, &environment), "LiteRT does not start");
  check(LiteRtCreateModelFromFile(environment, arguments[1], &model), "this is no .tflite file");
  check(LiteRtGetModelSignature(model, 0, &signature), "the file has no signature");
  check(LiteRtGetNumSignatureInputs(signature, &ends[0]), "no inputs");
  check(LiteRtGetNumSignatureOutputs(signature, &ends[1]), "no outputs");
  if (ends[0] != 1 || ends[1] != 1) fail("a classifier has one input and one output", "");
  check(LiteRtGetSignatureInputTensorByIndex(signature, 0, &tensors[0]), "no input");
  check(LiteRtGetSignatureOutputTensorByIndex(signature, 0, &tensors[1]), "no output");
  End input = end_of(environment, tensors[0]), output = end_of(environment, tensors[1]);
  if (input.type.rank != 4 || input.type.dimensions[3] != 3)
    fail("the model must take images in 3 channels", "");

  LiteRtOptions options;
  LiteRtCompiledModel compiled;
  check(LiteRtCreateOptions(&options), "no options");
  check(LiteRtSetOptionsHardwareAccelerators(options, LITERT_CPU), "no CPU");
  check(LiteRtCreateCompiledModel(environment, model, options, &compiled), "LiteRT refuses it");

  Bytes file = read_file(arguments[1]);
  char *labels = labels_of(file);
  Normalization how = normalization(model);
  FILE *kept = codes == NULL ? NULL : fopen(codes, "wb");
  if (codes != NULL && kept == NULL) fail("cannot write ", codes);
  for (int i = 2; i < count; i++)
    classify(compiled, &input, &output, arguments[i], how, labels, kept);
  if (kept != NULL && fclose(kept) != 0) fail("cannot write ", codes);

  free(labels);
  free(file.bytes);
  LiteRtDestroyTensorBuffer(input.buffer);
  LiteRtDestroyTensorBuffer(output.buffer);
  LiteRtDestroyCompiledModel(compiled);
  LiteRtDestroyOptions(options);
  LiteRtDestroyModel(model);
  LiteRtDestroyEnvironment(environment);
  return 0;
}
