/* The messages of a chat request, checked and brought into the form that templates expect. */
#ifndef SERVER_MESSAGES_H
#define SERVER_MESSAGES_H

#include <jansson.h>

#include "engine/base/status.h"

/* A new list (json_decref it): roles known, content a string, null or a list of text parts, tool
 * calls of functions with a name; members not named here are left out. The role "developer" becomes
 * "system", which is what templates know. Errors name messages[i].field; content that is not text
 * is ERR_UNSUPPORTED. */
NODISCARD status messages_read(const json_t *body, json_t **ret, error *err);

#endif
