/* Chat templates of model directories. The messages pass through adapt(), which makes copies of
 * what it changes only; all template logic is in template.c.
 *
 * What a template can take is found by rendering two small conversations when it is opened, not by
 * reading its source: a template that handles content parts shows their text and nothing of their
 * structure, one that does not fails or prints a Python list. */
#include "tokenizer/chat.h"

#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/chat_builtin.h"
#include "tokenizer/template.h"

/* What one template needs its messages to look like. */
typedef struct form {
    bool takes_text, takes_parts;
    bool takes_argument_text; /* prints tool call arguments as they come */
} form;

typedef struct chat_text {
    template *t; /* NULL: none */
    form form;
} chat_text;

struct chat {
    chat_text main, tool_use;
    json_t *tokens;     /* bos_token, eos_token, ...: variables */
    chat_format format; /* of conf/chat or a user's file; {0}: the model's own template */
};

/* --- what a template takes */

static status render_probe(const template *t, const json_t *tokens, json_t *messages, strbuf *out) {
    json_t *vars = json_copy((json_t *)(uintptr_t)tokens);
    json_object_set_new(vars, "messages", messages);
    json_object_set_new(vars, "tools", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_true());
    status st = template_render(t, vars, NULL, out, NULL);
    json_decref(vars);
    return st;
}

/* Whether the rendering shows `want` and no `unwanted`. */
static bool probe_shows(const template *t, const json_t *tokens, json_t *messages, const char *want,
                        const char *unwanted) {
    strbuf out = {0};
    bool shows = render_probe(t, tokens, messages, &out) == OK &&
                 str_find(strbuf_str(&out), str_z(want), 0) >= 0 &&
                 (!unwanted || str_find(strbuf_str(&out), str_z(unwanted), 0) < 0);
    strbuf_done(&out);
    return shows;
}

static json_t *probe_call(json_t *arguments) {
    return json_pack("[{s:s,s:s},{s:s,s:s,s:[{s:s,s:s,s:{s:s,s:o}}]}]", "role", "user", "content",
                     "Q", "role", "assistant", "content", "", "tool_calls", "id", "abcdef123",
                     "type", "function", "function", "name", "probe_function", "arguments",
                     arguments);
}

static form find_form(const template *t, const json_t *tokens) {
    form f;
    f.takes_text =
        probe_shows(t, tokens, json_pack("[{s:s,s:s}]", "role", "user", "content", "PROBETEXT"),
                    "PROBETEXT", NULL);
    f.takes_parts = probe_shows(t, tokens,
                                json_pack("[{s:s,s:[{s:s,s:s}]}]", "role", "user", "content",
                                          "type", "text", "text", "PROBETEXT"),
                                "PROBETEXT", "type");
    /* an object printed as Python does ('key') is no JSON: this template wants the text */
    json_t *object = json_pack("{s:s}", "probe_key", "probe_value");
    bool takes_object = probe_shows(t, tokens, probe_call(object), "probe_key", "'probe_key'");
    f.takes_argument_text =
        !takes_object &&
        probe_shows(t, tokens, probe_call(json_string("{\"probe_key\": \"probe_value\"}")),
                    "{\"probe_key\"", NULL);
    return f;
}

/* --- opening */

static status parse_template(const chat *c, str source, const char *where, chat_text *ret,
                             error *err) {
    status st = template_parse(source, &ret->t, err);
    if (st != OK) {
        error_prefix(err, "%s", where);
        return st;
    }
    ret->form = find_form(ret->t, c->tokens);
    return OK;
}

static status parse_file(const chat *c, const char *path, chat_text *ret, error *err) {
    strbuf text = {0};
    status st = file_read(path, LIMIT_TEMPLATE_BYTES, &text, err);
    if (st == OK) st = parse_template(c, strbuf_str(&text), path, ret, err);
    strbuf_done(&text);
    return st;
}

