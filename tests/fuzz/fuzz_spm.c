/* A SentencePiece model or a rank file from anywhere: open, encode, decode. The last 32 bytes are
 * also the text. */
#include "tokenizer/detok.h"
#include "tokenizer/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(tokenizer *t, str text) {
    vec_i32 ids = {0};
    strbuf out = {0};
    error err;
    if (tokenizer_encode(t, text, 0, 0, &ids, &err) == OK)
        tokenizer_decode(t, ids.p, ids.n, false, &out);
    for (int32_t id = 0; id < 16; id++) tokenizer_bytes(t, id, &out);
    strbuf_done(&out);
    vec_done(&ids);
    tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str all = str_n((const char *)data, size), tail = str_cut(all, size > 32 ? size - 32 : 0, size);
    tokenizer *t;
    error err;
    if (spm_open(all, &t, &err) == OK) use(t, tail);
    if (tiktoken_open(all, "qwen2", &t, &err) == OK) use(t, tail);
    return 0;
}
