/* Status codes and the one error record of pagoda.
 *
 * A function that can fail returns a NODISCARD status and takes `error *err` as its last
 * parameter (may be NULL). On failure it fills `err` with ONE sentence that names the file,
 * key, field or value at fault: what was found and what was expected. Out parameters (ret_x)
 * are written only on success.
 *
 * A status is also an HTTP answer: status_http() and status_type() are the only place where
 * the mapping to HTTP codes and OpenAI error types lives. */
#ifndef ENGINE_BASE_STATUS_H
#define ENGINE_BASE_STATUS_H

#include <stdarg.h>

#define NODISCARD         __attribute__((warn_unused_result))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

typedef enum status {
    OK = 0,
    ERR_INVALID,      /* a bad value in a request, option or file      400 */
    ERR_UNAUTHORIZED, /* no or wrong API key                            401 */
    ERR_FORBIDDEN,    /* the key may not do this                        403 */
    ERR_NOT_FOUND,    /* no such model, route, file                     404 */
    ERR_METHOD,       /* wrong HTTP method                              405 */
    ERR_TIMEOUT,      /* the client was too slow, a deadline passed     408 */
    ERR_TOO_LARGE,    /* body, header or list over its bound            413 */
    ERR_MEDIA,        /* wrong Content-Type                             415 */
    ERR_RATE,         /* a per-key limit                                429 */
    ERR_CANCELLED,    /* the client left                                499 */
    ERR_INTERNAL,     /* a bug                                          500 */
    ERR_UNSUPPORTED,  /* known but not supported: says so by name       400 */
    ERR_BUSY,         /* queue full: try again                          503 */
    ERR_UNAVAILABLE,  /* loading, draining or unhealthy                 503 */
    ERR_FORMAT,       /* a malformed file                               500 */
    ERR_IO,           /* the operating system refused                   500 */
    ERR_NOMEM,        /* does not fit in memory                         503 */
    ERR_DEVICE,       /* a device call failed                           500 */
    STATUS_COUNT
} status;

/* One failure. `text` is a sentence without a final newline; `param` names the request field
 * ("messages[0].content") when there is one, else "". */
typedef struct error {
    status code;
    char text[512];
    char param[96];
} error;

/* Fill err (if not NULL) and return `code`, so that `return error_set(err, ERR_IO, ...)` reads
 * well. */
status error_set(error *err, status code, const char *fmt, ...) PRINTF_LIKE(3, 4);
status error_setv(error *err, status code, const char *fmt, va_list ap);
/* The same with the request field at fault. */
status error_set_param(error *err, status code, const char *param, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* Put "prefix: " before an error that is already set (e.g. the file it came from). */
void error_prefix(error *err, const char *fmt, ...) PRINTF_LIKE(2, 3);

int status_http(status s);         /* 200, 400, ... */
const char *status_type(status s); /* OpenAI's error.type: "invalid_request_error", ... */
const char *status_name(status s); /* "ERR_INVALID": for logs and tests */

/* Pass a failure up. */
#define TRY(expr)                                                                                  \
    do {                                                                                           \
        status try_s_ = (expr);                                                                    \
        if (try_s_ != OK) return try_s_;                                                           \
    } while (0)
/* Pass a failure to a local cleanup: needs `status st` and a label `out`. */
#define TRY_OUT(expr)                                                                              \
    do {                                                                                           \
        st = (expr);                                                                               \
        if (st != OK) goto out;                                                                    \
    } while (0)

#endif
