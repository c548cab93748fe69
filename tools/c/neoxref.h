/* SPDX-License-Identifier: Apache-2.0 */
#ifndef NEOXREF_H
#define NEOXREF_H

/* GPT-NeoX inference on CPUs with bits fixed by a contract, for C and for whatever can call C.
 * docs/c.md has an example.
 *
 * Handles are opaque. A function that can fail returns a neoxref_status; then what it should have
 * written is untouched, unless it says otherwise, and neoxref_error() says why. No exception leaves.
 *
 * Threads: any function may be called from any thread. Forward passes of one model take turns (each
 * uses all its threads). One sequence is used by one thread at a time. A model may be freed before its
 * sequences; it goes when the last of them goes.
 *
 * Within one NEOXREF_API nothing here changes its meaning and nothing goes away; functions may come. */

#include <stddef.h>
#include <stdint.h>

#define NEOXREF_API 1

#if defined(__GNUC__)
#define NEOXREF_PUBLIC __attribute__((visibility("default")))
#else
#define NEOXREF_PUBLIC
#endif

#ifdef __cplusplus
extern "C" {
#define NEOXREF_NOEXCEPT noexcept
#else
#define NEOXREF_NOEXCEPT
#endif

typedef struct neoxref_model neoxref_model;
typedef struct neoxref_sequence neoxref_sequence;

typedef int32_t neoxref_status;
enum {
  NEOXREF_OK = 0,
  NEOXREF_BAD_ARGUMENT = 1, /* a null pointer, an index out of range, a buffer too small */
  NEOXREF_BAD_INPUT = 2,    /* a model that cannot be loaded, tokens that cannot enter */
  NEOXREF_NOT_FINITE = 3,   /* a value was not finite: the sequence is stopped */
  NEOXREF_NO_MEMORY = 4,
  NEOXREF_FAILED = 5 /* anything else */
};

/* Which rows of logits a forward pass writes. */
typedef int32_t neoxref_rows;
enum { NEOXREF_NO_ROWS = 0, NEOXREF_LAST_ROW = 1, NEOXREF_ALL_ROWS = 2 };

typedef struct {
  size_t layers, hidden, heads, head_dim, intermediate, vocab, max_positions;
} neoxref_shape;

/* The NEOXREF_API of the library that is loaded, its version, and the numerics contract that its bits
 * follow ("NX-F32/1"). */
NEOXREF_PUBLIC int32_t neoxref_api(void) NEOXREF_NOEXCEPT;
NEOXREF_PUBLIC const char* neoxref_version(void) NEOXREF_NOEXCEPT;
NEOXREF_PUBLIC const char* neoxref_contract(void) NEOXREF_NOEXCEPT;

/* Of this thread's last call that failed: one line, valid until its next call. "" before any. */
NEOXREF_PUBLIC const char* neoxref_error(void) NEOXREF_NOEXCEPT;

/* Loads a model.
 * name     a folder, a Hub name in the local cache, or "mini".
 * isa      "scalar", "avx2", "avx512", "zen4", "neon"; null or "": NEOXREF_ISA or the best of this
 *          CPU.
 * threads  0: all that this process may use.
 * model    out. */
NEOXREF_PUBLIC neoxref_status neoxref_load(const char* name, const char* isa, size_t threads,
                                           neoxref_model** model) NEOXREF_NOEXCEPT;
NEOXREF_PUBLIC void neoxref_free_model(neoxref_model* model) NEOXREF_NOEXCEPT; /* null: nothing */

NEOXREF_PUBLIC neoxref_status neoxref_get_shape(const neoxref_model* model,
                                                neoxref_shape* shape) NEOXREF_NOEXCEPT;

/* An empty sequence with room for `capacity` tokens, at least 1. */
NEOXREF_PUBLIC neoxref_status neoxref_new_sequence(const neoxref_model* model, size_t capacity,
                                                   neoxref_sequence** sequence) NEOXREF_NOEXCEPT;
/* A copy that goes on independently. */
NEOXREF_PUBLIC neoxref_status neoxref_fork(const neoxref_sequence* sequence,
                                           neoxref_sequence** copy) NEOXREF_NOEXCEPT;
/* The memory of its cache stays with the model for later sequences, or the system if that needs it. */
NEOXREF_PUBLIC void neoxref_free_sequence(neoxref_sequence* sequence) NEOXREF_NOEXCEPT;

/* Lets tokens enter. A text whole, in pieces or token by token gives the same bits.
 * logits    out: [1 or count, vocab] for NEOXREF_LAST_ROW or NEOXREF_ALL_ROWS; may be null for none.
 * capacity  floats that logits has room for.
 * NEOXREF_NOT_FINITE: the tokens before the failure have entered, and their rows are written. */
NEOXREF_PUBLIC neoxref_status neoxref_forward(neoxref_sequence* sequence, const int32_t* tokens,
                                              size_t count, neoxref_rows rows, float* logits,
                                              size_t capacity) NEOXREF_NOEXCEPT;

/* Slots that the heads of a layer hold. */
NEOXREF_PUBLIC neoxref_status neoxref_cache_length(const neoxref_sequence* sequence, size_t layer,
                                                   size_t* slots) NEOXREF_NOEXCEPT;
/* What one head holds: keys after rotary and values, [slots, head_dim] each, and the token's position of
 * each slot, [slots]. Any of them may be null. capacity: slots that each has room for. */
NEOXREF_PUBLIC neoxref_status neoxref_cache_read(const neoxref_sequence* sequence, size_t layer,
                                                 size_t head, float* keys, float* values,
                                                 int32_t* positions,
                                                 size_t capacity) NEOXREF_NOEXCEPT;

/* XXH3-128 over the values as little-endian binary32, every NaN as 0x7fc00000: 32 hexadecimal digits
 * and a final 0. Two runs with one digest gave the same bits. */
NEOXREF_PUBLIC neoxref_status neoxref_digest(const float* values, size_t count,
                                             char digest[33]) NEOXREF_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
