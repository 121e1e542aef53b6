/* pagoda make-tiny: a small random checkpoint of any family, with a tokenizer of bytes. */
#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/tiny.h"
#include "server/cmd.h"
#include "tokenizer/bytechars.h"

static const char *const specials[TINY_VOCAB - 256] = {"<s>", "</s>", "<unk>", "<pad>"};

/* One token a byte, then the special ones. */
static void tokenizer_text(strbuf *out) {
    strbuf_addz(out, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (int i = 0; i < TINY_VOCAB - 256; i++)
        strbuf_addf(out,
                    "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                    "\"rstrip\":false,\"normalized\":false,\"special\":true}",
                    i ? "," : "", 256 + i, specials[i]);
    strbuf_addz(out, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                     "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
                     "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
                     "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"
                     "\"fuse_unk\":false,\"byte_fallback\":false,\"merges\":[],\"vocab\":{");
    for (int i = 0; i < 256; i++) {
        char byte = (char)i;
        strbuf piece = {0};
        bytechars_encode(str_n(&byte, 1), &piece);
        strbuf_addz(out, i ? "," : "");
        strbuf_add_json(out, strbuf_str(&piece));
        strbuf_addf(out, ":%d", i);
        strbuf_done(&piece);
    }
    strbuf_addz(out, "}}}\n");
}

static status put(const char *dir, const char *name, str text, error *err) {
    char *path = path_join(dir, name);
    status st = file_write_atomic(path, text, err);
    mem_free(path);
    return st;
}

static status put_tokenizer(const char *dir, error *err) {
    strbuf text = {0};
    tokenizer_text(&text);
    status st = put(dir, "tokenizer.json", strbuf_str(&text), err);
    strbuf_done(&text);
    if (st != OK) return st;
    return put(dir, "tokenizer_config.json",
               STR("{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"unk_token\": \"<unk>\", "
                   "\"pad_token\": \"<pad>\", \"chat_template\": \"{% for m in messages %}"
                   "{{ m.role }}: {{ m.content }}\\n{% endfor %}"
                   "{% if add_generation_prompt %}assistant:{% endif %}\"}\n"),
               err);
}

int cmd_make_tiny(const conf *c) {
    error err;
    json_t *set = NULL;
    if (!c->family || !c->out) return cmd_failf("make-tiny needs a family and --out DIR");
    if (c->config_keys && js_parse(str_z(c->config_keys), &set, &err) != OK) {
        error_prefix(&err, "--config-keys");
        return cmd_fail(&err);
    }
    if (set && !json_is_object(set)) return cmd_failf("--config-keys: expected a JSON object");
    tiny_options o = {.family = c->family,
                      .register_path = c->register_path,
                      .dir = c->out,
                      .set = set,
                      .dt = DT_F32,
                      .seed = (uint64_t)c->seed};
    if (strcmp(c->dtype, "bf16") == 0) o.dt = DT_BF16;
    if (strcmp(c->dtype, "f16") == 0) o.dt = DT_F16;
    status st = tiny_model_make(&o, &err);
    if (st == OK) st = put_tokenizer(c->out, &err);
    json_decref(set);
    if (st != OK) return cmd_fail(&err);
    printf("%s: a random %s of %s, for tests\n", c->out, c->family, dtype_name(o.dt));
    return 0;
}
