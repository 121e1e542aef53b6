/* How many connections each client address holds, over all reactors. */
#ifndef SERVER_PEERS_H
#define SERVER_PEERS_H

#include <stdbool.h>
#include <sys/socket.h>

typedef struct peers peers;

/* At most `per_address` connections from one address (0: count nothing, admit all); `max` bounds
 * all connections. Any thread. */
peers *peers_new(int per_address, int max);
void peers_free(peers *p);
bool peers_enter(peers *p, const struct sockaddr *a); /* false: the address has its share */
void peers_leave(peers *p, const struct sockaddr *a);

#endif
