/* The checkpoint is cut into blocks of whole rows, sorted by file and offset, so the disk sees one
 * forward sweep. Workers take blocks from a shared counter. A block's bytes go to the worker's
 * staging buffer and from there, packed or converted, to their place; table rows of the right type
 * are read straight into a table in host memory. What a row_source yields (transposed or composed
 * rows) is read through the file's mapping instead.
 *
 * Where the backend has slots (kernels/loading.h), staging is made of them: what needs no change is
 * copied from where it was read, by the device. Each read in flight has two slots in turn, so that
 * the next read of a flight does not wait for the copy of the one before unless the link is slower
 * than the disk.
 *
 * A matrix whose parts do not begin at multiples of pack_rows (tiny models) is packed under a lock,
 * because two parts then share a packed row group.
 *
 * Left out: O_DIRECT. It loses on every warm page cache, which is the usual restart. Cold, reads of
 * 2 MiB from a virtual disk gave 1.7 to 1.8 GB/s with it and 1.9 to 2.2 without, eight in flight;
 * it is ahead (1.7 against 0.3) only with two, and here are four or more. */
#include "engine/loader.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_URING
#include <liburing.h>
#endif

#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/tensor_rows.h"
#include "kernels/loading.h"

#define BLOCK_BYTES ((size_t)2 << 20)
#define DEPTH       4
#define N_LOCKS     64

typedef struct block {
    int32_t file;
    uint64_t off;
    size_t bytes;
    weight *to;
    int32_t part; /* of to */
    dtype dt;     /* in the file, or of the source */
    tensor_xform xform;
    int32_t row0, rows; /* of the part */
    int32_t cols;       /* 1 for vectors */
    bool locked;
    int32_t tensor;        /* of the arch */
    bool quantise;         /* floats that become codes */
    void *direct;          /* not NULL: read here, nothing else to do */
    const row_source *src; /* not NULL: rows src_row0 .. of it, no read of the file */
    int32_t src_row0;
} block;

typedef struct load {
    weights *w;
    const checkpoint *c;
    const loader_options *o;
    block *blocks;
    int32_t n_blocks, cap;
    size_t block_bytes; /* of the largest staged block */
    size_t bytes_total;
    int *fds;
    pthread_mutex_t locks[N_LOCKS], sums; /* sums: of w->errors */
    _Atomic int32_t next;
    _Atomic size_t bytes_done;
    _Atomic int n_running;
    _Atomic int32_t failed; /* file index + 1 */
    _Atomic int failed_errno;
    waker done;
} load;

typedef struct flight {
    const block *b;
    char *p; /* where the bytes go */
    size_t got;
    load_slot *slot; /* that p is in, or NULL */
} flight;

typedef struct worker {
    load *l;
    char *staging;             /* [DEPTH][block_bytes], or NULL and: */
    load_slot slots[DEPTH][2]; /* of each flight, in turn */
    int turn[DEPTH];
    flight f[DEPTH];
    pthread_t thread;
#ifdef HAVE_URING
    struct io_uring ring;
#endif
} worker;

static size_t row_bytes_max(const weights *w) {
    size_t most = 4;
    for (int32_t i = 0; i < w->a->n_tensors; i++) most = MAX(most, w->bind[i].row_bytes);
    return most;
}

static size_t block_bytes_of(const weights *w, size_t wanted) {
    size_t least = row_bytes_max(w) * (size_t)w->b->v->pack_rows;
    return ALIGN_UP(MAX(wanted ? wanted : BLOCK_BYTES, least), (size_t)4096);
}

static int thread_count(int n) {
    return MAX(1, MIN(n, LOADER_THREADS_MAX));
}

size_t loader_staging_bytes(const weights *w, int n_threads) {
    int blocks = DEPTH + (w->quantize ? 3 : 0); /* f32 rows and their codes */
    return (size_t)thread_count(n_threads) * (size_t)blocks * block_bytes_of(w, 0);
}

