/* Requests and tokens per minute are token buckets: they hold one minute's worth, refill evenly,
 * and a generation is let in while something is left. Prompt tokens are taken on entry; generated
 * tokens when they are known, which may leave the bucket below zero for a while: the answer that
 * was begun is finished, the next one waits. */
#include "server/keys.h"

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/hash.h"
#include "engine/base/json.h"
#include "engine/base/vec.h"

enum { NAME_BYTES = 64, KEYS_MAX = 10000, KEY_BYTES_MAX = 512 };

typedef struct bucket {
    double per_minute; /* 0: no limit */
    double left;
    uint64_t at_us;
} bucket;

struct key {
    int index;
    bool plain; /* from an option, not from the file */
    bool admin;
    char name[NAME_BYTES];
    uint8_t hash[32];
    float weight;
    char **models; /* NULL: all */
    size_t n_models;
    int max_in_flight; /* 0: no limit */

    pthread_mutex_t lock; /* of what follows */
    bucket requests, tokens;
    int in_flight;
    uint64_t n_requests, n_prompt, n_generated;
};

struct keys {
    _Atomic int refs;
    key **p;
    int n, cap;
};

static key *key_add(keys *ks, const uint8_t hash[32], str name) {
    if (ks->n == ks->cap) {
        ks->cap = MAX(8, ks->cap * 2);
        ks->p = mem_realloc(ks->p, (size_t)ks->cap * sizeof *ks->p);
    }
    key *k = mem_calloc(1, sizeof *k);
    pthread_mutex_init(&k->lock, NULL);
    k->index = ks->n;
    k->weight = 1;
    memcpy(k->hash, hash, 32);
    if (name.n)
        snprintf(k->name, sizeof k->name, STR_FMT, STR_ARG(name));
    else
        snprintf(k->name, sizeof k->name, "key-%d", ks->n + 1);
    ks->p[ks->n++] = k;
    return k;
}

static status add_plain(keys *ks, str text, error *err) {
    uint8_t hash[32];
    if (ks->n >= KEYS_MAX) return error_set(err, ERR_TOO_LARGE, "more than %d keys", KEYS_MAX);
    if (text.n > KEY_BYTES_MAX)
        return error_set(err, ERR_INVALID, "the key is longer than %d bytes", KEY_BYTES_MAX);
    sha256(text.p, text.n, hash);
    key_add(ks, hash, (str){0});
    return OK;
}

static status add_lines(keys *ks, str text, error *err) {
    int line = 0;
    while (text.n) {
        const char *nl = memchr(text.p, '\n', text.n);
        size_t n = nl ? (size_t)(nl - text.p) : text.n;
        str l = str_trim(str_n(text.p, n));
        text = str_cut(text, nl ? n + 1 : n, text.n);
        line++;
        if (l.n == 0 || l.p[0] == '#') continue;
        status st = add_plain(ks, l, err);
        if (st != OK) {
            error_prefix(err, "line %d", line);
            return st;
        }
    }
    return OK;
}

static status hash_of(const json_t *o, uint8_t hash[32], error *err) {
    str plain = js_get_str(o, "key"), hex = js_get_str(o, "sha256");
    if (plain.n && plain.n <= KEY_BYTES_MAX) {
        sha256(plain.p, plain.n, hash);
        return OK;
    }
    if (hex.n != 64)
        return error_set(err, ERR_INVALID,
                         "\"key\" (at most %d bytes) or \"sha256\" (64 digits) is needed",
                         KEY_BYTES_MAX);
    for (size_t i = 0; i < 64; i++) {
        int c = tolower((unsigned char)hex.p[i]);
        if (!isxdigit(c)) return error_set(err, ERR_INVALID, "\"sha256\" is not hexadecimal");
        int digit = c <= '9' ? c - '0' : c - 'a' + 10;
        hash[i / 2] = (uint8_t)(i % 2 ? hash[i / 2] | digit : digit << 4);
    }
    return OK;
}

static status read_models(key *k, const json_t *o, error *err) {
    const json_t *list = js_get(o, "models");
    if (!list) return OK;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return error_set(err, ERR_INVALID, "\"models\" must be a list of names");
    k->n_models = json_array_size(list);
    k->models = mem_calloc(k->n_models, sizeof *k->models);
    for (size_t i = 0; i < k->n_models; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name) return error_set(err, ERR_INVALID, "\"models\" must be a list of names");
        k->models[i] = mem_strdup(name);
    }
    return OK;
}

