/* A file that the build put into the program (engine/embed_files.c). */
#ifndef ENGINE_EMBEDDED_H
#define ENGINE_EMBEDDED_H

#include <stddef.h>

typedef struct embedded_file {
    const char *name; /* last path component; NULL ends a list */
    const unsigned char *data;
    size_t bytes;
} embedded_file;

#endif