static void push_block(load *l, block b) {
    if (l->n_blocks == l->cap) {
        l->cap = MAX(1024, 2 * l->cap);
        l->blocks = mem_realloc(l->blocks, (size_t)l->cap * sizeof *l->blocks);
    }
    l->bytes_total += b.bytes;
    l->blocks[l->n_blocks++] = b;
}

/* Rows of one block: whole packed groups, so that blocks of a matrix are independent. */
static int32_t rows_per_block(const load *l, size_t row_bytes) {
    int32_t group = l->w->b->v->pack_rows, rows = (int32_t)(l->block_bytes / row_bytes);
    return MAX(group, rows / group * group);
}

/* Rows [r, r+n) of a tensor's part, which lie together in the source. */
static void cut_rows(load *l, int32_t tensor, int64_t from, int32_t r, int32_t n) {
    const arch_tensor *t = &l->w->a->tensors[tensor];
    const weight_bind *b = &l->w->bind[tensor];
    weight *to = weights_at(l->w, t->layer, t->slot) + t->item;
    int32_t cols = MAX(t->cols, 1);
    size_t row_bytes = b->row_bytes;
    int64_t row = (int64_t)t->stack * t->src_rows + from;
    block k = {.file = b->st->file,
               .off = b->st->off + (uint64_t)row * row_bytes,
               .bytes = (size_t)n * row_bytes,
               .to = to,
               .part = b->part,
               .dt = b->dt,
               .xform = t->xform,
               .row0 = b->part_row0 + r,
               .rows = n,
               .cols = cols,
               .locked = to->shares_groups,
               .tensor = tensor,
               .quantise = dtype_is_float(b->dt) && b->to != DT_COUNT,
               .src = b->src,
               .src_row0 = r};
    if (b->src) k.off = b->st->off;
    if (to->table && !b->src && b->dt == to->dt && t->xform == XFORM_NONE && l->w->b->host_memory)
        k.direct = (char *)to->table + (size_t)k.row0 * row_bytes;
    push_block(l, k);
}

static void cut_tensor(load *l, int32_t tensor) {
    const arch_tensor *t = &l->w->a->tensors[tensor];
    const weight_bind *b = &l->w->bind[tensor];
    size_t row_bytes = b->row_bytes;
    int32_t step = rows_per_block(l, row_bytes);
    int64_t run = b->src ? t->rows : t->view.run; /* a source knows its view */
    for (int32_t r = 0; r < t->rows;) {
        int64_t in_run = r % run,
                from = b->src ? r : t->view.start + r / run * t->view.stride + in_run;
        int32_t n = (int32_t)MIN(MIN((int64_t)step, run - in_run), (int64_t)(t->rows - r));
        cut_rows(l, tensor, from, r, n);
        r += n;
    }
}

static int by_place(const void *x, const void *y) {
    const block *a = x, *b = y;
    if (a->file != b->file) return a->file - b->file;
    return a->off < b->off ? -1 : a->off > b->off;
}

/* Rows of a table or a vector, converted where they are of another type. */
static void put_rows(const load *l, const block *b, const char *src, load_slot *slot) {
    const weight *to = b->to;
    backend *be = l->w->b;
    dtype dt = to->table ? to->dt : DT_F32;
    float add = !to->table && b->xform == XFORM_PLUS_ONE ? 1 : 0;
    size_t row = to->table ? dtype_row_bytes(dt, b->cols) : sizeof(float);
    size_t bytes = (size_t)b->rows * row, n = (size_t)b->rows * (size_t)b->cols;
    char *place = (to->table ? (char *)to->table : (char *)to->vec) + (size_t)b->row0 * row;
    void *out = NULL;
    if (b->dt != dt || add != 0) {
        out = mem_alloc(bytes);
        for (size_t i = 0; i < n; i++) {
            float x = row_float(src, b->dt, i) + add;
            if (dt == DT_F32)
                ((float *)out)[i] = x;
            else
                ((uint16_t *)out)[i] = dt == DT_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
        }
    }
    if (slot && !out)
        be->v->loading->upload(be, slot, src, place, bytes);
    else
        be->v->upload(be, place, out ? out : src, bytes);
    mem_free(out);
}

