/* The status table: name, HTTP code and OpenAI error type of every status, in one place. */
#include "engine/base/status.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int http;
    const char *type;
} table[STATUS_COUNT] = {
    [OK] = {"OK", 200, ""},
    [ERR_INVALID] = {"ERR_INVALID", 400, "invalid_request_error"},
    [ERR_UNAUTHORIZED] = {"ERR_UNAUTHORIZED", 401, "authentication_error"},
    [ERR_FORBIDDEN] = {"ERR_FORBIDDEN", 403, "permission_error"},
    [ERR_NOT_FOUND] = {"ERR_NOT_FOUND", 404, "not_found_error"},
    [ERR_METHOD] = {"ERR_METHOD", 405, "invalid_request_error"},
    [ERR_TIMEOUT] = {"ERR_TIMEOUT", 408, "timeout_error"},
    [ERR_TOO_LARGE] = {"ERR_TOO_LARGE", 413, "invalid_request_error"},
    [ERR_MEDIA] = {"ERR_MEDIA", 415, "invalid_request_error"},
    [ERR_RATE] = {"ERR_RATE", 429, "rate_limit_error"},
    [ERR_CANCELLED] = {"ERR_CANCELLED", 499, "cancelled"},
    [ERR_INTERNAL] = {"ERR_INTERNAL", 500, "server_error"},
    [ERR_UNSUPPORTED] = {"ERR_UNSUPPORTED", 400, "invalid_request_error"},
    [ERR_BUSY] = {"ERR_BUSY", 503, "overloaded_error"},
    [ERR_UNAVAILABLE] = {"ERR_UNAVAILABLE", 503, "service_unavailable_error"},
    [ERR_FORMAT] = {"ERR_FORMAT", 500, "server_error"},
    [ERR_IO] = {"ERR_IO", 500, "server_error"},
    [ERR_NOMEM] = {"ERR_NOMEM", 503, "overloaded_error"},
    [ERR_DEVICE] = {"ERR_DEVICE", 500, "server_error"},
};

status error_setv(error *err, status code, const char *fmt, va_list ap) {
    if (!err) return code;
    err->code = code;
    err->param[0] = 0;
    vsnprintf(err->text, sizeof err->text, fmt, ap);
    return code;
}

status error_set(error *err, status code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    error_setv(err, code, fmt, ap);
    va_end(ap);
    return code;
}

status error_set_param(error *err, status code, const char *param, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    error_setv(err, code, fmt, ap);
    va_end(ap);
    if (err) snprintf(err->param, sizeof err->param, "%s", param);
    return code;
}

void error_prefix(error *err, const char *fmt, ...) {
    if (!err) return;
    char old[sizeof err->text];
    memcpy(old, err->text, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->text, sizeof err->text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof err->text) return;
    snprintf(err->text + n, sizeof err->text - (size_t)n, ": %s", old);
}

int status_http(status s) {
    return (unsigned)s < STATUS_COUNT ? table[s].http : 500;
}
const char *status_type(status s) {
    return (unsigned)s < STATUS_COUNT ? table[s].type : "server_error";
}
const char *status_name(status s) {
    return (unsigned)s < STATUS_COUNT ? table[s].name : "?";
}
