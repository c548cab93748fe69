/* SPDX-License-Identifier: Apache-2.0 */
/* The C interface: what it computes, and every status that it can give. */

#define _POSIX_C_SOURCE 200809L

#include "neoxref.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

static int failures = 0;

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      ++failures;                                                                  \
      printf("%s:%d: %s (%s)\n", __FILE__, __LINE__, #condition, neoxref_error()); \
    }                                                                              \
  } while (0)

/* The first tokens of datasets/texts/wikitext2_test_excerpt.txt; datasets/mini/digest.json has the
 * digest of their logits. */
static const int32_t tokens[] = {
    880,  1915, 534, 80,   660, 85,   391, 1216, 360, 1915, 880,  880, 534, 80,  660, 85,
    391,  1216, 360, 355,  357, 1741, 279, 376,  78,  353,  1302, 301, 87,  271, 316, 282,
    262,  293,  264, 1102, 283, 418,  518, 359,  260, 1011, 414,  222, 33,  14,  33,  1738,
    1721, 580,  301, 328,  262, 1302, 301, 87,   271, 316,  867,  514, 385, 391, 372, 292};
enum { count = sizeof tokens / sizeof tokens[0] };

static void known_digest(char digest[33]) {
  char path[4096], text[1024];
  const char* root = getenv("NEOXREF_SOURCE_DIR");
  const char* field;
  size_t size;
  FILE* file;
  snprintf(path, sizeof path, "%s/datasets/mini/digest.json", root ? root : ".");
  file = fopen(path, "r");
  if (file == NULL) {
    printf("%s cannot be read\n", path);
    exit(1);
  }
  size = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[size] = 0;
  field = strstr(text, "\"first_64\": \"");
  if (field == NULL || strlen(field) < 13 + 32) {
    printf("%s has no first_64\n", path);
    exit(1);
  }
  memcpy(digest, field + 13, 32);
  digest[32] = 0;
}

static void check_bits(const neoxref_model* model, const neoxref_shape* shape) {
  char expected[33], digest[33];
  float* logits = malloc(count * shape->vocab * sizeof *logits);
  float* row = malloc(shape->vocab * sizeof *row);
  float keys[16 * 256], again[16 * 256], values[16 * 256];
  int32_t positions[16];
  size_t slots = 77, i;
  neoxref_sequence *sequence = NULL, *copy = NULL, *pieces = NULL;
  known_digest(expected);
  CHECK(shape->head_dim <= 256);
  CHECK(neoxref_new_sequence(model, count + 1, &sequence) == NEOXREF_OK);
  CHECK(neoxref_cache_length(sequence, 0, &slots) == NEOXREF_OK && slots == 0);
  CHECK(neoxref_forward(sequence, tokens, count, NEOXREF_ALL_ROWS, logits, count * shape->vocab) ==
        NEOXREF_OK);
  CHECK(neoxref_digest(logits, count * shape->vocab, digest) == NEOXREF_OK);
  CHECK(strcmp(digest, expected) == 0);
  CHECK(neoxref_cache_length(sequence, shape->layers - 1, &slots) == NEOXREF_OK && slots == count);

  /* In pieces, and from a copy of the beginning. */
  CHECK(neoxref_new_sequence(model, count, &pieces) == NEOXREF_OK);
  CHECK(neoxref_forward(pieces, tokens, 16, NEOXREF_NO_ROWS, NULL, 0) == NEOXREF_OK);
  CHECK(neoxref_cache_read(pieces, 1, 2, keys, values, positions, 16) == NEOXREF_OK);
  for (i = 0; i < 16; ++i) CHECK(positions[i] == (int32_t)i);
  CHECK(neoxref_fork(pieces, &copy) == NEOXREF_OK);
  CHECK(neoxref_forward(pieces, tokens + 16, 1, NEOXREF_LAST_ROW, row, shape->vocab) == NEOXREF_OK);
  CHECK(memcmp(row, logits + 16 * shape->vocab, shape->vocab * sizeof *row) == 0);
  CHECK(neoxref_cache_length(copy, 0, &slots) == NEOXREF_OK && slots == 16);
  CHECK(neoxref_cache_read(copy, 1, 2, again, NULL, NULL, 16) == NEOXREF_OK);
  CHECK(memcmp(keys, again, 16 * shape->head_dim * sizeof *keys) == 0);
  CHECK(neoxref_forward(copy, tokens + 16, count - 16, NEOXREF_LAST_ROW, row, shape->vocab) ==
        NEOXREF_OK);
  CHECK(memcmp(row, logits + (count - 1) * shape->vocab, shape->vocab * sizeof *row) == 0);
  neoxref_free_sequence(pieces);
  neoxref_free_sequence(copy);
  neoxref_free_sequence(sequence);
  free(row);
  free(logits);
}