/* A text, or a list of {name, template}, or an object of name: template. */
static status parse_value(chat *c, const json_t *v, const char *path, error *err) {
    const char *name;
    json_t *one;
    if (json_is_string(v)) return parse_template(c, js_str(v), path, &c->main, err);
    if (json_is_object(v)) {
        json_object_foreach((json_t *)(uintptr_t)v, name, one) {
            chat_text *to = !strcmp(name, "tool_use")  ? &c->tool_use
                            : !strcmp(name, "default") ? &c->main
                                                       : NULL;
            if (to && json_is_string(one)) TRY(parse_template(c, js_str(one), path, to, err));
        }
        return OK;
    }
    if (!json_is_array(v))
        return error_set(err, ERR_FORMAT, "%s: chat_template must be a text or a list", path);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        str text = js_get_str(e, "template"), of = js_get_str(e, "name");
        chat_text *to = str_eqz(of, "tool_use")  ? &c->tool_use
                        : str_eqz(of, "default") ? &c->main
                                                 : NULL;
        if (to && text.p && !to->t) TRY(parse_template(c, text, path, to, err));
    }
    return OK;
}

/* A token as text, or as {"content": text}. */
static json_t *token_text(const json_t *v) {
    if (json_is_object(v)) v = js_get(v, "content");
    return json_is_string(v) ? json_incref((json_t *)(uintptr_t)v) : NULL;
}

static void add_token(chat *c, const char *name, const json_t *v) {
    json_t *text = token_text(v);
    if (text) json_object_set_new(c->tokens, name, text);
}

static void add_tokens(chat *c, const json_t *file) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (!json_object_get(c->tokens, names[i])) add_token(c, names[i], js_get(file, names[i]));
    const json_t *more = js_get(file, "additional_special_tokens");
    if (json_is_array(more) && !json_object_get(c->tokens, "additional_special_tokens")) {
        json_t *list = json_array();
        for (size_t i = 0; i < json_array_size(more); i++) {
            json_t *text = token_text(json_array_get(more, i));
            if (text) json_array_append_new(list, text);
        }
        json_object_set_new(c->tokens, "additional_special_tokens", list);
    }
    const char *name;
    json_t *v;
    json_object_foreach(js_get(file, "extra_special_tokens"), name, v) add_token(c, name, v);
}

static void add_tokenizer_tokens(chat *c, const tokenizer *tok) {
    int32_t ids[] = {tokenizer_bos(tok), tokenizer_eos(tok)};
    static const char *const names[] = {"bos_token", "eos_token"};
    for (int i = 0; i < 2; i++) {
        str piece = ids[i] < 0 ? (str){NULL, 0} : tokenizer_piece(tok, ids[i]);
        if (piece.p) json_object_set_new(c->tokens, names[i], json_stringn(piece.p, piece.n));
    }
}

/* dir/name as JSON; *ret is NULL when there is no such file. */
static status read_json(const char *dir, const char *name, json_t **ret, error *err) {
    *ret = NULL;
    char *path = path_join(dir, name);
    status st = file_exists(path) ? js_parse_file(path, LIMIT_CONFIG_BYTES * 8, ret, err) : OK;
    mem_free(path);
    return st;
}

/* tokenizer_config.json wins; the tokenizer itself is asked only where no file says anything. */
static status open_tokens(chat *c, const char *dir, const json_t *config, const tokenizer *tok,
                          error *err) {
    json_t *map = NULL;
    if (dir) TRY(read_json(dir, "special_tokens_map.json", &map, err));
    if (config) add_tokens(c, config);
    if (map && !config) add_tokens(c, map);
    if (map && config && js_get(map, "additional_special_tokens") &&
        !json_object_get(c->tokens, "additional_special_tokens")) {
        json_t *only = json_pack("{s:O}", "additional_special_tokens",
                                 js_get(map, "additional_special_tokens"));
        add_tokens(c, only);
        json_decref(only);
    }
    if (!config && !map && tok) add_tokenizer_tokens(c, tok);
    json_decref(map);
    return OK;
}

/* Takes f over. */
static status use_format(chat *c, chat_format f, error *err) {
    c->format = f;
    return parse_template(c, strbuf_str(&f.text), f.where.p, &c->main, err);
}

static status open_override(chat *c, const chat_options *o, error *err) {
    chat_format f;
    if (strpbrk(o->override, "{\n"))
        return parse_template(c, str_z(o->override), "chat template", &c->main, err);
    if (file_exists(o->override))
        TRY(chat_format_open(o->override, &f, err));
    else
        TRY(chat_format_find(o->override, o->register_path, &f, err));
    return use_format(c, f, err);
}

/* dir/name as a template if the file exists. */
static status open_file(const chat *c, const char *dir, const char *name, chat_text *ret,
                        error *err) {
    char *path = path_join(dir, name);
    status st = file_exists(path) ? parse_file(c, path, ret, err) : OK;
    mem_free(path);
    return st;
}

