/* One socket is shared by all reactors (each with a duplicate in its own epoll set). SO_REUSEPORT
 * would spread connections more evenly, but it also lets a second server of the same user bind the
 * same port in silence; a clear "in use" is worth more. */
#include "server/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 4096 };

static status bind_one(const struct addrinfo *a, const char *host, int port, int *ret_fd,
                       error *err) {
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return error_set(err, ERR_IO, "cannot make a socket: %s", strerror(errno));
    int one = 1, rc = errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) {
        *ret_fd = fd;
        return OK;
    }
    rc = errno;
    close(fd);
    if (rc == EADDRINUSE)
        return error_set(err, ERR_BUSY,
                         "port %d on %s is in use by another program; choose another with --port",
                         port, host);
    return error_set(err, ERR_IO, "cannot listen on %s port %d: %s", host, port, strerror(rc));
}

static int bound_port(int fd) {
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &n) != 0) return 0;
    if (a.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)&a)->sin_port);
    if (a.ss_family == AF_INET6) return ntohs(((struct sockaddr_in6 *)&a)->sin6_port);
    return 0;
}

status listen_tcp(const char *host, int port, int *ret_fd, int *ret_port, error *err) {
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0)
        return error_set(err, ERR_INVALID, "cannot resolve the address '%s' to listen on: %s", host,
                         gai_strerror(rc));
    status st = ERR_IO;
    for (const struct addrinfo *a = found; a && st != OK; a = a->ai_next)
        st = bind_one(a, host, port, ret_fd, err);
    freeaddrinfo(found);
    if (st == OK) *ret_port = bound_port(*ret_fd);
    return st;
}

/* Somebody answers there? */
static bool unix_alive(const struct sockaddr_un *a) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool alive = connect(fd, (const struct sockaddr *)a, sizeof *a) == 0;
    close(fd);
    return alive;
}

status listen_unix(const char *path, int *ret_fd, error *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a.sun_path)
        return error_set(err, ERR_INVALID, "the Unix socket path is longer than %zu bytes: %s",
                         sizeof a.sun_path - 1, path);
    strcpy(a.sun_path, path);
    if (unix_alive(&a))
        return error_set(err, ERR_BUSY, "the Unix socket %s is in use by another program", path);
    struct stat was;
    if (lstat(path, &was) == 0) {
        if (!S_ISSOCK(was.st_mode))
            return error_set(err, ERR_INVALID, "%s is there and is not a socket", path);
        unlink(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return error_set(err, ERR_IO, "cannot make a socket: %s", strerror(errno));
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, BACKLOG) != 0) {
        int rc = errno;
        close(fd);
        return error_set(err, ERR_IO, "cannot listen on the Unix socket %s: %s", path,
                         strerror(rc));
    }
    *ret_fd = fd;
    return OK;
}
