/* pagoda chat: a terminal client. Talks to --url, or to a private runtime of --model; the
 * conversation is kept here and sent whole each time (the server's prefix cache makes that cheap).
 *
 * Ctrl-C while an answer streams ends that answer; at the prompt it ends the program. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_local.h"
#include "tokenizer/chat_builtin.h"

#define PATH "/v1/chat/completions"

typedef struct talk {
    const conf *c;
    client_url url;
    json_t *messages;
    char *model;   /* name to ask for */
    strbuf system; /* what every conversation begins with; empty: nothing */
    bool terminal; /* standard input is one: prompts and hints are shown */
} talk;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig) {
    interrupted = 1;
}

static void add_message(json_t *messages, const char *role, str content) {
    json_t *text = json_stringn(content.p, content.n);
    if (!text) return; /* not UTF-8: an answer that was cut off inside a character */
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", text));
}

static void reset(talk *t) {
    json_array_clear(t->messages);
    if (t->system.n) add_message(t->messages, "system", strbuf_str(&t->system));
}

static void body_of(const talk *t, strbuf *out) {
    const conf *c = t->c;
    json_t *q =
        json_pack("{s:s, s:O, s:b}", "model", t->model, "messages", t->messages, "stream", 1);
    if (c->max_tokens) json_object_set_new(q, "max_tokens", json_integer(c->max_tokens));
    if (conf_given(c, OPT_temperature))
        json_object_set_new(q, "temperature", json_real(c->temperature));
    if (conf_given(c, OPT_top_p)) json_object_set_new(q, "top_p", json_real(c->top_p));
    if (conf_given(c, OPT_top_k)) json_object_set_new(q, "top_k", json_integer(c->top_k));
    if (conf_given(c, OPT_seed)) json_object_set_new(q, "seed", json_integer(c->seed));
    if (conf_given(c, OPT_repetition_penalty))
        json_object_set_new(q, "repetition_penalty", json_real(c->repetition_penalty));
    if (c->stop) json_object_set_new(q, "stop", json_string(c->stop));
    strbuf_add_js(out, q);
    json_decref(q);
}

/* Print one event's piece of text and keep it. */
static status on_event(void *answer, const json_t *event, error *err) {
    json_t *delta = js_get(json_array_get(js_get(event, "choices"), 0), "delta");
    str text = js_get_str(delta, "content");
    if (!text.n) return OK;
    fwrite(text.p, 1, text.n, stdout);
    fflush(stdout);
    strbuf_add(answer, text);
    return OK;
}

/* Ask with the conversation so far; the answer is printed and added to it. */
static status ask(talk *t, error *err) {
    strbuf body = {0}, answer = {0};
    interrupted = 0;
    body_of(t, &body);
    status st = client_stream(&t->url, PATH, t->c->api_key, strbuf_str(&body), on_event, &answer,
                              &interrupted, err);
    if (answer.n || st == OK) fputc('\n', stdout);
    if (answer.n) add_message(t->messages, "assistant", strbuf_str(&answer));
    strbuf_done(&answer);
    strbuf_done(&body);
    return st;
}

static void question(talk *t, str text) {
    error err;
    size_t before = json_array_size(t->messages);
    add_message(t->messages, "user", text);
    if (json_array_size(t->messages) == before) {
        fprintf(stderr, "pagoda: that is not valid UTF-8\n");
        return;
    }
    if (ask(t, &err) == OK) return;
    cmd_fail(&err);
    while (json_array_size(t->messages) > before) json_array_remove(t->messages, before);
}

/* Words that are not said to the model: those with a slash, and XTuner's. */
static bool is_command(str word) {
    return word.p[0] == '/' || str_eqz(word, "RESET") || str_eqz(word, "EXIT");
}

/* False ends the program. */
static bool command(talk *t, str word) {
    if (str_eqz(word, "/exit") || str_eqz(word, "/quit") || str_eqz(word, "EXIT")) return false;
    if (str_eqz(word, "/reset") || str_eqz(word, "RESET")) {
        reset(t);
        puts("the conversation is forgotten");
    } else {
        puts("/reset forgets the conversation, /exit ends; anything else is said to the model");
    }
    return true;
}

static void converse(talk *t) {
    char *line = NULL;
    size_t cap = 0;
    if (t->terminal) printf("%s. /reset forgets, /exit ends, Ctrl-C stops an answer.\n", t->model);
    for (;;) {
        if (t->terminal) {
            fputs("\n> ", stdout);
            fflush(stdout);
        }
        interrupted = 0;
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0) break;
        str text = str_trim(str_n(line, (size_t)n));
        if (!text.n) continue;
        if (!is_command(text))
            question(t, text);
        else if (!command(t, text))
            break;
    }
    if (t->terminal) fputc('\n', stdout);
    free(line);
}

static status run(talk *t, error *err) {
    if (t->c->served_model)
        t->model = mem_strdup(t->c->served_model);
    else
        TRY(client_first_model(&t->url, t->c->api_key, &t->model, err));
    /* No SA_RESTART: reading the answer or a line is broken off. */
    sigaction(SIGINT, &(struct sigaction){.sa_handler = on_interrupt}, NULL);
    if (t->c->system_template)
        TRY(chat_system_prompt(t->c->system_template, t->c->bot_name, &t->system, err));
    if (t->c->system) strbuf_addz(&t->system, t->c->system);
    t->messages = json_array();
    t->terminal = isatty(STDIN_FILENO);
    reset(t);
    status st = OK;
    if (t->c->message) {
        add_message(t->messages, "user", str_z(t->c->message));
        st = ask(t, err);
    } else {
        converse(t);
    }
    json_decref(t->messages);
    return st;
}

int cmd_chat(const conf *c) {
    error err;
    talk t = {.c = c};
    local l = {0};
    if (!c->model == !c->url) return cmd_failf("chat needs either --url URL or --model DIR");
    status st = c->url ? client_url_parse(c->url, &t.url, &err) : local_open(c, &l, &err);
    if (st == OK && c->model) t.url = l.url;
    if (st == OK) st = run(&t, &err);
    mem_free(t.model);
    strbuf_done(&t.system);
    local_close(&l);
    return st == OK ? 0 : cmd_fail(&err);
}
