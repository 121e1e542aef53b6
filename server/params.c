/* Two tables and a reading:
 *   known[]    every field that a request may carry (for strict mode)
 *   refused[]  fields that are known but have one harmless value only
 *   read_*()   the rest, with bounds
 * Bounds are OpenAI's where OpenAI has the field, else those of the sampler's contract. */
#include "server/params.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/fields.h"

enum { CHAT = 1, TEXT = 2, BOTH = 3, NAME_MAX_BYTES = 512, SALT_BYTES = 256 };

static const struct {
    const char *name;
    int kinds;
} known[] = {
    {"messages", CHAT},
    {"prompt", TEXT},
    {"max_completion_tokens", CHAT},
    {"top_logprobs", CHAT},
    {"echo", BOTH},
    {"chat_template", CHAT},
    {"chat_template_kwargs", CHAT},
    {"add_generation_prompt", CHAT},
    {"continue_final_message", CHAT},
    {"reasoning_effort", CHAT},
    {"tools", CHAT},
    {"tool_choice", CHAT},
    {"parallel_tool_calls", CHAT},
    {"documents", CHAT},
    {"model", BOTH},
    {"max_tokens", BOTH},
    {"min_tokens", BOTH},
    {"temperature", BOTH},
    {"top_p", BOTH},
    {"top_k", BOTH},
    {"min_p", BOTH},
    {"typical_p", BOTH},
    {"repetition_penalty", BOTH},
    {"frequency_penalty", BOTH},
    {"presence_penalty", BOTH},
    {"no_repeat_ngram_size", BOTH},
    {"seed", BOTH},
    {"n", BOTH},
    {"stop", BOTH},
    {"stop_token_ids", BOTH},
    {"include_stop_str_in_output", BOTH},
    {"ignore_eos", BOTH},
    {"allowed_token_ids", BOTH},
    {"logit_bias", BOTH},
    {"logprobs", BOTH},
    {"prompt_logprobs", BOTH},
    {"stream", BOTH},
    {"stream_options", BOTH},
    {"skip_special_tokens", BOTH},
    {"return_token_ids", BOTH},
    {"add_special_tokens", BOTH},
    {"priority", BOTH},
    {"cache_salt", BOTH},
    {"truncate_prompt_tokens", BOTH},
    {"user", BOTH},
    {"metadata", BOTH},
};

typedef enum harmless {
    IF_FALSE,  /* false */
    IF_EMPTY,  /* "", [] or {} */
    IF_ONE,    /* 1 */
    IF_N,      /* equal to n */
    IF_ABSENT, /* null or absent only */
    IF_TEXT,   /* {"type": "text"} or ["text"] */
    IF_NONE,   /* "none" */
} harmless;

static const struct {
    const char *name;
    int kinds;
    harmless when;
    const char *why;
} refused[] = {
    {"echo", CHAT, IF_FALSE, "echo is for /v1/completions"},
    {"suffix", TEXT, IF_EMPTY, "insertion (suffix) is not supported"},
    {"best_of", TEXT, IF_N, "best_of must equal n: ranking candidates is not supported"},
    {"best_of", CHAT, IF_N, "best_of must equal n: ranking candidates is not supported"},
    {"use_beam_search", BOTH, IF_FALSE, "beam search is not supported"},
    {"length_penalty", BOTH, IF_ONE, "length_penalty belongs to beam search, not supported"},
    {"early_stopping", BOTH, IF_FALSE, "early_stopping belongs to beam search, not supported"},
    {"bad_words", BOTH, IF_EMPTY, "bad_words is not supported; logit_bias bans tokens"},
    {"response_format", BOTH, IF_TEXT, "only response_format {\"type\": \"text\"} is supported"},
    {"structured_outputs", BOTH, IF_ABSENT, "structured outputs are not supported"},
    {"guided_json", BOTH, IF_ABSENT, "guided decoding is not supported"},
    {"guided_regex", BOTH, IF_ABSENT, "guided decoding is not supported"},
    {"guided_choice", BOTH, IF_ABSENT, "guided decoding is not supported"},
    {"guided_grammar", BOTH, IF_ABSENT, "guided decoding is not supported"},
    {"structural_tag", BOTH, IF_ABSENT, "structured outputs are not supported"},
    {"functions", CHAT, IF_EMPTY, "functions are not supported"},
    {"function_call", CHAT, IF_NONE, "functions are not supported"},
    {"documents", CHAT, IF_EMPTY, "documents are not supported"},
    {"modalities", CHAT, IF_TEXT, "only the text modality is supported"},
    {"audio", CHAT, IF_ABSENT, "audio output is not supported"},
    {"store", BOTH, IF_FALSE, "answers are not stored"},
};

