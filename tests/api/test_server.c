/* A whole server with the toy tokenizer and the mock stepper, for tests that need to know every
 * token that comes out:
 *
 *     test_server [--text TEXT] [--step-us N] [--pages N] [--len N] [--threads N] [--key K]
 *                 [--key-file F] [--queue N] [--strict] [--unix PATH] [...]
 *
 * Prints "port N" when it serves; ends on SIGTERM (drains first) or when stdin closes. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "engine/mock.h"
#include "server/server.h"
#include "tests/api/toy_tokenizer.h"

typedef struct setup {
    server_options o;
    const char *text;
    int step_us, pages, host_pages, len, queue, grace_ms, running, verify;
    const char *key;
} setup;

static volatile sig_atomic_t n_signals;

static void on_signal(int sig) {
    n_signals++;
}

static bool option(setup *u, const char *name, const char *value) {
    int n = value ? atoi(value) : 0;
    if (strcmp(name, "--text") == 0)
        u->text = value;
    else if (strcmp(name, "--step-us") == 0)
        u->step_us = n;
    else if (strcmp(name, "--pages") == 0)
        u->pages = n;
    else if (strcmp(name, "--host-pages") == 0)
        u->host_pages = n;
    else if (strcmp(name, "--len") == 0)
        u->len = n;
    else if (strcmp(name, "--verify") == 0)
        u->verify = n;
    else if (strcmp(name, "--queue") == 0)
        u->queue = n;
    else if (strcmp(name, "--running") == 0)
        u->running = n;
    else if (strcmp(name, "--threads") == 0)
        u->o.n_threads = n;
    else if (strcmp(name, "--key") == 0)
        u->key = value;
    else if (strcmp(name, "--key-file") == 0)
        u->o.api_key_file = value;
    else if (strcmp(name, "--unix") == 0)
        u->o.unix_socket = value;
    else if (strcmp(name, "--port") == 0)
        u->o.port = n;
    else if (strcmp(name, "--body-max") == 0)
        u->o.body_bytes_max = (size_t)n;
    else if (strcmp(name, "--header-ms") == 0)
        u->o.header_timeout_ms = n;
    else if (strcmp(name, "--body-ms") == 0)
        u->o.body_timeout_ms = n;
    else if (strcmp(name, "--stall-ms") == 0)
        u->o.stall_timeout_ms = n;
    else if (strcmp(name, "--request-ms") == 0)
        u->o.request_timeout_ms = n;
    else if (strcmp(name, "--keepalive-ms") == 0)
        u->o.keepalive_ms = n;
    else if (strcmp(name, "--per-ip") == 0)
        u->o.max_connections_per_ip = n;
    else if (strcmp(name, "--grace-ms") == 0)
        u->grace_ms = n;
    else if (strcmp(name, "--strict") == 0)
        u->o.strict = n;
    else if (strcmp(name, "--log") == 0)
        u->o.access_log = n;
    else
        return false;
    return true;
}

static mock *open_mock(const setup *u) {
    vec_i32 text = {0};
    if (u->text)
        (void)!tokenizer_encode(toy_tokenizer(), str_z(u->text), ENCODE_PLAIN, 0, &text, NULL);
    static int32_t words[] = {'x', 'y', 'z', 258, 259, 263, 264, 265};
    mock_options mo = {.vocab = tokenizer_vocab(toy_tokenizer()),
                       .n_pages = u->pages,
                       .n_host_pages = u->host_pages,
                       .max_tokens = 2048,
                       .max_seqs = 512,
                       .max_model_len = u->len,
                       .text = u->text ? text.p : NULL,
                       .n_text = (int32_t)text.n,
                       .words = words,
                       .n_words = ARRAY_LEN(words),
                       .eos_id = tokenizer_eos(toy_tokenizer()),
                       .depth = MOCK_DEPTH_MAX,
                       .step_us = (uint32_t)u->step_us,
                       .verify = u->verify};
    mock *m = mock_new(&mo);
    vec_done(&text);
    return m;
}

static void attach(server *s, scheduler *sched, const setup *u) {
    static const char *const names[] = {"toy", "toy-alias"};
    int32_t eos = tokenizer_eos(toy_tokenizer());
    server_model m = {
        .names = names,
        .n_names = 2,
        .tok = toy_tokenizer(),
        .chat = toy_chat(),
        .defaults = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1},
        .eos_ids = &eos,
        .n_eos = 1,
        .max_model_len = u->len,
        .vocab = tokenizer_vocab(toy_tokenizer()),
        .created = clock_unix_s(),
        .page_tokens = 16,
        .n_pages = u->pages,
        .info_json = "\"family\":\"mock\""};
    server_attach(s, &m, sched);
}

/* Until a signal, or the parent is gone. */
static void wait_for_end(void) {
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    char c;
    while (!n_signals)
        if (poll(&p, 1, 200) > 0 && read(STDIN_FILENO, &c, 1) <= 0) return;
}

static void shut_down(server *s, scheduler *sched, int grace_ms) {
    int first = n_signals;
    uint64_t until = clock_us() + (uint64_t)grace_ms * 1000;
    server_drain(s);
    while (server_in_flight(s) > 0 && clock_us() < until && n_signals == first) usleep(10000);
    scheduler_stop(sched);
    server_stop(s);
}

int main(int argc, char **argv) {
    setup u = {.o = server_options_default(),
               .pages = 4096,
               .len = 2048,
               .queue = 1024,
               .grace_ms = 2000,
               .running = 512,
               .verify = 1};
    u.o.port = 0;
    for (int i = 1; i < argc; i += 2)
        if (i + 1 >= argc || !option(&u, argv[i], argv[i + 1])) {
            fprintf(stderr, "test_server: bad option %s\n", argv[i]);
            return 2;
        }
    if (u.key) {
        u.o.api_keys = &u.key;
        u.o.n_api_keys = 1;
    }
    log_init(LOG_INFO, LOG_JSON);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    error e;
    server *s = NULL;
    if (server_new(&u.o, &s, &e) != OK || server_start(s, &e) != OK) {
        fprintf(stderr, "test_server: %s\n", e.text);
        server_free(s);
        return 1;
    }
    mock *m = open_mock(&u);
    scheduler_options so = {.max_running = u.running,
                            .max_waiting = u.queue,
                            .token_budget = 2048,
                            .admit = ADMIT_OPTIMISTIC,
                            .prefix_cache = true,
                            .stall_us = 60000000,
                            .clock = clock_monotonic(),
                            .on_ready = server_on_ready,
                            .ctx = s};
    scheduler *sched = scheduler_new(&so, mock_stepper(m));
    scheduler_start(sched);
    attach(s, sched, &u);
    printf("port %d\n", server_port(s));
    fflush(stdout);
    wait_for_end();
    shut_down(s, sched, u.grace_ms);
    server_free(s);
    scheduler_free(sched);
    mock_free(m);
    return 0;
}
