/* The route table: which handler answers a method and path. */
#ifndef SERVER_ROUTES_H
#define SERVER_ROUTES_H

#include <stdbool.h>

#include "engine/base/str.h"

typedef struct exchange exchange;

typedef enum http_method {
    METHOD_GET,
    METHOD_HEAD, /* served as GET; the library leaves the body out */
    METHOD_POST,
    METHOD_OPTIONS,
    METHOD_OTHER,
    METHOD_COUNT
} http_method;

typedef enum route_flags {
    ROUTE_OPEN = 1,
    ROUTE_PROBE = 2,
    ROUTE_MODEL = 4,
} route_flags;

typedef enum route_id {
#define ROUTE(name, method, path, handler, flags) ROUTE_ID_##name,
#include "server/routes.def"
#undef ROUTE
    ROUTE_ID_NONE, /* unknown path */
    ROUTE_ID_COUNT
} route_id;

typedef struct route {
    const char *name; /* in metrics and logs: never the client's own text */
    route_id id;
    http_method method;
    const char *path;
    unsigned flags;
    /* Reactor thread, after the whole body is in. Leaves an answer or a waiting generation. */
    void (*handler)(exchange *x);
} route;

extern const route route_none; /* what an unknown path is counted under */

http_method route_method(const char *name);
const char *route_method_name(http_method m);

typedef struct route_match {
    const route *route; /* of this method and path; NULL: see allow */
    const route *path;  /* some route of this path, whatever the method; NULL: unknown path (404) */
    str arg;            /* what '*' stood for; borrowed from path */
    char allow[64];     /* the path's methods: "GET, HEAD, OPTIONS" */
} route_match;

/* `path` is decoded and without query. One trailing slash is ignored, nothing else is normalised:
 * what does not equal a table entry byte for byte is unknown. */
void route_find(http_method method, str path, route_match *ret);

#endif
