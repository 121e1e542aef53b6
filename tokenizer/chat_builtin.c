/* One file is one format; what a program must know of it besides the text stands in its first
 * comment, so that a user's file in a register directory can say as much as a built-in one. All
 * files are read for each question: a few dozen small texts, asked once when a model is opened. */
#include "tokenizer/chat_builtin.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/embedded.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/vec.h"

#define SUFFIX ".jinja"
#define XTUNER "xtuner"

extern const embedded_file embedded_chats[];

typedef VEC(chat_format) formats;

void chat_format_done(chat_format *f) {
    strbuf_done(&f->name);
    strbuf_done(&f->where);
    strbuf_done(&f->text);
    json_decref(f->meta);
    f->meta = NULL;
}

static void formats_done(formats *all) {
    for (size_t i = 0; i < all->n; i++) chat_format_done(&all->p[i]);
    vec_done(all);
}

/* --- the first comment */

static bool is_texts(const json_t *v, size_t max) {
    if (!json_is_array(v) || json_array_size(v) > max) return false;
    for (size_t i = 0; i < json_array_size(v); i++) {
        str s = js_str(json_array_get(v, i));
        if (!s.n || s.n > LIMIT_STOP_BYTES) return false;
    }
    return true;
}

static bool is_objects(const json_t *v) {
    if (!json_is_array(v)) return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_object(json_array_get(v, i))) return false;
    return true;
}

static const char *wanted_value(const char *key, const json_t *v) {
    if (strcmp(key, "about") == 0) return json_is_string(v) ? NULL : "a text";
    if (strcmp(key, "aliases") == 0) return is_texts(v, SIZE_MAX) ? NULL : "a list of texts";
    if (strcmp(key, "stop") == 0)
        return is_texts(v, LIMIT_TEMPLATE_STOPS) ? NULL : "a list of at most 8 texts";
    if (strcmp(key, "match") == 0) return is_objects(v) ? NULL : "a list of objects";
    if (strcmp(key, "add_special_tokens") == 0) return json_is_boolean(v) ? NULL : "true or false";
    return "one of about, aliases, stop, match, add_special_tokens";
}

static status check_meta(const json_t *meta, const char *where, error *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v) {
        const char *want = wanted_value(key, v);
        if (want)
            return error_set(err, ERR_FORMAT, "%s: key \"%.40s\" of the first comment: expected %s",
                             where, key, want);
    }
    return OK;
}

/* A first comment that does not begin with a brace is an ordinary one. */
static status read_meta(chat_format *f, error *err) {
    str all = strbuf_str(&f->text);
    ptrdiff_t end = str_find(all, STR("#}"), 0);
    f->meta = json_object();
    if (!str_starts(all, STR("{#")) || end < 0) return OK;
    str comment = str_cut(all, 2, (size_t)end);
    if (str_starts(comment, STR("-"))) comment = str_cut(comment, 1, comment.n);
    if (str_ends(comment, STR("-"))) comment.n--;
    comment = str_trim(comment);
    if (!str_starts(comment, STR("{"))) return OK;
    json_decref(f->meta);
    f->meta = NULL;
    status st = js_parse(comment, &f->meta, err);
    if (st != OK) {
        error_prefix(err, "%s: the JSON of the first comment", f->where.p);
        return st;
    }
    return check_meta(f->meta, f->where.p, err);
}

/* --- all formats */

static chat_format *new_format(formats *all, str name, const char *dir, const char *file) {
    chat_format f = {0};
    strbuf_add(&f.name, name);
    strbuf_addf(&f.where, "%s/%s", dir, file);
    strbuf_add(&f.text, STR(""));
    vec_push(all, f);
    return &all->p[all->n - 1];
}

static str stem(const char *file) {
    return str_n(file, strlen(file) - strlen(SUFFIX));
}

static int is_format(const struct dirent *d) {
    return d->d_name[0] != '.' && str_ends(str_z(d->d_name), STR(SUFFIX));
}

static status read_format(chat_format *f, error *err) {
    TRY(file_read(f->where.p, LIMIT_TEMPLATE_BYTES, &f->text, err));
    return read_meta(f, err);
}

