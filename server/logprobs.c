/* Chat: {"content": [{"token", "logprob", "bytes", "top_logprobs": [...]}, ...]}, bytes exact.
 * Completions: four parallel lists; a token whose bytes are not UTF-8 by themselves is written as
 * OpenAI writes it, "bytes:\xe2\x82", so that different tokens keep different names.
 * JSON has no infinity: -9999 stands for a probability of 0. */
#include "server/logprobs.h"

#include <math.h>

#include "engine/base/utf8.h"

static void add_number(float logprob, strbuf *out) {
    if (!(logprob > -9999.0f)) logprob = -9999.0f; /* -inf, and NaN should it ever come */
    strbuf_addf(out, "%.7g", (double)logprob);
}

static str bytes_of(const output *o, int32_t id, strbuf *scratch) {
    strbuf_clear(scratch);
    tokenizer_bytes(o->tok, id, scratch);
    if (scratch->n == 0) /* special tokens stand for no text: show their name */
        strbuf_add(scratch, tokenizer_piece(o->tok, id));
    return strbuf_str(scratch);
}

static void add_chat_token(const output *o, int32_t id, float logprob, strbuf *scratch,
                           strbuf *out) {
    str b = bytes_of(o, id, scratch);
    strbuf_addz(out, "{\"token\":");
    strbuf_add_json(out, b);
    strbuf_addz(out, ",\"logprob\":");
    add_number(logprob, out);
    strbuf_addz(out, ",\"bytes\":[");
    for (size_t i = 0; i < b.n; i++) strbuf_addf(out, i ? ",%u" : "%u", (unsigned char)b.p[i]);
    strbuf_addc(out, ']');
}

static void add_chat(const output *o, size_t from, size_t to, strbuf *out) {
    strbuf scratch = {0};
    strbuf_addz(out, "{\"content\":[");
    for (size_t i = from; i < to; i++) {
        const out_token *t = &o->tokens.p[i];
        if (i > from) strbuf_addc(out, ',');
        add_chat_token(o, t->id, t->logprob, &scratch, out);
        strbuf_addz(out, ",\"top_logprobs\":[");
        for (int32_t k = 0; k < t->n_top; k++) {
            const token_logprob *top = &o->tops.p[t->top_at + (uint32_t)k];
            if (k) strbuf_addc(out, ',');
            add_chat_token(o, top->id, top->logprob, &scratch, out);
            strbuf_addc(out, '}');
        }
        strbuf_addz(out, "]}");
    }
    strbuf_addz(out, "]}");
    strbuf_done(&scratch);
}

static void add_name(const output *o, int32_t id, strbuf *scratch, strbuf *out) {
    str b = bytes_of(o, id, scratch);
    if (utf8_valid(b.p, b.n)) {
        strbuf_add_json(out, b);
        return;
    }
    strbuf_addz(out, "\"bytes:");
    for (size_t i = 0; i < b.n; i++) strbuf_addf(out, "\\\\x%02x", (unsigned char)b.p[i]);
    strbuf_addc(out, '"');
}

static void add_entry(const output *o, int32_t id, float logprob, strbuf *scratch, strbuf *out) {
    add_name(o, id, scratch, out);
    strbuf_addc(out, ':');
    add_number(logprob, out);
}

static void add_tops(const output *o, const out_token *t, strbuf *scratch, strbuf *out) {
    if (!t->has_logprob) {
        strbuf_addz(out, "null");
        return;
    }
    bool own = t->n_top == 0; /* logprobs: 0 asks for no alternatives */
    strbuf_addc(out, '{');
    for (int32_t k = 0; k < t->n_top; k++) {
        const token_logprob *top = &o->tops.p[t->top_at + (uint32_t)k];
        if (k) strbuf_addc(out, ',');
        add_entry(o, top->id, top->logprob, scratch, out);
        own |= top->id == t->id;
    }
    if (!own) { /* as OpenAI: the token itself is always among them */
        strbuf_addc(out, ',');
        add_entry(o, t->id, t->logprob, scratch, out);
    }
    strbuf_addc(out, '}');
}

static void add_text(const output *o, size_t from, size_t to, size_t *chars, strbuf *out) {
    strbuf scratch = {0};
    strbuf_addz(out, "{\"tokens\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from) strbuf_addc(out, ',');
        add_name(o, o->tokens.p[i].id, &scratch, out);
    }
    strbuf_addz(out, "],\"token_logprobs\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from) strbuf_addc(out, ',');
        if (o->tokens.p[i].has_logprob)
            add_number(o->tokens.p[i].logprob, out);
        else
            strbuf_addz(out, "null");
    }
    strbuf_addz(out, "],\"top_logprobs\":[");
    for (size_t i = from; i < to; i++) {
        if (i > from) strbuf_addc(out, ',');
        add_tops(o, &o->tokens.p[i], &scratch, out);
    }
    strbuf_addz(out, "],\"text_offset\":[");
    for (size_t i = from; i < to; i++) {
        const out_token *t = &o->tokens.p[i];
        strbuf_addf(out, i > from ? ",%zu" : "%zu", *chars);
        size_t a = MIN(t->start, o->text.n), b = MIN(t->end, o->text.n);
        *chars += utf8_count(o->text.p + a, b - a);
    }
    strbuf_addz(out, "]}");
    strbuf_done(&scratch);
}

void logprobs_add(const output *o, api_kind kind, size_t from, size_t to, size_t *chars,
                  strbuf *out) {
    if (!o->p->want_logprobs)
        strbuf_addz(out, "null");
    else if (kind == API_CHAT)
        add_chat(o, from, to, out);
    else
        add_text(o, from, to, chars, out);
}

static void add_prompt_entry(const call *c, const token_logprob *t, int32_t rank, bool first,
                             strbuf *out) {
    strbuf text = {0};
    tokenizer_bytes(c->x->model->m.tok, t->id, &text);
    strbuf_addf(out, "%s\"%d\":{\"logprob\":", first ? "" : ",", t->id);
    add_number(t->logprob, out);
    strbuf_addf(out, ",\"rank\":%d,\"decoded_token\":", rank);
    strbuf_add_json(out, strbuf_str(&text));
    strbuf_addc(out, '}');
    strbuf_done(&text);
}

void logprobs_add_prompt(const call *c, const part *pt, strbuf *out) {
    strbuf_addz(out, ",\"prompt_logprobs\":[null");
    for (int32_t i = 1; i < pt->prompt.n; i++) {
        const sample_out *s = &pt->r->prompt_out[pt->r->n_virtual + i];
        strbuf_addz(out, ",{");
        token_logprob own = {s->token, s->logprob};
        add_prompt_entry(c, &own, s->rank, true, out);
        int32_t n = MIN(s->n_top, c->p.n_prompt_top);
        for (int32_t k = 0; k < n; k++)
            if (s->top[k].id != own.id) add_prompt_entry(c, &s->top[k], k + 1, false, out);
        strbuf_addc(out, '}');
    }
    strbuf_addc(out, ']');
}
