/* A YAML file as a list of "a.b.c" = "value". */
#ifndef CONF_YAML_LEAVES_H
#define CONF_YAML_LEAVES_H

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct yaml_leaf {
    char *path, *value; /* value "": empty, null or None; lists are "[...]" */
    int line;           /* 0: not from a file */
} yaml_leaf;

typedef VEC(yaml_leaf) yaml_leaves;

/* Append the leaves of one document; `file` is for errors. What came before an error stays. */
NODISCARD status yaml_leaves_read(const char *file, str text, yaml_leaves *ret, error *err);
void yaml_leaves_add(yaml_leaves *to, str path, str value, int line);
void yaml_leaves_done(yaml_leaves *l);

#endif
