/* Log lines to stderr: one JSON object a line, or plain text when stderr is a terminal (or as
 * log_init says). Libraries do not log; server/, scheduler/loop.c and main do. Thread-safe. */
#ifndef ENGINE_BASE_LOG_H
#define ENGINE_BASE_LOG_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;
typedef enum log_format { LOG_AUTO, LOG_TEXT, LOG_JSON } log_format;

void log_init(log_level max, log_format format);
bool log_on(log_level level);
void log_line(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* A structured event: `fields` is the inside of a JSON object ("\"status\":200,...") or empty. In
 * text format it is printed after the message as is. */
void log_event(log_level level, const char *event, str fields);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
