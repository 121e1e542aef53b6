/* A step that runs allocates nothing, locks nothing and asks the kernel for nothing: the linker
 * puts counters before what could (-Wl,--wrap), and steps of real models, scheduled by the real
 * core, must not move them. First the steady state: sequences of all kinds decode, pages turn,
 * hashes are made. Then prompts come beside them, up to the largest step there can be, on an engine
 * that never saw one.
 *
 * Allowed is waking a member of the team that fell asleep (futex): how often that happens is the
 * machine's business. It is printed, not judged. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "scheduler/core.h"
#include "tests/golden/model_run.h"

static _Atomic unsigned long n_memory, n_locks, n_calls, n_wakes;

#define COUNTED(ret, n, name, params, args)                                                        \
    ret __real_##name params;                                                                      \
    ret __wrap_##name params;                                                                      \
    ret __wrap_##name params {                                                                     \
        n++;                                                                                       \
        return __real_##name args;                                                                 \
    }
COUNTED(void *, n_memory, malloc, (size_t n), (n))
COUNTED(void *, n_memory, calloc, (size_t n, size_t size), (n, size))
COUNTED(void *, n_memory, realloc, (void *p, size_t n), (p, n))
COUNTED(void *, n_memory, aligned_alloc, (size_t a, size_t n), (a, n))
COUNTED(int, n_memory, posix_memalign, (void **p, size_t a, size_t n), (p, a, n))
COUNTED(void *, n_memory, mmap64, (void *p, size_t n, int a, int b, int c, long d),
        (p, n, a, b, c, d))
COUNTED(int, n_memory, munmap, (void *p, size_t n), (p, n))
COUNTED(void, n_memory, free, (void *p), (p))
COUNTED(int, n_locks, pthread_mutex_lock, (pthread_mutex_t * m), (m))
COUNTED(int, n_locks, pthread_mutex_trylock, (pthread_mutex_t * m), (m))
COUNTED(int, n_calls, madvise, (void *p, size_t n, int advice), (p, n, advice))
COUNTED(ssize_t, n_calls, write, (int fd, const void *p, size_t n), (fd, p, n))
COUNTED(ssize_t, n_calls, read, (int fd, void *p, size_t n), (fd, p, n))
COUNTED(int, n_calls, poll, (struct pollfd * p, nfds_t n, int ms), (p, n, ms))
COUNTED(int, n_calls, sched_yield, (void), ())
COUNTED(long, n_wakes, syscall, (long n, long a, long b, long c, long d, long e, long f),
        (n, a, b, c, d, e, f))

enum { SEQS = 10, STEPS = 24, PROMPT = 20, NEW = 70, LATE = 4, BATCH = 64 };

static void read_all(void *ctx, request **ready, int32_t n) {
    static char e[4096]; /* with its logprobs */
    for (int32_t i = 0; i < n; i++)
        while (spsc_pop(ready[i]->events, e)) {
        }
}

/* Each asks for something else of the sampler. */
static void vary(sample_params *p, int32_t i, int32_t vocab) {
    static int32_t stops[1], allowed[20];
    static logit_bias bias[2] = {{1, 2}, {3, -1}};
    *stops = vocab - 1;
    for (int32_t k = 0; k < 20; k++) allowed[k] = k;
    p->temperature = i % 10 ? 0.8f : 0;
    p->n_logprobs = i % 10 == 1 ? 5 : -1;
    if (i % 10 == 2) p->top_k = 20;
    if (i % 10 == 3) p->top_p = 0.9f;
    if (i % 10 == 4) p->min_p = 0.02f;
    if (i % 10 == 5) p->typical_p = 0.9f;
    if (i % 10 == 6) p->repetition_penalty = 1.2f, p->frequency_penalty = 0.3f;
    if (i % 10 == 7) p->no_repeat_ngram = 3;
    if (i % 10 == 8) p->bias = bias, p->n_bias = 2, p->presence_penalty = 0.1f;
    if (i % 10 == 9) p->allowed_ids = allowed, p->n_allowed = 20;
    if (i % 3 == 0) p->stop_ids = stops, p->n_stop_ids = 1, p->min_tokens = NEW;
}