/* The block's rows as f32, changed as its xform says. */
static float *changed_rows(const block *b, const char *src) {
    size_t n = (size_t)b->rows * (size_t)b->cols;
    float *out = mem_alloc(n * sizeof *out);
    floats_f32(b->dt, src, n, out);
    tensor_rows_change(b->xform, b->rows, b->cols, out);
    return out;
}

/* Bytes that are good as they are: in no order with those of other blocks. */
static bool send_block(load *l, const block *b, const char *src, load_slot *slot) {
    backend *be = l->w->b;
    return slot && b->xform == XFORM_NONE && !b->quantise &&
           be->v->loading->pack(be, slot, src, &b->to->m[b->part], b->row0, b->rows, b->dt);
}

static void quantise_block(load *l, const block *b, const char *src) {
    wmat *mat = &b->to->m[b->part];
    quantize_error e = {0};
    char *codes = mem_alloc((size_t)b->rows * quant_row_bytes(mat->dt, &mat->q, mat->k));
    float *rows = changed_rows(b, src);
    quantize_rows(mat->dt, &mat->q, mat->k, rows, b->rows, codes, &e);
    if (isfinite(e.err2) && !l->o->measure_only)
        l->w->b->v->quant_pack(l->w->b, mat, b->row0, b->rows, codes);
    pthread_mutex_lock(&l->sums);
    l->w->errors[b->tensor].err2 += e.err2;
    l->w->errors[b->tensor].sum2 += e.sum2;
    pthread_mutex_unlock(&l->sums);
    mem_free(rows);
    mem_free(codes);
}

static void pack_block(load *l, const block *b, const char *src) {
    pthread_mutex_t *m = &l->locks[(uintptr_t)b->to / sizeof *b->to % N_LOCKS];
    wmat *mat = &b->to->m[b->part];
    if (dtype_is_quant(mat->dt)) { /* rows of their own: no groups to share */
        l->w->b->v->quant_pack(l->w->b, mat, b->row0, b->rows, src);
        return;
    }
    float *rows = b->xform == XFORM_NONE ? NULL : changed_rows(b, src);
    if (b->locked) pthread_mutex_lock(m);
    l->w->b->v->wmat_pack(l->w->b, mat, b->row0, b->rows, rows ? (const char *)rows : src,
                          rows ? DT_F32 : b->dt, b->cols);
    if (b->locked) pthread_mutex_unlock(m);
    mem_free(rows);
}

static void put_block(load *l, const flight *f) {
    const block *b = f->b;
    if (b->direct) return;
    if (b->quantise)
        quantise_block(l, b, f->p);
    else if (b->to->table || b->to->vec)
        put_rows(l, b, f->p, f->slot);
    else if (!send_block(l, b, f->p, f->slot))
        pack_block(l, b, f->p);
}

static void fail_load(load *l, const block *b, int error_number) {
    int32_t none = 0;
    if (atomic_compare_exchange_strong(&l->failed, &none, b->file + 1))
        l->failed_errno = error_number;
}

static void finish_block(worker *k, flight *f) {
    put_block(k->l, f);
    atomic_fetch_add(&k->l->bytes_done, f->b->bytes);
}

/* Where block b is read to by flight i. */
static flight flight_of(worker *k, const block *b, int i) {
    backend *be = k->l->w->b;
    if (b->direct) return (flight){b, b->direct, 0, NULL};
    if (k->staging) return (flight){b, k->staging + (size_t)i * k->l->block_bytes, 0, NULL};
    load_slot *s = &k->slots[i][k->turn[i] ^= 1];
    be->v->loading->wait(be, s);
    return (flight){b, s->p, 0, s};
}

/* The next block that must be read; those with a source are done on the way. */
static bool take_block(worker *k, int slot) {
    load *l = k->l;
    for (;;) {
        int32_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n_blocks || l->failed) return false;
        const block *b = &l->blocks[i];
        k->f[slot] = flight_of(k, b, slot);
        if (!b->src) return true;
        b->src->read(b->src, b->src_row0, b->rows, k->f[slot].p);
        finish_block(k, &k->f[slot]);
    }
}

