/* The readers of plain lists: RWKV's vocabulary, BERT's vocab.txt, GPT-2's vocab.json with merges
 * (behind a line "----"). The bytes after a line "====" are the text. */
#include "tests/fuzz/use_tokenizer.h"
#include "tokenizer/bert.h"
#include "tokenizer/tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    str text, file = split_text(str_n((const char *)data, size), &text);
    ptrdiff_t cut = str_find(file, STR("\n----\n"), 0);
    str head = cut < 0 ? file : str_cut(file, 0, (size_t)cut),
        rest = cut < 0 ? STR("") : str_cut(file, (size_t)cut + 6, file.n);
    tokenizer *t;
    error err;
    if (rwkv_open(file, &t, &err) == OK) use_tokenizer(t, text);
    if (bert_open(file, NULL, &t, &err) == OK) use_tokenizer(t, text);
    if (gpt2files_open(head, rest, &t, &err) == OK) use_tokenizer(t, text);
    return 0;
}
