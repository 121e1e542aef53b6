/* A line server for comparing with reference libraries: usage: tok_cli PATH [pretokenizer].
 * Each line of stdin is a JSON value: a string is encoded (answer: {"ids", "special", "spans",
 * "same"}), an array of
 * ids is decoded (answer: {"text", "skip", "stream"}: with all tokens, without special ones, and
 * through the incremental detokeniser). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/detok.h"
#include "tokenizer/tokenizer.h"

static void put_ids(strbuf *out, const vec_i32 *ids) {
    strbuf_addc(out, '[');
    for (size_t i = 0; i < ids->n; i++) strbuf_addf(out, i ? ",%d" : "%d", ids->p[i]);
    strbuf_addc(out, ']');
}

/* Offsets, and whether the ids beside them are those of a plain encoding. */
static void put_spans(const tokenizer *t, str text, strbuf *out) {
    vec_i32 ids = {0}, plain = {0};
    token_spans spans = {0};
    error err;
    if (tokenizer_encode_spans(t, text, ENCODE_SPECIAL, 0, &ids, &spans, &err) != OK ||
        tokenizer_encode(t, text, ENCODE_SPECIAL, 0, &plain, &err) != OK)
        strbuf_addz(out, ",\"spans\":null");
    else {
        bool same = ids.n == plain.n && spans.n == ids.n &&
                    (!ids.n || memcmp(ids.p, plain.p, ids.n * sizeof *ids.p) == 0);
        strbuf_addz(out, ",\"spans\":[");
        for (size_t i = 0; i < spans.n; i++)
            strbuf_addf(out, "%s[%u,%u]", i ? "," : "", spans.p[i].from, spans.p[i].to);
        strbuf_addf(out, "],\"same\":%s", same ? "true" : "false");
    }
    vec_done(&ids);
    vec_done(&plain);
    vec_done(&spans);
}

static void encode(const tokenizer *t, str text, strbuf *out) {
    vec_i32 ids = {0};
    error err;
    for (int special = 0; special < 2; special++) {
        ids.n = 0;
        strbuf_addz(out, special ? ",\"special\":" : "{\"ids\":");
        if (tokenizer_encode(t, text, special ? ENCODE_SPECIAL : 0, 0, &ids, &err) != OK)
            strbuf_addz(out, "null");
        else
            put_ids(out, &ids);
    }
    put_spans(t, text, out);
    strbuf_addc(out, '}');
    vec_done(&ids);
}

static void decode(const tokenizer *t, const json_t *list, strbuf *out) {
    vec_i32 ids = {0};
    strbuf text = {0};
    for (size_t i = 0; i < json_array_size(list); i++)
        vec_push(&ids, (int32_t)json_integer_value(json_array_get(list, i)));
    for (int skip = 0; skip < 2; skip++) {
        strbuf_clear(&text);
        tokenizer_decode(t, ids.p, ids.n, skip, &text);
        strbuf_addz(out, skip ? ",\"skip\":" : "{\"text\":");
        strbuf_add_json(out, strbuf_str(&text));
    }
    strbuf_clear(&text);
    detok *d = detok_new(t, false);
    for (size_t i = 0; i < ids.n; i++) detok_push(d, ids.p[i], &text);
    detok_flush(d, &text);
    detok_free(d);
    strbuf_addz(out, ",\"stream\":");
    strbuf_add_json(out, strbuf_str(&text));
    strbuf_addc(out, '}');
    strbuf_done(&text);
    vec_done(&ids);
}

int main(int argc, char **argv) {
    tokenizer *t;
    error err;
    tokenizer_options o = {.pretokenizer = argc > 2 ? argv[2] : NULL};
    if (argc < 2 || tokenizer_open(argv[1], &o, &t, &err) != OK) {
        fprintf(stderr, "%s\n", argc < 2 ? "usage: tok_cli PATH [pretokenizer]" : err.text);
        return 2;
    }
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, stdin)) > 0) {
        json_t *v;
        strbuf out = {0};
        if (js_parse(str_n(line, (size_t)n), &v, &err) != OK) {
            strbuf_add_json(&out, str_z(err.text));
        } else {
            if (json_is_array(v))
                decode(t, v, &out);
            else
                encode(t, js_str(v), &out);
            json_decref(v);
        }
        puts(out.p);
        fflush(stdout);
        strbuf_done(&out);
    }
    free(line);
    tokenizer_free(t);
    return 0;
}
