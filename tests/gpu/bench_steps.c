/* bench_steps: decode steps of a model on a device, as the server runs them but without a server:
 * line G14. Sequences are prefilled with made-up tokens, then steps of one token each follow one
 * another, as many in flight as the stepper takes, their tokens chained on the device.
 *
 * A stamp is set before and after each launch. Between the stamp behind a step and the one before
 * the next the device has nothing to do: that is its idle time. Launch time is what the engine's
 * thread spends to queue a step; the host time of a step is the thread's CPU time over all of it,
 * planning (here trivial), launching, collecting. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "kernels/measure.h"

#define STEPS_MOST (MEASURE_STAMPS / 2)
#define FLIGHTS    4

static const char usage[] =
    "usage: bench_steps MODEL [--device cuda:N] [--seqs N] [--context N] [--steps N]\n"
    "                   [--graphs auto|off]\n"
    "Prints one JSON object: medians over the steps, in us.\n";

typedef struct args {
    const char *model, *device, *graphs;
    int n_seqs, context, steps;
} args;

typedef struct crowd {
    stepper s;
    int32_t n, context;
    int32_t *ids, *pages; /* [n][cap], [n][n_pages] */
    int32_t cap, n_pages;
    sample_params params;
} crowd;

/* What a step in flight is made of. */
typedef struct flight {
    batch_seq *seqs; /* [n] */
    int32_t pos;     /* of its tokens */
} flight;

static double cpu_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void crowd_init(crowd *c, stepper s, const args *a) {
    *c = (crowd){.s = s, .n = a->n_seqs, .context = a->context};
    c->params = (sample_params){.top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    c->params.n_logprobs = -1;
    c->cap = a->context + a->steps + 2;
    c->n_pages = CEIL_DIV(c->cap, s.page_tokens);
    c->ids = mem_calloc((size_t)c->n * (size_t)c->cap, sizeof *c->ids);
    c->pages = mem_calloc((size_t)c->n * (size_t)c->n_pages, sizeof *c->pages);
    for (int32_t i = 0; i < c->n * c->n_pages; i++) c->pages[i] = i;
    for (int32_t i = 0; i < c->n; i++)
        for (int32_t k = 0; k < a->context; k++)
            c->ids[i * c->cap + k] = (i * 7919 + k * 104729) % s.vocab;
}

static batch_seq seq_of(crowd *c, int32_t i, int32_t pos, int32_t n, int32_t known) {
    return (batch_seq){.ids = c->ids + (size_t)i * (size_t)c->cap,
                       .n_known = known,
                       .n_prompt = c->context,
                       .pos = pos,
                       .n_tokens = n,
                       .pages = c->pages + (size_t)i * (size_t)c->n_pages,
                       .sample = pos + n == known,
                       .max_len = c->cap,
                       .params = &c->params};
}

/* All prompts but for their last tokens, which the first decode step takes. */
static status prefill(crowd *c, error *err) {
    sample_out out;
    status one = OK;
    step_result r = {&out, &one};
    for (int32_t i = 0; i < c->n; i++)
        for (int32_t at = 0; at < c->context - 1;) {
            int32_t n = MIN(c->s.max_tokens, c->context - 1 - at);
            batch_seq q = seq_of(c, i, at, n, c->context);
            batch_plan plan = {.n_seqs = 1, .n_tokens = n, .seqs = &q};
            q.sample = false;
            TRY(stepper_run(&c->s, &plan, &r, err));
            at += n;
        }
    return OK;
}

typedef struct figures {
    double launch[STEPS_MOST], host[STEPS_MOST];
    int n;
} figures;

static status collect(crowd *c, const flight *f, step_result *r, error *err) {
    TRY(c->s.collect(c->s.self, r, err));
    for (int32_t i = 0; i < c->n; i++) {
        TRY(r->seq_status[i]);
        c->ids[i * c->cap + f->pos + 1] = r->out[i].token;
    }
    return OK;
}

static status decode(crowd *c, backend *b, int steps, figures *ret, error *err) {
    flight flights[FLIGHTS + 1];
    batch_plan plans[FLIGHTS + 1];
    int depth = MIN(c->s.depth, FLIGHTS), done = 0;
    step_result r = {mem_calloc((size_t)c->n, sizeof *r.out),
                     mem_calloc((size_t)c->n, sizeof *r.seq_status)};
    for (int i = 0; i <= FLIGHTS; i++)
        flights[i].seqs = mem_calloc((size_t)c->n, sizeof *flights[i].seqs);
    status st = OK;
    for (int step = 0; st == OK && done < steps; step++) {
        double cpu = cpu_us();
        if (step < steps) {
            flight *f = &flights[step % (FLIGHTS + 1)];
            batch_plan *plan = &plans[step % (FLIGHTS + 1)];
            f->pos = c->context - 1 + step;
            for (int32_t i = 0; i < c->n; i++) {
                f->seqs[i] = seq_of(c, i, f->pos, 1, f->pos + 1);
                f->seqs[i].chained = step > done;
                f->seqs[i].chain = i;
            }
            *plan = (batch_plan){
                .step = (uint64_t)step, .n_seqs = c->n, .n_tokens = c->n, .seqs = f->seqs};
            uint64_t start = clock_ns();
            b->v->measure->stamp(b, 2 * step);
            st = c->s.launch(c->s.self, plan, err);
            b->v->measure->stamp(b, 2 * step + 1);
            ret->launch[step] = (double)(clock_ns() - start) * 1e-3;
        }
        if (st == OK && (step + 1 - done >= depth || step + 1 >= steps)) {
            st = collect(c, &flights[done % (FLIGHTS + 1)], &r, err);
            if (depth == 1) b->v->measure->stamp(b, 2 * step + 1); /* collect computes, too */
            ret->host[done++] = cpu_us() - cpu;
        }
    }
    ret->n = done;
    for (int i = 0; i <= FLIGHTS; i++) mem_free(flights[i].seqs);
    mem_free(r.out), mem_free(r.seq_status);
    return st;
}

static int by_value(const void *x, const void *y) {
    double a = *(const double *)x, b = *(const double *)y;
    return (a > b) - (a < b);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return n ? x[n / 2] : 0;
}

/* The first tenth is left out: graphs are captured and caches filled there. */
static void report(const args *a, const engine *e, const stepper *s, figures *f) {
    double idle[STEPS_MOST], busy[STEPS_MOST], period[STEPS_MOST];
    backend *b = e->b;
    int from = f->n / 10 + 1, n = 0;
    for (int i = from; i < f->n; i++, n++) {
        busy[n] = b->v->measure->between(b, 2 * i, 2 * i + 1);
        idle[n] = b->v->measure->between(b, 2 * i - 1, 2 * i);
        period[n] = b->v->measure->between(b, 2 * i - 1, 2 * i + 1);
    }
    printf("{\"device\": \"%s\", \"seqs\": %d, \"context\": %d, \"steps\": %d, \"depth\": %d",
           b->device, a->n_seqs, a->context, n, s->depth);
    printf(", \"step_us\": %.1f, \"busy_us\": %.1f, \"idle_us\": %.1f", median(period, n),
           median(busy, n), median(idle, n));
    printf(", \"launch_us\": %.1f, \"host_us\": %.1f", median(f->launch + from, n),
           median(f->host + from, n));
    printf(", \"replayed\": %lld}\n", e->f.graphs ? (long long)e->f.graphs->n_replayed : 0ll);
}

static args parse(int argc, char **argv) {
    args a = {.device = "cuda", .n_seqs = 256, .context = 512, .steps = 128};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (value && strcmp(argv[i], "--device") == 0)
            a.device = value, i++;
        else if (value && strcmp(argv[i], "--graphs") == 0)
            a.graphs = value, i++;
        else if (value && strcmp(argv[i], "--seqs") == 0)
            a.n_seqs = atoi(value), i++;
        else if (value && strcmp(argv[i], "--context") == 0)
            a.context = atoi(value), i++;
        else if (value && strcmp(argv[i], "--steps") == 0)
            a.steps = atoi(value), i++;
        else if (argv[i][0] != '-' && !a.model)
            a.model = argv[i];
        else
            a.steps = 0;
    }
    if (a.model && a.n_seqs > 0 && a.context > 1 && a.steps > 3 && a.steps <= STEPS_MOST) return a;
    fputs(usage, stderr);
    exit(2);
}

