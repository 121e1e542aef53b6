/* One log event per request: ids, route, status, token counts and times; never what was asked or
 * answered, never a key. */
#ifndef SERVER_ACCESS_LOG_H
#define SERVER_ACCESS_LOG_H

#include <stdbool.h>
#include <stdint.h>

typedef struct exchange exchange;

/* `left`: the client did not take the whole answer; logged with status 499 unless the answer was
 * an error already. Probes are logged only when they fail. */
void access_log(const exchange *x, bool left, uint64_t now_us);

#endif