static status open_template(chat *c, const char *dir, const json_t *config, error *err) {
    TRY(open_file(c, dir, "chat_template.jinja", &c->main, err));
    if (c->main.t)
        return open_file(c, dir, "additional_chat_templates/tool_use.jinja", &c->tool_use, err);
    json_t *file;
    TRY(read_json(dir, "chat_template.json", &file, err));
    const json_t *v = file ? js_get(file, "chat_template") : NULL;
    status st = v ? parse_value(c, v, "chat_template.json", err) : OK;
    json_decref(file);
    if (st != OK || v) return st;
    v = config ? js_get(config, "chat_template") : NULL;
    return v ? parse_value(c, v, "tokenizer_config.json", err) : OK;
}

/* The template inside the tokenizer's own file (GGUF). */
static status open_carried(chat *c, const tokenizer *tok, error *err) {
    str text = tok ? tokenizer_template(tok) : (str){NULL, 0};
    return text.p ? parse_template(c, text, "tokenizer.chat_template", &c->main, err) : OK;
}

/* For a model that brings none: what its family says, else what its config.json fits. */
static status open_format(chat *c, const char *dir, const chat_options *o, error *err) {
    chat_format f;
    bool found = false;
    json_t *config = NULL;
    if (o->fallback) {
        TRY(chat_format_find(o->fallback, o->register_path, &f, err));
        return use_format(c, f, err);
    }
    if (!dir) return OK;
    TRY(read_json(dir, "config.json", &config, err));
    status st = chat_format_match(config, o->register_path, &f, &found, err);
    json_decref(config);
    return st == OK && found ? use_format(c, f, err) : st;
}

static status open_all(chat *c, const char *dir, const chat_options *o, const tokenizer *tok,
                       error *err) {
    json_t *config = NULL;
    if (dir && !dir_exists(dir)) dir = NULL; /* a single file: a tokenizer without its directory */
    if (dir) TRY(read_json(dir, "tokenizer_config.json", &config, err));
    status st = open_tokens(c, dir, config, tok, err);
    if (st == OK && o->override) st = open_override(c, o, err);
    if (st == OK && !o->override && dir) st = open_template(c, dir, config, err);
    if (st == OK && !chat_has_template(c)) st = open_carried(c, tok, err);
    if (st == OK && !chat_has_template(c)) st = open_format(c, dir, o, err);
    json_decref(config);
    return st;
}

status chat_open(const char *dir, const chat_options *o, const tokenizer *tok, chat **ret,
                 error *err) {
    static const chat_options none = {0};
    chat *c = mem_calloc(1, sizeof *c);
    c->tokens = json_object();
    status st = open_all(c, dir, o ? o : &none, tok, err);
    if (st == OK)
        *ret = c;
    else
        chat_free(c);
    return st;
}

void chat_free(chat *c) {
    if (!c) return;
    template_free(c->main.t);
    template_free(c->tool_use.t);
    chat_format_done(&c->format);
    json_decref(c->tokens);
    mem_free(c);
}

bool chat_has_template(const chat *c) {
    return c->main.t || c->tool_use.t;
}

const char *chat_format_name(const chat *c) {
    return c->format.name.p;
}

size_t chat_stops(const chat *c, str *ret) {
    const json_t *list = js_get(c->format.meta, "stop");
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) ret[i] = js_str(json_array_get(list, i));
    return n;
}

bool chat_adds_special_tokens(const chat *c) {
    return js_get_bool(c->format.meta, "add_special_tokens", false);
}

/* --- messages */

static status join_parts(const json_t *parts, json_t **ret, error *err) {
    strbuf text = {0};
    status st = OK;
    size_t i;
    json_t *part;
    json_array_foreach((json_t *)(uintptr_t)parts, i, part) {
        str s = json_is_string(part) ? js_str(part) : js_get_str(part, "text");
        if (!s.p) {
            st = error_set_param(err, ERR_UNSUPPORTED, "messages",
                                 "content parts other than text are not supported by this model's "
                                 "chat template");
            break;
        }
        if (i) strbuf_addc(&text, '\n');
        strbuf_add(&text, s);
    }
    if (st == OK) *ret = json_stringn(strbuf_str(&text).p, text.n);
    strbuf_done(&text);
    return st;
}