static status run(const args *a, engine *e, error *err) {
    crowd c;
    figures *f = mem_calloc(1, sizeof *f);
    stepper s = engine_stepper(e);
    crowd_init(&c, s, a);
    status st = OK;
    if (!e->b->v->measure)
        st = error_set(err, ERR_INVALID, "%s has no clock of its own", e->b->device);
    else if (c.n * c.n_pages > s.n_pages)
        st = error_set(err, ERR_INVALID, "%d sequences of %d tokens need %d pages, there are %d",
                       c.n, c.cap, c.n * c.n_pages, s.n_pages);
    if (st == OK) st = prefill(&c, err);
    if (st == OK) st = decode(&c, e->b, a->steps, f, err);
    if (st == OK) report(a, e, &s, f);
    mem_free(c.ids), mem_free(c.pages), mem_free(f);
    return st;
}

int main(int argc, char **argv) {
    args a = parse(argc, argv);
    engine_options o = {.model_dir = a.model,
                        .dtype = "auto",
                        .kv_dtype = "auto",
                        .device = a.device,
                        .graphs = a.graphs,
                        .max_model_len = a.context + a.steps + 16,
                        .max_seqs = a.n_seqs,
                        .max_batched_tokens = MAX(2048, a.n_seqs)};
    engine *e = NULL;
    error err = {0};
    status st = engine_open(&o, &e, &err);
    if (st == OK) st = run(&a, e, &err);
    if (st != OK) fprintf(stderr, "bench_steps: %s\n", err.text);
    engine_free(e);
    return st != OK;
}
