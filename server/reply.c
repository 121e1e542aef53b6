/* Both APIs differ in three places only: the object's name, where the text stands (message.content,
 * delta.content or text), and the shape of logprobs (logprobs_json.c). */
#include "server/reply.h"

#include "server/logprobs.h"

static bool is_chat(const call *c) {
    return c->p.kind == API_CHAT;
}

static const char *finish_name(finish_reason f) {
    switch (f) {
    case FINISH_STOP: return "\"stop\"";
    case FINISH_LENGTH: return "\"length\"";
    default: return "null";
    }
}

static void add_stop_reason(const output *o, strbuf *out) {
    strbuf_addz(out, ",\"stop_reason\":");
    if (o->by_string && o->stop_idx < o->p->n_stops - o->p->n_turn_stops)
        strbuf_add_json(out, o->p->stops[o->stop_idx]);
    else if (o->by_own_id)
        strbuf_addf(out, "%d", o->p->own_stop_ids[o->stop_idx]);
    else
        strbuf_addz(out, "null");
}

static void add_finish(const output *o, strbuf *out) {
    strbuf_addz(out, ",\"finish_reason\":");
    strbuf_addz(out, finish_name(o->finish));
    add_stop_reason(o, out);
}

static void add_ids(const char *name, const int32_t *ids, size_t n, strbuf *out) {
    strbuf_addf(out, ",\"%s\":[", name);
    for (size_t i = 0; i < n; i++) strbuf_addf(out, i ? ",%d" : "%d", ids[i]);
    strbuf_addc(out, ']');
}

static void add_usage_object(const call *c, bool final, strbuf *out) {
    call_usage u = call_usage_of(c);
    strbuf_addf(out, "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d",
                u.n_prompt, u.n_prompt + u.n_output, u.n_output);
    if (final) strbuf_addf(out, ",\"prompt_tokens_details\":{\"cached_tokens\":%d}", u.n_cached);
    strbuf_addc(out, '}');
}

static void add_top_level(const call *c, const char *object, strbuf *out) {
    strbuf_addf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", c->id, object,
                (long long)c->created);
    strbuf_add_json(out, exchange_model_name(c->x));
}

static str shown(const output *o) {
    return str_n(o->text.p ? o->text.p : "", o->shown);
}

static void add_choice(const call *c, int32_t i, strbuf *out) {
    const choice *ch = &c->choices[i];
    const output *o = &ch->out;
    const part *pt = &c->parts[ch->part];
    strbuf_addf(out, "{\"index\":%d,", i);
    strbuf_addz(out, is_chat(c) ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    strbuf_add_json(out, shown(o));
    if (is_chat(c)) strbuf_addz(out, ",\"refusal\":null}");
    strbuf_addz(out, ",\"logprobs\":");
    size_t chars = 0;
    logprobs_add(o, c->p.kind, 0, o->n_shown, &chars, out);
    add_finish(o, out);
    if (c->p.return_token_ids) add_ids("token_ids", o->ids.p, o->ids.n, out);
    if (c->p.return_token_ids && !is_chat(c))
        add_ids("prompt_token_ids", pt->prompt.ids, (size_t)pt->prompt.n, out);
    if (c->p.n_prompt_top >= 0 && !is_chat(c)) logprobs_add_prompt(c, pt, out);
    strbuf_addc(out, '}');
}

void reply_add_answer(const call *c, strbuf *out) {
    add_top_level(c, is_chat(c) ? "chat.completion" : "text_completion", out);
    strbuf_addz(out, ",\"choices\":[");
    for (int32_t i = 0; i < c->n_choices; i++) {
        if (i) strbuf_addc(out, ',');
        add_choice(c, i, out);
    }
    strbuf_addz(out, "],");
    add_usage_object(c, true, out);
    if (is_chat(c)) {
        const part *pt = &c->parts[0];
        if (c->p.n_prompt_top >= 0) logprobs_add_prompt(c, pt, out);
        if (c->p.return_token_ids)
            add_ids("prompt_token_ids", pt->prompt.ids, (size_t)pt->prompt.n, out);
    }
    strbuf_addz(out, "}\n");
}

/* --- stream --- */

void reply_stream_begin(call *c) {
    strbuf_addz(&c->head, "data: ");
    add_top_level(c, is_chat(c) ? "chat.completion.chunk" : "text_completion", &c->head);
    strbuf_addz(&c->head, ",\"choices\":[");
}

/* printf's way through a format costs more than the rest of a chunk. */
static void add_index(int32_t n, strbuf *out) {
    char digits[12], *p = digits + sizeof digits;
    do *--p = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    strbuf_add(out, str_n(p, (size_t)(digits + sizeof digits - p)));
}

static void chunk_begin(const call *c, int32_t index, strbuf *out) {
    strbuf_reserve(out, c->head.n + 256);
    strbuf_add(out, strbuf_str(&c->head));
    strbuf_add(out, STR("{\"index\":"));
    add_index(index, out);
    strbuf_addc(out, ',');
}

static void chunk_end(const call *c, strbuf *out) {
    strbuf_addz(out, "}]");
    if (c->p.continuous_usage) {
        strbuf_addc(out, ',');
        add_usage_object(c, false, out);
    } else if (c->p.include_usage) {
        strbuf_addz(out, ",\"usage\":null");
    }
    strbuf_addz(out, "}\n\n");
}

void reply_add_role(const call *c, int32_t index, strbuf *out) {
    chunk_begin(c, index, out);
    strbuf_addz(out, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
                     "\"logprobs\":null,\"finish_reason\":null");
    chunk_end(c, out);
}

void reply_add_delta(call *c, int32_t index, strbuf *out) {
    choice *ch = &c->choices[index];
    output *o = &ch->out;
    bool ids = c->p.return_token_ids && ch->ids_sent < o->ids.n;
    if (o->shown == ch->text_sent && o->n_shown == ch->tokens_sent && !ids) return;
    chunk_begin(c, index, out);
    strbuf_addz(out, is_chat(c) ? "\"delta\":{\"content\":" : "\"text\":");
    strbuf_add_json(out, str_cut(shown(o), ch->text_sent, o->shown));
    strbuf_addz(out, is_chat(c) ? "},\"logprobs\":" : ",\"logprobs\":");
    logprobs_add(o, c->p.kind, ch->tokens_sent, o->n_shown, &ch->chars_sent, out);
    strbuf_addz(out, ",\"finish_reason\":null");
    if (ids) add_ids("token_ids", o->ids.p + ch->ids_sent, o->ids.n - ch->ids_sent, out);
    if (c->p.return_token_ids && ch->ids_sent == 0) {
        const prompt *pr = &c->parts[ch->part].prompt;
        add_ids("prompt_token_ids", pr->ids, (size_t)pr->n, out);
    }
    chunk_end(c, out);
    ch->text_sent = o->shown;
    ch->tokens_sent = o->n_shown;
    ch->ids_sent = o->ids.n;
}

void reply_add_last(const call *c, int32_t index, strbuf *out) {
    chunk_begin(c, index, out);
    strbuf_addz(out,
                is_chat(c) ? "\"delta\":{},\"logprobs\":null" : "\"text\":\"\",\"logprobs\":null");
    add_finish(&c->choices[index].out, out);
    chunk_end(c, out);
}

void reply_add_usage(const call *c, strbuf *out) {
    strbuf_add(out, strbuf_str(&c->head));
    strbuf_addz(out, "],");
    add_usage_object(c, true, out);
    strbuf_addz(out, "}\n\n");
}