static request *submit(core *c, int32_t i, int32_t n_prompt, int32_t vocab) {
    request *r = request_new(1 << 18);
    int32_t *p = arena_array(r->mem, (size_t)n_prompt, sizeof *p);
    for (int32_t k = 0; k < n_prompt; k++)
        p[k] = (int32_t)(rng_philox((uint64_t)i, 1, (uint64_t)k).x[0] % (uint32_t)vocab);
    r->prompt = p;
    r->n_prompt = n_prompt;
    r->max_tokens = NEW;
    r->ignore_eos = true;
    r->stream = true;
    vary(&r->params, i, vocab);
    request_arm(r);
    error e;
    if (core_prepare(c, r, &e) != OK) {
        printf("%s\n", e.text);
        exit(1);
    }
    core_add(c, request_ref(r));
    return r;
}

static int judge(const char *dir, const char *what, core *c, int n_steps) {
    unsigned long memory = n_memory, locks = n_locks, calls = n_calls, wakes = n_wakes;
    uint64_t before, after;
    scheduler_stats st;
    core_stats(c, &st);
    before = st.step_tokens_total;
    for (int i = 0; i < n_steps; i++) (void)core_step(c, true);
    memory = n_memory - memory, locks = n_locks - locks, calls = n_calls - calls;
    core_stats(c, &st);
    after = st.step_tokens_total;
    if (!st.healthy || after - before < (uint64_t)n_steps) printf("%s: does not run\n", dir);
    if (memory || locks || calls || n_wakes - wakes)
        printf("%-28s %-8s %lu memory, %lu locks, %lu calls, %lu wakes and sleeps in %d steps\n",
               dir + 12, what, memory, locks, calls, n_wakes - wakes, n_steps);
    return memory || locks || calls || !st.healthy || after - before < (uint64_t)n_steps;
}

static int check(const char *dir, const char *kv, uint64_t target_us) {
    engine_options eo = {.model_dir = dir,
                         .dtype = "auto",
                         .kv_dtype = kv,
                         .device = "cpu",
                         .n_threads = 2,
                         .max_model_len = 128,
                         .max_seqs = SEQS + LATE,
                         .max_batched_tokens = BATCH,
                         .kv_bytes = 64 << 20};
    engine *e;
    error err;
    if (engine_open(&eo, &e, &err) != OK) {
        printf("%s: %s\n", dir, err.text);
        return 1;
    }
    stepper s = engine_stepper(e);
    scheduler_options o = {.max_running = SEQS + LATE,
                           .token_budget = BATCH,
                           .target_us = target_us,
                           .prefix_cache = true,
                           .stall_us = 1000000,
                           .clock = clock_monotonic(),
                           .on_ready = read_all};
    core *c = core_new(&o, s, (hash_key){{1, 2}});
    request *r[SEQS + LATE];
    for (int32_t i = 0; i < SEQS; i++) r[i] = submit(c, i, PROMPT % 7 + i, s.vocab);
    for (int i = 0; i < 2 * SEQS; i++) (void)core_step(c, true);
    int bad = judge(dir, "decoding", c, STEPS);
    for (int32_t i = SEQS; i < SEQS + LATE; i++) r[i] = submit(c, i, 50, s.vocab);
    bad |= judge(dir, "prompts", c, STEPS);
    core_abort(c);
    core_free(c);
    for (int32_t i = 0; i < SEQS + LATE; i++) request_unref(r[i]);
    engine_free(e);
    return bad;
}

/* One of each kind of layer that steps may hold. */
static const char *const models[] = {
    "llama-gqa",      "qwen2",           "gemma2",      "gpt2", "mixtral", "deepseek-v3",
    "gpt-oss",        "falcon-7b",       "bloom",       "phi3", "cohere2", "gguf-mixtral",
    "gguf-blocks-32", "gguf-blocks-256", "deepseek-moe"};

int main(void) {
    int bad = 0, n = 0;
    for (size_t i = 0; i < ARRAY_LEN(models); i++) {
        char dir[256];
        bool is_file = strncmp(models[i], "gguf-", 5) == 0;
        snprintf(dir, sizeof dir, "tests/archs/%s%s", models[i], is_file ? "/model.gguf" : "");
        if (access(dir, R_OK) != 0) {
            printf("%s: not there\n", dir);
            continue;
        }
        bad |= check(dir, i % 2 ? "f32" : "int8", i % 3 ? PACE_OFF : PACE_AUTO);
        n++;
    }
    printf("%d models\n", n);
    return bad || n < 8 || n_memory == 0 || n_wakes == 0;
}
