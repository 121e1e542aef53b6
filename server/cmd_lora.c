/* A value with '=' before any '/' has a name in front; a directory whose own name has one can be
 * written ./a=b. */
#include "server/cmd_lora.h"

#include "engine/base/file.h"
#include "engine/base/mem.h"

static size_t name_length(str value) {
    for (size_t i = 0; i < value.n && value.p[i] != '/'; i++)
        if (value.p[i] == '=') return i;
    return 0;
}

static int count(const conf *c) {
    const char *at = c->lora;
    str value;
    int n = 0;
    while (conf_list_next(&at, &value)) n++;
    return n;
}

status cmd_lora_check(const conf *c, error *err) {
    if (!c->merge_lora) return OK;
    if (count(c) != 1)
        return error_set(err, ERR_INVALID, "--merge-lora needs exactly one --lora, found %d",
                         count(c));
    if (c->lora_updates)
        return error_set(err, ERR_INVALID,
                         "--merge-lora and --lora-updates exclude each other: adapters are made "
                         "for the base, not for the merged model");
    return OK;
}

static char *fresh(str s) {
    strbuf b = {0};
    strbuf_add(&b, s);
    return strbuf_take(&b);
}

void cmd_lora_split(str value, char **ret_name, char **ret_dir) {
    size_t n = name_length(value);
    *ret_dir = fresh(n ? str_cut(value, n + 1, value.n) : value);
    *ret_name = fresh(n ? str_cut(value, 0, n) : path_base(*ret_dir));
}

const char *cmd_lora_dir(const conf *c) {
    size_t n = c->lora ? name_length(str_z(c->lora)) : 0;
    return c->lora ? c->lora + (n ? n + 1 : 0) : NULL;
}

void cmd_lora_options(const conf *c, engine_options *o) {
    bool merge = c->merge_lora && c->lora;
    o->lora_rank_max = (int32_t)c->max_lora_rank;
    o->adapters_max = (c->lora || c->lora_updates) && !merge ? (int32_t)c->max_loras : 0;
    o->merge_lora = merge ? cmd_lora_dir(c) : NULL;
}

status cmd_lora_load(const conf *c, adapters *list, error *err) {
    const char *at = c->merge_lora ? NULL : c->lora;
    str value;
    while (conf_list_next(&at, &value)) {
        char *name, *dir;
        cmd_lora_split(value, &name, &dir);
        status st = adapters_load(list, str_z(name), dir, err);
        mem_free(name);
        mem_free(dir);
        TRY(st);
    }
    return OK;
}

status cmd_lora_use(const conf *c, engine *e, error *err) {
    char *name, *dir;
    adapter_info info;
    if (!c->lora || c->merge_lora) return OK;
    if (count(c) != 1)
        return error_set(err, ERR_INVALID, "this command takes one --lora, found %d", count(c));
    cmd_lora_split(str_z(c->lora), &name, &dir);
    adapter_host host = engine_adapters(e);
    status st = host.load(host.self, dir, &info, err);
    if (st == OK) engine_use_adapter(e, &info);
    mem_free(name);
    mem_free(dir);
    return st;
}
