/* Runs a grid: block after block, the threads of a block as fibers.
 *
 * A thread runs until it returns or waits: at a barrier of the block, or at an operation of its
 * warp until all lanes of the mask are there. A thread that never waits needs no switch at all: the
 * next one begins on the same stack. Which thread is next is part of what is tested: threads run in
 * ascending order, descending, or in an order drawn anew for each block (SIMT_ORDER), and a kernel
 * without races gives the same bits in all of them. One warp runs as far as it can before another
 * does, so that a missing barrier shows as poison or as old data.
 *
 * Reported, with kernel, block and thread: a barrier or an operation of a warp that not all reach,
 * threads of one operation that disagree about what it is, threads that return while others wait,
 * writes beyond the dynamic shared memory. */
#include <link.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "tests/simt/simt_fiber.h"
#include "tests/simt/simt_inside.h"

simt_self *simt_now;
dim3 simt_block_dim, simt_grid_dim;
unsigned char *simt_dyn_shared;
size_t simt_dyn_bytes;

enum thread_state { NEW, STARTED, AT_BARRIER, DONE };
struct thread {
    simt_self self; /* first: simt_now is a thread */
    fiber_context context;
    fiber_stack stack;
    thread_state state;
    bool waited; /* for the kernels before */
    int warp, lane;
};
struct warp {
    uint32_t ready;   /* lanes that can run */
    uint32_t waiting; /* lanes at an operation of the warp: */
    simt_op *ops[32];
    uint8_t order[32]; /* in which lanes are looked at */
};

#define MAX_THREADS 1024
static thread threads[MAX_THREADS];
static warp warps[MAX_THREADS / 32];
static uint8_t warp_order[MAX_THREADS / 32];
static fiber_stack stacks[MAX_THREADS]; /* free ones */
static int n_stacks;
static fiber_context host; /* who runs the grid */
static simt_launch *running;
static simt_order chosen;
static unsigned long long rng_state;

static struct {
    int n_threads, n_warps, n_done, n_arrived;
    simt_barrier_kind kind; /* of those who arrived */
    int sum, result;        /* of predicates; of the last barrier */
    uint32_t ready_warps;   /* warps with ready lanes */
} block;

/* ---- Reports ---- */

static thread *now(void) {
    return (thread *)simt_now;
}

void block_where(char *out, size_t out_size) {
    out[0] = 0;
    if (!running) return;
    int n = snprintf(out, out_size, "kernel %s, grid (%u,%u,%u) of blocks (%u,%u,%u)",
                     running->name, running->grid.x, running->grid.y, running->grid.z,
                     running->block.x, running->block.y, running->block.z);
    if (!simt_now || n < 0 || (size_t)n >= out_size) return;
    uint3 b = simt_now->block, t = simt_now->thread;
    snprintf(out + n, out_size - (size_t)n, ", block (%u,%u,%u), thread (%u,%u,%u)", b.x, b.y, b.z,
             t.x, t.y, t.z);
}

void simt_fail(const char *fmt, ...) {
    char where[600];
    block_where(where, sizeof where);
    fflush(stdout);
    fprintf(stderr, "simt: %s%s", where, where[0] ? ": " : "");
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    abort();
}

/* Nothing can run and not all are done. */
[[noreturn]] static void report_stuck(void) {
    static const char *const barriers[] = {"__syncthreads", "__syncthreads_count",
                                           "__syncthreads_and", "__syncthreads_or"};
    int n_warp = 0, first_warp = -1, first_barrier = -1, first_done = -1;
    for (int i = 0; i < block.n_threads; i++) {
        thread_state s = threads[i].state;
        bool at_op = warps[i / 32].waiting >> i % 32 & 1;
        if (at_op && n_warp++ == 0) first_warp = i;
        if (s == AT_BARRIER && first_barrier < 0) first_barrier = i;
        if (s == DONE && first_done < 0) first_done = i;
    }
    char at[200] = "", op[200] = "", done[100] = "";
    if (first_barrier >= 0)
        snprintf(at, sizeof at, " %d wait at %s (the first: thread %d);", block.n_arrived,
                 barriers[block.kind], first_barrier);
    if (first_warp >= 0)
        snprintf(
            op, sizeof op,
            " %d wait at an operation of their warp (the first: thread %d at %s with mask %08x);",
            n_warp, first_warp, warps[first_warp / 32].ops[first_warp % 32]->name,
            warps[first_warp / 32].ops[first_warp % 32]->mask);
    if (block.n_done)
        snprintf(done, sizeof done, " %d returned (the first: thread %d);", block.n_done,
                 first_done);
    simt_now = nullptr;
    uint3 b = threads[0].self.block;
    simt_fail("block (%u,%u,%u) can not go on: of %d threads%s%s%s", b.x, b.y, b.z, block.n_threads,
              at, op, done);
}

