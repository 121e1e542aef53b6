#include "tests/tokenizer/golden.h"

#include <stdio.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/detok.h"

static int n_shown;

static void show(const char *name, int id, const char *what, str text) {
    if (n_shown++ > 40) return;
    strbuf b = {0};
    strbuf_add_json(&b, str_cut(text, 0, MIN(text.n, (size_t)200)));
    printf("  %s: text %d: %s differs: %s\n", name, id, what, b.p);
    strbuf_done(&b);
}

static bool ids_equal(const vec_i32 *got, const json_t *want) {
    if (got->n != json_array_size(want)) return false;
    for (size_t i = 0; i < got->n; i++)
        if (got->p[i] != json_integer_value(json_array_get(want, i))) return false;
    return true;
}

static void print_ids(const vec_i32 *got, const json_t *want) {
    if (n_shown > 12) return;
    size_t from = 0;
    while (from < got->n && from < json_array_size(want) &&
           got->p[from] == json_integer_value(json_array_get(want, from)))
        from++;
    printf("    from %zu: got", from);
    for (size_t i = from; i < got->n && i < from + 8; i++) printf(" %d", got->p[i]);
    printf("; want");
    for (size_t i = from; i < json_array_size(want) && i < from + 8; i++)
        printf(" %lld", (long long)json_integer_value(json_array_get(want, i)));
    printf("\n");
}

static void stream(const tokenizer *t, const vec_i32 *ids, bool skip, strbuf *out) {
    detok *d = detok_new(t, skip);
    for (size_t i = 0; i < ids->n; i++) detok_push(d, ids->p[i], out);
    detok_flush(d, out);
    detok_free(d);
}

static bool same_ids(const char *name, const tokenizer *t, str text, const json_t *want,
                     unsigned flags, vec_i32 *ids) {
    error err;
    const char *key = flags & ENCODE_SPECIAL ? "ids_special" : "ids";
    const json_t *list = js_get(want, key);
    ids->n = 0;
    if (!list) return true;
    if (tokenizer_encode(t, text, flags, 0, ids, &err) == OK && ids_equal(ids, list)) return true;
    show(name, (int)js_get_int(want, "id", -1), key, text);
    print_ids(ids, list);
    return false;
}

static bool same_text(const char *name, const tokenizer *t, str text, const json_t *want, bool skip,
                      const vec_i32 *ids) {
    const char *key = skip ? "skipped" : "decoded";
    str decoded = js_get_str(want, key);
    strbuf out = {0}, streamed = {0};
    int id = (int)js_get_int(want, "id", -1);
    if (!decoded.p) return true;
    tokenizer_decode(t, ids->p, ids->n, skip, &out);
    stream(t, ids, skip, &streamed);
    bool equal = str_eq(strbuf_str(&out), decoded),
         whole = str_eq(strbuf_str(&out), strbuf_str(&streamed));
    if (!equal) {
        show(name, id, key, text);
        show(name, id, "  got", strbuf_str(&out));
    }
    if (!whole) show(name, id, "streamed text", text);
    strbuf_done(&out);
    strbuf_done(&streamed);
    return equal && whole;
}

bool golden_check(const char *name, const tokenizer *t, str text, const json_t *want) {
    vec_i32 ids = {0};
    bool ok = same_ids(name, t, text, want, ENCODE_SPECIAL, &ids);
    ok &= same_ids(name, t, text, want, ENCODE_PLAIN, &ids);
    ok = ok && same_text(name, t, text, want, false, &ids);
    ok = ok && same_text(name, t, text, want, true, &ids);
    vec_done(&ids);
    return ok;
}
