/* See cmd_local.h. */
#include "server/cmd_local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/log.h"

static void on_progress(void *ctx, size_t done, size_t total) {
    if (total && isatty(STDERR_FILENO))
        fprintf(stderr, "\rloading %3.0f %%%s", 100.0 * (double)done / (double)total,
                done == total ? "\r             \r" : "");
}

static status open_in(const conf *c, local *l, error *err) {
    char socket[sizeof l->dir + 8], url[sizeof socket + 8];
    snprintf(socket, sizeof socket, "%s/socket", l->dir);
    snprintf(url, sizeof url, "unix:%s", socket);
    TRY(client_url_parse(url, &l->url, err));
    runtime_hooks hooks = {.on_progress = on_progress};
    return runtime_open(c, socket, &hooks, &l->r, err);
}

static void remove_dir(const local *l) {
    char socket[sizeof l->dir + 8];
    snprintf(socket, sizeof socket, "%s/socket", l->dir);
    unlink(socket);
    rmdir(l->dir);
}

status local_open(const conf *c, local *ret, error *err) {
    local l = {0};
    log_init(LOG_WARN, LOG_AUTO);
    const char *tmp = getenv("TMPDIR");
    if (!tmp || strlen(tmp) > 32) tmp = "/tmp";
    snprintf(l.dir, sizeof l.dir, "%s/pagoda-XXXXXX", tmp);
    if (!mkdtemp(l.dir))
        return error_set(err, ERR_IO, "%s: no private directory: %s", tmp, strerror(errno));
    status st = open_in(c, &l, err);
    if (st == OK)
        *ret = l;
    else
        remove_dir(&l);
    return st;
}

void local_close(local *l) {
    if (!l->r) return;
    runtime_close(l->r, 0, NULL, NULL);
    remove_dir(l);
    *l = (local){0};
}