static status add_dir(formats *all, const char *dir, error *err) {
    struct dirent **list = NULL;
    int n = scandir(dir, &list, is_format, alphasort);
    if (n < 0)
        return error_set(err, ERR_IO, "--register-path %s: cannot be listed: %s", dir,
                         strerror(errno));
    status st = OK;
    for (int i = 0; i < n; i++) {
        if (st == OK) {
            chat_format *f = new_format(all, stem(list[i]->d_name), dir, list[i]->d_name);
            st = read_format(f, err);
        }
        free(list[i]);
    }
    free(list);
    return st;
}

static const embedded_file *embedded(const char *name) {
    const embedded_file *e = embedded_chats;
    while (e->name && strcmp(e->name, name) != 0) e++;
    return e->name ? e : NULL;
}

static str bytes_of(const embedded_file *e) {
    return e ? str_n((const char *)e->data, e->bytes) : STR("");
}

/* The shared template, told its strings by a statement in front. */
static void add_xtuner_one(formats *all, const char *name, const json_t *strings) {
    strbuf full = {0};
    strbuf_addf(&full, XTUNER "/%s", name);
    chat_format *f = new_format(all, strbuf_str(&full), "conf/chat", XTUNER ".json");
    strbuf_done(&full);
    strbuf_addz(&f->text, "{%- set format = ");
    strbuf_add_js(&f->text, strings);
    strbuf_addz(&f->text, " -%}");
    strbuf_add(&f->text, bytes_of(embedded(XTUNER SUFFIX)));
    f->meta = json_object();
    json_object_set_new(f->meta, "about", json_string("as XTuner trains with it"));
    json_object_set(f->meta, "stop", js_get(strings, "stop"));
    if (js_get_bool(strings, "add_special_tokens", false))
        json_object_set_new(f->meta, "add_special_tokens", json_true());
}

static status add_xtuner(formats *all, error *err) {
    json_t *table = NULL, *strings;
    const char *name;
    TRY(js_parse(bytes_of(embedded(XTUNER ".json")), &table, err));
    json_object_foreach(table, name, strings) add_xtuner_one(all, name, strings);
    json_decref(table);
    return OK;
}

static status add_builtin(formats *all, error *err) {
    for (const embedded_file *e = embedded_chats; e->name; e++) {
        if (!str_ends(str_z(e->name), STR(SUFFIX)) || strcmp(e->name, XTUNER SUFFIX) == 0) continue;
        chat_format *f = new_format(all, stem(e->name), "conf/chat", e->name);
        strbuf_add(&f->text, bytes_of(e));
        TRY(read_meta(f, err));
    }
    return add_xtuner(all, err);
}

/* A user's formats come first: they win. */
static status load(const char *register_path, formats *ret, error *err) {
    formats all = {0};
    status st = register_path ? add_dir(&all, register_path, err) : OK;
    if (st == OK) st = add_builtin(&all, err);
    if (st == OK)
        *ret = all;
    else
        formats_done(&all);
    return st;
}

/* Hand over one, free the rest. */
static chat_format take(formats *all, size_t i) {
    chat_format f = all->p[i];
    all->p[i] = (chat_format){0};
    return f;
}

/* --- by name */

static char folded(char c) {
    return c == '-' ? '_' : (char)tolower((unsigned char)c);
}

static bool same_name(str a, str b) {
    if (a.n != b.n) return false;
    for (size_t i = 0; i < a.n; i++)
        if (folded(a.p[i]) != folded(b.p[i])) return false;
    return true;
}

static bool is_called(const chat_format *f, str name) {
    if (same_name(strbuf_str(&f->name), name)) return true;
    const json_t *list = js_get(f->meta, "aliases");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (same_name(js_str(json_array_get(list, i)), name)) return true;
    return false;
}

static status unknown_name(const formats *all, const char *name, error *err) {
    strbuf names = {0};
    for (size_t i = 0; i < all->n; i++) {
        str n = strbuf_str(&all->p[i].name);
        if (str_starts(n, STR(XTUNER "/"))) continue;
        strbuf_addf(&names, "%s" STR_FMT, names.n ? ", " : "", STR_ARG(n));
    }
    status st = error_set(err, ERR_INVALID,
                          "chat template \"%.60s\" is neither a file nor a format's name; names: "
                          "%s, and xtuner/NAME for XTuner's own",
                          name, names.p);
    strbuf_done(&names);
    return st;
}

