/* The weights' memory as a file, so that a later start reads it instead of reading the checkpoint
 * and packing (or quantising) it again. Opt-in; for backends whose memory is the host's.
 *
 * A file is good for one build of the program, one backend level, one plan of places and types and
 * the very files of the model (size, time of change); all of that is written in it as text. It is
 * written beside its place and renamed when it is whole and on the disk; every 256 KiB have a
 * CRC32C. Whatever is wrong with a file, the model is loaded as if there were none. */
#ifndef ENGINE_PACKED_CACHE_H
#define ENGINE_PACKED_CACHE_H

#include "engine/weights.h"

typedef struct packed_cache {
    char *path;
    strbuf key;
} packed_cache;

/* After weights_alloc. where: a directory, made if it is not there, or "auto": the model's.
 * Errors name the directory. */
NODISCARD status packed_cache_open(const char *where, const char *model, const weights *w,
                                   const checkpoint *c, packed_cache *ret, error *err);
void packed_cache_done(packed_cache *p); /* takes one that is zeroed */

/* Fill w, its errors too. ERR_NOT_FOUND: there is no such file. Other errors say what is wrong with
 * it; w's memory is zeroed then. */
NODISCARD status packed_cache_read(const packed_cache *p, weights *w, int n_threads, error *err);
/* After loading, before anything changes the weights. On failure nothing is left behind. */
NODISCARD status packed_cache_write(const packed_cache *p, const weights *w, error *err);

#endif
