/* A SentencePiece model or a rank file from anywhere: open, encode, decode. The last 32 bytes are
 * also the text. */
#include "tests/fuzz/use_tokenizer.h"
#include "tokenizer/spm.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str all = str_n((const char *)data, size), tail = str_cut(all, size > 32 ? size - 32 : 0, size);
    tokenizer *t;
    error err;
    if (spm_open(all, &t, &err) == OK) use_tokenizer(t, tail);
    if (spm_open_as(all, SPM_IDS_FAIRSEQ, 0, &t, &err) == OK) use_tokenizer(t, tail);
    if (glm6b_open(all, NULL, &t, &err) == OK) use_tokenizer(t, tail);
    if (tiktoken_open(all, "qwen2", &t, &err) == OK) use_tokenizer(t, tail);
    return 0;
}