static void check_refusals(const neoxref_model* model, const neoxref_shape* shape) {
  float* logits = malloc(2 * shape->vocab * sizeof *logits);
  neoxref_model* none = NULL;
  neoxref_sequence *sequence = NULL, *nothing = NULL;
  neoxref_shape other;
  size_t slots = 0, i;
  char digest[33];
  const int32_t outside[] = {0, (int32_t)shape->vocab};
  CHECK(neoxref_load(NULL, NULL, 0, &none) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_load("mini", NULL, 0, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_load("mini", "abacus", 0, &none) == NEOXREF_BAD_ARGUMENT);
  CHECK(strstr(neoxref_error(), "abacus") != NULL);
  CHECK(neoxref_load("no/such-model", NULL, 0, &none) == NEOXREF_BAD_INPUT);
  CHECK(strstr(neoxref_error(), "no/such-model") != NULL);
  CHECK(strchr(neoxref_error(), '\n') == NULL);
  CHECK(none == NULL);
  CHECK(neoxref_get_shape(NULL, &other) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_get_shape(model, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_new_sequence(NULL, 4, &nothing) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_new_sequence(model, 4, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_new_sequence(model, 0, &nothing) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_new_sequence(model, (size_t)-1, &nothing) == NEOXREF_BAD_INPUT);
  CHECK(neoxref_fork(NULL, &nothing) == NEOXREF_BAD_ARGUMENT);
  CHECK(nothing == NULL);
  CHECK(neoxref_new_sequence(model, 4, &sequence) == NEOXREF_OK);
  CHECK(neoxref_fork(sequence, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(NULL, tokens, 1, 0, NULL, 0) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, NULL, 1, 0, NULL, 0) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, tokens, 0, 0, NULL, 0) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, tokens, 1, 3, logits, shape->vocab) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, tokens, 1, -1, logits, shape->vocab) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, tokens, 1, NEOXREF_LAST_ROW, NULL, shape->vocab) ==
        NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, tokens, 2, NEOXREF_ALL_ROWS, logits, 2 * shape->vocab - 1) ==
        NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_forward(sequence, outside, 2, NEOXREF_NO_ROWS, NULL, 0) == NEOXREF_BAD_INPUT);
  CHECK(neoxref_forward(sequence, tokens, 17, NEOXREF_NO_ROWS, NULL, 0) == NEOXREF_BAD_INPUT);
  for (i = 0; i < shape->layers; ++i) {
    CHECK(neoxref_cache_length(sequence, i, &slots) == NEOXREF_OK && slots == 0);
  }
  CHECK(neoxref_forward(sequence, tokens, 2, NEOXREF_NO_ROWS, NULL, 0) == NEOXREF_OK);
  CHECK(neoxref_cache_length(NULL, 0, &slots) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_length(sequence, 0, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_length(sequence, shape->layers, &slots) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_read(NULL, 0, 0, logits, NULL, NULL, 9) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_read(sequence, shape->layers, 0, NULL, NULL, NULL, 9) ==
        NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_read(sequence, 0, shape->heads, NULL, NULL, NULL, 9) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_cache_read(sequence, 0, 0, logits, NULL, NULL, 1) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_digest(NULL, 1, digest) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_digest(logits, 1, NULL) == NEOXREF_BAD_ARGUMENT);
  CHECK(neoxref_digest(NULL, 0, digest) == NEOXREF_OK && strlen(digest) == 32);
  neoxref_free_sequence(sequence);
  neoxref_free_sequence(NULL);
  neoxref_free_model(NULL);
  free(logits);
}

