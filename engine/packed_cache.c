/* Layout: header, key, CRCs of the runs, zeros up to a page; the weights' block; the errors of
 * quantising. Integers as this machine has them: a file of another byte order has another magic.
 *
 * Files are read, not mapped: memory that is mapped from a file has pages of 4 KiB, over which a
 * product with one row ran at 25 GB/s against 29.5 over huge pages (two threads, 900 MB), and a
 * mapped file that somebody shortens ends the program. Mapping would save about 0.25 s per GB of a
 * start. The CRC of a run is computed by the thread that read it, from its caches.
 *
 * A temporary file is locked while its writer lives; those without an owner, which a killed program
 * left, are removed by the next that writes. */
#include "engine/packed_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/hash.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

#define MAGIC     UINT64_C(0x316b7061646f6761) /* "agodapk1" */
#define RUN_BYTES ((size_t)256 << 10)
#define UNIT      (4 * RUN_BYTES) /* what is read at once: four CRCs side by side */
#define PAGE      4096
#define KEY_MAX   ((size_t)16 << 20)
#define READERS   8

typedef struct header {
    uint64_t magic, bytes, extra; /* of the block, of the errors */
    uint32_t key_bytes, key_crc, table_crc, extra_crc, unused;
    uint32_t crc; /* of what is above */
} header;
_Static_assert(sizeof(header) == 48, "no padding: all of it is written");

/* The key */

static void add_plan(const weights *w, strbuf *out) {
    for (int32_t i = 0; i < w->n_list; i++) {
        const weight *p = &w->list[i];
        strbuf_addf(out, "%d %d %d %zu %zu %d\n", p->rows, p->cols, (int)p->dt, p->off, p->bytes,
                    p->n_parts);
        for (int32_t k = 0; k < p->n_parts; k++) {
            const wmat *m = &p->m[k];
            const quant_spec *q = &m->q;
            strbuf_addf(out, " %d %d %d %d %zu: %d %d %d %d %d %d %a %d %d %d %a %d\n", m->n, m->k,
                        (int)m->dt, m->layout, m->bytes, q->group, (int)q->scale_dt, q->has_zeros,
                        q->has_order, q->whole_order, q->zero, (double)q->scale_mul, (int)q->act,
                        q->act_zero, q->act_group, (double)q->act_scale, (int)q->math);
        }
    }
    for (int32_t i = 0; i < w->a->n_tensors; i++) {
        const arch_tensor *t = &w->a->tensors[i];
        const weight_bind *b = &w->bind[i];
        strbuf_addf(out, "%s %d %d %d: %d %d %d %lld %lld %lld %lld %d %d %d %d %d\n", t->name,
                    (int)t->slot, t->layer, t->item, t->row0, t->rows, t->cols,
                    (long long)t->src_rows, (long long)t->view.start, (long long)t->view.run,
                    (long long)t->view.stride, t->n_stack, t->stack, t->transpose,
                    t->transpose_view, (int)t->xform);
        strbuf_addf(out, " %d %llu %d %zu %d %d %d\n", b->st->file, (unsigned long long)b->st->off,
                    (int)b->dt, b->row_bytes, b->part, b->part_row0, (int)b->to);
    }
}

static void add_sha(const strbuf *text, strbuf *out) {
    uint8_t sum[32];
    sha256(text->p, text->n, sum);
    for (size_t i = 0; i < sizeof sum; i++) strbuf_addf(out, "%02x", sum[i]);
}