status chat_format_open(const char *path, chat_format *ret, error *err) {
    chat_format f = {0};
    strbuf_addz(&f.name, path);
    strbuf_addz(&f.where, path);
    strbuf_addz(&f.text, "");
    status st = read_format(&f, err);
    if (st == OK)
        *ret = f;
    else
        chat_format_done(&f);
    return st;
}

status chat_format_find(const char *name, const char *register_path, chat_format *ret, error *err) {
    formats all = {0};
    TRY(load(register_path, &all, err));
    size_t i = 0;
    while (i < all.n && !is_called(&all.p[i], str_z(name))) i++;
    status st = OK;
    if (i < all.n)
        *ret = take(&all, i);
    else
        st = unknown_name(&all, name, err);
    formats_done(&all);
    return st;
}

/* --- by config.json */

static bool value_fits(const json_t *want, const json_t *have) {
    str w = js_str(want), h = js_str(have);
    if (!have) return false;
    if (str_eqz(w, "*")) return true;
    if (w.n > 2 && w.p[0] == '*' && w.p[w.n - 1] == '*')
        return h.p && str_find(h, str_cut(w, 1, w.n - 1), 0) >= 0;
    return json_equal(want, have);
}

/* Members of the entry if all of them fit, else 0. */
static size_t entry_fits(const json_t *entry, const json_t *config) {
    const char *key;
    json_t *want;
    json_object_foreach((json_t *)(uintptr_t)entry, key, want) {
        if (!value_fits(want, js_get(config, key))) return 0;
    }
    return json_object_size(entry);
}

static size_t format_fits(const chat_format *f, const json_t *config) {
    const json_t *list = js_get(f->meta, "match");
    size_t best = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        best = MAX(best, entry_fits(json_array_get(list, i), config));
    return best;
}

status chat_format_match(const json_t *config, const char *register_path, chat_format *ret,
                         bool *ret_found, error *err) {
    formats all = {0};
    TRY(load(register_path, &all, err));
    size_t best = 0, at = 0;
    for (size_t i = 0; i < all.n; i++) {
        size_t fits = format_fits(&all.p[i], config);
        if (fits <= best) continue;
        best = fits;
        at = i;
    }
    *ret_found = best > 0;
    if (best) *ret = take(&all, at);
    formats_done(&all);
    return OK;
}

status chat_format_list(const char *register_path, strbuf *out, error *err) {
    formats all = {0};
    TRY(load(register_path, &all, err));
    for (size_t i = 0; i < all.n; i++) {
        const chat_format *f = &all.p[i];
        const json_t *aliases = js_get(f->meta, "aliases");
        str about = js_get_str(f->meta, "about");
        strbuf_add(out, strbuf_str(&f->name));
        for (size_t k = 0; k < json_array_size(aliases); k++)
            strbuf_addf(out, "%s%s", k ? ", " : " [",
                        json_string_value(json_array_get(aliases, k)));
        strbuf_addf(out, "%s: " STR_FMT "\n", json_array_size(aliases) ? "]" : "", STR_ARG(about));
    }
    formats_done(&all);
    return OK;
}

static status unknown_system(const json_t *all, const char *name, error *err) {
    strbuf names = {0};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)all, key, v) {
        strbuf_addf(&names, "%s%s", names.n ? ", " : "", key);
    }
    status st = error_set(err, ERR_INVALID, "no system message is called \"%.60s\"; names: %s",
                          name, names.p);
    strbuf_done(&names);
    return st;
}

status chat_system_prompt(const char *name, const char *bot_name, strbuf *out, error *err) {
    static const char mark[] = "{bot_name}";
    json_t *all = NULL;
    TRY(js_parse(bytes_of(embedded("system.json")), &all, err));
    str text = js_get_str(all, name);
    status st = text.p ? OK : unknown_system(all, name, err);
    for (size_t from = 0; st == OK && from < text.n;) {
        ptrdiff_t at = str_find(text, STR(mark), from);
        size_t to = at < 0 ? text.n : (size_t)at;
        strbuf_add(out, str_cut(text, from, to));
        if (at >= 0) strbuf_addz(out, bot_name);
        from = at < 0 ? text.n : to + strlen(mark);
    }
    json_decref(all);
    return st;
}
