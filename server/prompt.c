/* Text is tokenised here and nowhere else on the request's way. The bound is the context: a text
 * that gives more ids than the model can hold is refused as soon as that is sure. */
#include "server/prompt.h"

#include <stdio.h>

#include "engine/base/json.h"
#include "server/fields.h"
#include "server/messages.h"

/* The body's field that the prompts are in. */
static const char *field_of(const gen_params *p) {
    return p->kind == API_EMBEDDINGS ? "input" : "prompt";
}

static status too_long(const model *m, int64_t n_prompt, bool more, error *err,
                       const char **ret_code) {
    *ret_code = "context_length_exceeded";
    return error_set_param(err, ERR_INVALID, "prompt",
                           "this model's context holds %d tokens, but the prompt has %s%lld",
                           m->m.max_model_len, more ? "at least " : "", (long long)n_prompt);
}

status prompt_max_tokens(const model *m, const gen_params *p, int32_t n_prompt, int32_t *ret,
                         error *err, const char **ret_code) {
    int64_t room = (int64_t)m->m.max_model_len - n_prompt;
    int32_t usual = m->m.defaults.max_new_tokens, total = m->m.defaults.max_length;
    if (room < (p->max_tokens == 0 ? 0 : 1)) return too_long(m, n_prompt, false, err, ret_code);
    if (p->max_tokens < 0) {
        int64_t n = usual > 0                    ? usual
                    : total > 0                  ? MAX(total - n_prompt, 1)
                    : p->kind == API_COMPLETIONS ? 16
                                                 : room;
        *ret = (int32_t)MIN(n, room);
        return OK;
    }
    if (p->max_tokens > room) {
        *ret_code = "context_length_exceeded";
        return error_set_param(err, ERR_INVALID, "max_tokens",
                               "this model's context holds %d tokens, but %lld were asked for "
                               "(%d in the prompt, %d for the completion)",
                               m->m.max_model_len, (long long)n_prompt + p->max_tokens, n_prompt,
                               p->max_tokens);
    }
    *ret = p->max_tokens;
    return OK;
}

/* Keep the last tokens if so asked, then move the ids to the arena. */
static status keep(const model *m, const gen_params *p, vec_i32 *ids, arena *mem, prompt *ret,
                   error *err, const char **ret_code) {
    const int32_t *from = ids->p;
    size_t n = ids->n;
    if (p->truncate_prompt > 0 && n > (size_t)p->truncate_prompt) {
        from += n - (size_t)p->truncate_prompt;
        n = (size_t)p->truncate_prompt;
    }
    if (n == 0) return error_set_param(err, ERR_INVALID, "prompt", "the prompt has no tokens");
    if (n > (size_t)m->m.max_model_len) return too_long(m, (int64_t)n, false, err, ret_code);
    int32_t *copy = arena_array(mem, n, sizeof *copy);
    if (!copy)
        return error_set_param(err, ERR_TOO_LARGE, "prompt", "the prompts are too large together");
    memcpy(copy, from, n * sizeof *copy);
    ret->ids = copy;
    ret->n = (int32_t)n;
    return OK;
}

/* Embeddings lose the end of a text, and keep what stands around it ([CLS], [SEP], the token that
 * is pooled), as tokenizers cut for their encoders; prompts of texts to come lose their beginning
 * (keep). */
static status cut_end(const model *m, str text, size_t most, vec_i32 *ids, error *err) {
    vec_i32 plain = {0};
    if (ids->n <= most) return OK;
    status st = tokenizer_encode(m->m.tok, text, ENCODE_PLAIN, 0, &plain, err);
    size_t around = ids->n > plain.n ? ids->n - plain.n : 0, before = 0;
    if (st == OK && plain.n > 0 && around < most) {
        while (before < around && ids->p[before] != plain.p[0]) before++;
        size_t after = around - before;
        memmove(ids->p + most - after, ids->p + ids->n - after, after * sizeof *ids->p);
        ids->n = most;
    }
    vec_done(&plain);
    return st;
}

static status encode(const model *m, const gen_params *p, str text, arena *mem, prompt *ret,
                     error *err, const char **ret_code) {
    vec_i32 ids = {0};
    unsigned flags = p->add_special_tokens ? ENCODE_SPECIAL : ENCODE_PLAIN;
    size_t bound = p->truncate_prompt > 0 ? 0 : (size_t)m->m.max_model_len;
    status st = tokenizer_encode(m->m.tok, text, flags, bound, &ids, err);
    if (st == ERR_TOO_LARGE) st = too_long(m, (int64_t)m->m.max_model_len + 1, true, err, ret_code);
    if (st == OK && p->kind == API_EMBEDDINGS && p->truncate_prompt > 0)
        st = cut_end(m, text, (size_t)p->truncate_prompt, &ids, err);
    if (st == OK) st = keep(m, p, &ids, mem, ret, err, ret_code);
    vec_done(&ids);
    return st;
}

