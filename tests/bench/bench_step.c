/* What a step of a model takes, by its number of tokens: the curve that the scheduler's pace
 * (scheduler/pace.h) learns.
 *
 *     bench_step MODEL_DIR [--dtype T] [--quantize Q] [--threads N] [--context N] [--seconds S]
 *         [--isa LEVEL] [--ops] [TOKENS...]
 *
 * Each line: steps of one prompt's chunk of so many tokens, and steps of so many sequences that
 * decode, at a context of N tokens; milliseconds (median, least, most), tokens/s, and which part of
 * the time a step would take at the limits of the machine, probed before and after the line:
 * weights and the context's keys and values read once at the bandwidth, products at the rate of the
 * instruction that they are made with, whichever takes longer. With --ops, the mean time of a step
 * by op. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "engine/engine_internal.h"
#include "kernels/cpu/probe.h"
#include "tests/bench/op_times.h"

enum { SEQS_MAX = 64, REPEATS_MAX = 200, PROBE_MS = 60 };
#define PROBE_BYTES ((size_t)512 << 20) /* far beyond a last-level cache's share of one machine */

typedef struct setup {
    stepper s;
    int32_t context, pages_each;
    int32_t *ids, *pages;
    sample_params params;
    step_result result;
    double seconds;
    bool ops;
    const model_info *model;
    team *probers;
    cpu_isa isa;
    void *probe_buffer;
} setup;

static double larger(double a, double b) {
    return a > b ? a : b;
}

static probe_limits probe(const setup *u) {
    return probe_run(u->probers, u->isa, u->probe_buffer, PROBE_BYTES, PROBE_MS);
}

/* Milliseconds of a step at the limits; of a prompt's chunk the head sees the last row only. All
 * experts count, so for models that have some it says too much. */
static double limit_ms(const setup *u, const probe_limits *p, int32_t n_seqs, int32_t n_tokens) {
    const model_info *m = u->model;
    double kv = 2.0 * m->n_layers * m->n_kv_heads * m->head_dim * (double)dtype_bytes(m->kv_dt);
    double read = (double)m->matrix_bytes + kv * u->context * n_seqs;
    double rows = (double)n_seqs * n_tokens, peak = p->f32_gflops;
    if (m->quant_codes && p->code_gops > 0)
        peak = p->code_gops;
    else if (m->weight_dt != DT_F32)
        peak = p->bf16_gflops;
    double body = (double)(m->matrix_params - m->head_params);
    double products = 2 * (body * rows + (double)m->head_params * n_seqs);
    double keys = u->context + n_tokens / 2.0;
    double attention = 4.0 * rows * keys * m->n_layers * m->n_heads * m->head_dim;
    return larger(read / p->read_gbs, products / peak + attention / p->f32_gflops) * 1e-6;
}

