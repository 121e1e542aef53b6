/* What several commands ask of the engine and the backend, from the options. */
#ifndef SERVER_CMD_ENGINE_H
#define SERVER_CMD_ENGINE_H

#include "conf/conf.h"
#include "engine/engine.h"

/* Borrows c's strings. Hooks are empty. */
engine_options cmd_engine_options(const conf *c);
/* Tokens are guessed by --speculative-model, which may be missing: cmd_engine_check says so. */
bool cmd_uses_draft(const conf *c);
/* Options that contradict one another. */
NODISCARD status cmd_engine_check(const conf *c, error *err);
/* Where the tokenizer is: --tokenizer, else the model. One that only another program's file names
 * gives way to the model directory's own. */
const char *cmd_tokenizer(const conf *c);
/* --chat-template, or --prompt-template (XTuner's of that name, written into buf, else the format
 * of that name); NULL: neither. */
const char *cmd_chat_template(const conf *c, char *buf, size_t n);
/* --print-kernels: which kernel serves which op; the exit status. */
int cmd_print_kernels(const conf *c);

#endif
