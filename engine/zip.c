/* Read from the end: the end record (or its zip64 form) says where the central directory is, that
 * says where each entry's local header is, and behind the local header, whose name and extra field
 * have lengths of their own, the bytes begin. Checksums are not verified: the tensors would have to
 * be read twice. */
#include "engine/zip.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"

#define END_BYTES      22
#define END64_BYTES    56
#define LOCATOR_BYTES  20
#define CENTRAL_BYTES  46
#define LOCAL_BYTES    30
#define COMMENT_MAX    65535
#define ZIP64_EXTRA_ID 1

typedef struct archive {
    const uint8_t *p;
    size_t n;
    const char *path;
    error *err;
    uint64_t dir_off, dir_bytes, n_entries;
} archive;

static uint64_t le(const uint8_t *p, int bytes) {
    uint64_t x = 0;
    for (int i = bytes - 1; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

static bool is_sign(const archive *a, uint64_t off, size_t bytes, const char *mark) {
    return off <= a->n && a->n - off >= bytes && memcmp(a->p + off, mark, 4) == 0;
}

static status bad(const archive *a, const char *what) {
    return error_set(a->err, ERR_FORMAT, "%s: not a whole ZIP archive: %s", a->path, what);
}

static status find_end(archive *a) {
    size_t most = MIN(a->n, (size_t)END_BYTES + COMMENT_MAX);
    for (size_t back = END_BYTES; back <= most; back++) {
        size_t at = a->n - back;
        if (!is_sign(a, at, END_BYTES, "PK\5\6") || le(a->p + at + 20, 2) != back - END_BYTES)
            continue;
        const uint8_t *e = a->p + at;
        if (le(e + 4, 2) != 0 && le(e + 4, 2) != 0xFFFF)
            return bad(a, "it is one of several files");
        a->n_entries = le(e + 10, 2);
        a->dir_bytes = le(e + 12, 4);
        a->dir_off = le(e + 16, 4);
        if (at < LOCATOR_BYTES || !is_sign(a, at - LOCATOR_BYTES, LOCATOR_BYTES, "PK\6\7"))
            return OK;
        uint64_t end64 = le(a->p + at - LOCATOR_BYTES + 8, 8);
        if (!is_sign(a, end64, END64_BYTES, "PK\6\6")) return bad(a, "bad zip64 end record");
        e = a->p + end64;
        a->n_entries = le(e + 32, 8);
        a->dir_bytes = le(e + 40, 8);
        a->dir_off = le(e + 48, 8);
        return OK;
    }
    return bad(a, "truncated, it has no end record");
}

/* Sizes and offset of 32 bits that are full stand in the zip64 extra field, in this order. */
static bool read_extra(const uint8_t *extra, size_t n, uint64_t *const *fields, int n_fields) {
    size_t at = 0;
    while (n - at >= 4) {
        uint64_t id = le(extra + at, 2), bytes = le(extra + at + 2, 2);
        at += 4;
        if (bytes > n - at) return false;
        for (int i = 0; id == ZIP64_EXTRA_ID && i < n_fields; i++) {
            if (*fields[i] != UINT32_MAX) continue;
            if (bytes < 8) return false;
            *fields[i] = le(extra + at, 8);
            at += 8;
            bytes -= 8;
        }
        at += bytes;
    }
    return true;
}

static status entry_error(const archive *a, str name, const char *what) {
    return error_set(a->err, ERR_FORMAT, "%s: entry \"%.*s\" %s", a->path,
                     (int)MIN(name.n, (size_t)120), name.p, what);
}

/* The bytes behind the local header at `off`. */
static status place_entry(const archive *a, uint64_t off, uint64_t bytes, zip_entry *e) {
    if (!is_sign(a, off, LOCAL_BYTES, "PK\3\4"))
        return entry_error(a, e->name, "has no local header");
    const uint8_t *local = a->p + off;
    uint64_t start = off + LOCAL_BYTES + le(local + 26, 2) + le(local + 28, 2);
    if (le(local + 26, 2) != e->name.n || a->n - off - LOCAL_BYTES < e->name.n ||
        memcmp(local + LOCAL_BYTES, e->name.p, e->name.n) != 0)
        return entry_error(a, e->name, "has another name in its local header");
    if (start > a->dir_off || bytes > a->dir_off - start)
        return entry_error(a, e->name, "passes the archive's directory");
    e->off = start;
    e->bytes = bytes;
    return OK;
}

/* One record of the central directory at *io_at. */
static status read_entry(const archive *a, uint64_t *io_at, zip_entry *e) {
    uint64_t end = a->dir_off + a->dir_bytes;
    if (end - *io_at < CENTRAL_BYTES || memcmp(a->p + *io_at, "PK\1\2", 4) != 0)
        return bad(a, "its directory is damaged");
    const uint8_t *c = a->p + *io_at;
    uint64_t flags = le(c + 8, 2), method = le(c + 10, 2), packed = le(c + 20, 4);
    uint64_t bytes = le(c + 24, 4), off = le(c + 42, 4);
    size_t n_name = le(c + 28, 2), n_extra = le(c + 30, 2), n_comment = le(c + 32, 2);
    if (end - *io_at - CENTRAL_BYTES < n_name + n_extra + n_comment)
        return bad(a, "its directory is damaged");
    e->name = str_n((const char *)c + CENTRAL_BYTES, n_name);
    uint64_t *const fields[] = {&bytes, &packed, &off};
    if (!read_extra(c + CENTRAL_BYTES + n_name, n_extra, fields, 3))
        return entry_error(a, e->name, "has a bad extra field");
    if (flags & 1) return entry_error(a, e->name, "is encrypted");
    if (method != 0)
        return error_set(a->err, ERR_UNSUPPORTED,
                         "%s: entry \"%.*s\" is compressed (method %u): only stored entries are "
                         "supported",
                         a->path, (int)MIN(n_name, (size_t)120), e->name.p, (unsigned)method);
    if (packed != bytes) return entry_error(a, e->name, "is stored but has two sizes");
    *io_at += CENTRAL_BYTES + n_name + n_extra + n_comment;
    return place_entry(a, off, bytes, e);
}

static int by_offset(const void *x, const void *y) {
    const zip_entry *a = *(zip_entry *const *)x, *b = *(zip_entry *const *)y;
    if (a->off != b->off) return a->off < b->off ? -1 : 1;
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static status check_overlaps(const archive *a, zip *z) {
    zip_entry **order = mem_calloc(z->n + 1, sizeof *order);
    status st = OK;
    for (size_t i = 0; i < z->n; i++) order[i] = &z->entries[i];
    qsort(order, z->n, sizeof *order, by_offset);
    for (size_t i = 1; i < z->n && st == OK; i++)
        if (order[i]->off < order[i - 1]->off + order[i - 1]->bytes)
            st = entry_error(a, order[i]->name, "overlaps another entry");
    mem_free(order);
    return st;
}

static status read_directory(archive *a, zip *z) {
    TRY(find_end(a));
    if (a->dir_off > a->n || a->dir_bytes > a->n - a->dir_off)
        return bad(a, "truncated, its directory passes the end");
    if (a->n_entries > a->dir_bytes / CENTRAL_BYTES)
        return bad(a, "its directory has too few bytes for its entries");
    z->entries = mem_calloc((size_t)a->n_entries + 1, sizeof *z->entries);
    for (uint64_t at = a->dir_off; z->n < a->n_entries; z->n++) {
        zip_entry *e = &z->entries[z->n];
        TRY(read_entry(a, &at, e));
        if (!map_put(&z->by_name, e->name, z->n)) return entry_error(a, e->name, "is there twice");
    }
    return check_overlaps(a, z);
}

status zip_parse(const uint8_t *p, size_t n, const char *path, zip *ret, error *err) {
    archive a = {.p = p, .n = n, .path = path, .err = err};
    zip z = {0};
    status st = read_directory(&a, &z);
    if (st == OK)
        *ret = z;
    else
        zip_done(&z);
    return st;
}

void zip_done(zip *z) {
    mem_free(z->entries);
    map_done(&z->by_name);
    *z = (zip){0};
}

const zip_entry *zip_find(const zip *z, str name) {
    uint64_t at;
    return map_get(&z->by_name, name, &at) ? &z->entries[at] : NULL;
}
