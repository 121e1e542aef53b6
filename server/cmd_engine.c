/* See cmd_engine.h. */
#include "server/cmd_engine.h"

#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "kernels/device.h"
#include "server/cmd.h"
#include "tokenizer/chat_builtin.h"
#include "server/cmd_lora.h"

static cpu_pinning pinning(const char *s) {
    return strcmp(s, "on") == 0 ? PIN_ON : strcmp(s, "off") == 0 ? PIN_OFF : PIN_AUTO;
}

engine_options cmd_engine_options(const conf *c) {
    engine_options o = {
        .model_dir = c->model,
        .register_path = c->register_path,
        .dtype = c->dtype,
        .kv_dtype = c->kv_cache_dtype,
        .quantize = c->quantize,
        .packed_cache = c->packed_cache,
        .quant_math = c->quant_math,
        .gemm_library = c->gemm_library,
        .device = c->device,
        .graphs = c->cuda_graphs,
        .isa = c->isa,
        .n_threads = (int)c->threads,
        .pin = pinning(c->pin_threads),
        .max_model_len = (int32_t)c->max_model_len,
        .max_seqs = (int32_t)c->max_num_seqs,
        .max_drafts = strcmp(c->speculative, "off") == 0 ? 0 : (int32_t)c->num_speculative_tokens,
        .draft_dir = cmd_uses_draft(c) ? c->speculative_model : NULL,
        .draft_quantize = c->speculative_model_quantization,
        .max_batched_tokens = (int32_t)c->max_num_batched_tokens,
        .kv_bytes = c->kv_cache_bytes,
        .kv_swap_bytes = !c->prefix_cache          ? 0
                         : c->kv_swap == CONF_AUTO ? SIZE_MAX
                                                   : c->kv_swap,
        .kv_fraction = c->kv_cache_fraction,
    };
    cmd_lora_options(c, &o);
    return o;
}

bool cmd_uses_draft(const conf *c) {
    bool is_auto = strcmp(c->speculative, "auto") == 0;
    return strcmp(c->speculative, "draft") == 0 || (is_auto && c->speculative_model);
}

static status check_draft(const conf *c, error *err) {
    bool asked = cmd_uses_draft(c);
    if (asked && !c->speculative_model)
        return error_set(err, ERR_INVALID,
                         "--speculative draft needs --speculative-model PATH, the model that "
                         "guesses");
    if (!asked && c->speculative_model)
        return error_set(err, ERR_INVALID,
                         "--speculative-model is for --speculative draft, found --speculative %s",
                         c->speculative);
    if (!c->speculative_model && conf_given(c, OPT_speculative_model_quantization))
        return error_set(err, ERR_INVALID,
                         "--speculative-model-quantization needs --speculative-model");
    if (asked && strcmp(c->engine, "mock") == 0)
        return error_set(err, ERR_INVALID,
                         "--engine mock computes no model: it takes no "
                         "--speculative-model");
    return OK;
}

status cmd_engine_check(const conf *c, error *err) {
    TRY(check_draft(c, err));
    if (c->prefix_cache || c->kv_swap == CONF_AUTO || c->kv_swap == 0) return OK;
    return error_set(err, ERR_INVALID,
                     "--kv-swap needs the prefix cache: moved pages are found by the text that "
                     "they hold");
}

static bool has_file(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    bool there = file_exists(path);
    mem_free(path);
    return there;
}

const char *cmd_tokenizer(const conf *c) {
    if (!c->tokenizer) return c->model;
    bool own =
        c->foreign && c->source[OPT_tokenizer] == FROM_FILE &&
        (has_file(c->model, "tokenizer.json") || has_file(c->model, "tokenizer_config.json"));
    return own ? c->model : c->tokenizer;
}

const char *cmd_chat_template(const conf *c, char *buf, size_t n) {
    if (c->chat_template || !c->prompt_template) return c->chat_template;
    chat_format f;
    snprintf(buf, n, "xtuner/%.64s", c->prompt_template);
    if (chat_format_find(buf, NULL, &f, NULL) != OK) return c->prompt_template;
    chat_format_done(&f);
    return buf;
}

int cmd_print_kernels(const conf *c) {
    backend *b;
    error err;
    device_options o = {.device = c->device, .cpu = {(int)c->threads, c->isa}};
    if (device_open(&o, &b, &err) != OK) return cmd_fail(&err);
    strbuf out = {0};
    backend_print_kernels(b, &out);
    if (!str_ends(strbuf_str(&out), STR("\n"))) strbuf_addc(&out, '\n');
    bool ok = fwrite(out.p, 1, out.n, stdout) == out.n;
    strbuf_done(&out);
    backend_close(b);
    return ok ? 0 : 1;
}