static status add_object(keys *ks, const json_t *o, error *err) {
    static const char *const known[] = {"name",          "key", "sha256", "weight", "models",
                                        "max_in_flight", "rpm", "tpm",    "admin"};
    const char *field;
    json_t *v;
    if (!json_is_object(o)) return error_set(err, ERR_INVALID, "must be an object");
    json_object_foreach((json_t *)o, field, v) {
        bool ok = false;
        for (size_t i = 0; i < ARRAY_LEN(known); i++) ok |= strcmp(field, known[i]) == 0;
        if (!ok) return error_set(err, ERR_INVALID, "unknown member \"%.40s\"", field);
    }
    uint8_t hash[32] = {0};
    TRY(hash_of(o, hash, err));
    if (ks->n >= KEYS_MAX) return error_set(err, ERR_TOO_LARGE, "more than %d keys", KEYS_MAX);
    double weight = js_get_real(o, "weight", 1), rpm = js_get_real(o, "rpm", 0);
    double tpm = js_get_real(o, "tpm", 0), slots = js_get_real(o, "max_in_flight", 0);
    if (!(weight > 0 && weight <= 1000))
        return error_set(err, ERR_INVALID, "\"weight\" must be over 0 and at most 1000");
    if (!(rpm >= 0 && tpm >= 0 && slots >= 0 && rpm <= 1e12 && tpm <= 1e12 && slots <= 1e6))
        return error_set(err, ERR_INVALID, "limits must not be negative");
    const json_t *admin = js_get(o, "admin");
    if (admin && !json_is_boolean(admin))
        return error_set(err, ERR_INVALID, "\"admin\" must be true or false");
    key *k = key_add(ks, hash, js_get_str(o, "name"));
    k->weight = (float)weight;
    k->requests = (bucket){rpm, rpm, 0};
    k->tokens = (bucket){tpm, tpm, 0};
    k->max_in_flight = (int)slots;
    k->admin = json_is_true(admin);
    return read_models(k, o, err);
}

static status add_json(keys *ks, str text, error *err) {
    json_t *list = NULL;
    TRY(js_parse(text, &list, err));
    status st = OK;
    if (!json_is_array(list)) st = error_set(err, ERR_INVALID, "a list of key objects is expected");
    for (size_t i = 0; st == OK && i < json_array_size(list); i++) {
        st = add_object(ks, json_array_get(list, i), err);
        if (st != OK) error_prefix(err, "entry %zu", i + 1);
    }
    json_decref(list);
    return st;
}

static status add_file(keys *ks, const char *path, error *err) {
    strbuf b = {0};
    status st = file_read(path, LIMIT_CONFIG_BYTES, &b, err);
    if (st != OK) return st;
    str text = str_trim(strbuf_str(&b));
    st = text.n && text.p[0] == '[' ? add_json(ks, text, err) : add_lines(ks, text, err);
    int n = ks->n;
    strbuf_done(&b);
    if (st == OK && n == 0) st = error_set(err, ERR_INVALID, "no key in it");
    if (st != OK) error_prefix(err, "%s", path);
    return st;
}

status keys_load(const char *const *plain, int n_plain, const char *path, keys **ret, error *err) {
    keys *ks = mem_calloc(1, sizeof *ks);
    atomic_init(&ks->refs, 1);
    status st = OK;
    for (int i = 0; i < n_plain && st == OK; i++) {
        if (!plain[i][0]) st = error_set(err, ERR_INVALID, "an API key must not be empty");
        if (st == OK) st = add_plain(ks, str_z(plain[i]), err);
        if (st == OK) ks->p[ks->n - 1]->plain = true;
    }
    if (st == OK && path) st = add_file(ks, path, err);
    if (st != OK || ks->n == 0) {
        keys_release(ks);
        ks = NULL;
    }
    if (st == OK) *ret = ks;
    return st;
}

static key *same_key(keys *ks, const key *k) {
    for (int i = 0; i < ks->n; i++)
        if (memcmp(ks->p[i]->hash, k->hash, 32) == 0) return ks->p[i];
    return NULL;
}

static void carry_over(key *to, key *from) {
    pthread_mutex_lock(&from->lock);
    if (to->requests.per_minute == from->requests.per_minute) to->requests = from->requests;
    if (to->tokens.per_minute == from->tokens.per_minute) to->tokens = from->tokens;
    to->n_requests = from->n_requests;
    to->n_prompt = from->n_prompt;
    to->n_generated = from->n_generated;
    pthread_mutex_unlock(&from->lock);
}

void keys_inherit(keys *fresh, keys *old) {
    for (int i = 0; old && i < old->n; i++) {
        key *was = old->p[i], *now = same_key(fresh, was);
        if (!now && was->plain) {
            now = key_add(fresh, was->hash, str_z(was->name));
            now->plain = true;
        }
        if (now) carry_over(now, was);
    }
}

keys *keys_ref(keys *k) {
    if (k) atomic_fetch_add(&k->refs, 1);
    return k;
}

void keys_release(keys *ks) {
    if (!ks || atomic_fetch_sub(&ks->refs, 1) != 1) return;
    for (int i = 0; i < ks->n; i++) {
        key *k = ks->p[i];
        for (size_t j = 0; j < k->n_models; j++) mem_free(k->models[j]);
        mem_free(k->models);
        pthread_mutex_destroy(&k->lock);
        mem_free(k);
    }
    mem_free(ks->p);
    mem_free(ks);
}

int keys_count(const keys *k) {
    return k ? k->n : 0;
}

key *keys_at(keys *k, int i) {
    return k->p[i];
}

