/* Every message is copied member by member: what is not named here does not reach a template. */
#include "server/messages.h"

#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/fields.h"

typedef struct reader {
    size_t i; /* which message */
    error *err;
} reader;

static status bad(const reader *r, status code, const char *member, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static status bad(const reader *r, status code, const char *member, const char *fmt, ...) {
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    char where[80];
    snprintf(where, sizeof where, "messages[%zu]%s%s", r->i, member[0] ? "." : "", member);
    return error_set_param(r->err, code, where, "%s %s", where, text);
}

static status read_role(const reader *r, const json_t *m, json_t *to) {
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    const json_t *role = js_get(m, "role");
    if (!json_is_string(role)) return bad(r, ERR_INVALID, "role", "must be a string");
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (!str_eqz(js_str(role), roles[i])) continue;
        bool developer = strcmp(roles[i], "developer") == 0;
        json_object_set_new(to, "role", json_string(developer ? "system" : roles[i]));
        return OK;
    }
    return bad(r, ERR_INVALID, "role",
               "is '%.32s'; system, developer, user, assistant or tool is expected",
               json_string_value(role));
}

static status read_part(const reader *r, const json_t *p, size_t i, json_t *list) {
    str type = js_get_str(p, "type");
    bool refusal = str_eqz(type, "refusal");
    json_t *text = js_get(p, refusal ? "refusal" : "text");
    char member[32];
    snprintf(member, sizeof member, "content[%zu]", i);
    if (!json_is_object(p) || !type.p)
        return bad(r, ERR_INVALID, member, "must be an object with a type");
    if (!refusal && !str_eqz(type, "text"))
        return bad(r, ERR_UNSUPPORTED, member, "has type '%.32s'; this model takes text only",
                   type.p);
    if (!json_is_string(text)) return bad(r, ERR_INVALID, member, "must have a text");
    json_t *copy = json_object();
    json_object_set_new(copy, "type", json_string("text"));
    json_object_set(copy, "text", text);
    json_array_append_new(list, copy);
    return OK;
}

static status read_parts(const reader *r, const json_t *parts, json_t *to) {
    size_t n = json_array_size(parts);
    if (n > LIMIT_CONTENT_PARTS)
        return bad(r, ERR_INVALID, "content", "has %zu parts, the limit is %d", n,
                   LIMIT_CONTENT_PARTS);
    json_t *list = json_array();
    json_object_set_new(to, "content", list);
    for (size_t i = 0; i < n; i++) TRY(read_part(r, json_array_get(parts, i), i, list));
    return OK;
}

static status read_content(const reader *r, const json_t *m, json_t *to) {
    const json_t *c = js_get(m, "content");
    bool optional = js_get(m, "tool_calls") && str_eqz(js_get_str(m, "role"), "assistant");
    if (json_is_string(c)) {
        json_object_set(to, "content", (json_t *)c);
        return OK;
    }
    if (!c && optional) {
        json_object_set_new(to, "content", json_null());
        return OK;
    }
    if (!json_is_array(c))
        return bad(r, ERR_INVALID, "content", "must be a string or a list of parts, found %s",
                   json_kind(c));
    return read_parts(r, c, to);
}

static status read_call(const reader *r, const json_t *call, json_t *list) {
    const json_t *f = js_get(call, "function");
    json_t *name = js_get(f, "name"), *args = js_get(f, "arguments");
    if (js_str(name).n == 0)
        return bad(r, ERR_INVALID, "tool_calls", "must have a function with a name");
    if (args && !json_is_string(args) && !json_is_object(args))
        return bad(r, ERR_INVALID, "tool_calls", "must have arguments as a JSON text");
    json_t *fn = json_object(), *copy = json_object();
    json_object_set(fn, "name", name);
    if (args) json_object_set(fn, "arguments", args);
    if (json_is_string(js_get(call, "id"))) json_object_set(copy, "id", js_get(call, "id"));
    json_object_set_new(copy, "type", json_string("function"));
    json_object_set_new(copy, "function", fn);
    json_array_append_new(list, copy);
    return OK;
}

static status read_calls(const reader *r, const json_t *m, json_t *to) {
    const json_t *calls = js_get(m, "tool_calls");
    if (!calls) return OK;
    if (!json_is_array(calls) || json_array_size(calls) > LIMIT_TOOLS)
        return bad(r, ERR_INVALID, "tool_calls", "must be a list of at most %d", LIMIT_TOOLS);
    if (json_array_size(calls) == 0) return OK;
    json_t *list = json_array();
    json_object_set_new(to, "tool_calls", list);
    for (size_t i = 0; i < json_array_size(calls); i++)
        TRY(read_call(r, json_array_get(calls, i), list));
    return OK;
}

static status read_strings(const reader *r, const json_t *m, json_t *to) {
    static const char *const names[] = {"name", "tool_call_id", "reasoning_content"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        json_t *v = js_get(m, names[i]);
        if (!v) continue;
        if (!json_is_string(v)) return bad(r, ERR_INVALID, names[i], "must be a string");
        json_object_set(to, names[i], v);
    }
    return OK;
}

static status read_message(const reader *r, const json_t *m, json_t *to) {
    if (!json_is_object(m)) return bad(r, ERR_INVALID, "", "must be an object");
    TRY(read_role(r, m, to));
    TRY(read_content(r, m, to));
    TRY(read_calls(r, m, to));
    return read_strings(r, m, to);
}

status messages_read(const json_t *body, json_t **ret, error *err) {
    const json_t *list = js_get(body, "messages");
    if (!list) return error_set_param(err, ERR_INVALID, "messages", "messages is missing");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0)
        return error_set_param(err, ERR_INVALID, "messages",
                               "messages must be a list with at least one message");
    if (n > LIMIT_MESSAGES)
        return error_set_param(err, ERR_INVALID, "messages",
                               "messages has %zu entries, the limit is %d", n, LIMIT_MESSAGES);
    json_t *copy = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *to = json_object();
        json_array_append_new(copy, to);
        reader r = {i, err};
        status st = read_message(&r, json_array_get(list, i), to);
        if (st == OK) continue;
        json_decref(copy);
        return st;
    }
    *ret = copy;
    return OK;
}