/* ---- Stacks ---- */

/* Stacks begin at different places of their pages: else all of them share a few sets of the cache.
 */
static fiber_stack stack_take(void) {
    static size_t n_made;
    if (n_stacks) return stacks[--n_stacks];
    char *p = (char *)mmap(nullptr, FIBER_STACK + FIBER_GUARD, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p, FIBER_GUARD, PROT_NONE) != 0)
        simt_fail("there is no memory for the stack of a thread");
    size_t shift = n_made++ % 64 * 576;
    return {p + FIBER_GUARD, FIBER_STACK - shift};
}

static void stack_give(fiber_stack s) {
    stacks[n_stacks++] = s;
}

bool block_on_stack(const void *p) {
    if (!simt_now || !now()->stack.base) return false;
    const char *base = now()->stack.base;
    return (const char *)p >= base - FIBER_GUARD && (const char *)p < base + FIBER_STACK;
}

/* ---- Who is next ---- */

static unsigned draw(unsigned n) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((rng_state >> 33) % n);
}

static void order_fill(uint8_t *order, int n) {
    for (int i = 0; i < n; i++) order[i] = (uint8_t)(chosen == ORDER_REVERSE ? n - 1 - i : i);
    if (chosen != ORDER_SHUFFLE) return;
    for (int i = n - 1; i > 0; i--) {
        unsigned j = draw((unsigned)i + 1);
        uint8_t t = order[i];
        order[i] = order[j], order[j] = t;
    }
}

static uint32_t warp_members(int w) {
    int n = block.n_threads - w * 32;
    return n >= 32 ? 0xffffffffu : (1u << n) - 1;
}

static void set_ready(int w, uint32_t lanes) {
    warps[w].ready |= lanes;
    block.ready_warps |= 1u << w;
}

static int lane_of(const warp *w) {
    if (chosen == ORDER_FORWARD) return __builtin_ctz(w->ready);
    if (chosen == ORDER_REVERSE) return 31 - __builtin_clz(w->ready);
    for (int i = 0;; i++)
        if (w->ready >> w->order[i] & 1) return w->order[i];
}

/* The next thread to run, in the warp of the last one while it can; NULL: none can. */
static thread *take_next(int last_warp) {
    if (!block.ready_warps) return nullptr;
    int w = last_warp;
    if (!(block.ready_warps >> w & 1))
        for (int i = 0; i < block.n_warps; i++)
            if (block.ready_warps >> (w = warp_order[i]) & 1) break;
    int lane = lane_of(&warps[w]);
    warps[w].ready &= ~(1u << lane);
    if (!warps[w].ready) block.ready_warps &= ~(1u << w);
    return &threads[w * 32 + lane];
}

/* ---- Running and waiting ---- */

static void thread_main(void) {
    fiber_entered();
    for (;;) {
        thread *t = now();
        running->call();
        t = now();
        if (running->early && !t->waited)
            simt_fail("this thread ends without having waited for the kernels before "
                      "(cu_next_begin), beside which it was launched");
        fiber_stack s = t->stack;
        t->stack.base = nullptr;
        t->state = DONE;
        block.n_done++;
        thread *n = take_next(t->warp);
        if (n) simt_now = &n->self;
        if (n && n->state == NEW) { /* it begins on this stack */
            n->stack = s, n->state = STARTED;
            continue;
        }
        if (!n && block.n_done != block.n_threads) report_stuck();
        stack_give(s);
        fiber_switch(&t->context, n ? &n->context : &host, true);
    }
}

