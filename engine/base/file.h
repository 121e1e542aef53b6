/* Files: whole reads with a bound, mappings, and errors that name the path. */
#ifndef ENGINE_BASE_FILE_H
#define ENGINE_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

/* Read all of `path` (at most bytes_max) into *ret (appended). A Git LFS or git-annex pointer in
 * place of the file is refused by name. */
NODISCARD status file_read(const char *path, size_t bytes_max, strbuf *ret, error *err);
/* Write through a temporary file and rename: readers see the old or the new one, never half. */
NODISCARD status file_write_atomic(const char *path, str data, error *err);

typedef struct file_map {
    const uint8_t *p;
    size_t n;
} file_map;
NODISCARD status file_map_open(const char *path, file_map *ret, error *err); /* read-only */
void file_map_close(file_map *m);

bool file_exists(const char *path); /* a regular file */
bool dir_exists(const char *path);
/* "dir/name" in a fresh string (mem_free). */
char *path_join(const char *dir, const char *name);
/* Last component, borrowed from path (trailing slashes are kept out by *ret_n). */
str path_base(const char *path);
/* True when the bytes are a Git LFS pointer file ("version https://git-lfs..."). */
bool is_lfs_pointer(const void *p, size_t n);
/* An error when the first bytes of `path` are those of a Git LFS or git-annex pointer. */
NODISCARD status file_check_pointer(const char *path, const void *p, size_t n, error *err);

#endif