static status add_file(const char *path, const char *name, strbuf *out, error *err) {
    struct stat s;
    if (stat(path, &s) != 0)
        return error_set(err, ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
    strbuf_addf(out, "%s %lld bytes of %lld.%09ld\n", name, (long long)s.st_size,
                (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
    return OK;
}

static status make_key(const weights *w, const checkpoint *c, strbuf *key, char name[24],
                       error *err) {
    strbuf plan = {0};
    add_plan(w, &plan);
    strbuf_addf(key, "backend %s\nweights %zu\nplan ", w->b->layout, w->bytes);
    add_sha(&plan, key);
    strbuf_done(&plan);
    char *real = realpath(c->files[0], NULL);
    uint64_t h = hash64(key->p, key->n, 1);
    if (real) h = hash64(real, strlen(real), h);
    free(real);
    snprintf(name, 24, "%016llx.packed", (unsigned long long)h);
    strbuf_addz(key, "\n");
    TRY(add_file("/proc/self/exe", "program " PAGODA_VERSION, key, err));
    for (int32_t i = 0; i < c->n_files; i++) {
        str base = path_base(c->files[i]);
        strbuf text = {0};
        strbuf_addf(&text, STR_FMT, STR_ARG(base));
        status st = add_file(c->files[i], text.p, key, err);
        strbuf_done(&text);
        TRY(st);
    }
    return OK;
}

/* The directory: `where`, or that of the model, a directory itself or a file. */
static status find_dir(const char *where, const char *model, char **ret, error *err) {
    if (strcmp(where, "auto") == 0) {
        const char *slash = strrchr(model, '/');
        size_t n = slash ? (size_t)(slash - model) + 1 : 0;
        *ret = mem_strdup(dir_exists(model) ? model : n ? model : "./");
        if (!dir_exists(model) && n) (*ret)[n] = 0;
        return OK;
    }
    if (mkdir(where, 0755) != 0 && errno != EEXIST)
        return error_set(err, ERR_IO, "packed_cache: cannot make the directory %s: %s", where,
                         strerror(errno));
    if (!dir_exists(where))
        return error_set(err, ERR_INVALID, "packed_cache: %s is not a directory", where);
    *ret = mem_strdup(where);
    return OK;
}

status packed_cache_open(const char *where, const char *model, const weights *w,
                         const checkpoint *c, packed_cache *ret, error *err) {
    char name[24], file[32], *dir = NULL;
    *ret = (packed_cache){0};
    if (!w->b->host_memory)
        return error_set(err, ERR_INVALID,
                         "packed_cache is for the CPU, this runs on %s: weights on a device are "
                         "copied as they are packed",
                         w->b->name);
    TRY(find_dir(where, model, &dir, err));
    status st = make_key(w, c, &ret->key, name, err);
    snprintf(file, sizeof file, "pagoda-%s", name);
    if (st == OK)
        ret->path = path_join(dir, file);
    else
        packed_cache_done(ret);
    mem_free(dir);
    return st;
}

void packed_cache_done(packed_cache *p) {
    mem_free(p->path);
    strbuf_done(&p->key);
    *p = (packed_cache){0};
}

/* Sizes */

static size_t n_runs(size_t bytes) {
    return CEIL_DIV(bytes, RUN_BYTES);
}

static size_t extra_bytes(const weights *w) {
    return w->errors ? (size_t)w->a->n_tensors * sizeof *w->errors : 0;
}

/* Where the block begins. */
static size_t data_at(size_t key_bytes, size_t bytes) {
    return ALIGN_UP(sizeof(header) + key_bytes + n_runs(bytes) * sizeof(uint32_t), (size_t)PAGE);
}

static uint32_t header_crc(const header *h) {
    return crc32c(h, offsetof(header, crc), 0);
}

/* CRCs of up to four runs of a unit of n bytes. */
static void unit_crcs(const char *p, size_t n, uint32_t *ret) {
    if (n == UNIT) {
        crc32c_four(p, RUN_BYTES, ret);
        return;
    }
    for (size_t at = 0; at < n; at += RUN_BYTES) *ret++ = crc32c(p + at, MIN(RUN_BYTES, n - at), 0);
}

/* Reading */

static bool read_all(int fd, void *p, size_t n, size_t off) {
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(fd, (char *)p + got, n - got, (off_t)(off + got));
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return false;
        got += (size_t)r;
    }
    return true;
}

typedef struct reading {
    int fd;
    char *block;
    size_t bytes, data_off;
    const uint32_t *table;
    _Atomic size_t next;
    _Atomic bool failed;
} reading;

static void *read_units(void *ctx) {
    reading *r = ctx;
    for (;;) {
        size_t at = atomic_fetch_add(&r->next, UNIT);
        if (at >= r->bytes || r->failed) return NULL;
        size_t n = MIN(UNIT, r->bytes - at);
        uint32_t crc[4];
        bool good = read_all(r->fd, r->block + at, n, r->data_off + at);
        if (good) unit_crcs(r->block + at, n, crc);
        if (!good || memcmp(crc, r->table + at / RUN_BYTES, n_runs(n) * sizeof *crc) != 0)
            r->failed = true;
    }
}

static bool read_block(reading *r, int n_threads) {
    pthread_t t[READERS];
    int n = MAX(1, MIN(n_threads, READERS));
    for (int i = 1; i < n; i++) t[i] = thread_start("pagoda-load", read_units, r);
    read_units(r);
    for (int i = 1; i < n; i++) pthread_join(t[i], NULL);
    return !r->failed;
}

static status wrong(const packed_cache *p, const char *why, error *err) {
    return error_set(err, ERR_FORMAT, "%s: %s", p->path, why);
}

/* head: of the file's first bytes; everything that can be told without the block. */
static status check_head(const packed_cache *p, const weights *w, int fd, const struct stat *s,
                         header *h, error *err) {
    size_t at = data_at(p->key.n, w->bytes);
    if (!S_ISREG(s->st_mode) || (s->st_uid != geteuid() && s->st_uid != 0))
        return wrong(p, "not a file of this user", err);
    if (!read_all(fd, h, sizeof *h, 0) || h->magic != MAGIC)
        return wrong(p, "not a file of packed weights", err);
    if (h->crc != header_crc(h) || h->key_bytes > KEY_MAX)
        return wrong(p, "its head is damaged", err);
    char *key = mem_alloc(h->key_bytes + 1);
    bool good =
        read_all(fd, key, h->key_bytes, sizeof *h) && crc32c(key, h->key_bytes, 0) == h->key_crc;
    bool same = h->key_bytes == p->key.n && memcmp(key, p->key.p, p->key.n) == 0;
    mem_free(key);
    if (!good) return wrong(p, "its head is damaged", err);
    if (!same) return wrong(p, "of other files of the model or another build of the program", err);
    if (h->bytes != w->bytes || h->extra != extra_bytes(w) ||
        (uint64_t)s->st_size != at + h->bytes + h->extra)
        return wrong(p, "cut short", err);
    return OK;
}

static status read_fd(const packed_cache *p, weights *w, int n_threads, int fd, error *err) {
    struct stat s;
    header h;
    if (fstat(fd, &s) != 0) return wrong(p, "cannot stat", err);
    TRY(check_head(p, w, fd, &s, &h, err));
    size_t table_bytes = n_runs(w->bytes) * sizeof(uint32_t), extra = extra_bytes(w);
    uint32_t *table = mem_alloc(table_bytes);
    reading r = {.fd = fd,
                 .block = w->block,
                 .bytes = w->bytes,
                 .data_off = data_at(p->key.n, w->bytes),
                 .table = table};
    bool good = read_all(fd, table, table_bytes, sizeof h + p->key.n) &&
                crc32c(table, table_bytes, 0) == h.table_crc && read_block(&r, n_threads);
    if (good && extra)
        good = read_all(fd, w->errors, extra, r.data_off + w->bytes) &&
               crc32c(w->errors, extra, 0) == h.extra_crc;
    mem_free(table);
    if (good) return OK;
    memset(w->block, 0, w->bytes);
    if (extra) memset(w->errors, 0, extra);
    return wrong(p, "damaged", err);
}

status packed_cache_read(const packed_cache *p, weights *w, int n_threads, error *err) {
    int fd = open(p->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return error_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open: %s",
                         p->path, strerror(errno));
    status st = read_fd(p, w, n_threads, fd, err);
    close(fd);
    return st;
}

/* Writing */

static status failed(const packed_cache *p, const char *what, error *err) {
    return error_set(err, ERR_IO, "%s: cannot %s: %s", p->path, what, strerror(errno));
}

static bool write_all(int fd, const void *p, size_t n) {
    for (size_t put = 0; put < n;) {
        ssize_t r = write(fd, (const char *)p + put, n - put);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return false;
        put += (size_t)r;
    }
    return true;
}

static char *dir_of(const char *path) {
    char *dir = mem_strdup(path);
    *strrchr(dir, '/') = 0;
    if (!*dir) strcpy(dir, "/");
    return dir;
}

/* Temporary files of this name that nobody holds. */
static void remove_left(const char *path) {
    char *dir = dir_of(path);
    str base = path_base(path);
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, base.p, base.n) != 0 || strncmp(e->d_name + base.n, ".tmp-", 5) != 0)
            continue;
        int fd = openat(dirfd(d), e->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(d), e->d_name, 0);
        if (fd >= 0) close(fd);
    }
    if (d) closedir(d);
    mem_free(dir);
}

