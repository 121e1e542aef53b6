/* What code compiled with -fsanitize=alignment,bounds calls when an address is not a multiple of
 * its type's alignment or an index is outside of its array. With a sanitizer's own runtime in the
 * program these are not built. The records are those of the compilers' ABI: first the place, then
 * types. */
#include "tests/simt/simt.h"

struct trap_place {
    const char *file;
    uint32_t line, column;
};
struct trap_type {
    uint16_t kind, info;
    char name[1];
};
struct trap_mismatch {
    trap_place at;
    const trap_type *type;
    unsigned char log_alignment, kind;
};
struct trap_bounds {
    trap_place at;
    const trap_type *array, *index;
};

#if !defined(__SANITIZE_ADDRESS__) && !defined(PAGODA_UBSAN)
extern "C" {
void __ubsan_handle_type_mismatch_v1_abort(const trap_mismatch *m, uintptr_t p) {
    simt_fail("%s:%u: %p is not aligned to %u bytes for %s", m->at.file, m->at.line, (void *)p,
              1u << m->log_alignment, m->type->name);
}
void __ubsan_handle_out_of_bounds_abort(const trap_bounds *b, uintptr_t index) {
    simt_fail("%s:%u: index %lld is outside of %s", b->at.file, b->at.line, (long long)index,
              b->array->name);
}
}
#endif
