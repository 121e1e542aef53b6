/* MindFormers' predict YAML read as pagoda's options. */
#ifndef CONF_MINDFORMERS_H
#define CONF_MINDFORMERS_H

#include "conf/conf.h"

/* Whether the text is such a file: a mapping with a key that only they have. False for text that is
 * not YAML. */
bool mindformers_is(str text);
/* Set c's options from the file's keys (source FROM_FILE), after `overrides` (conf.options: lines
 * of key=value, may be NULL) replaced or added some. What cannot be honoured is an error with
 * file:line and key; what is to be checked against the model or told to the user goes to
 * c->foreign. `text` may be empty: then there are overrides only. */
NODISCARD status mindformers_load(const char *path, str text, const char *overrides, conf *c,
                                  error *err);

#endif
