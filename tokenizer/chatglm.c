/* The tokenizers that ChatGLM checkpoints bring as code beside a SentencePiece model.
 *
 * ChatGLM-6B (ice_text.model): line ends, tabs and runs of 2 to 80 spaces are pieces of their own
 * (<n>, <|tab|>, <|blank_k|>), put into the text before the model sees it; text ids begin behind a
 * range for image tokens (20000 in the first release, none later); a text is followed by
 * [gMASK]<sop>.
 *
 * ChatGLM2 and 3 (tokenizer.model): nine tokens follow the model's pieces and [gMASK] sop goes
 * before a text. "sop" and "eop" are not looked for in text, where they are syllables; <sop> and
 * <eop> stand for them in chat templates. */
#include <stdio.h>

#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/spm.h"

#define BLANK_MAX 80

/* What a piece that stands for white space decodes to. */
static bool blank_text(str piece, strbuf *out) {
    if (str_eqz(piece, "<n>")) return strbuf_addc(out, '\n');
    if (str_eqz(piece, "<|tab|>")) return strbuf_addc(out, '\t');
    int64_t n;
    if (!str_starts(piece, STR("<|blank_")) || !str_ends(piece, STR("|>")) || piece.n < 11)
        return false;
    if (!str_to_i64(str_cut(piece, 8, piece.n - 2), &n) || n < 2 || n > BLANK_MAX) return false;
    for (; n; n--) strbuf_addc(out, ' ');
    return true;
}

static void fill_raw(tokenizer *t) {
    strbuf b = {0};
    for (int32_t id = 0; id < t->pieces.n; id++) {
        str s = vocab_piece(&t->pieces, id);
        strbuf_clear(&b);
        if (s.p) vocab_set(&t->raw, id, blank_text(s, &b) ? strbuf_str(&b) : s);
    }
    strbuf_done(&b);
}

static status around(tokenizer *t, const char *const *names, size_t n, vec_i32 *out, error *err) {
    for (size_t i = 0; i < n; i++) {
        int32_t id = vocab_id(&t->pieces, str_z(names[i]));
        if (id < 0) return error_set(err, ERR_FORMAT, "there is no piece \"%s\"", names[i]);
        vec_push(out, id);
    }
    return OK;
}

status glm6b_open(str text, const json_t *config, tokenizer **ret, error *err) {
    static const char *const end[] = {"[gMASK]", "<sop>"};
    int64_t base = js_get_int(config, "num_image_tokens", 20000);
    if (base < 0 || base > 1000000)
        return error_set(err, ERR_FORMAT, "num_image_tokens: %lld is not in 0..1000000",
                         (long long)base);
    if (js_get_bool(config, "do_lower_case", false) || js_get_bool(config, "remove_space", false))
        return error_set(err, ERR_UNSUPPORTED,
                         "do_lower_case and remove_space of ChatGLMTokenizer are not supported");
    tokenizer *t;
    TRY(spm_open_as(text, SPM_IDS_PLAIN, (int32_t)base, &t, err));
    t->norm = normalizer_of_blanks();
    fill_raw(t);
    t->bos = vocab_id(&t->pieces, STR("<sop>"));
    t->eos = vocab_id(&t->pieces, STR("<eop>"));
    status st = around(t, end, ARRAY_LEN(end), &t->after, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    *ret = t;
    return OK;
}

status glm2_specials(tokenizer *t, error *err) {
    static const struct {
        const char *name, *in_text;
    } tokens[] = {
        {"[MASK]", NULL},
        {"[gMASK]", "[gMASK]"},
        {"[sMASK]", NULL},
        {"sop", "<sop>"},
        {"eop", "<eop>"},
        {"<|system|>", "<|system|>"},
        {"<|user|>", "<|user|>"},
        {"<|assistant|>", "<|assistant|>"},
        {"<|observation|>", "<|observation|>"},
    };
    static const char *const front[] = {"[gMASK]", "sop"};
    for (size_t i = 0; i < ARRAY_LEN(tokens); i++) {
        str name = str_z(tokens[i].name);
        int32_t id = vocab_id(&t->pieces, name);
        if (id < 0) TRY(tok_put_special(t, id = t->pieces.n, name, err));
        if (tokens[i].in_text)
            added_set_add(t->added, &(added_token){.id = id, .pattern = str_z(tokens[i].in_text)});
    }
    return around(t, front, ARRAY_LEN(front), &t->before, err);
}