/* A locked file of its own name beside path. */
static int open_temporary(const char *path, char **ret) {
    for (int tries = 0; tries < 4; tries++) {
        strbuf name = {0};
        struct stat s;
        strbuf_addf(&name, "%s.tmp-XXXXXX", path);
        int fd = mkostemp(name.p, O_CLOEXEC);
        *ret = strbuf_take(&name);
        if (fd < 0) return fd;
        /* another may have taken it for one without an owner before it was locked */
        if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &s) == 0 && s.st_nlink > 0) return fd;
        close(fd);
        mem_free(*ret);
        *ret = NULL;
    }
    errno = EAGAIN;
    return -1;
}

static bool write_head(const packed_cache *p, const weights *w, int fd) {
    size_t table_bytes = n_runs(w->bytes) * sizeof(uint32_t), extra = extra_bytes(w);
    size_t at = data_at(p->key.n, w->bytes);
    char *head = mem_calloc(at, 1);
    uint32_t *table = (uint32_t *)mem_alloc(table_bytes + UNIT / RUN_BYTES * sizeof(uint32_t));
    for (size_t i = 0; i < w->bytes; i += UNIT)
        unit_crcs((const char *)w->block + i, MIN(UNIT, w->bytes - i), table + i / RUN_BYTES);
    header h = {.magic = MAGIC,
                .bytes = w->bytes,
                .extra = extra,
                .key_bytes = (uint32_t)p->key.n,
                .key_crc = crc32c(p->key.p, p->key.n, 0),
                .table_crc = crc32c(table, table_bytes, 0),
                .extra_crc = extra ? crc32c(w->errors, extra, 0) : 0};
    h.crc = header_crc(&h);
    memcpy(head, &h, sizeof h);
    memcpy(head + sizeof h, p->key.p, p->key.n);
    memcpy(head + sizeof h + p->key.n, table, table_bytes);
    bool good = write_all(fd, head, at);
    mem_free(table);
    mem_free(head);
    return good;
}

