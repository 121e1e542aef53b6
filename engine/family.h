/* Model families as data: the files of conf/archs (built into the program) and of a register
 * directory, parsed and checked against the vocabulary of the format; arch.h resolves one of them
 * against a model's config.json. The format is described in engine/README.md. */
#ifndef ENGINE_FAMILY_H
#define ENGINE_FAMILY_H

#include "engine/base/json.h"
#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct family {
    char name[32];
    char *file;   /* "conf/archs/llama.json" or a path: for errors */
    json_t *root; /* with everything that `extends` brings */
} family;

typedef struct family_set {
    family *list;
    int n;
} family_set;

/* The built-in files, then register_path/ *.json (may be NULL) but *tokenizer.json: a file there
 * replaces the family of the same name. Unknown keys are errors that name file and key. */
NODISCARD status family_set_load(const char *register_path, family_set *ret, error *err);
/* One file's text, added to the set (extends must already be there). */
NODISCARD status family_set_add(family_set *s, const char *file, str text, error *err);
void family_set_done(family_set *s);

/* The family of a config.json: by `architectures`, else by `model_type`. The error names the
 * architecture, lists those that are known and says how one is added. */
NODISCARD status family_match(const family_set *s, const json_t *config, const char *config_path,
                              const family **ret, error *err);

/* What a key of the format may hold. */
typedef enum key_kind {
    KEY_ANY,    /* not looked into */
    KEY_SCALAR, /* number, true/false, null or text: an expression or a word */
    KEY_LIST,   /* list of scalars */
    KEY_EITHER, /* scalar or list of scalars */
    KEY_TENSOR, /* name pattern, null, "@pack.part" or {"tensor":, "if":} */
    KEY_NORM,   /* KEY_TENSOR, or true/false: a norm without parameters */
    KEY_OBJECT, /* its members have rules of their own */
    KEY_BIAS,   /* scalar, or one per projection {"q":,"k":,"v":,"o":} */
} key_kind;

typedef struct key_rule {
    const char *path; /* "attn.qk_norm.kind"; "*" any member; "[]" an element of a list */
    key_kind kind;
} key_rule;

extern const key_rule family_keys[];
extern const int family_n_keys;

#endif
