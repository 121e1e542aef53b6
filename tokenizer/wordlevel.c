/* WordLevel: a word is a token or it is unknown. Old tokenizer.json files of translation models. */
#include "engine/base/mem.h"
#include "tokenizer/wordpiece.h"

typedef struct wordlevel {
    const vocab *pieces;
    int32_t n_model; /* ids at or above were added later and are not the model's */
    int32_t unk;
} wordlevel;

static void encode(const void *self, str word, vec_i32 *ids) {
    const wordlevel *w = self;
    int32_t id = vocab_id(w->pieces, word);
    if (id < 0 || id >= w->n_model) id = w->unk;
    if (id >= 0) vec_push(ids, id);
}

static void spans(const void *self, str word, vec_i32 *ids, span_vec *out) {
    size_t n = ids->n;
    encode(self, word, ids);
    if (ids->n > n) vec_push(out, ((span){0, (uint32_t)word.n}));
}

void wordlevel_make(int32_t unk, tokenizer *t) {
    wordlevel *w = mem_calloc(1, sizeof *w);
    *w = (wordlevel){&t->pieces, t->pieces.n, unk};
    t->model = (model){"words", w, encode, spans, mem_free};
}