static status write_fd(const packed_cache *p, const weights *w, int fd, error *err) {
    size_t extra = extra_bytes(w), all = data_at(p->key.n, w->bytes) + w->bytes + extra;
    if (fallocate(fd, 0, 0, (off_t)all) != 0 && errno != EOPNOTSUPP && errno != ENOSYS)
        return failed(p, "write", err); /* a full disk is told before it is filled */
    if (!write_head(p, w, fd) || !write_all(fd, w->block, w->bytes) ||
        (extra && !write_all(fd, w->errors, extra)))
        return failed(p, "write", err);
    return fsync(fd) == 0 ? OK : failed(p, "write", err);
}

static void sync_dir(const char *path) {
    char *dir = dir_of(path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* the file is whole, be its name on the disk or not */
        close(fd);
    }
    mem_free(dir);
}

status packed_cache_write(const packed_cache *p, const weights *w, error *err) {
    char *temporary = NULL;
    remove_left(p->path);
    int fd = open_temporary(p->path, &temporary);
    if (fd < 0) {
        mem_free(temporary);
        return failed(p, "create", err);
    }
    status st = write_fd(p, w, fd, err);
    if (st == OK && rename(temporary, p->path) != 0) st = failed(p, "rename", err);
    if (st != OK) unlink(temporary);
    if (st == OK) sync_dir(p->path);
    close(fd);
    mem_free(temporary);
    return st;
}
