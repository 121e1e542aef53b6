/* The directory of a ZIP archive whose entries are stored, not compressed: where the bytes of each
 * are. Zip64 and data descriptors are understood; the sizes that count are those of the central
 * directory. Format: PKWARE APPNOTE.TXT. */
#ifndef ENGINE_ZIP_H
#define ENGINE_ZIP_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/map.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct zip_entry {
    str name; /* borrowed from the archive's bytes */
    uint64_t off, bytes;
} zip_entry;

typedef struct zip {
    zip_entry *entries; /* [n] in the order of the central directory */
    size_t n;
    map by_name;
} zip;

/* p[0..n): the whole archive, kept by the caller until zip_done. Entries lie inside it and apart;
 * compressed or encrypted ones, archives in several files and duplicate names are refused. */
NODISCARD status zip_parse(const uint8_t *p, size_t n, const char *path, zip *ret, error *err);
void zip_done(zip *z);
const zip_entry *zip_find(const zip *z, str name); /* NULL: none */

#endif