static status adapt_content(const form *f, json_t *message, error *err) {
    json_t *content = json_object_get(message, "content"), *other = NULL;
    if (json_is_array(content) && !f->takes_parts && f->takes_text)
        TRY(join_parts(content, &other, err));
    else if (json_is_string(content) && !f->takes_text && f->takes_parts)
        other = json_pack("[{s:s,s:O}]", "type", "text", "text", content);
    if (other) json_object_set_new(message, "content", other);
    return OK;
}

/* The arguments in the template's form; NULL if they already are, or are no JSON. */
static json_t *adapt_arguments(const form *f, const json_t *arguments) {
    json_t *value = NULL;
    if (f->takes_argument_text && json_is_object(arguments)) {
        strbuf text = {0};
        strbuf_add_js(&text, arguments);
        value = json_stringn(text.p, text.n);
        strbuf_done(&text);
    } else if (!f->takes_argument_text && json_is_string(arguments)) {
        str text = js_str(arguments);
        if (js_parse(text.n ? text : STR("{}"), &value, NULL) != OK) return NULL;
    }
    return value;
}

static void adapt_calls(const form *f, json_t *message) {
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    if (!json_is_array(calls)) return;
    json_t *list = json_array();
    size_t i;
    json_array_foreach(calls, i, call) {
        json_t *function = js_get(call, "function");
        json_t *value = adapt_arguments(f, js_get(function, "arguments"));
        json_array_append(list, call);
        if (!value) continue;
        json_t *copy = json_copy(call), *own = json_copy(function);
        json_object_set_new(own, "arguments", value);
        json_object_set_new(copy, "function", own);
        json_array_set_new(list, i, copy);
    }
    json_object_set_new(message, "tool_calls", list);
}

static void alias_reasoning(json_t *message) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        json_t *v = json_object_get(message, names[i]);
        if (!v) continue;
        if (!json_object_get(message, "thinking")) json_object_set(message, "thinking", v);
        json_object_set(message, "reasoning_content", v);
        return;
    }
}

static status adapt_message(const form *f, const json_t *from, json_t *list, error *err) {
    if (!json_is_object(from))
        return error_set_param(err, ERR_INVALID, "messages", "messages must be objects");
    json_t *to = json_object();
    json_array_append_new(list, to);
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)from, name, v) {
        if (!json_is_null(v)) json_object_set(to, name, v);
    }
    alias_reasoning(to);
    adapt_calls(f, to);
    return adapt_content(f, to, err);
}

