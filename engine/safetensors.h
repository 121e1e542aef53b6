/* safetensors: an 8-byte little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}}, then the bytes. Everything is checked before anything is believed: bounds,
 * sizes against shapes, overlaps, holes, duplicate names.
 * Format: https://github.com/huggingface/safetensors (README, "Format"). */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H

#include "engine/checkpoint.h"

/* The tensors of c->files[file]. On error c keeps what it had. */
NODISCARD status safetensors_add_file(checkpoint *c, int32_t file, error *err);

/* One header's text, added to c as file `file`; data_off and data_bytes say where the bytes are.
 * On error c keeps what it had. Errors name path and tensor. */
NODISCARD status safetensors_add(checkpoint *c, str header, const char *path, int32_t file,
                                 uint64_t data_off, uint64_t data_bytes, error *err);

#endif
