/* SentencePiece .model files (sentencepiece_model.proto). */
#include "conf/limits.h"
#include "tokenizer/proto.h"
#include "tokenizer/spm.h"

typedef struct reading {
    spm *s;
    tokenizer *t;
    str unk_surface, bos, eos; /* borrowed from the file */
    spm_ids ids;
    int32_t base, n; /* the first piece's id; pieces so far */
} reading;

static int32_t id_of(const reading *r, int32_t i) {
    static const int32_t fairseq[3] = {3, 0, 2};
    if (r->ids == SPM_IDS_FAIRSEQ) return i < 3 ? fairseq[i] : i + 1;
    return r->base + i;
}

static status read_piece(str message, reading *r, error *err) {
    proto p = {.text = message};
    proto_field f;
    str piece = {0};
    float score = 0;
    uint64_t type = SPM_NORMAL;
    while (proto_next(&p, &f)) {
        if (f.number == 1 && f.wire == 2) piece = f.bytes;
        if (f.number == 2 && f.wire == 5) score = proto_float(&f);
        if (f.number == 3 && f.wire == 0) type = f.value;
    }
    int32_t id = id_of(r, r->n);
    if (p.bad || !piece.n || type < 1 || type > 6 || score != score)
        return error_set(err, ERR_FORMAT, "piece %d is damaged", r->n);
    r->n++;
    return spm_put(r->s, r->t, id, piece, score, (uint8_t)type, err);
}

static status read_trainer(str message, reading *r, error *err) {
    proto p = {.text = message};
    proto_field f;
    spm *s = r->s;
    while (proto_next(&p, &f)) {
        if (f.number == 3) s->algorithm = f.value;
        if (f.number == 24) s->suffix = f.value;
        if (f.number == 35) s->byte_fallback = f.value;
        if (f.number == 44 && f.wire == 2) r->unk_surface = f.bytes;
        if (f.number == 46 && f.wire == 2) r->bos = f.bytes;
        if (f.number == 47 && f.wire == 2) r->eos = f.bytes;
    }
    return p.bad ? error_set(err, ERR_FORMAT, "trainer_spec is damaged") : OK;
}

static status read_normalizer(str message, spm *s, error *err) {
    proto p = {.text = message};
    proto_field f;
    str map = {0};
    while (proto_next(&p, &f)) {
        if (f.number == 2 && f.wire == 2) map = f.bytes;
        if (f.number == 3) s->dummy_prefix = f.value;
        if (f.number == 4) s->remove_extra = f.value;
        if (f.number == 5) s->escape = f.value;
    }
    if (p.bad) return error_set(err, ERR_FORMAT, "normalizer_spec is damaged");
    charsmap_free(s->map);
    s->map = NULL;
    return map.n ? charsmap_new(map, &s->map, err) : OK;
}

static status read_file(str text, reading *r, error *err) {
    proto p = {.text = text};
    proto_field f;
    while (proto_next(&p, &f)) {
        if (f.wire != 2) continue;
        if (f.number == 1) TRY(read_piece(f.bytes, r, err));
        if (f.number == 2) TRY(read_trainer(f.bytes, r, err));
        if (f.number == 3) TRY(read_normalizer(f.bytes, r->s, err));
    }
    if (p.bad || !r->n)
        return error_set(err, ERR_FORMAT, "not a SentencePiece model (damage at byte %zu)", p.at);
    if (r->s->algorithm == SPM_BPE || r->s->algorithm == SPM_UNIGRAM) return OK;
    return error_set(err, ERR_UNSUPPORTED,
                     "SentencePiece model type %llu (word, char) is not supported",
                     (unsigned long long)r->s->algorithm);
}

status spm_open_as(str text, spm_ids ids, int32_t base, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    reading r = {.s = spm_new(t),
                 .t = t,
                 .unk_surface = STR(" \u2047 "),
                 .bos = STR("<s>"),
                 .eos = STR("</s>"),
                 .ids = ids,
                 .base = base};
    status st = read_file(text, &r, err);
    if (st == OK && ids == SPM_IDS_FAIRSEQ)
        st = spm_put(r.s, t, 1, STR("<pad>"), 0, SPM_CONTROL, err);
    if (st == OK) st = spm_finish(r.s, t, r.unk_surface, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    t->bos = vocab_id(&t->pieces, r.bos);
    t->eos = vocab_id(&t->pieces, r.eos);
    tok_finish(t);
    *ret = t;
    return OK;
}

status spm_open(str text, tokenizer **ret, error *err) {
    return spm_open_as(text, SPM_IDS_PLAIN, 0, ret, err);
}