static status of_text(const model *m, const gen_params *p, str text, arena *mem, prompt *ret,
                      error *err, const char **ret_code) {
    TRY(encode(m, p, text, mem, ret, err, ret_code));
    if (!p->echo) return OK;
    char *copy = arena_strdup(mem, text);
    if (!copy)
        return error_set_param(err, ERR_TOO_LARGE, "prompt", "the prompts are too large together");
    ret->text = str_n(copy, text.n);
    return OK;
}

static status of_ids(const model *m, const json_t *list, const gen_params *p, arena *mem,
                     prompt *ret, error *err, const char **ret_code) {
    vec_i32 ids = {0};
    status st = OK;
    size_t n = json_array_size(list);
    vec_reserve(&ids, n);
    for (size_t i = 0; i < n && st == OK; i++) {
        const json_t *v = json_array_get(list, i);
        int64_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= m->m.vocab)
            st = error_set_param(err, ERR_INVALID, "prompt",
                                 "%s[%zu] must be a token id from 0 to %d", field_of(p), i,
                                 m->m.vocab - 1);
        else
            vec_push(&ids, (int32_t)id);
    }
    if (st == OK) st = keep(m, p, &ids, mem, ret, err, ret_code);
    vec_done(&ids);
    if (st != OK || !p->echo) return st;
    strbuf text = {0};
    tokenizer_decode(m->m.tok, ret->ids, (size_t)ret->n, p->skip_special, &text);
    char *copy = arena_strdup(mem, strbuf_str(&text));
    if (copy) ret->text = str_n(copy, text.n);
    strbuf_done(&text);
    return OK;
}

static status of_value(const model *m, const json_t *v, const gen_params *p, arena *mem,
                       prompt *ret, error *err, const char **ret_code) {
    if (json_is_string(v)) return of_text(m, p, js_str(v), mem, ret, err, ret_code);
    if (json_is_array(v)) return of_ids(m, v, p, mem, ret, err, ret_code);
    return error_set_param(err, ERR_INVALID, "prompt",
                           "%s must be a string, a list of strings, of token ids, or of lists of "
                           "token ids, found %s in it",
                           field_of(p), json_kind(v));
}

status prompts_of_text(const model *m, const json_t *body, const gen_params *p, arena *mem,
                       prompt **ret, int32_t *ret_n, error *err, const char **ret_code) {
    const char *field = field_of(p);
    const json_t *v = js_get(body, field);
    if (!v) return error_set_param(err, ERR_INVALID, field, "%s is missing", field);
    /* A list of ids is one prompt; a list of anything else is several. */
    bool several = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = several ? json_array_size(v) : 1;
    size_t most = p->kind == API_EMBEDDINGS ? LIMIT_INPUTS : LIMIT_PROMPTS;
    if (n == 0) return error_set_param(err, ERR_INVALID, field, "%s is an empty list", field);
    if (n > most)
        return error_set_param(err, ERR_INVALID, field, "%s has %zu entries, the limit is %zu",
                               field, n, most);
    prompt *list = arena_array(mem, n, sizeof *list);
    for (size_t i = 0; i < n; i++) {
        status st =
            of_value(m, several ? json_array_get(v, i) : v, p, mem, &list[i], err, ret_code);
        if (st != OK && strcmp(err->param, "prompt") == 0) strcpy(err->param, field);
        if (st != OK) return st;
    }
    *ret = list;
    *ret_n = (int32_t)n;
    return OK;
}

status prompts_of_chat(const model *m, const json_t *body, const gen_params *p, arena *mem,
                       prompt **ret, int32_t *ret_n, error *err, const char **ret_code) {
    strbuf text = {0};
    prompt *one = arena_alloc(mem, sizeof *one);
    status st = prompt_render(m, body, p, &text, err);
    if (st == OK) st = encode(m, p, strbuf_str(&text), mem, one, err, ret_code);
    strbuf_done(&text);
    if (st != OK) {
        if (strcmp(err->param, "prompt") == 0) strcpy(err->param, "messages");
        return st;
    }
    *ret = one;
    *ret_n = 1;
    return OK;
}