static bool is_harmless(const json_t *v, harmless when, int64_t n) {
    switch (when) {
    case IF_FALSE: return json_is_false(v);
    case IF_EMPTY:
        return (json_is_string(v) && json_string_length(v) == 0) ||
               (json_is_array(v) && json_array_size(v) == 0) ||
               (json_is_object(v) && json_object_size(v) == 0);
    case IF_ONE: return json_is_number(v) && json_number_value(v) == 1;
    case IF_N: return json_is_integer(v) && json_integer_value(v) == n;
    case IF_NONE: return str_eqz(js_str(v), "none");
    case IF_TEXT:
        return str_eqz(js_get_str(v, "type"), "text") ||
               (json_array_size(v) == 1 && str_eqz(js_str(json_array_get(v, 0)), "text"));
    case IF_ABSENT: return false;
    }
    return false;
}

static void refuse_unsupported(fields *f, int kind) {
    int64_t n = js_get_int(f->obj, "n", 1);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        const json_t *v = refused[i].kinds & kind ? field_get(f, refused[i].name) : NULL;
        if (v && !is_harmless(v, refused[i].when, n))
            field_fail(f, ERR_UNSUPPORTED, refused[i].name, "%s", refused[i].why);
    }
}

static bool is_known(const char *name, int kind) {
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (known[i].kinds & kind && strcmp(known[i].name, name) == 0) return true;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        if (refused[i].kinds & kind && strcmp(refused[i].name, name) == 0) return true;
    return false;
}

static void refuse_unknown(fields *f, int kind) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)f->obj, name, v) {
        if (!is_known(name, kind)) field_fail(f, ERR_INVALID, name, "unknown field '%.64s'", name);
    }
}

/* Tools are understood far enough to say no: with tool_choice "none" they are left out. */
static void read_tools(fields *f) {
    const json_t *tools = field_array(f, "tools", LIMIT_TOOLS);
    const json_t *choice = field_get(f, "tool_choice");
    bool none = str_eqz(js_str(choice), "none"), is_auto = str_eqz(js_str(choice), "auto");
    (void)field_bool(f, "parallel_tool_calls", true);
    if (choice && !none && !is_auto)
        field_fail(f, ERR_UNSUPPORTED, "tool_choice", "tool calls are not supported");
    if (tools && json_array_size(tools) > 0 && !none)
        field_fail(f, ERR_UNSUPPORTED, "tools",
                   "tool calls are not supported; tool_choice \"none\" leaves the tools out");
}

static void read_stream(fields *f, gen_params *p) {
    p->stream = field_bool(f, "stream", false);
    json_t *o = field_object(f, "stream_options");
    if (!o) return;
    if (!p->stream)
        field_fail(f, ERR_INVALID, "stream_options", "stream_options needs stream: true");
    fields sub = {o, "stream_options.", f->st, f->err};
    p->include_usage = field_bool(&sub, "include_usage", false);
    p->continuous_usage = field_bool(&sub, "continuous_usage_stats", false);
    f->st = sub.st;
}

