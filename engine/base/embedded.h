/* A file that the build put into the program (engine/base/embed_files.c). */
#ifndef ENGINE_BASE_EMBEDDED_H
#define ENGINE_BASE_EMBEDDED_H

#include <stddef.h>

typedef struct embedded_file {
    const char *name; /* last path component; NULL ends a list */
    const unsigned char *data;
    size_t bytes;
} embedded_file;

#endif
