/* An adapter that was trained with more tokens than the base has (Chinese-LLaMA and its kin) brings
 * the whole embedding and head. To merge such a one, the model must be planned with the larger
 * vocabulary: the adapter's tensors take the place of the base's in the checkpoint's table before
 * anything is decided, so that everything after reads them as if they had always been there. */
#include "engine/adapter.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"

static const char *const vocab_keys[] = {"vocab_size", "padded_vocab_size"};

static st_tensor *base_tensor(checkpoint *c, const char *module) {
    strbuf name = {0};
    strbuf_addf(&name, "%s.weight", module);
    const st_tensor *t = checkpoint_find(c, name.p);
    strbuf_done(&name);
    return (st_tensor *)t;
}

static void replace(checkpoint *c, st_tensor *to, const st_tensor *from, int32_t file) {
    char *name = to->name;
    c->data_bytes += from->bytes - to->bytes;
    *to = *from;
    to->name = name;
    to->file = file;
}

void adapter_set_vocab(json_t *config, int64_t n) {
    for (size_t i = 0; i < ARRAY_LEN(vocab_keys); i++)
        if (js_get(config, vocab_keys[i]))
            json_object_set_new(config, vocab_keys[i], json_integer(n));
}

static status graft(const adapter_source *s, checkpoint *c, json_t *config, error *err) {
    int64_t vocab = js_get_int(config, vocab_keys[0], 0), grown = 0;
    int32_t file = -1;
    for (int32_t i = 0; i < s->n_modules; i++) {
        const st_tensor *w = s->modules[i].t[ROLE_WEIGHT];
        st_tensor *base = w ? base_tensor(c, s->modules[i].name) : NULL;
        if (!base || w->n_dims != 2 || base->n_dims != 2 || base->dims[0] != vocab) continue;
        if (w->dims[1] != base->dims[1] || w->dims[0] <= vocab) continue;
        if (grown && grown != w->dims[0])
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" has %lld rows, another has %lld",
                             s->files.files[0], w->name, (long long)w->dims[0], (long long)grown);
        if (file < 0) file = checkpoint_add_path(c, mem_strdup(s->files.files[0]));
        grown = w->dims[0];
        replace(c, base, w, file);
    }
    if (grown) adapter_set_vocab(config, grown);
    return OK;
}

status adapter_graft(const char *dir, checkpoint *base, json_t *config, error *err) {
    adapter_source s;
    TRY(adapter_source_open(dir, &s, err));
    status st = graft(&s, base, config, err);
    adapter_source_done(&s);
    return st;
}
