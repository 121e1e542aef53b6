/* The adapters that the command line names (--lora [NAME=]DIR). */
#ifndef SERVER_CMD_LORA_H
#define SERVER_CMD_LORA_H

#include "conf/conf.h"
#include "engine/engine.h"
#include "server/adapters.h"

/* Do the options of adapters fit together? */
NODISCARD status cmd_lora_check(const conf *c, error *err);
/* "name=dir", or the directory alone, which then names itself. Both fresh (mem_free). */
void cmd_lora_split(str value, char **ret_name, char **ret_dir);
/* The directory of the only --lora (the last part of the option's text: borrowed), or NULL. */
const char *cmd_lora_dir(const conf *c);
/* Fill in what the engine must know: places, rank, the one to merge. Borrows c's strings. */
void cmd_lora_options(const conf *c, engine_options *o);
/* Load all of them into the list. */
NODISCARD status cmd_lora_load(const conf *c, adapters *list, error *err);
/* Without a list: load the one there is, for engine_logits. */
NODISCARD status cmd_lora_use(const conf *c, engine *e, error *err);

#endif