static void run_or_begin(fiber_context *from, thread *n) {
    if (n->state == NEW) {
        n->stack = stack_take();
        fiber_prepare(&n->context, n->stack, thread_main);
        n->state = STARTED;
    }
    simt_now = &n->self;
    fiber_switch(from, &n->context, false);
}

/* Until something makes this thread ready again. */
static void wait_here(thread *t) {
    thread *n = take_next(t->warp);
    if (!n) report_stuck();
    if (n != t) run_or_begin(&t->context, n);
    simt_now = &t->self;
}

int simt_barrier(simt_barrier_kind kind, int predicate) {
    if (!simt_now) simt_fail("__syncthreads outside of a kernel");
    thread *t = now();
    if (block.n_arrived == 0) block.kind = kind, block.sum = 0;
    if (block.kind != kind)
        simt_fail("this thread is at another kind of __syncthreads than those who wait");
    block.sum += predicate != 0;
    t->state = AT_BARRIER;
    if (++block.n_arrived < block.n_threads) {
        wait_here(t);
        return block.result;
    }
    block.n_arrived = 0;
    block.result = kind == SIMT_AND  ? block.sum == block.n_threads
                   : kind == SIMT_OR ? block.sum > 0
                                     : block.sum;
    int result = block.result;
    for (int i = 0; i < block.n_threads; i++) threads[i].state = STARTED;
    for (int w = 0; w < block.n_warps; w++) set_ready(w, warp_members(w));
    wait_here(t); /* so that the order decides who goes on first */
    return result;
}

void cu_next_begin(void) {
    if (!simt_now) simt_fail("cu_next_begin outside of a kernel");
    now()->waited = true;
}

void simt_warp_op(simt_op *mine) {
    if (!simt_now) simt_fail("%s outside of a kernel", mine->name);
    thread *t = now();
    warp *w = &warps[t->warp];
    uint32_t mask = mine->mask;
    if (!(mask >> t->lane & 1)) simt_fail("%s: mask %08x lacks this lane", mine->name, mask);
    if (mask & ~warp_members(t->warp))
        simt_fail("%s: mask %08x names lanes that the block of %d threads does not have",
                  mine->name, mask, block.n_threads);
    w->ops[t->lane] = mine;
    w->waiting |= 1u << t->lane;
    if ((w->waiting & mask) != mask) {
        wait_here(t);
        return;
    }
    SIMT_LANES(mask, i) {
        const simt_op *o = w->ops[i];
        if (o->run == mine->run && o->mask == mask &&
            (o->name == mine->name || strcmp(o->name, mine->name) == 0))
            continue;
        simt_fail("%s with mask %08x: lane %u is at %s with mask %08x", mine->name, mask, i,
                  w->ops[i]->name, w->ops[i]->mask);
    }
    mine->run(w->ops, mask);
    w->waiting &= ~mask;
    set_ready(t->warp, mask);
    wait_here(t);
}

/* ---- Shared memory ---- */

#define DYN_MAX  ((size_t)256 << 10)
#define GUARD    ((size_t)128)
#define GUARDING 0xa7
static thread_local char anchor; /* makes the segment of a thread exist */

struct segment {
    void *at;
    size_t bytes;
};
static segment shared; /* of the grid under way */
static uint64_t n_blocks;

static int find_segment(struct dl_phdr_info *info, size_t, void *ret) {
    bool mine = false;
    const ElfW(Phdr) *tls = nullptr;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + h->p_vaddr, at = (uintptr_t)&running;
        if (h->p_type == PT_LOAD && at >= from && at < from + h->p_memsz) mine = true;
        if (h->p_type == PT_TLS) tls = h;
    }
    if (!mine) return 0;
    if (tls) *(segment *)ret = {info->dlpi_tls_data, tls->p_memsz};
    return 1;
}

/* The static shared memory of all kernels, for the thread of the host that calls. */
static segment static_shared(void) {
    *(volatile char *)&anchor = 0;
    segment s = {nullptr, 0};
    dl_iterate_phdr(find_segment, &s);
    return s;
}

