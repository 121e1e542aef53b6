/* Offsets against the reference library's (fixtures/offsets.jsonl, which make_offsets.py made),
 * over our small tokenizers and those of ../shared/data, which are skipped where they are absent.
 */
#include <stdio.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "tokenizer/tokenizer.h"

#define DIR "tests/tokenizer/fixtures/"

static int n_passed, n_failed, n_skipped;

typedef struct current {
    char name[160];
    tokenizer *t;
} current;

static void change_to(current *c, const char *name) {
    char path[256];
    error err;
    if (strcmp(c->name, name) == 0) return;
    tokenizer_free(c->t);
    c->t = NULL;
    snprintf(c->name, sizeof c->name, "%s", name);
    snprintf(path, sizeof path, "%s%s", name[0] == '.' ? "" : DIR, name);
    if (!file_exists(path)) {
        printf("SKIP %s is absent\n", path);
        return;
    }
    if (tokenizer_open(path, NULL, &c->t, &err) == OK) return;
    printf("FAIL %s\n", err.text);
    n_failed++;
}

static bool equal(const vec_i32 *ids, const token_spans *spans, const json_t *j) {
    const json_t *want = js_get(j, "ids"), *at = js_get(j, "offsets");
    bool ok = ids->n == json_array_size(want) && spans->n == ids->n;
    for (size_t i = 0; ok && i < ids->n; i++)
        ok = ids->p[i] == json_integer_value(json_array_get(want, i)) &&
             spans->p[i].from == json_integer_value(json_array_get(at, 2 * i)) &&
             spans->p[i].to == json_integer_value(json_array_get(at, 2 * i + 1));
    return ok;
}

static void show(const current *c, str text, const token_spans *spans) {
    strbuf b = {0};
    strbuf_add_json(&b, text);
    printf("FAIL %s: %s: got", c->name, b.p);
    for (size_t i = 0; i < spans->n; i++) printf(" %u-%u", spans->p[i].from, spans->p[i].to);
    printf("\n");
    strbuf_done(&b);
}

static void run_case(str line, current *c) {
    json_t *j;
    error err;
    vec_i32 ids = {0};
    token_spans spans = {0};
    if (js_parse(line, &j, &err) != OK) {
        printf("FAIL offsets.jsonl: %s\n", err.text);
        n_failed++;
        return;
    }
    change_to(c, json_string_value(js_get(j, "file")));
    str text = js_get_str(j, "text");
    unsigned flags = js_get_bool(j, "special", false) ? ENCODE_SPECIAL : ENCODE_PLAIN;
    if (!c->t)
        n_skipped++;
    else if (tokenizer_encode_spans(c->t, text, flags, 0, &ids, &spans, &err) == OK &&
             equal(&ids, &spans, j))
        n_passed++;
    else {
        n_failed++;
        if (n_failed < 20) show(c, text, &spans);
    }
    vec_done(&ids);
    vec_done(&spans);
    json_decref(j);
}

int main(void) {
    strbuf b = {0};
    error err;
    current c = {0};
    if (file_read(DIR "offsets.jsonl", (size_t)16 << 20, &b, &err) != OK) {
        printf("FAIL: %s\n", err.text);
        return 1;
    }
    str text = strbuf_str(&b);
    for (size_t at = 0; at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        if (end > at) run_case(str_cut(text, at, end), &c);
        at = end + 1;
    }
    tokenizer_free(c.t);
    strbuf_done(&b);
    printf("%d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0 || n_passed == 0;
}
