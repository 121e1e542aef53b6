/* The path of an unknown route is the client's text and stays out; the route's name says enough. */
#include "server/access_log.h"

#include "engine/base/log.h"
#include "server/exchange.h"
#include "server/keys.h"
#include "server/reactor.h"

void access_log(const exchange *x, bool left, uint64_t now_us) {
    int code = left && x->http_status < 400 ? 499 : x->http_status;
    bool quiet = (x->route->flags & ROUTE_PROBE) && code < 400;
    log_level level = quiet ? LOG_DEBUG : LOG_INFO;
    if (!x->srv->o.access_log || !log_on(level)) return;
    strbuf *b = &x->re->scratch;
    strbuf_clear(b);
    strbuf_addz(b, "\"request_id\":");
    strbuf_add_json(b, str_z(x->id));
    strbuf_addf(b, ",\"method\":\"%s\",\"path\":", route_method_name(x->method));
    strbuf_add_json(b, str_z(x->route->path));
    strbuf_addf(b, ",\"status\":%d,\"duration_ms\":%.3f", code,
                (double)(now_us - x->start_us) * 1e-3);
    if (x->key) {
        strbuf_addz(b, ",\"key\":");
        strbuf_add_json(b, str_z(key_name(x->key)));
    }
    if (x->n_prompt > 0)
        strbuf_addf(b, ",\"prompt_tokens\":%d,\"completion_tokens\":%d", x->n_prompt, x->n_output);
    if (x->n_drafted > 0)
        strbuf_addf(b, ",\"draft_tokens\":%d,\"accepted_tokens\":%d", x->n_drafted, x->n_accepted);
    if (x->ttft_us) strbuf_addf(b, ",\"ttft_ms\":%.3f", (double)x->ttft_us * 1e-3);
    if (x->finish) strbuf_addf(b, ",\"finish_reason\":\"%s\"", x->finish);
    log_event(level, "request", strbuf_str(b));
}
