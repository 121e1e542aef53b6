/* The vocabulary of a GGUF file from anywhere. The last 32 bytes are also the text. */
#include "tests/fuzz/use_tokenizer.h"
#include "tokenizer/gguf_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str all = str_n((const char *)data, size);
    tokenizer *t;
    error err;
    if (gguf_tok_parse(all, "fuzz.gguf", &t, &err) != OK) return 0;
    use_tokenizer(t, str_cut(all, size > 32 ? size - 32 : 0, size));
    return 0;
}
