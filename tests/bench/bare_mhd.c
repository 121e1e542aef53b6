/* A bare libmicrohttpd handler, to hold /health against: one epoll thread of the library's own, one
 * small JSON answer made per request, nothing else.
 *
 *     build/tests/bench/bare_mhd [PORT]         then: wrk -t1 -c64 -d5s
 * http://127.0.0.1:PORT/health
 *
 * Ends when stdin closes. Compare in turn (A B A B) with `pagoda serve --http-threads 1`. */
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static enum MHD_Result answer(void *cls, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *data, size_t *n,
                              void **ctx) {
    static char body[] = "{\"status\":\"ok\"}\n";
    static int seen;
    if (!*ctx) {
        *ctx = &seen;
        return MHD_YES;
    }
    struct MHD_Response *r =
        MHD_create_response_from_buffer(sizeof body - 1, body, MHD_RESPMEM_PERSISTENT);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "application/json");
    enum MHD_Result ok = MHD_queue_response(c, 200, r);
    MHD_destroy_response(r);
    return ok;
}

int main(int argc, char **argv) {
    struct MHD_Daemon *d = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD, argc > 1 ? (uint16_t)atoi(argv[1]) : 0, NULL, NULL, answer,
        NULL, MHD_OPTION_CONNECTION_LIMIT, 4096u, MHD_OPTION_END);
    if (!d) {
        fprintf(stderr, "bare_mhd: cannot listen\n");
        return 1;
    }
    printf("port %d\n", MHD_get_daemon_info(d, MHD_DAEMON_INFO_BIND_PORT)->port);
    fflush(stdout);
    char c;
    while (read(STDIN_FILENO, &c, 1) > 0) {
    }
    MHD_stop_daemon(d);
    return 0;
}
