/* Each line is one write(2), so that lines of several threads never mix. */
#include "engine/base/log.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/clock.h"

static log_level level_max = LOG_INFO;
static bool as_json = false;

void log_init(log_level max, log_format format) {
    level_max = max;
    as_json = format == LOG_JSON || (format == LOG_AUTO && !isatty(STDERR_FILENO));
}

bool log_on(log_level level) {
    return level <= level_max;
}

static void add_time(strbuf *b) {
    int64_t us = clock_unix_us();
    time_t s = (time_t)(us / 1000000);
    struct tm tm;
    gmtime_r(&s, &tm);
    strbuf_addf(b, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
                tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(us % 1000000 / 1000));
}

static void emit(log_level level, str msg, const char *key, str fields) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    strbuf b = {0};
    if (as_json) {
        strbuf_addz(&b, "{\"time\":\"");
        add_time(&b);
        strbuf_addf(&b, "\",\"level\":\"%s\",\"%s\":", names[level], key);
        strbuf_add_json(&b, msg);
        if (fields.n) strbuf_addc(&b, ',');
        strbuf_add(&b, fields);
        strbuf_addz(&b, "}\n");
    } else {
        if (level != LOG_INFO) strbuf_addf(&b, "%s: ", names[level]);
        strbuf_add(&b, msg);
        if (fields.n) strbuf_addc(&b, ' ');
        strbuf_add(&b, fields);
        strbuf_addc(&b, '\n');
    }
    ssize_t ignored = write(STDERR_FILENO, b.p, b.n);
    (void)ignored;
    strbuf_done(&b);
}

void log_line(log_level level, const char *fmt, ...) {
    if (!log_on(level)) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    emit(level, str_z(text), "msg", (str){0});
}

void log_event(log_level level, const char *event, str fields) {
    if (log_on(level)) emit(level, str_z(event), "event", fields);
}
