/* What memory costs when it is touched for the first time: the part of a start that no program can
 * do anything about.
 *
 *     bench_touch [GiB, default 2] [threads, default one per CPU]
 *
 * Maps and writes one GiB after the other, each then again, and tells the seconds. On a virtual
 * machine memory that nobody used for a while may have gone back to the host (free page reporting,
 * a balloon): then the first GiB of a series take many times what the later ones do, and so does
 * the first start of a server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"

enum { THREADS_MAX = 64, GIB_MAX = 64 };
#define GIB ((size_t)1 << 30)

typedef struct part {
    char *p;
    size_t bytes;
} part;

static void *fill(void *arg) {
    const part *x = arg;
    memset(x->p, 1, x->bytes);
    return NULL;
}

static double seconds_to_fill(char *p, int n_threads) {
    pthread_t threads[THREADS_MAX];
    part parts[THREADS_MAX];
    uint64_t start = clock_ns();
    for (int i = 0; i < n_threads; i++) {
        size_t from = GIB / (size_t)n_threads * (size_t)i;
        parts[i] = (part){p + from, i + 1 < n_threads ? GIB / (size_t)n_threads : GIB - from};
        threads[i] = thread_start("touch", fill, &parts[i]);
    }
    for (int i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
    return (double)(clock_ns() - start) * 1e-9;
}

int main(int argc, char **argv) {
    int n = argc > 1 ? atoi(argv[1]) : 2, n_threads = argc > 2 ? atoi(argv[2]) : cpu_count();
    if (n < 1 || n > GIB_MAX || n_threads < 1) {
        fprintf(stderr, "usage: bench_touch [GIB, 1 to %d] [THREADS]\n", GIB_MAX);
        return 2;
    }
    n_threads = MIN(n_threads, THREADS_MAX);
    char *all[GIB_MAX];
    for (int i = 0; i < n; i++) {
        if (!(all[i] = mem_map(GIB))) {
            fprintf(stderr, "bench_touch: the system refused memory\n");
            return 1;
        }
        double first = seconds_to_fill(all[i], n_threads);
        printf("GiB %d: first %.3f s, again %.3f s\n", i, first,
               seconds_to_fill(all[i], n_threads));
    }
    for (int i = 0; i < n; i++) mem_unmap(all[i], GIB);
    return 0;
}