static void read_sampling(fields *f, const params_context *c, gen_params *p) {
    const server_defaults *d = c->defaults;
    sample_params *s = &p->sample;
    s->temperature = (float)field_real(f, "temperature", d->temperature, 0, 2);
    s->top_p = (float)field_real(f, "top_p", d->top_p, 0, 1);
    if (s->top_p <= 0) s->top_p = FLT_MIN; /* OpenAI allows 0: the best token only */
    s->top_k = (int32_t)field_int(f, "top_k", d->top_k, -1, LIMIT_TOP_K);
    if (s->top_k < 0) s->top_k = 0;
    s->min_p = (float)field_real(f, "min_p", d->min_p, 0, 1);
    if (s->min_p >= 1) s->min_p = 1 - FLT_EPSILON;
    s->typical_p = (float)field_real(f, "typical_p", d->typical_p, 0, 1);
    if (s->typical_p <= 0) s->typical_p = FLT_MIN;
    s->repetition_penalty =
        (float)field_real(f, "repetition_penalty", d->repetition_penalty, 0.01, 100);
    s->frequency_penalty = (float)field_real(f, "frequency_penalty", 0, -2, 2);
    s->presence_penalty = (float)field_real(f, "presence_penalty", 0, -2, 2);
    s->no_repeat_ngram =
        (int32_t)field_int(f, "no_repeat_ngram_size", d->no_repeat_ngram, 0, LIMIT_NGRAM);
    p->has_seed = field_get(f, "seed") != NULL;
    s->seed = (uint64_t)field_int(f, "seed", 0, INT64_MIN, INT64_MAX);
}

static void read_lengths(fields *f, const params_context *c, gen_params *p) {
    bool text = p->kind == API_COMPLETIONS;
    p->n = (int32_t)field_int(f, "n", 1, 1, LIMIT_N);
    int64_t max = field_int(f, "max_tokens", -1, text ? 0 : 1, INT32_MAX);
    if (!text) max = field_int(f, "max_completion_tokens", max, 1, INT32_MAX);
    p->max_tokens = (int32_t)max;
    p->sample.min_tokens = (int32_t)field_int(f, "min_tokens", 0, 0, c->max_model_len);
    if (max >= 0 && p->sample.min_tokens > max)
        field_fail(f, ERR_INVALID, "min_tokens", "min_tokens is larger than max_tokens (%lld)",
                   (long long)max);
    p->truncate_prompt = (int32_t)field_int(f, "truncate_prompt_tokens", -2, -1, c->max_model_len);
    if (p->truncate_prompt == 0)
        field_fail(f, ERR_INVALID, "truncate_prompt_tokens",
                   "truncate_prompt_tokens must be -1 or at least 1");
    if (p->truncate_prompt == -1) p->truncate_prompt = c->max_model_len;
    if (p->truncate_prompt == -2) p->truncate_prompt = -1;
}

static void add_stop(fields *f, arena *mem, gen_params *p, const json_t *v) {
    str s = js_str(v);
    if (!json_is_string(v))
        field_fail(f, ERR_INVALID, "stop", "stop must be a string or a list of strings, found %s",
                   json_kind(v));
    else if (s.n > LIMIT_STOP_BYTES)
        field_fail(f, ERR_INVALID, "stop", "a stop string is longer than %d bytes",
                   LIMIT_STOP_BYTES);
    else if (s.n > 0)
        p->stops[p->n_stops++] = str_n(arena_strdup(mem, s), s.n);
}

/* What ends an answer besides the request's own stops: the chat format's, unless the request brings
 * its own template or wants to go on after an end. */
static bool in_format(const fields *f, const params_context *c, const gen_params *p) {
    return p->kind == API_CHAT && c->turn && !field_get(f, "chat_template");
}

static const turn_ends *turn_of(fields *f, const params_context *c, const gen_params *p) {
    static const turn_ends none = {0};
    return in_format(f, c, p) && !field_bool(f, "ignore_eos", false) ? c->turn : &none;
}