static void run_pread(worker *k) {
    while (take_block(k, 0)) {
        flight *f = &k->f[0];
        while (f->got < f->b->bytes) {
            ssize_t r = pread(k->l->fds[f->b->file], f->p + f->got, f->b->bytes - f->got,
                              (off_t)(f->b->off + f->got));
            if (r < 0 && errno == EINTR) continue;
            if (r <= 0) {
                fail_load(k->l, f->b, r < 0 ? errno : 0);
                return;
            }
            f->got += (size_t)r;
        }
        finish_block(k, f);
    }
}

#ifdef HAVE_URING
static void submit_read(worker *k, flight *f) {
    struct io_uring_sqe *e = io_uring_get_sqe(&k->ring);
    io_uring_prep_read(e, k->l->fds[f->b->file], f->p + f->got, (unsigned)(f->b->bytes - f->got),
                       f->b->off + f->got);
    io_uring_sqe_set_data(e, f);
    io_uring_submit(&k->ring);
}

/* One completion: a short read goes on, a whole block is put away and the next one asked for.
 * Returns how many fewer reads are in flight. */
static int reap_read(worker *k, flight *f, int result) {
    if (result == -EINTR || result == -EAGAIN) {
        submit_read(k, f);
        return 0;
    }
    if (result <= 0) {
        fail_load(k->l, f->b, -result);
        return 1;
    }
    f->got += (size_t)result;
    if (f->got == f->b->bytes) {
        finish_block(k, f);
        if (!take_block(k, (int)(f - k->f))) return 1;
    }
    submit_read(k, f);
    return 0;
}

static bool run_uring(worker *k) {
    if (k->l->o->no_uring || io_uring_queue_init(DEPTH, &k->ring, 0) < 0) return false;
    int n = 0;
    while (n < DEPTH && take_block(k, n)) submit_read(k, &k->f[n++]);
    while (n > 0) {
        struct io_uring_cqe *c;
        int rc = io_uring_wait_cqe(&k->ring, &c);
        if (rc == -EINTR) continue;
        if (rc < 0) {
            fail_load(k->l, k->f[0].b, -rc);
            break;
        }
        flight *f = io_uring_cqe_get_data(c);
        int result = c->res;
        io_uring_cqe_seen(&k->ring, c);
        n -= reap_read(k, f, result);
    }
    io_uring_queue_exit(&k->ring);
    return true;
}
#else
static bool run_uring(worker *k) {
    return false;
}
#endif

static void *worker_main(void *arg) {
    worker *k = arg;
    if (!run_uring(k)) run_pread(k);
    atomic_fetch_sub(&k->l->n_running, 1);
    waker_signal(&k->l->done);
    return NULL;
}

static status open_files(load *l, error *err) {
    l->fds = mem_alloc((size_t)l->c->n_files * sizeof *l->fds);
    for (int32_t i = 0; i < l->c->n_files; i++) l->fds[i] = -1;
    for (int32_t i = 0; i < l->c->n_files; i++) {
        l->fds[i] = open(l->c->files[i], O_RDONLY | O_CLOEXEC);
        if (l->fds[i] < 0)
            return error_set(err, ERR_IO, "%s: cannot open: %s", l->c->files[i], strerror(errno));
    }
    return OK;
}

/* Ordinary memory, an upload from which is over when it returns; or the backend's slots. */
static status open_staging(worker *k, error *err) {
    backend *b = k->l->w->b;
    size_t bytes = k->l->block_bytes;
    if (!b->v->loading) {
        k->staging = mem_map(DEPTH * bytes);
        return k->staging ? OK : error_set(err, ERR_NOMEM, "no memory for staging buffers");
    }
    for (int i = 0; i < 2 * DEPTH; i++)
        TRY(b->v->loading->open(b, bytes, &k->slots[i / 2][i % 2], err));
    return OK;
}

