/* pagoda serve: opens the runtime, then waits for signals.
 *
 * While the model loads, SIGTERM and SIGINT end the process at once (nothing is running yet).
 * Afterwards they arrive on a signalfd: the first one drains, the second one stops; SIGHUP reads
 * the key file again. When the engine fails, running requests end with an error event and /health
 * says 503 for a moment, so that clients and probes see it; then the process ends with EXIT_ENGINE.
 * All other threads have all signals blocked (engine/base/thread.h). */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_engine.h"
#include "server/cmd_runtime.h"
#include "server/notify.h"

#define HEALTH_US      250000  /* how often the loop looks whether the engine is well */
#define FAILED_US      3000000 /* how long a server with a failed engine still answers */
#define PROGRESS_US    100000  /* most often that the progress line changes */
#define PROGRESS_TICKS 30

typedef struct serving {
    const conf *c;
    bool terminal;        /* stderr is one: a progress line is drawn */
    uint64_t progress_us; /* when it was drawn last */
    int signals;          /* signalfd, -1 while loading */
    runtime *r;
} serving;

static void address(const conf *c, const server *s, strbuf *out) {
    if (c->unix_socket)
        strbuf_addf(out, "unix:%s", c->unix_socket);
    else if (strchr(c->host, ':'))
        strbuf_addf(out, "http://[%s]:%d", c->host, server_port(s));
    else
        strbuf_addf(out, "http://%s:%d", c->host, server_port(s));
}

static void on_text(void *ctx, str text) {
    fprintf(stderr, STR_FMT "%s", STR_ARG(text), str_ends(text, STR("\n")) ? "" : "\n");
}

static void on_progress(void *ctx, size_t done, size_t total) {
    serving *s = ctx;
    uint64_t now = clock_us();
    if (!total || (done < total && now - s->progress_us < PROGRESS_US)) return;
    s->progress_us = now;
    char text[96];
    snprintf(text, sizeof text, "loading %.1f of %.1f MiB", (double)done / 1048576.0,
             (double)total / 1048576.0);
    notify_status(text);
    if (!s->terminal) return;
    int full = (int)(PROGRESS_TICKS * ((double)done / (double)total));
    fprintf(stderr, "\r[%-*.*s] %s%s", PROGRESS_TICKS, full, "##############################", text,
            done == total ? "\n" : "");
}

/* The signal that came, 0 for none within timeout_us. */
static int next_signal(const serving *s, uint64_t timeout_us) {
    struct pollfd p = {.fd = s->signals, .events = POLLIN};
    struct signalfd_siginfo info;
    if (poll(&p, 1, (int)(timeout_us / 1000)) <= 0) return 0;
    return read(s->signals, &info, sizeof info) == sizeof info ? (int)info.ssi_signo : 0;
}

static bool second_signal(void *ctx) {
    int sig = next_signal(ctx, 0);
    return sig == SIGTERM || sig == SIGINT;
}

static void reload(serving *s) {
    error err;
    notify_reloading();
    if (server_reload(runtime_server(s->r), &err) == OK)
        log_info("API keys read again");
    else
        log_error("API keys not read again, the old ones stay: %s", err.text);
    notify_ready("serving");
}

/* Until SIGTERM or SIGINT, or until the engine has failed and that could be seen. Returns the exit
 * status. */
static int wait_for_end(serving *s) {
    uint64_t beat = notify_watchdog_us(), beat_at = 0, failed_at = 0;
    for (;;) {
        int sig = next_signal(s, beat ? MIN(beat, (uint64_t)HEALTH_US) : HEALTH_US);
        if (sig == SIGTERM || sig == SIGINT) return failed_at ? EXIT_ENGINE : 0;
        if (sig == SIGHUP) reload(s);
        error failure;
        if (!failed_at && scheduler_failed(runtime_scheduler(s->r), &failure)) {
            failed_at = clock_us();
            log_error("the engine failed: %s; the server answers 503 for %d s, then ends with "
                      "status %d",
                      failure.text, FAILED_US / 1000000, EXIT_ENGINE);
            notify_status("the engine failed");
        }
        if (failed_at && clock_us() - failed_at >= FAILED_US) return EXIT_ENGINE;
        if (beat && !failed_at && clock_us() >= beat_at) {
            notify_alive();
            beat_at = clock_us() + beat / 2;
        }
    }
}

static void catch_signals(serving *s) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC);
}

static void set_log(const conf *c) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    static const char *const formats[] = {"auto", "text", "json"};
    log_level level = LOG_INFO;
    log_format format = LOG_AUTO;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++)
        if (strcmp(c->log_level, levels[i]) == 0) level = (log_level)i;
    for (size_t i = 0; i < ARRAY_LEN(formats); i++)
        if (strcmp(c->log_format, formats[i]) == 0) format = (log_format)i;
    log_init(level, format);
}

int cmd_serve(const conf *c) {
    if (c->print_kernels) return cmd_print_kernels(c);
    if (!c->model) return cmd_failf("serve needs --model DIR");
    set_log(c);
    serving s = {.c = c, .terminal = isatty(STDERR_FILENO), .signals = -1};
    runtime_hooks hooks = {
        .on_plan = on_text, .on_loaded = on_text, .on_progress = on_progress, .ctx = &s};
    error err;
    if (runtime_open(c, NULL, &hooks, &s.r, &err) != OK) return cmd_fail(&err);
    catch_signals(&s);
    strbuf url = {0};
    address(c, runtime_server(s.r), &url);
    notify_ready("serving");
    log_info("serving %s on %s", runtime_model_name(s.r), url.p);
    strbuf_done(&url);
    int rc = wait_for_end(&s);
    notify_stopping();
    if (rc == 0)
        log_info("stopping: running requests have %.0f s, a second signal ends them now",
                 (double)c->shutdown_timeout / 1e6);
    runtime_close(s.r, c->shutdown_timeout, second_signal, &s);
    close(s.signals);
    log_info("stopped");
    return rc;
}
