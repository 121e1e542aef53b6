/* A tokenizer.json from anywhere: open it, and if it opens, encode and decode with it. The bytes
 * after a line "====" are the text. */
#include "tests/fuzz/use_tokenizer.h"
#include "tokenizer/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str text, file = split_text(str_n((const char *)data, size), &text);
    tokenizer *t;
    error err;
    if (hf_open(file, &t, &err) == OK) use_tokenizer(t, text);
    return 0;
}
