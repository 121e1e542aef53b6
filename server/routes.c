/* A dozen routes: a linear walk over the table, compared by length first, costs less than a hash.
 *
 * Authentication is decided on the entry found here, never on the text of the URL: an unusual
 * spelling of a path is an unknown path, which needs a key like any other. */
#include "server/routes.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/mem.h"
#include "server/api.h"

#define OPEN       ROUTE_OPEN
#define PROBE      ROUTE_PROBE
#define MODEL      ROUTE_MODEL
#define METHOD_(m) METHOD_##m
#define ROUTE(name, method, path, handler, flags)                                                  \
    {#name, ROUTE_ID_##name, METHOD_(method), path, flags, handler},
static const route table[] = {
#include "server/routes.def"
};
#undef ROUTE

const route route_none = {"unknown", ROUTE_ID_NONE, METHOD_OTHER, "", 0, NULL};

static const char *const method_names[METHOD_COUNT] = {"GET", "HEAD", "POST", "OPTIONS", "OTHER"};

http_method route_method(const char *name) {
    for (int m = 0; m < METHOD_OTHER; m++)
        if (strcmp(name, method_names[m]) == 0) return (http_method)m;
    return METHOD_OTHER;
}

const char *route_method_name(http_method m) {
    return method_names[m];
}

static bool path_matches(const char *pattern, str path, str *ret_arg) {
    size_t n = strlen(pattern);
    if (pattern[n - 1] != '*') return str_eqz(path, pattern);
    if (path.n < n || memcmp(path.p, pattern, n - 1) != 0) return false;
    *ret_arg = str_cut(path, n - 1, path.n);
    return true;
}

static void allow_add(route_match *m, const char *name) {
    size_t n = strlen(m->allow);
    snprintf(m->allow + n, sizeof m->allow - n, "%s%s", n ? ", " : "", name);
}

void route_find(http_method method, str path, route_match *ret) {
    *ret = (route_match){0};
    if (path.n > 1 && path.p[path.n - 1] == '/') path.n--;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const route *r = &table[i];
        if (!path_matches(r->path, path, &ret->arg)) continue;
        if (!ret->path) ret->path = r;
        allow_add(ret, method_names[r->method]);
        if (r->method == METHOD_GET) allow_add(ret, "HEAD");
        if (r->method == method || (r->method == METHOD_GET && method == METHOD_HEAD))
            ret->route = r;
    }
    if (ret->path) allow_add(ret, "OPTIONS");
}
