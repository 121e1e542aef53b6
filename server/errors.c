/* One shape for every failure that a client sees. Texts come from error records, which by rule
 * carry no address, no host path and nothing of another request. */
#include "server/errors.h"

static const char *usual_code(status s) {
    switch (s) {
    case ERR_UNAUTHORIZED: return "invalid_api_key";
    case ERR_RATE: return "rate_limit_exceeded";
    case ERR_BUSY: return "server_overloaded";
    case ERR_UNAVAILABLE: return "server_unavailable";
    case ERR_UNSUPPORTED: return "unsupported_parameter";
    default: return NULL;
    }
}

static void add_or_null(strbuf *out, const char *text) {
    if (text && text[0])
        strbuf_add_json(out, str_z(text));
    else
        strbuf_addz(out, "null");
}

void errors_add_json(strbuf *out, const error *e, const char *code) {
    strbuf_addz(out, "{\"error\":{\"message\":");
    strbuf_add_json(out, str_z(e->text));
    strbuf_addz(out, ",\"type\":");
    strbuf_add_json(out, str_z(status_type(e->code)));
    strbuf_addz(out, ",\"param\":");
    add_or_null(out, e->param);
    strbuf_addz(out, ",\"code\":");
    add_or_null(out, code ? code : usual_code(e->code));
    strbuf_addz(out, "}}");
}
