/* See notify.h. */
#include "server/notify.h"

#ifdef HAVE_SYSTEMD

#include <systemd/sd-daemon.h>

#include "engine/base/clock.h"

#define EXTEND_US 60000000 /* granted with every sign of progress while starting */

void notify_status(const char *text) {
    sd_notifyf(0, "STATUS=%s\nEXTEND_TIMEOUT_USEC=%d", text, EXTEND_US);
}

void notify_ready(const char *status) {
    sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void notify_reloading(void) {
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)clock_us());
}

void notify_stopping(void) {
    sd_notify(0, "STOPPING=1");
}

void notify_alive(void) {
    sd_notify(0, "WATCHDOG=1");
}

int notify_listen_fd(void) {
    return sd_listen_fds(0) > 0 ? SD_LISTEN_FDS_START : -1;
}

uint64_t notify_watchdog_us(void) {
    uint64_t us = 0;
    return sd_watchdog_enabled(0, &us) > 0 ? us / 2 : 0;
}

#else

void notify_status(const char *text) {}
void notify_ready(const char *status) {}
void notify_reloading(void) {}
void notify_stopping(void) {}
void notify_alive(void) {}
int notify_listen_fd(void) {
    return -1;
}
uint64_t notify_watchdog_us(void) {
    return 0;
}

#endif
