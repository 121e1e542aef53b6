/* Reading protobuf's wire format in place: field by field, every length checked. */
#ifndef TOKENIZER_PROTO_H
#define TOKENIZER_PROTO_H

#include "engine/base/str.h"

typedef struct proto {
    str text;
    size_t at;
    bool bad; /* the bytes are not a message */
} proto;

typedef struct proto_field {
    uint32_t number, wire; /* wire: 0 varint, 1 64 bits, 2 bytes, 5 32 bits */
    uint64_t value;        /* wire 0, 1, 5 */
    str bytes;             /* wire 2 */
} proto_field;

/* The next field; false at the end or when the bytes are bad. */
bool proto_next(proto *p, proto_field *ret);
float proto_float(const proto_field *f); /* of a 32-bit field */

#endif