static void read_stops(fields *f, const params_context *c, arena *mem, gen_params *p) {
    const turn_ends *turn = turn_of(f, c, p);
    const json_t *v = field_get(f, "stop");
    size_t n = json_is_array(v) ? json_array_size(v) : v != NULL;
    if (n > LIMIT_STOP_STRINGS) {
        field_fail(f, ERR_INVALID, "stop", "stop has %zu strings, the limit is %d", n,
                   LIMIT_STOP_STRINGS);
        return;
    }
    if (!n && !turn->n_texts) return;
    p->stops = arena_array(mem, n + (size_t)turn->n_texts, sizeof *p->stops);
    for (size_t i = 0; i < n; i++) add_stop(f, mem, p, json_is_array(v) ? json_array_get(v, i) : v);
    for (int32_t i = 0; i < turn->n_texts; i++) p->stops[p->n_stops++] = turn->texts[i];
    p->n_turn_stops = turn->n_texts;
}

/* The request's ends, the model's (unless ignored) and the chat format's, in one list for the
 * scheduler. */
static void read_stop_ids(fields *f, const params_context *c, arena *mem, gen_params *p) {
    size_t n;
    p->own_stop_ids = field_ids(f, "stop_token_ids", 0, c->vocab - 1, LIMIT_STOP_IDS, mem, &n);
    p->n_own_stop_ids = (int32_t)n;
    bool ignore_eos = field_bool(f, "ignore_eos", false);
    const turn_ends *turn = turn_of(f, c, p);
    size_t n_eos = ignore_eos ? 0 : (size_t)c->n_eos;
    int32_t *all = arena_array(mem, n + n_eos + (size_t)turn->n_ids, sizeof *all);
    if (!all || n + n_eos + (size_t)turn->n_ids == 0) return;
    if (n) memcpy(all, p->own_stop_ids, n * sizeof *all);
    if (n_eos) memcpy(all + n, c->eos_ids, n_eos * sizeof *all);
    n += n_eos;
    for (int32_t i = 0; i < turn->n_ids; i++)
        if (turn->ids[i] < c->vocab) all[n++] = turn->ids[i];
    p->sample.stop_ids = all;
    p->sample.n_stop_ids = (int32_t)n;
}

static void read_bias(fields *f, const params_context *c, arena *mem, gen_params *p) {
    json_t *o = field_object(f, "logit_bias");
    size_t n = o ? json_object_size(o) : 0;
    if (n > LIMIT_LOGIT_BIAS)
        field_fail(f, ERR_INVALID, "logit_bias", "logit_bias has %zu entries, the limit is %d", n,
                   LIMIT_LOGIT_BIAS);
    logit_bias *list = n && f->st == OK ? arena_array(mem, n, sizeof *list) : NULL;
    if (!list) return;
    const char *name;
    json_t *v;
    int32_t i = 0;
    json_object_foreach(o, name, v) {
        int64_t id;
        double bias = json_is_number(v) ? json_number_value(v) : NAN;
        if (!str_to_i64(str_z(name), &id) || id < 0 || id >= c->vocab) {
            field_fail(f, ERR_INVALID, "logit_bias",
                       "logit_bias: '%.32s' is not a token id from 0 to %d", name, c->vocab - 1);
            return;
        }
        if (!(bias >= -100 && bias <= 100)) {
            field_fail(f, ERR_INVALID, "logit_bias",
                       "logit_bias of token %lld must be a number from -100 to 100", (long long)id);
            return;
        }
        /* -100 is OpenAI's ban, and must be one whatever the logits are. */
        list[i++] = (logit_bias){(int32_t)id, bias <= -100 ? -INFINITY : (float)bias};
    }
    p->sample.bias = list;
    p->sample.n_bias = i;
}

static void read_allowed(fields *f, const params_context *c, arena *mem, gen_params *p) {
    size_t n;
    bool given = field_get(f, "allowed_token_ids") != NULL;
    p->sample.allowed_ids =
        field_ids(f, "allowed_token_ids", 0, c->vocab - 1, (size_t)c->vocab, mem, &n);
    p->sample.n_allowed = (int32_t)n;
    if (given && n == 0)
        field_fail(f, ERR_INVALID, "allowed_token_ids", "allowed_token_ids must not be empty");
}

