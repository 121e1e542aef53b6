/* A tokenizer.json from anywhere: open it, and if it opens, encode and decode with it. The bytes
 * after a line "====" are the text. */
#include <stdio.h>
#include <string.h>

#include "tokenizer/detok.h"
#include "tokenizer/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const tokenizer *t, str text) {
    vec_i32 ids = {0};
    strbuf out = {0}, pieces = {0};
    error err;
    if (tokenizer_encode(t, text, ENCODE_SPECIAL, 0, &ids, &err) == OK) {
        tokenizer_decode(t, ids.p, ids.n, false, &out);
        detok *d = detok_new(t, false);
        for (size_t i = 0; i < ids.n; i++) detok_push(d, ids.p[i], &pieces);
        detok_flush(d, &pieces);
        detok_free(d);
        if (!str_eq(strbuf_str(&out), strbuf_str(&pieces))) __builtin_trap();
    }
    for (int32_t id = 0; id < 16; id++) tokenizer_bytes(t, id, &out);
    strbuf_done(&out);
    strbuf_done(&pieces);
    vec_done(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str all = str_n((const char *)data, size);
    ptrdiff_t cut = str_find(all, STR("\n===="), 0);
    str file = cut < 0 ? all : str_cut(all, 0, (size_t)cut),
        text = cut < 0 ? STR("the page  <mask> caf\u00e9 1234\n") : str_cut(all, (size_t)cut, size);
    tokenizer *t;
    error err;
    if (hf_open(file, &t, &err) != OK) return 0;
    use(t, text);
    tokenizer_free(t);
    return 0;
}
