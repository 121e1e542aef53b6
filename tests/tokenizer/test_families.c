/* Model directories as families ship them (fixtures/families.jsonl, which make_families.py made):
 * each is built in a temporary folder out of the shared data's vocabularies and its own small
 * files, opened, and compared with what the family's own code gives. A directory whose vocabulary
 * is absent is skipped. Run with a word to filter by name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tests/tokenizer/golden.h"

#define CASES "tests/tokenizer/fixtures/families.jsonl"
#define DATA  "../shared/data/tokenizers/"

typedef struct family {
    char name[64], dir[64];
    tokenizer *t;
    int n, bad;
} family;

static int n_passed, n_failed, n_skipped;

static bool link_data(const char *dir, const char *name, const char *target) {
    char from[512], *here = realpath(DATA, NULL), *to = path_join(dir, name);
    snprintf(from, sizeof from, "%s/%s", here ? here : "", target);
    bool ok = here && file_exists(from) && symlink(from, to) == 0;
    free(here);
    mem_free(to);
    return ok;
}

/* A file's content: text as it is, anything else as JSON. */
static bool put_file(const char *dir, const char *name, const json_t *content) {
    strbuf b = {0};
    error err;
    char *path = path_join(dir, name);
    if (json_is_string(content))
        strbuf_add(&b, js_str(content));
    else
        strbuf_add_js(&b, content);
    bool ok = file_write_atomic(path, strbuf_str(&b), &err) == OK;
    strbuf_done(&b);
    mem_free(path);
    return ok;
}

static void remove_names(const char *dir, const json_t *names) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)names, key, v) {
        char *path = path_join(dir, key);
        unlink(path);
        mem_free(path);
    }
}

static void begin(family *f, const json_t *j) {
    json_t *links = js_get(j, "links"), *files = js_get(j, "files"), *v;
    const char *key;
    bool ok = true;
    error err;
    *f = (family){0};
    snprintf(f->name, sizeof f->name, "%s", json_string_value(js_get(j, "name")));
    snprintf(f->dir, sizeof f->dir, "/tmp/pagoda-families-XXXXXX");
    if (!mkdtemp(f->dir)) return;
    json_object_foreach(links, key, v) ok = ok && link_data(f->dir, key, json_string_value(v));
    json_object_foreach(files, key, v) ok = ok && put_file(f->dir, key, v);
    if (!ok) {
        printf("SKIP %s: its vocabulary is absent\n", f->name);
        n_skipped++;
    } else if (tokenizer_open(f->dir, NULL, &f->t, &err) != OK) {
        printf("FAIL %s: %s\n", f->name, err.text);
        n_failed++;
    }
    remove_names(f->dir, links);
    remove_names(f->dir, files);
    rmdir(f->dir);
}

static void end(family *f) {
    if (!f->t) return;
    printf("%s %s (%s): %d of %d texts equal\n", f->bad ? "FAIL" : "ok  ", f->name,
           tokenizer_kind(f->t), f->n - f->bad, f->n);
    n_failed += f->bad > 0;
    n_passed += !f->bad;
    tokenizer_free(f->t);
    f->t = NULL;
}

static void line(family *f, str text, const char *filter) {
    json_t *j;
    error err;
    if (js_parse(text, &j, &err) != OK) {
        printf("FAIL " CASES ": %s\n", err.text);
        n_failed++;
        return;
    }
    const char *name = json_string_value(js_get(j, "name"));
    if (name) {
        end(f);
        if (!filter || strstr(name, filter)) begin(f, j);
    } else if (f->t) {
        json_object_set_new(j, "id", json_integer(f->n));
        f->n++;
        f->bad += !golden_check(f->name, f->t, js_get_str(j, "text"), j);
    }
    json_decref(j);
}

int main(int argc, char **argv) {
    strbuf b = {0};
    error err;
    family f = {0};
    if (file_read(CASES, (size_t)16 << 20, &b, &err) != OK) {
        printf("FAIL: %s\n", err.text);
        return 1;
    }
    str text = strbuf_str(&b);
    for (size_t at = 0; at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t stop = nl < 0 ? text.n : (size_t)nl;
        if (stop > at) line(&f, str_cut(text, at, stop), argc > 1 ? argv[1] : NULL);
        at = stop + 1;
    }
    end(&f);
    strbuf_done(&b);
    printf("%d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0 || n_passed == 0;
}