static void close_staging(worker *k) {
    backend *b = k->l->w->b;
    if (k->staging) mem_unmap(k->staging, DEPTH * k->l->block_bytes);
    for (int i = 0; i < 2 * DEPTH && b->v->loading; i++)
        b->v->loading->close(b, &k->slots[i / 2][i % 2]);
}

static status run_workers(load *l, int n, error *err) {
    worker *k = mem_calloc((size_t)n, sizeof *k);
    status st = OK;
    int started = 0;
    waker_init(&l->done);
    for (int i = 0; i < n && st == OK; i++) {
        k[i].l = l;
        st = open_staging(&k[i], err);
    }
    l->n_running = st == OK ? n : 0;
    for (; st == OK && started < n; started++)
        k[started].thread = thread_start("pagoda-load", worker_main, &k[started]);
    while (l->n_running > 0) {
        waker_wait(&l->done, 100000);
        if (l->o->progress) l->o->progress(l->o->ctx, l->bytes_done, l->bytes_total);
    }
    for (int i = 0; i < started; i++) pthread_join(k[i].thread, NULL);
    for (int i = 0; i < n && k[i].l; i++) close_staging(&k[i]);
    waker_done(&l->done);
    mem_free(k);
    return st;
}

/* What belongs to all rows of a quantised part. */
static void put_side(weights *w, int32_t tensor) {
    const arch_tensor *t = &w->a->tensors[tensor];
    const weight_bind *b = &w->bind[tensor];
    weight *to = weights_at(w, t->layer, t->slot) + t->item;
    if (b->src && dtype_kind_of(b->dt) == DTYPE_CODES)
        w->b->v->quant_side(w->b, &to->m[b->part], b->src->order, b->src->table);
}

static status check_errors(const weights *w, error *err) {
    for (int32_t i = 0; w->errors && i < w->a->n_tensors; i++)
        if (!isfinite(w->errors[i].err2))
            return error_set(
                err, ERR_FORMAT,
                "quantize: tensor \"%s\" holds a number that is infinite, too large or "
                "not a number",
                w->a->tensors[i].name);
    return OK;
}

status loader_run(weights *w, const checkpoint *c, const loader_options *o, error *err) {
    load *l = mem_calloc(1, sizeof *l);
    *l = (load){.w = w, .c = c, .o = o, .block_bytes = block_bytes_of(w, o->block_bytes)};
    for (int i = 0; i < N_LOCKS; i++) pthread_mutex_init(&l->locks[i], NULL);
    pthread_mutex_init(&l->sums, NULL);
    for (int32_t i = 0; i < w->a->n_tensors; i++) {
        bool quantise = w->bind[i].to != DT_COUNT && dtype_is_float(w->bind[i].dt);
        const arch_tensor *t = &w->a->tensors[i];
        bool shared = (weights_at(w, t->layer, t->slot) + t->item)->packed; /* with the head */
        if (shared || (o->measure_only && !quantise)) continue;
        if (!o->measure_only) put_side(w, i);
        cut_tensor(l, i);
    }
    qsort(l->blocks, (size_t)l->n_blocks, sizeof *l->blocks, by_place);
    status st = open_files(l, err);
    if (st == OK) st = run_workers(l, MIN(thread_count(o->n_threads), l->n_blocks), err);
    if (st == OK && l->failed) {
        const char *path = c->files[l->failed - 1];
        st = l->failed_errno
                 ? error_set(err, ERR_IO, "%s: cannot read: %s", path, strerror(l->failed_errno))
                 : error_set(err, ERR_IO, "%s: ended while being read", path);
    }
    if (st == OK) st = check_errors(w, err);
    if (st == OK && o->progress) o->progress(o->ctx, l->bytes_total, l->bytes_total);
    for (int32_t i = 0; l->fds && i < c->n_files; i++)
        if (l->fds[i] >= 0) close(l->fds[i]);
    for (int i = 0; i < N_LOCKS; i++) pthread_mutex_destroy(&l->locks[i]);
    pthread_mutex_destroy(&l->sums);
    mem_free(l->fds);
    mem_free(l->blocks);
    mem_free(l);
    return st;
}
