/* The template engine against recorded renderings of Python's jinja2.
 *
 *   test_templates FIXTURES SHARED
 *
 * FIXTURES: tests/tokenizer/fixtures/templates.json, our own cases (see gen/make_templates.py).
 * SHARED: the shared test data; its cases are skipped, saying so, where it is absent. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/template.h"

enum { FIXED_TIME = 1752148800 /* 2025-07-10 12:00 */, FILE_MAX = 64 << 20, SHOWN = 10 };

static int n_passed, n_failed;

static void show(const char *name, const char *what, str text) {
    if (n_failed < SHOWN)
        printf("%s: %s: %.*s\n", name, what, (int)MIN(text.n, (size_t)400), text.p ? text.p : "");
}

static status render(str source, const json_t *vars, strbuf *out, error *err) {
    template *t;
    template_limits limits = {.unix_time = FIXED_TIME};
    TRY(template_parse(source, &t, err));
    status st = template_render(t, vars, &limits, out, err);
    template_free(t);
    return st;
}

/* One case: the text, or the error in Python's words, must be the recorded one. */
static void check(const char *name, str source, const json_t *vars, const json_t *want_text,
                  const json_t *want_error) {
    strbuf out = {0};
    error err = {0};
    status st = render(source, vars, &out, &err);
    str got = st == OK ? strbuf_str(&out) : str_z(err.text);
    bool equal = json_is_string(want_text) ? st == OK && str_eq(got, js_str(want_text))
                                           : st == ERR_INVALID && str_eq(got, js_str(want_error));
    if (!equal) {
        show(name, "expected", js_str(json_is_string(want_text) ? want_text : want_error));
        show(name, "got", got);
    }
    n_passed += equal;
    n_failed += !equal;
    strbuf_done(&out);
}

/* Object keys with a NUL cannot be read by jansson: two feature cases use U+0001 in its place, in
 * template, data and expected text alike. */
static json_t *read_json(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    strbuf text = {0};
    json_t *j = NULL;
    error err;
    if (!file_exists(path)) {
        printf("SKIP %s: absent\n", name);
    } else if (file_read(path, FILE_MAX, &text, &err) != OK) {
        printf("%s\n", err.text);
        n_failed++;
    } else {
        for (char *p = text.p; (p = strstr(p, "u0000")); p += 5) p[4] = '1';
        if (js_parse(strbuf_str(&text), &j, &err) != OK) {
            printf("%s: %s\n", name, err.text);
            n_failed++;
        }
    }
    strbuf_done(&text);
    mem_free(path);
    return j;
}

/* A list of {name, template, context, expected, error}; member names differ between files. Cases
 * without context have `vars`. */
static void check_list(const json_t *list, const char *template_key, const char *vars_key,
                       const char *text_key, const json_t *vars) {
    size_t i;
    json_t *c;
    json_array_foreach((json_t *)(uintptr_t)list, i, c) {
        const json_t *want = js_get(c, text_key), *error_text = js_get(c, "error");
        if (!want && !error_text) continue; /* Python's answer was not recorded */
        check(json_string_value(js_get(c, "name")), js_get_str(c, template_key),
              js_get(c, vars_key) ? js_get(c, vars_key) : vars, want, error_text);
    }
}

/* "ik_llama.cpp-2026-08/X" is a file of that name; "tokenizer_config/X" one of another folder. */
static bool read_template(const char *dir, const char *name, strbuf *text) {
    strbuf path = {0};
    static const char prefix[] = "tokenizer_config/";
    bool moved = strncmp(name, prefix, sizeof prefix - 1) == 0;
    strbuf_addf(&path, "%s/%s%s.jinja", dir, moved ? "from-tokenizer-config/" : "",
                moved ? name + sizeof prefix - 1 : name);
    error err;
    bool ok = file_read(path.p, FILE_MAX, text, &err) == OK;
    if (!ok) printf("%s\n", err.text);
    strbuf_done(&path);
    return ok;
}

static void check_matrix(const char *dir, const json_t *goldens, const json_t *contexts) {
    const char *name, *context;
    json_t *cases, *want;
    json_object_foreach((json_t *)(uintptr_t)goldens, name, cases) {
        strbuf source = {0};
        if (!read_template(dir, name, &source)) n_failed++;
        json_object_foreach(cases, context, want) {
            char label[256];
            snprintf(label, sizeof label, "%s, %s", name, context);
            check(label, strbuf_str(&source), js_get(contexts, context), js_get(want, "expected"),
                  js_get(want, "error"));
        }
        strbuf_done(&source);
    }
}

static void check_shared(const char *dir) {
    json_t *goldens = read_json(dir, "goldens-made/dev.json");
    json_t *contexts = read_json(dir, "goldens-made/contexts_dev.json");
    if (goldens && contexts) check_matrix(dir, goldens, contexts);
    json_t *features = read_json(dir, "goldens-made/jinja_features_python.json");
    check_list(features, "template", "context", "expected", NULL);
    json_t *chats = read_json(dir, "goldens-made/llamacpp_test_chat_template.json");
    check_list(chats, "chat_template", "data", "python_jinja2", NULL);
    json_t *e2e = read_json(dir, "goldens-huggingface.js/e2e_default.json");
    check_list(e2e, "chat_template", "data", "target", NULL);
    json_decref(e2e);
    json_decref(chats);
    json_decref(features);
    json_decref(contexts);
    json_decref(goldens);
}

/* llama.cpp's goldens of 2024: templates/T.jinja with contexts/C.json gives goldens/T-C.txt. */
static void check_2024(const char *dir, const json_t *names) {
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)names, i, one) {
        const char *t = json_string_value(json_array_get(one, 0));
        const char *c = json_string_value(json_array_get(one, 1));
        strbuf path = {0}, source = {0}, want = {0};
        error err;
        strbuf_addf(&path, "%s/goldens/%s-%s.txt", dir, t, c);
        bool ok = file_exists(path.p) && file_read(path.p, FILE_MAX, &want, &err) == OK;
        strbuf_clear(&path);
        strbuf_addf(&path, "%s/templates/%s.jinja", dir, t);
        ok = ok && file_read(path.p, FILE_MAX, &source, &err) == OK;
        strbuf_clear(&path);
        strbuf_addf(&path, "contexts/%s.json", c);
        json_t *vars = ok ? read_json(dir, path.p) : NULL;
        if (vars) {
            json_t *text = json_stringn(strbuf_str(&want).p, want.n);
            check(t, strbuf_str(&source), vars, text, NULL);
            json_decref(text);
        }
        json_decref(vars);
        strbuf_done(&path);
        strbuf_done(&source);
        strbuf_done(&want);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "test_templates FIXTURES SHARED\n"), 2;
    json_t *own = read_json(argv[1], "templates.json");
    check_list(js_get(own, "cases"), "template", "vars", "expected", js_get(own, "vars"));
    if (!own) n_failed++;
    json_decref(own);
    if (dir_exists(argv[2])) {
        check_shared(argv[2]);
        json_t *names = read_json(argv[1], "goldens_2024.json");
        char *dir = path_join(argv[2], "llama.cpp-goldens-2024-10");
        if (names && dir_exists(dir)) check_2024(dir, names);
        mem_free(dir);
        json_decref(names);
    } else {
        printf("SKIP %s: absent, only our own cases are run\n", argv[2]);
    }
    printf("%d passed, %d failed\n", n_passed, n_failed);
    return n_failed != 0;
}
