/* TCP counts the bytes that have come; what is still in the socket's own queue nobody has taken.
 * The kernel's header has the count, the C library's older ones do not, and the two exclude each
 * other: hence a file of its own. */
#include "server/unread.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static bool taken(int fd, uint64_t *ret) {
    struct tcp_info t;
    socklen_t n = sizeof t;
    int queued;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &t, &n) != 0 || ioctl(fd, SIOCINQ, &queued) != 0 ||
        n < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof t.tcpi_bytes_received)
        return false;
    *ret = t.tcpi_bytes_received - (uint64_t)queued;
    return true;
}

uint64_t unread_taken(int fd) {
    uint64_t n;
    return taken(fd, &n) ? n : 0;
}

bool unread_none(int fd, uint64_t n_used) {
    uint64_t n;
    return taken(fd, &n) && n == n_used;
}
