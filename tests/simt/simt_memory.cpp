/* Memory of the emulated device: one file of the kernel's memory, mapped twice. Kernels and the
 * program know its addresses in the first mapping, whose pages are accessible only while kernels
 * run; copies go through the second. So host code that touches device memory faults, as does an
 * access outside of an allocation: between allocations lies a page that is never accessible, and an
 * allocation ends against it as closely as 256-byte alignment allows. Addresses are never used
 * twice: a pointer to freed memory faults for good. Pages cost memory of the host when they are
 * written. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/simt/simt_inside.h"

#define PAGE       ((size_t)4096)
#define RANGE      ((size_t)1 << 40) /* of addresses */
#define ALIGN      ((size_t)256)
#define POISON_MAX ((size_t)64 << 20) /* fresh memory is poisoned up to here, zero behind */
#define SLACK      0xa7               /* between an allocation and its page's edges */

struct allocation {
    size_t at, bytes; /* offsets in the range */
};
static char *kernels_view, *host_view;
static int file = -1;
static size_t end = PAGE; /* of what was ever given out */
static size_t used;
static allocation *list; /* ascending */
static size_t n_list, cap_list;
static int n_open;

static size_t up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}
static size_t first_page(const allocation *a) {
    return a->at / PAGE * PAGE;
}
static size_t mapped(const allocation *a) {
    return up(a->at + a->bytes, PAGE) - first_page(a);
}

static void begin(void) {
    if (kernels_view) return;
    file = memfd_create("simt-device", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)RANGE) != 0) simt_fail("no memory for a device");
    void *k = mmap(nullptr, RANGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *h = mmap(nullptr, RANGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (k == MAP_FAILED || h == MAP_FAILED) simt_fail("no addresses for a device's memory");
    madvise(h, RANGE, MADV_DONTDUMP);
    kernels_view = (char *)k, host_view = (char *)h;
}

static void protect(const allocation *a, int prot) {
    if (mprotect(kernels_view + first_page(a), mapped(a), prot) != 0)
        simt_fail("mprotect of device memory failed");
}

void memory_open(void) {
    if (n_open++ == 0)
        for (size_t i = 0; i < n_list; i++) protect(&list[i], PROT_READ | PROT_WRITE);
}

void memory_close(void) {
    if (--n_open == 0)
        for (size_t i = 0; i < n_list; i++) protect(&list[i], PROT_NONE);
}

size_t memory_total(void) {
    return settings()->device_bytes;
}

size_t memory_used(void) {
    return used;
}

static void fill_slack(const allocation *a) {
    char *from = host_view + first_page(a), *at = host_view + a->at;
    memset(from, SLACK, (size_t)(at - from));
    memset(at + a->bytes, SLACK, mapped(a) - (size_t)(at - from) - a->bytes);
}

static void check_slack(const allocation *a) {
    const unsigned char *at = (const unsigned char *)host_view + a->at;
    const unsigned char *from = (const unsigned char *)host_view + first_page(a);
    for (const unsigned char *p = from; p < from + mapped(a); p++) {
        if (p == at) p += a->bytes;
        if (p >= from + mapped(a) || *p == SLACK) continue;
        simt_fail("byte %td of an allocation of %zu bytes was written", p - at, a->bytes);
    }
}

void *memory_alloc(size_t bytes) {
    begin();
    size_t take = up(bytes, ALIGN), pages = up(take, PAGE);
    if (take > memory_total() - used || end + pages + PAGE > RANGE) return nullptr;
    if (n_list == cap_list) {
        cap_list = cap_list ? 2 * cap_list : 256;
        list = (allocation *)realloc(list, cap_list * sizeof *list);
        if (!list) simt_fail("out of memory");
    }
    allocation a = {end + pages - take, bytes};
    void *want = kernels_view + end;
    int prot = n_open ? PROT_READ | PROT_WRITE : PROT_NONE;
    if (mmap(want, pages, prot, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, file, (off_t)end) != want)
        return nullptr;
    list[n_list++] = a;
    end += pages + PAGE;
    used += take;
    fill_slack(&a);
    memset(host_view + a.at, 0xff, bytes < POISON_MAX ? bytes : POISON_MAX);
    return kernels_view + a.at;
}

/* The last allocation that begins at or before an offset; NULL: none. */
static allocation *before(size_t offset) {
    size_t lo = 0, hi = n_list;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (list[mid].at <= offset)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo ? &list[lo - 1] : nullptr;
}

bool memory_is_device(const void *p) {
    return kernels_view && (const char *)p >= kernels_view &&
           (const char *)p < kernels_view + RANGE;
}

static allocation *holding(const void *p, size_t n) {
    if (!memory_is_device(p)) return nullptr;
    size_t offset = (size_t)((const char *)p - kernels_view);
    allocation *a = before(offset);
    return a && offset + n <= a->at + a->bytes ? a : nullptr;
}

bool memory_free(void *p) {
    allocation *a = holding(p, 0);
    if (!a || kernels_view + a->at != p) return false;
    check_slack(a);
    size_t from = first_page(a), n = mapped(a);
    void *want = kernels_view + from;
    if (mmap(want, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
            want ||
        fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)n) != 0)
        simt_fail("freeing device memory failed");
    used -= up(a->bytes, ALIGN);
    size_t i = (size_t)(a - list);
    memmove(list + i, list + i + 1, (--n_list - i) * sizeof *list);
    return true;
}

void *memory_host_view(const void *p, size_t n) {
    return holding(p, n) ? host_view + ((const char *)p - kernels_view) : nullptr;
}

bool memory_fill(void *p, int byte, size_t n) {
    char *at = (char *)memory_host_view(p, n);
    if (!at) return false;
    size_t from = up((size_t)(at - host_view), PAGE);
    size_t to = ((size_t)(at - host_view) + n) / PAGE * PAGE;
    if (byte != 0 || to < from + 16 * PAGE ||
        fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
                  (off_t)(to - from)) != 0) {
        memset(at, byte, n);
        return true;
    }
    memset(at, 0, from - (size_t)(at - host_view));
    memset(host_view + to, 0, (size_t)(at - host_view) + n - to);
    return true;
}

void memory_describe(const void *p, char *out, size_t out_size) {
    size_t offset = (size_t)((const char *)p - kernels_view);
    const allocation *a = before(offset), *next = a ? a + 1 : list;
    if (a && offset < a->at + a->bytes)
        snprintf(out, out_size, "byte %zu of an allocation of %zu bytes", offset - a->at, a->bytes);
    else if (a && (next == list + n_list || offset - a->at - a->bytes <= next->at - offset))
        snprintf(out, out_size, "%zu bytes behind an allocation of %zu bytes",
                 offset - a->at - a->bytes, a->bytes);
    else if (next < list + n_list)
        snprintf(out, out_size, "%zu bytes before an allocation of %zu bytes", next->at - offset,
                 next->bytes);
    else
        snprintf(out, out_size, "no allocation");
}
