/* The draft model beside the model: do their tokens mean the same? */
#ifndef SERVER_CMD_DRAFT_H
#define SERVER_CMD_DRAFT_H

#include "conf/conf.h"
#include "tokenizer/tokenizer.h"

/* Without --speculative-model OK. Else ids that both tokenizers have must be the same tokens; one
 * may have more of them at its end, which the other never guesses and never reads. The error names
 * the first that differ, both files and how many they have. */
NODISCARD status cmd_draft_check(const conf *c, const tokenizer *of_model, error *err);

#endif