static void read_logprobs(fields *f, const params_context *c, gen_params *p) {
    if (p->kind == API_CHAT) {
        p->want_logprobs = field_bool(f, "logprobs", false);
        p->n_top = (int32_t)field_int(f, "top_logprobs", 0, 0, c->max_logprobs);
        if (p->n_top > 0 && !p->want_logprobs)
            field_fail(f, ERR_INVALID, "top_logprobs", "top_logprobs needs logprobs: true");
    } else {
        json_t *v = field_get(f, "logprobs");
        if (v && !json_is_false(v)) { /* some clients send false for "no" */
            p->n_top = (int32_t)field_int(f, "logprobs", 0, 0, c->max_logprobs);
            p->want_logprobs = true;
        }
    }
    p->n_prompt_top = (int32_t)field_int(f, "prompt_logprobs", -1, 0, c->max_logprobs);
    if (p->n_prompt_top >= 0 && p->stream)
        field_fail(f, ERR_INVALID, "prompt_logprobs", "prompt_logprobs cannot be streamed");
    int32_t asked = p->want_logprobs ? p->n_top : -1;
    p->sample.n_logprobs = MAX(asked, p->n_prompt_top);
}

static void read_output(fields *f, const params_context *c, gen_params *p) {
    p->echo = p->kind == API_COMPLETIONS && field_bool(f, "echo", false);
    p->include_stop = field_bool(f, "include_stop_str_in_output", false);
    p->skip_special = field_bool(f, "skip_special_tokens", true);
    p->return_token_ids = field_bool(f, "return_token_ids", false);
    bool special =
        p->kind == API_COMPLETIONS || (in_format(f, c, p) && c->turn->add_special_tokens);
    p->add_special_tokens = field_bool(f, "add_special_tokens", special);
    p->priority = (int32_t)field_int(f, "priority", 0, INT32_MIN, INT32_MAX);
    p->cache_salt = field_str(f, "cache_salt", SALT_BYTES);
    p->model = field_str(f, "model", NAME_MAX_BYTES);
    (void)field_str(f, "user", NAME_MAX_BYTES);
    (void)field_object(f, "metadata");
    if (p->max_tokens == 0 && !p->echo && p->n_prompt_top < 0)
        field_fail(f, ERR_INVALID, "max_tokens",
                   "max_tokens must be at least 1, or 0 with echo or prompt_logprobs");
}

static void read_chat(fields *f, const params_context *c, gen_params *p) {
    p->add_generation_prompt = field_bool(f, "add_generation_prompt", true);
    p->continue_final_message = field_bool(f, "continue_final_message", false);
    /* The default of the one gives way to the other. */
    if (p->continue_final_message && !field_get(f, "add_generation_prompt"))
        p->add_generation_prompt = false;
    if (p->continue_final_message && p->add_generation_prompt)
        field_fail(f, ERR_INVALID, "continue_final_message",
                   "continue_final_message and add_generation_prompt exclude each other");
    p->template_kwargs = field_object(f, "chat_template_kwargs");
    p->reasoning_effort = field_str(f, "reasoning_effort", 32);
    p->chat_template = field_str(f, "chat_template", LIMIT_TEMPLATE_BYTES);
    if (p->chat_template.p && !c->request_template)
        field_fail(f, ERR_UNSUPPORTED, "chat_template",
                   "this server does not take chat templates from requests");
}

status params_parse(const json_t *body, api_kind kind, const params_context *c, arena *mem,
                    gen_params *ret, error *err) {
    fields f = fields_of(body, err);
    int bit = kind == API_CHAT ? CHAT : TEXT;
    gen_params p = {.kind = kind};
    if (c->strict) refuse_unknown(&f, bit);
    refuse_unsupported(&f, bit);
    if (kind == API_CHAT) read_tools(&f);
    read_stream(&f, &p);
    read_lengths(&f, c, &p);
    read_sampling(&f, c, &p);
    read_stops(&f, c, mem, &p);
    read_stop_ids(&f, c, mem, &p);
    read_bias(&f, c, mem, &p);
    read_allowed(&f, c, mem, &p);
    read_logprobs(&f, c, &p);
    read_output(&f, c, &p);
    if (kind == API_CHAT) read_chat(&f, c, &p);
    if (f.st == OK) *ret = p;
    return f.st;
}
