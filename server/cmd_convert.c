/* pagoda convert: model files into other model files. The engine writes config and weights; the
 * files beside them (tokenizer, chat template, generation defaults) are copied here; where the
 * container changes, the tokenizer is converted (cmd_convert_tok.c). */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/convert.h"
#include "server/cmd.h"
#include "server/cmd_convert_tok.h"
#include "server/cmd_lora.h"

#define COPY_BYTES_MAX ((size_t)256 << 20)

/* Weights, what the engine writes itself, and what told how weights were quantised are not copied.
 */
static bool is_companion(const char *name) {
    static const char *const not [] = {".safetensors",
                                       ".bin",
                                       ".gguf",
                                       ".pt",
                                       ".pth",
                                       ".msgpack",
                                       ".index.json",
                                       ".h5",
                                       "quantize_config.json",
                                       "quant_config.json"};
    str s = str_z(name);
    if (name[0] == '.' || strcmp(name, "config.json") == 0) return false;
    for (size_t i = 0; i < ARRAY_LEN(not ); i++)
        if (str_ends(s, str_z(not [i]))) return false;
    return true;
}

static status copy_file(const char *from_dir, const char *to_dir, const char *name, error *err) {
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    strbuf text = {0};
    status st = OK;
    if (file_exists(from)) {
        st = file_read(from, COPY_BYTES_MAX, &text, err);
        if (st == OK) st = file_write_atomic(to, strbuf_str(&text), err);
    }
    strbuf_done(&text);
    mem_free(from);
    mem_free(to);
    return st;
}

static status copy_companions(const char *from, const char *to, error *err) {
    DIR *d = opendir(from);
    status st = OK;
    if (!d) return error_set(err, ERR_IO, "%s: cannot read the directory", from);
    for (struct dirent *f; st == OK && (f = readdir(d));)
        if (is_companion(f->d_name)) st = copy_file(from, to, f->d_name, err);
    closedir(d);
    return st;
}

static convert_options options_of(const conf *c) {
    convert_options o = {.model = c->model,
                         .register_path = c->register_path,
                         .adapter = cmd_lora_dir(c),
                         .out = c->out,
                         .dt = DT_COUNT,
                         .shard_bytes = c->shard_size};
    if (strcmp(c->dtype, "auto") != 0)
        o.dt = c->dtype[0] == 'b' ? DT_BF16 : strcmp(c->dtype, "f16") == 0 ? DT_F16 : DT_F32;
    return o;
}

/* The GGUF file of a model that is one, as a path (mem_free), else NULL. */
static char *gguf_of(const char *model) {
    if (!dir_exists(model)) return mem_strdup(model);
    char *config = path_join(model, "config.json"), *found = NULL;
    DIR *d = file_exists(config) ? NULL : opendir(model);
    for (struct dirent *f; d && !found && (f = readdir(d));)
        if (str_ends(str_z(f->d_name), STR(".gguf"))) found = path_join(model, f->d_name);
    if (d) closedir(d);
    mem_free(config);
    return found;
}

/* The tokenizer goes first where it is converted: what has no form is refused before weights are
 * written. */
static status convert(const conf *c, error *err) {
    convert_options o = options_of(c);
    char *from = gguf_of(c->model);
    bool to_gguf = str_ends(str_z(c->out), STR(".gguf")), to_files = from && !to_gguf;
    tok_files_text files = {0};
    status st = OK;
    if (to_gguf && !c->no_tokenizer) {
        o.add_tokenizer = convert_add_tokenizer;
        o.ctx = (void *)(uintptr_t)c->model;
    }
    if (to_files && !c->no_tokenizer) st = convert_make_files(from, &files, err);
    if (st == OK) st = convert_run(&o, err);
    if (st == OK && to_files) st = convert_write_files(&files, c->out, err);
    if (st == OK && !from && !to_gguf) st = copy_companions(c->model, c->out, err);
    tok_files_text_done(&files);
    mem_free(from);
    return st;
}

static bool same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int cmd_convert(const conf *c) {
    error err;
    const char *more = c->lora;
    str adapter;
    if (more && conf_list_next(&more, &adapter) && conf_list_next(&more, &adapter))
        return cmd_failf("convert merges one --lora, not several");
    if (!c->model || !c->out) return cmd_failf("convert needs a model and --out DIR or FILE.gguf");
    if (same_file(c->model, c->out)) return cmd_failf("--out must not be the model itself");
    if (convert(c, &err) != OK) return cmd_fail(&err);
    printf("%s: written\n", c->out);
    return 0;
}