/* A model whose residual stream overflows behind token 1 and no other. */
static void check_not_finite(void) {
  static const char config[] =
      "{\"model_type\": \"gpt_neox\", \"hidden_size\": 2, \"num_attention_heads\": 1, "
      "\"num_hidden_layers\": 1, \"intermediate_size\": 1, \"vocab_size\": 2, \"rotary_pct\": 0.0, "
      "\"max_position_embeddings\": 8, \"bos_token_id\": 0, \"eos_token_id\": 0}";
  static const struct {
    const char *name, *shape;
    size_t size;
  } weights[] = {{"gpt_neox.embed_in.weight", "2,2", 4},
                 {"gpt_neox.layers.0.input_layernorm.weight", "2", 2},
                 {"gpt_neox.layers.0.input_layernorm.bias", "2", 2},
                 {"gpt_neox.layers.0.attention.query_key_value.weight", "6,2", 12},
                 {"gpt_neox.layers.0.attention.query_key_value.bias", "6", 6},
                 {"gpt_neox.layers.0.attention.dense.weight", "2,2", 4},
                 {"gpt_neox.layers.0.attention.dense.bias", "2", 2},
                 {"gpt_neox.layers.0.post_attention_layernorm.weight", "2", 2},
                 {"gpt_neox.layers.0.post_attention_layernorm.bias", "2", 2},
                 {"gpt_neox.layers.0.mlp.dense_h_to_4h.weight", "1,2", 2},
                 {"gpt_neox.layers.0.mlp.dense_h_to_4h.bias", "1", 1},
                 {"gpt_neox.layers.0.mlp.dense_4h_to_h.weight", "2,1", 2},
                 {"gpt_neox.layers.0.mlp.dense_4h_to_h.bias", "2", 2},
                 {"gpt_neox.final_layer_norm.weight", "2", 2},
                 {"gpt_neox.final_layer_norm.bias", "2", 2},
                 {"embed_out.weight", "2,2", 4}};
  char folder[] = "/tmp/neoxref_c_XXXXXX", path[64], header[4096];
  float data[64] = {0}, logits[2 * 2] = {9, 9, 9, 9};
  size_t length = 0, used = 0, slots = 0, i;
  unsigned char size[8] = {0};
  const int32_t text[] = {0, 1};
  neoxref_model* model = NULL;
  neoxref_sequence* sequence = NULL;
  FILE* file;
  for (i = 0; i < sizeof weights / sizeof weights[0]; ++i) {
    length +=
        (size_t)snprintf(header + length, sizeof header - length,
                         "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         i == 0 ? "{" : ",", weights[i].name, weights[i].shape, 4 * used,
                         4 * (used + weights[i].size));
    if (i == 0) data[used + 2] = data[used + 3] = 3e38f; /* the row of token 1 */
    if (strstr(weights[i].name, "dense.bias") != NULL) data[used] = data[used + 1] = 3e38f;
    used += weights[i].size;
  }
  header[length++] = '}';
  while (length % 8 != 0) header[length++] = ' ';
  size[0] = (unsigned char)(length & 255);
  size[1] = (unsigned char)(length >> 8);
  if (mkdtemp(folder) == NULL) {
    ++failures;
    return;
  }
  snprintf(path, sizeof path, "%s/config.json", folder);
  file = fopen(path, "w");
  CHECK(file != NULL && fwrite(config, 1, strlen(config), file) == strlen(config));
  CHECK(fclose(file) == 0);
  snprintf(path, sizeof path, "%s/model.safetensors", folder);
  file = fopen(path, "wb");
  CHECK(file != NULL && fwrite(size, 1, 8, file) == 8 &&
        fwrite(header, 1, length, file) == length && fwrite(data, 4, used, file) == used);
  CHECK(fclose(file) == 0);
  CHECK(neoxref_load(folder, "scalar", 1, &model) == NEOXREF_OK);
  CHECK(neoxref_new_sequence(model, 8, &sequence) == NEOXREF_OK);
  CHECK(neoxref_forward(sequence, text, 2, NEOXREF_ALL_ROWS, logits, 4) == NEOXREF_NOT_FINITE);
  CHECK(strstr(neoxref_error(), "token 1") != NULL);
  CHECK(logits[0] == 0 && logits[1] == 0);
  CHECK(neoxref_cache_length(sequence, 0, &slots) == NEOXREF_OK && slots == 1);
  CHECK(neoxref_forward(sequence, text, 1, NEOXREF_NO_ROWS, NULL, 0) == NEOXREF_BAD_INPUT);
  /* The model goes with its last sequence. */
  neoxref_free_model(model);
  neoxref_free_sequence(sequence);
  remove(path);
  snprintf(path, sizeof path, "%s/config.json", folder);
  remove(path);
  remove(folder);
}

/* A cache that the address space would hold, but this process may not have. */
static void check_memory(const neoxref_model* model, const neoxref_shape* shape) {
#ifdef __SANITIZE_ADDRESS__
  (void)model;
  (void)shape;
  printf("SKIP c_api: a limit of the address space leaves the sanitizer none\n");
#else
  const size_t slot = shape->layers * shape->heads * (2 * shape->head_dim + 2) * 4;
  neoxref_sequence* sequence = NULL;
  struct rlimit before, tight, after;
  CHECK(getrlimit(RLIMIT_AS, &before) == 0);
  tight = before;
  tight.rlim_cur = (rlim_t)1 << 43;
  CHECK(setrlimit(RLIMIT_AS, &tight) == 0);
  CHECK(getrlimit(RLIMIT_AS, &after) == 0);
  if (after.rlim_cur != tight.rlim_cur) {
    /* An emulator may take a limit and not keep it: all memory would go before the refusal. */
    printf("SKIP c_api: a limit of the address space is not kept here\n");
    return;
  }
  CHECK(neoxref_new_sequence(model, ((size_t)1 << 44) / slot, &sequence) == NEOXREF_NO_MEMORY);
  CHECK(sequence == NULL);
  CHECK(setrlimit(RLIMIT_AS, &before) == 0);
#endif
}

struct Reader {
  const neoxref_model* model;
  size_t vocab;
  char digest[33];
  int error_was_empty;
};

static void* read_text(void* argument) {
  struct Reader* reader = argument;
  float* logits = malloc(count * reader->vocab * sizeof *logits);
  neoxref_sequence* sequence = NULL;
  /* Another thread's failure is none of this one's. */
  reader->error_was_empty = neoxref_error()[0] == 0;
  reader->digest[0] = 0;
  if (neoxref_new_sequence(reader->model, count, &sequence) == NEOXREF_OK &&
      neoxref_forward(sequence, tokens, count, NEOXREF_ALL_ROWS, logits, count * reader->vocab) ==
          NEOXREF_OK) {
    neoxref_digest(logits, count * reader->vocab, reader->digest);
  }
  neoxref_free_sequence(sequence);
  free(logits);
  return NULL;
}

static void check_threads(const neoxref_model* model, const neoxref_shape* shape) {
  struct Reader readers[3];
  pthread_t threads[3];
  char expected[33];
  int i;
  known_digest(expected);
  for (i = 0; i < 3; ++i) {
    readers[i].model = model;
    readers[i].vocab = shape->vocab;
    CHECK(pthread_create(&threads[i], NULL, read_text, &readers[i]) == 0);
  }
  for (i = 0; i < 3; ++i) {
    CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(strcmp(readers[i].digest, expected) == 0);
    CHECK(readers[i].error_was_empty);
  }
}

int main(void) {
  neoxref_model* model = NULL;
  neoxref_shape shape;
  CHECK(neoxref_error()[0] == 0);
  CHECK(neoxref_api() == NEOXREF_API);
  CHECK(strcmp(neoxref_contract(), "NX-F32/1") == 0);
  CHECK(strlen(neoxref_version()) > 0);
  if (neoxref_load("mini", NULL, 0, &model) != NEOXREF_OK) {
    printf("%s\n", neoxref_error());
    return 1;
  }
  CHECK(neoxref_get_shape(model, &shape) == NEOXREF_OK);
  CHECK(shape.layers == 6 && shape.heads * shape.head_dim == shape.hidden && shape.vocab == 2048);
  check_bits(model, &shape);
  check_refusals(model, &shape);
  check_not_finite();
  check_memory(model, &shape);
  check_threads(model, &shape);
  neoxref_free_model(model);
  if (failures == 0) printf("the C interface does what neoxref.h says\n");
  return failures == 0 ? 0 : 1;
}
