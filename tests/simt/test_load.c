/* Loading through slots (kernels/loading.h) on the emulated device: the same bytes as by packing,
 * in blocks so small that every slot is used many times. Copies of the emulated device run when
 * they are waited for and no sooner, and pinned memory that changed before its copy ran ends the
 * program: so a slot that is read into too early shows, as the last check makes sure. */
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/loader.h"
#include "kernels/loading.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

/* The weights' memory after a load into poisoned memory; fresh. */
static char *load_again(engine *e, const loader_options *o, const char *what) {
    char *got = mem_alloc(e->w.bytes);
    error err;
    memset(got, 0, e->w.bytes);
    e->b->v->upload(e->b, e->w.block, got, e->w.bytes);
    status st = loader_run(&e->w, &e->ckpt, o, &err);
    EXPECT(st == OK, "%s: %s", what, err.text);
    e->b->v->download(e->b, got, e->w.block, e->w.bytes);
    st = e->b->v->sync(e->b, &err);
    EXPECT(st == OK, "%s: %s", what, err.text);
    return got;
}

/* Counts of what was sent from slots as it was. */
static const loading *real;
static _Atomic int n_sent, n_waits;

static bool count_pack(backend *b, load_slot *s, const char *src, wmat *w, int32_t row0, int32_t n,
                       dtype dt) {
    bool sent = real->pack(b, s, src, w, row0, n, dt);
    n_sent += sent;
    return sent;
}

static void count_wait(backend *b, load_slot *s) {
    n_waits++;
    real->wait(b, s);
}

static void no_wait(backend *b, load_slot *s) {}

static void check_model(const char *dir, const char *want, bool as_stored) {
    engine *e = NULL;
    error err;
    status st = model_open(dir, want, NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    if (st != OK) return;
    const backend_vtbl *own = e->b->v;
    backend_vtbl packing = *own, counting = *own;
    loading counted = *(real = own->loading);
    packing.loading = NULL;
    counted.pack = count_pack, counted.wait = count_wait;
    counting.loading = &counted;
    e->b->v = &packing;
    char *expected = load_again(e, &(loader_options){.n_threads = 2}, dir);
    e->b->v = &counting;
    n_sent = n_waits = 0;
    static const loader_options ways[] = {{.n_threads = 1, .block_bytes = 4096},
                                          {.n_threads = 3, .block_bytes = 4096},
                                          {.n_threads = 2, .block_bytes = 4096, .no_uring = true},
                                          {.n_threads = 2}};
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        char *got = load_again(e, &ways[i], dir);
        EXPECT(memcmp(got, expected, e->w.bytes) == 0, "%s: way %zu gives other bytes", dir, i);
        mem_free(got);
    }
    EXPECT((n_sent > 0) == as_stored, "%s %s: %d blocks went as they are", dir, want, n_sent);
    EXPECT(n_waits > 50, "%s: only %d blocks", dir, n_waits);
    e->b->v = own;
    mem_free(expected);
    engine_free(e);
}

/* A loader that does not wait for its slots must be found out, or the checks above show nothing. */
static void check_the_check(const char *dir) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        engine *e = NULL;
        error err;
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        if (model_open(dir, "auto", NULL, &e, &err) != OK) _exit(0);
        backend_vtbl broken = *e->b->v;
        loading careless = *broken.loading;
        careless.wait = no_wait;
        broken.loading = &careless;
        e->b->v = &broken;
        loader_options o = {.n_threads = 1, .block_bytes = 4096};
        mem_free(load_again(e, &o, dir));
        _exit(0);
    }
    int how = 0;
    EXPECT(child > 0 && waitpid(child, &how, 0) == child, "no child");
    EXPECT(!(WIFEXITED(how) && WEXITSTATUS(how) == 0), "slots were read into under their copies");
}

int main(void) {
    check_model("conf/demo-model", "auto", true);
    check_model("conf/demo-model", "f32", false);
    check_model("tests/archs/mixtral", "auto", true);
    check_model("tests/archs/baichuan-7b", "f32", false);
    check_model("tests/archs/gguf-blocks-32", "auto", true);
    check_model("tests/quant/gptq-b4-g32", "auto", true);
    check_the_check("conf/demo-model");
    return n_failed != 0;
}
