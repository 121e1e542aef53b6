/* See cmd_draft.h. A guess is an id: were another token meant by it, hardly any would be right, and
 * nothing would say why. */
#include "server/cmd_draft.h"

#include "engine/base/mem.h"
#include "server/cmd_engine.h"

static void add_token(strbuf *out, const tokenizer *t, int32_t id) {
    str piece = tokenizer_piece(t, id);
    if (piece.p)
        strbuf_add_json(out, str_cut(piece, 0, MIN(piece.n, (size_t)40)));
    else
        strbuf_addz(out, "no token");
}

static status differ(const conf *c, const tokenizer *a, const tokenizer *b, int32_t id,
                     error *err) {
    strbuf text = {0};
    strbuf_addf(&text, "--speculative-model has another vocabulary: id %d is ", id);
    add_token(&text, a, id);
    strbuf_addf(&text, " in %s (%d tokens) and ", cmd_tokenizer(c), tokenizer_vocab(a));
    add_token(&text, b, id);
    strbuf_addf(&text, " in %s (%d tokens)", c->speculative_model, tokenizer_vocab(b));
    status st = error_set(err, ERR_INVALID, STR_FMT, STR_ARG(strbuf_str(&text)));
    strbuf_done(&text);
    return st;
}

status cmd_draft_check(const conf *c, const tokenizer *of_model, error *err) {
    tokenizer *t = NULL;
    status st = OK;
    if (!cmd_uses_draft(c)) return OK;
    TRY(tokenizer_open(c->speculative_model, NULL, &t, err));
    int32_t n = MIN(tokenizer_vocab(of_model), tokenizer_vocab(t));
    for (int32_t id = 0; id < n && st == OK; id++)
        if (!str_eq(tokenizer_piece(of_model, id), tokenizer_piece(t, id)))
            st = differ(c, of_model, t, id, err);
    tokenizer_free(t);
    return st;
}
