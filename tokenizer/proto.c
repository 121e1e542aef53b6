/* Groups (wire 3 and 4) are not used by the files that we read and count as damage. */
#include "tokenizer/proto.h"

static bool varint(proto *p, uint64_t *ret) {
    uint64_t v = 0;
    for (int shift = 0; shift < 64 && p->at < p->text.n; shift += 7) {
        uint8_t b = (uint8_t)p->text.p[p->at++];
        v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) {
            *ret = v;
            return true;
        }
    }
    return false;
}

static bool fixed(proto *p, size_t n, uint64_t *ret) {
    if (p->text.n - p->at < n) return false;
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++) v |= (uint64_t)(uint8_t)p->text.p[p->at + i] << (8 * i);
    p->at += n;
    *ret = v;
    return true;
}

static bool field(proto *p, proto_field *f) {
    uint64_t tag, n;
    if (!varint(p, &tag) || tag >> 3 == 0 || tag >> 32) return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire = tag & 7;
    switch (f->wire) {
    case 0: return varint(p, &f->value);
    case 1: return fixed(p, 8, &f->value);
    case 5: return fixed(p, 4, &f->value);
    case 2:
        if (!varint(p, &n) || n > p->text.n - p->at) return false;
        f->bytes = str_n(p->text.p + p->at, (size_t)n);
        p->at += (size_t)n;
        return true;
    default: return false;
    }
}

bool proto_next(proto *p, proto_field *ret) {
    if (p->bad || p->at >= p->text.n) return false;
    *ret = (proto_field){0};
    p->bad = !field(p, ret);
    return !p->bad;
}

float proto_float(const proto_field *f) {
    uint32_t u = (uint32_t)f->value;
    float v;
    memcpy(&v, &u, 4);
    return v;
}
