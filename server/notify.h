/* Messages to systemd (Type=notify); without libsystemd or outside of a unit all are no-ops. */
#ifndef SERVER_NOTIFY_H
#define SERVER_NOTIFY_H

#include <stdint.h>

void notify_status(const char *text);  /* STATUS=, and more time to start where it runs out */
void notify_ready(const char *status); /* READY=1 */
void notify_reloading(void);           /* RELOADING=1 */
void notify_stopping(void);            /* STOPPING=1 */
void notify_alive(void);               /* WATCHDOG=1 */
/* The listening socket that systemd hands over (socket activation), -1 if none. */
int notify_listen_fd(void);
/* Microseconds between notify_alive calls (half of what the unit asks), 0: no watchdog. */
uint64_t notify_watchdog_us(void);

#endif
