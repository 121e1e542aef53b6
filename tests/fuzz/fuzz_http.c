/* Bytes as a client sends them, into a whole server: real reactor, routes, toy tokenizer, mock
 * engine. Input is sent over a Unix socket in pieces (the first byte says how large) and whatever
 * comes back is read; the server must stay and must answer a probe afterwards now and then. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/log.h"
#include "engine/mock.h"
#include "server/server.h"
#include "tests/api/toy_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static server *srv;
static scheduler *sched;
static mock *engine_mock;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void stop(void) {
    scheduler_stop(sched);
    server_stop(srv);
    server_free(srv);
    scheduler_free(sched);
    mock_free(engine_mock);
}

static void start(void) {
    static const char *const names[] = {"toy"};
    static const int32_t eos = 256;
    log_init(LOG_ERROR, LOG_JSON);
    snprintf(address.sun_path, sizeof address.sun_path, "/tmp/pagoda-fuzz-%d.sock", (int)getpid());
    server_options o = server_options_default();
    o.unix_socket = address.sun_path;
    o.n_threads = 1;
    o.body_bytes_max = 1 << 16;
    o.header_timeout_ms = o.body_timeout_ms = o.idle_timeout_ms = 1000;
    error e;
    if (server_new(&o, &srv, &e) != OK || server_start(srv, &e) != OK) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    mock_options mo = {.vocab = 512,
                       .n_pages = 512,
                       .max_tokens = 512,
                       .max_seqs = 64,
                       .max_model_len = 256,
                       .eos_id = eos};
    engine_mock = mock_new(&mo);
    scheduler_options so = {.max_running = 64,
                            .max_waiting = 64,
                            .token_budget = 512,
                            .prefix_cache = true,
                            .stall_us = 1000000,
                            .clock = clock_monotonic(),
                            .on_ready = server_on_ready,
                            .ctx = srv};
    sched = scheduler_new(&so, mock_stepper(engine_mock));
    scheduler_start(sched);
    server_model m = {
        .names = names,
        .n_names = 1,
        .tok = toy_tokenizer(),
        .chat = toy_chat(),
        .defaults = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1},
        .eos_ids = &eos,
        .n_eos = 1,
        .max_model_len = 256,
        .vocab = 512,
        .page_tokens = 16,
        .n_pages = 512};
    server_attach(srv, &m, sched);
    atexit(stop);
}

/* Read what there is for a few milliseconds; returns bytes, or -1 at the end. */
static ssize_t take(int fd, int timeout_ms, char *buf, size_t n) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (poll(&p, 1, timeout_ms) <= 0) return 0;
    ssize_t got = recv(fd, buf, n, 0);
    return got <= 0 ? -1 : got;
}

static void talk(const uint8_t *data, size_t size, int wait_ms) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) abort();
    char buf[4096];
    size_t piece = size ? 1 + data[0] * (size_t)16 : 1;
    for (size_t at = 1; at < size; at += piece) {
        size_t n = size - at < piece ? size - at : piece;
        if (send(fd, data + at, n, MSG_NOSIGNAL) < 0) break;
    }
    while (take(fd, wait_ms, buf, sizeof buf) > 0) {
    }
    close(fd);
}

static void probe(void) {
    static const char get[] = "\xffGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char buf[64] = {0};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) abort();
    if (send(fd, get + 1, sizeof get - 2, MSG_NOSIGNAL) < 0) abort();
    if (take(fd, 5000, buf, sizeof buf - 1) <= 0 || memcmp(buf, "HTTP/1.1 200", 12) != 0) abort();
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static unsigned n;
    if (!srv) start();
    talk(data, size, 2);
    if (n++ % 64 == 0) probe();
    return 0;
}