static status adapt(const form *f, const json_t *messages, json_t *list, error *err) {
    if (!json_is_array(messages) || !json_array_size(messages))
        return error_set_param(err, ERR_INVALID, "messages",
                               "messages must be a list with at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        TRY(adapt_message(f, json_array_get(messages, i), list, err));
    return OK;
}

/* --- continue_final_message: a mark behind the final words says where to cut. Its last space shows
 * whether the template strips its messages. */

static const char mark[] = "CONTINUE_FINAL_MESSAGE_TAG ";
static const size_t mark_n = sizeof mark - 1;

static status bad_final(error *err, const char *why) {
    return error_set_param(err, ERR_INVALID, "continue_final_message",
                           "continue_final_message is set but %s", why);
}

static json_t *with_mark(str words) {
    strbuf text = {0};
    strbuf_add(&text, words);
    strbuf_addz(&text, mark);
    json_t *v = json_stringn(text.p, text.n);
    strbuf_done(&text);
    return v;
}

/* Mark the final message's last text; *words is that text (borrowed from the request). */
static status mark_final(json_t *messages, str *words, error *err) {
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    json_t *content = json_object_get(last, "content");
    *words = js_str(content);
    if (json_is_string(content)) {
        json_object_set_new(last, "content", with_mark(*words));
        return OK;
    }
    for (size_t i = json_array_size(content); i-- > 0;) {
        const json_t *part = json_array_get(content, i);
        *words = js_get_str(part, "text");
        if (!words->p) continue;
        json_t *copy = json_copy((json_t *)(uintptr_t)part), *parts = json_copy(content);
        json_object_set_new(copy, "text", with_mark(*words));
        json_array_set_new(parts, i, copy);
        json_object_set_new(last, "content", parts);
        return OK;
    }
    return bad_final(err, content ? "the final message has no text to continue"
                                  : "the final message has no content to continue");
}

static ptrdiff_t find_last(str s, str needle) {
    for (size_t i = s.n >= needle.n ? s.n - needle.n + 1 : 0; i-- > 0;)
        if (!memcmp(s.p + i, needle.p, needle.n)) return (ptrdiff_t)i;
    return -1;
}

static status cut_final(strbuf *text, size_t from, str words, error *err) {
    str all = str_cut(strbuf_str(text), from, text->n);
    ptrdiff_t at = find_last(all, str_n(mark, mark_n - 1));
    if (at < 0 || str_find(all, str_trim(words), 0) < 0)
        return bad_final(err, "the chat template does not show the final message as it is");
    bool keeps_space = str_starts(str_cut(all, (size_t)at, all.n), str_n(mark, mark_n));
    size_t n = (size_t)at;
    while (!keeps_space && n && strchr(" \t\n\r\v\f", all.p[n - 1])) n--;
    text->n = from + n;
    text->p[text->n] = 0;
    return OK;
}

/* --- rendering */

static const chat_text *pick(const chat *c, const json_t *tools) {
    bool has_tools = json_is_array(tools) && json_array_size(tools);
    if (has_tools && c->tool_use.t) return &c->tool_use;
    return c->main.t ? &c->main : &c->tool_use;
}

static json_t *variables(const chat *c, const chat_request *q, json_t *messages) {
    json_t *vars = json_copy(c->tokens);
    bool has_tools = json_array_size(q->tools) > 0;
    if (json_is_object(q->kwargs)) json_object_update(vars, (json_t *)(uintptr_t)q->kwargs);
    json_object_set(vars, "messages", messages);
    if (has_tools)
        json_object_set(vars, "tools", (json_t *)(uintptr_t)q->tools);
    else
        json_object_set_new(vars, "tools", json_null());
    if (json_is_array(q->documents))
        json_object_set(vars, "documents", (json_t *)(uintptr_t)q->documents);
    else
        json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_boolean(q->add_generation_prompt));
    return vars;
}

/* The template's own words for raise_exception; Python's for the rest. */
static void plain_error(error *err) {
    static const char own[] = "TemplateError: ";
    if (!err || err->code != ERR_INVALID) return;
    if (!strncmp(err->text, own, sizeof own - 1))
        memmove(err->text, err->text + sizeof own - 1, strlen(err->text) - sizeof own + 2);
    else
        error_prefix(err, "chat template");
}

static status render_with(const chat *c, const chat_text *t, const chat_request *q,
                          json_t *messages, strbuf *out, error *err) {
    str words = {NULL, 0};
    size_t from = out->n;
    TRY(adapt(&t->form, q->messages, messages, err));
    if (q->continue_final_message) TRY(mark_final(messages, &words, err));
    json_t *vars = variables(c, q, messages);
    status st = template_render(t->t, vars, NULL, out, err);
    json_decref(vars);
    if (st != OK) plain_error(err);
    if (st == OK && q->continue_final_message) {
        st = cut_final(out, from, words, err);
        if (st != OK) out->n = from;
    }
    return st;
}

status chat_render(const chat *c, const chat_request *q, strbuf *out, error *err) {
    if (q->continue_final_message && q->add_generation_prompt)
        return error_set_param(err, ERR_INVALID, "continue_final_message",
                               "continue_final_message and add_generation_prompt exclude each "
                               "other");
    chat_text own = {0};
    const chat_text *t = pick(c, q->tools);
    if (q->chat_template.p) {
        TRY(parse_template(c, q->chat_template, "chat_template", &own, err));
        t = &own;
    }
    if (!t->t)
        return error_set_param(err, ERR_INVALID, "messages",
                               "this model has no chat template; give one, or use "
                               "/v1/completions");
    json_t *messages = json_array();
    status st = render_with(c, t, q, messages, out, err);
    json_decref(messages);
    template_free(own.t);
    return st;
}

status chat_render_vars(const chat *c, const json_t *vars, strbuf *out, error *err) {
    const chat_text *t = pick(c, js_get(vars, "tools"));
    if (!t->t) return error_set(err, ERR_INVALID, "this model has no chat template");
    json_t *all = json_copy(c->tokens);
    json_object_update(all, (json_t *)(uintptr_t)vars);
    status st = template_render(t->t, all, NULL, out, err);
    json_decref(all);
    return st;
}