static int by_value(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Sequence i has ids and pages of its own; what the pages hold does not matter here. */
static batch_seq seq_of(const setup *u, int32_t i, int32_t n_tokens) {
    return (batch_seq){.ids = u->ids + i,
                       .n_known = u->context + n_tokens,
                       .n_prompt = u->context + n_tokens,
                       .pos = u->context,
                       .n_tokens = n_tokens,
                       .pages = u->pages + (int64_t)i * u->pages_each,
                       .sample = true,
                       .max_len = u->context + n_tokens + 1,
                       .params = &u->params};
}

static void measure(setup *u, const char *what, int32_t n_seqs, int32_t n_tokens) {
    static uint64_t ns[REPEATS_MAX];
    batch_seq seqs[SEQS_MAX];
    error err;
    int32_t n = 0;
    for (int32_t i = 0; i < n_seqs; i++) seqs[i] = seq_of(u, i, n_tokens);
    batch_plan plan = {.n_seqs = n_seqs, .n_tokens = n_seqs * n_tokens, .seqs = seqs};
    uint64_t end = 0, sum = 0;
    probe_limits before = probe(u);
    for (int32_t k = -1; k < REPEATS_MAX && (k < 1 || clock_ns() < end); k++) {
        uint64_t start = clock_ns();
        if (stepper_run(&u->s, &plan, &u->result, &err) != OK) {
            fprintf(stderr, "bench_step: %s\n", err.text);
            exit(1);
        }
        uint64_t took = clock_ns() - start;
        if (k < 0) { /* the first one warms up */
            end = clock_ns() + (uint64_t)(u->seconds * 1e9);
            op_times_clear();
        } else {
            ns[n++] = took;
            sum += took;
        }
    }
    probe_limits after = probe(u);
    qsort(ns, (size_t)n, sizeof *ns, by_value);
    double ms = (double)ns[n / 2] * 1e-6;
    double low = limit_ms(u, &before, n_seqs, n_tokens),
           high = limit_ms(u, &after, n_seqs, n_tokens);
    printf("%-8s %5d tokens  %8.2f ms (%.2f .. %.2f, %d steps)  %8.1f tok/s  %3.0f %% (limit %.2f, "
           "%.2f ms)\n",
           what, plan.n_tokens, ms, (double)ns[0] * 1e-6, (double)ns[n - 1] * 1e-6, n,
           plan.n_tokens / ms * 1e3, 50 * (low + high) / ms, low, high);
    if (u->ops) op_times_print(n, (double)sum * 1e-6 / n);
    fflush(stdout);
}

static void set_up(setup *u, engine *e) {
    u->s = engine_stepper(e);
    int32_t longest = u->context + u->s.max_tokens + 1;
    u->pages_each = CEIL_DIV(longest, u->s.page_tokens);
    u->ids = mem_calloc((size_t)longest + SEQS_MAX, sizeof *u->ids);
    for (int32_t i = 0; i < longest + SEQS_MAX; i++)
        u->ids[i] = (int32_t)(((int64_t)i * 7919 + 13) % u->s.vocab);
    int32_t n = u->pages_each * SEQS_MAX;
    u->pages = mem_calloc((size_t)n, sizeof *u->pages);
    for (int32_t i = 0; i < n; i++) u->pages[i] = i % u->s.n_pages;
    u->params =
        (sample_params){.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
    u->result.out = mem_calloc(SEQS_MAX, sizeof *u->result.out);
    u->result.seq_status = mem_calloc(SEQS_MAX, sizeof *u->result.seq_status);
}

int main(int argc, char **argv) {
    static const int32_t usual[] = {1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128, 256};
    engine_options o = {.max_seqs = SEQS_MAX, .max_batched_tokens = 512};
    setup u = {.context = 128, .seconds = 0.5};
    int32_t tokens[64], n_tokens = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--dtype") == 0)
            o.dtype = v, i++;
        else if (strcmp(a, "--quantize") == 0)
            o.quantize = v, i++;
        else if (strcmp(a, "--threads") == 0)
            o.n_threads = atoi(v), i++;
        else if (strcmp(a, "--context") == 0)
            u.context = atoi(v), i++;
        else if (strcmp(a, "--seconds") == 0)
            u.seconds = atof(v), i++;
        else if (strcmp(a, "--isa") == 0)
            o.isa = v, i++;
        else if (strcmp(a, "--ops") == 0)
            u.ops = true;
        else if (!o.model_dir)
            o.model_dir = a;
        else if (n_tokens < 64)
            tokens[n_tokens++] = atoi(a);
    }
    if (!o.model_dir) {
        fprintf(
            stderr,
            "usage: bench_step MODEL_DIR [--dtype T] [--quantize Q] [--threads N] [--context N] "
            "[--seconds S] [--isa LEVEL] [--ops] [TOKENS...]\n");
        return 2;
    }
    o.max_model_len = u.context + 1024;
    if (n_tokens == 0) {
        n_tokens = (int32_t)ARRAY_LEN(usual);
        memcpy(tokens, usual, sizeof usual);
    }
    engine *e;
    error err;
    if (engine_open(&o, &e, &err) != OK) {
        fprintf(stderr, "bench_step: %s\n", err.text);
        return 1;
    }
    set_up(&u, e);
    if (u.ops) op_times_watch(e->b);
    u.model = engine_info(e);
    u.probers = team_new(o.n_threads > 0 ? o.n_threads : cpu_count());
    if (isa_parse(o.isa, &u.isa, &err) != OK) return 1; /* no: the engine is open */
    u.probe_buffer = mem_calloc(1, PROBE_BYTES);
    memset(u.probe_buffer, 1, PROBE_BYTES);
    for (int32_t i = 0; i < n_tokens; i++) {
        if (tokens[i] <= SEQS_MAX) measure(&u, "decode", tokens[i], 1);
        if (tokens[i] <= u.s.max_tokens) measure(&u, "prefill", 1, tokens[i]);
    }
    engine_free(e);
    team_free(u.probers);
    mem_free(u.probe_buffer);
    return 0;
}
