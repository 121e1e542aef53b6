/* Has a TCP socket received more than what is known to have been used? */
#ifndef SERVER_UNREAD_H
#define SERVER_UNREAD_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes received so far that a reader of the socket has taken; 0 where the system does not tell. */
uint64_t unread_taken(int fd);
/* True if exactly `n_used` bytes were taken: none lies in a reader's buffer unused. False also
 * where the system does not tell (no TCP). */
bool unread_none(int fd, uint64_t n_used);

#endif