status keys_check(keys *ks, const char *authorization, key **ret, error *err) {
    static const char scheme[] = "Bearer ";
    const size_t n = sizeof scheme - 1;
    if (!authorization)
        return error_set(err, ERR_UNAUTHORIZED,
                         "no API key given: send the header 'Authorization: Bearer KEY'");
    uint8_t hash[32];
    bool shaped = strncasecmp(authorization, scheme, n) == 0;
    str text = shaped ? str_trim(str_z(authorization + n)) : (str){0};
    sha256(text.p, text.n, hash);
    key *found = NULL;
    for (int i = 0; i < ks->n; i++) /* all of them, so that the time tells nothing */
        if (bytes_equal_ct(ks->p[i]->hash, hash, 32)) found = ks->p[i];
    if (!found || !shaped || text.n == 0)
        return error_set(err, ERR_UNAUTHORIZED, "the API key given is not valid");
    *ret = found;
    return OK;
}

bool key_allows(const key *k, str model) {
    if (!k->models) return true;
    for (size_t i = 0; i < k->n_models; i++)
        if (str_eqz(model, k->models[i])) return true;
    return false;
}

bool key_is_admin(const key *k) {
    return k->plain || k->admin;
}

int key_index(const key *k) {
    return k->index;
}
const char *key_name(const key *k) {
    return k->name;
}
float key_weight(const key *k) {
    return k->weight;
}

void key_salt(const key *k, uint64_t ret[2]) {
    uint8_t h[32]; /* of the hash: what is stored says nothing of the salt's use and back */
    sha256(k->hash, 32, h);
    memcpy(ret, h, 16);
}

static void refill(bucket *b, uint64_t now_us) {
    if (b->at_us && now_us > b->at_us)
        b->left += b->per_minute * (double)(now_us - b->at_us) / 60e6;
    if (b->left > b->per_minute) b->left = b->per_minute;
    b->at_us = now_us;
}

static int wait_s(const bucket *b, double want) {
    double s = (want - b->left) / b->per_minute * 60;
    return s < 1 ? 1 : s > 3600 ? 3600 : (int)ceil(s);
}

static status admit(key *k, int32_t n_prompt, int *ret_retry_s, error *err) {
    *ret_retry_s = 1;
    if (k->max_in_flight && k->in_flight >= k->max_in_flight)
        return error_set(err, ERR_RATE, "this API key has %d requests in flight, its limit",
                         k->max_in_flight);
    if (k->requests.per_minute > 0 && k->requests.left < 1) {
        *ret_retry_s = wait_s(&k->requests, 1);
        return error_set(err, ERR_RATE, "this API key is over its limit of %.0f requests a minute",
                         k->requests.per_minute);
    }
    double want = MIN((double)n_prompt, k->tokens.per_minute);
    if (k->tokens.per_minute > 0 && k->tokens.left < want) {
        *ret_retry_s = wait_s(&k->tokens, want);
        return error_set(err, ERR_RATE, "this API key is over its limit of %.0f tokens a minute",
                         k->tokens.per_minute);
    }
    return OK;
}

status key_enter(key *k, int32_t n_prompt, uint64_t now_us, int *ret_retry_s, error *err) {
    pthread_mutex_lock(&k->lock);
    refill(&k->requests, now_us);
    refill(&k->tokens, now_us);
    status st = admit(k, n_prompt, ret_retry_s, err);
    if (st == OK) {
        k->in_flight++;
        k->n_requests++;
        k->n_prompt += (uint64_t)n_prompt;
        k->requests.left -= 1;
        k->tokens.left -= n_prompt;
    }
    pthread_mutex_unlock(&k->lock);
    return st;
}

void key_leave(key *k, int32_t n_generated) {
    pthread_mutex_lock(&k->lock);
    k->in_flight--;
    k->n_generated += (uint64_t)n_generated;
    k->tokens.left -= n_generated;
    pthread_mutex_unlock(&k->lock);
}

void key_use_get(key *k, key_use *ret) {
    pthread_mutex_lock(&k->lock);
    *ret = (key_use){k->name, k->n_requests, k->n_prompt, k->n_generated};
    pthread_mutex_unlock(&k->lock);
}

static void add_limit(const char *what, const bucket *b, header_fn add, void *ctx) {
    char name[48], text[32];
    if (b->per_minute <= 0) return;
    snprintf(name, sizeof name, "x-ratelimit-limit-%s", what);
    snprintf(text, sizeof text, "%.0f", b->per_minute);
    add(ctx, name, text);
    snprintf(name, sizeof name, "x-ratelimit-remaining-%s", what);
    snprintf(text, sizeof text, "%.0f", b->left > 0 ? floor(b->left) : 0);
    add(ctx, name, text);
    snprintf(name, sizeof name, "x-ratelimit-reset-%s", what);
    snprintf(text, sizeof text, "%.1fs", (b->per_minute - b->left) / b->per_minute * 60);
    add(ctx, name, text);
}

void keys_limit_headers(key *k, header_fn add, void *ctx) {
    pthread_mutex_lock(&k->lock);
    bucket requests = k->requests, tokens = k->tokens;
    pthread_mutex_unlock(&k->lock);
    add_limit("requests", &requests, add, ctx);
    add_limit("tokens", &tokens, add, ctx);
}