static unsigned char *dyn_area(void) {
    static unsigned char *area;
    if (area) return area;
    unsigned char *p = (unsigned char *)mmap(nullptr, DYN_MAX + 8192, PROT_NONE,
                                             MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p + 4096, DYN_MAX, PROT_READ | PROT_WRITE) != 0)
        simt_fail("there is no memory for shared memory");
    return area = p + 4096;
}

/* Its end lies against an unmapped page as closely as 128-byte alignment allows; what is left on
 * both sides is guarded. */
static void dyn_place(size_t bytes) {
    unsigned char *area = dyn_area();
    simt_dyn_bytes = bytes;
    simt_dyn_shared = area + ((DYN_MAX - bytes) & ~(GUARD - 1));
    memset(simt_dyn_shared - GUARD, GUARDING, GUARD);
    memset(simt_dyn_shared + bytes, GUARDING, (size_t)(area + DYN_MAX - simt_dyn_shared) - bytes);
}

static void dyn_check(void) {
    for (unsigned char *p = simt_dyn_shared - GUARD; p < dyn_area() + DYN_MAX; p++) {
        if (p == simt_dyn_shared) p += simt_dyn_bytes;
        if (p >= dyn_area() + DYN_MAX || *p == GUARDING) continue;
        simt_fail("byte %td of %zu of the dynamic shared memory was written", p - simt_dyn_shared,
                  simt_dyn_bytes);
    }
}

int block_thread_index(void) {
    if (!simt_now) simt_fail("an asynchronous copy outside of a kernel");
    return (int)(now() - threads);
}

uint64_t block_number(void) {
    return n_blocks;
}

bool block_is_shared(const void *p, size_t n) {
    const unsigned char *at = (const unsigned char *)p;
    const unsigned char *fixed = (const unsigned char *)shared.at;
    return (at >= simt_dyn_shared && at + n <= simt_dyn_shared + simt_dyn_bytes) ||
           (at >= fixed && at + n <= fixed + shared.bytes);
}

/* ---- Grids ---- */

static void block_begin(uint3 index) {
    dim3 d = simt_block_dim;
    block.n_threads = (int)(d.x * d.y * d.z);
    block.n_warps = (block.n_threads + 31) / 32;
    block.n_done = block.n_arrived = 0;
    block.ready_warps = 0;
    order_fill(warp_order, block.n_warps);
    for (int w = 0; w < block.n_warps; w++) {
        warps[w].ready = warps[w].waiting = 0;
        order_fill(warps[w].order, 32);
        set_ready(w, warp_members(w));
    }
    for (int i = 0; i < block.n_threads; i++) {
        thread *t = &threads[i];
        unsigned u = (unsigned)i;
        t->self.block = index;
        t->self.thread = {u % d.x, u / d.x % d.y, u / d.x / d.y};
        t->warp = i / 32, t->lane = i % 32;
        t->stack.base = nullptr;
        t->state = NEW;
        t->waited = false;
    }
}

static void block_run(uint3 index) {
    n_blocks++;
    memset(shared.at, 0xff, shared.bytes);
    memset(simt_dyn_shared, 0xff, simt_dyn_bytes);
    block_begin(index);
    run_or_begin(&host, take_next(warp_order[0]));
    simt_now = nullptr;
    if (block.n_done != block.n_threads) report_stuck();
    dyn_check();
}

void block_run_grid(simt_launch *l) {
    running = l;
    simt_grid_dim = l->grid, simt_block_dim = l->block;
    chosen = settings()->order;
    rng_state = settings()->seed * 0x9e3779b97f4a7c15u + 1;
    dyn_place(l->smem);
    shared = static_shared();
    uint64_t n = (uint64_t)l->grid.x * l->grid.y * l->grid.z;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t at = chosen == ORDER_REVERSE ? n - 1 - i : i, in_plane = at / l->grid.x;
        block_run({(unsigned)(at % l->grid.x), (unsigned)(in_plane % l->grid.y),
                   (unsigned)(in_plane / l->grid.y)});
    }
    running = nullptr;
}
