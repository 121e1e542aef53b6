/* Files of torch.save (pytorch_model.bin, adapter_model.bin, *.pt, *.pth): a pickled dict of
 * tensors whose bytes lie apart, in a ZIP archive (since torch 1.6) or behind the pickle (before).
 * The pickle is read by pickle.h: it builds a table of tensors, nothing of it is run, and a file
 * that wants anything else is refused with the name of what it wants.
 *
 * checkpoint_open finds pytorch_model.bin and its shards; for one file, an adapter's for instance,
 * checkpoint_open_file(path, &c, err) fills a table of its own. */
#ifndef ENGINE_PTH_H
#define ENGINE_PTH_H

#include "engine/checkpoint.h"

/* The tensors of c->files[file]: of the dict itself or of its "state_dict", "module", "model". What
 * else it holds is left out. Only tensors that are stored row by row. On error c keeps what it had.
 */
NODISCARD status pth_add_file(checkpoint *c, int32_t file, error *err);
/* The same of bytes p[0..n). */
NODISCARD status pth_add(checkpoint *c, int32_t file, const uint8_t *p, size_t n, error *err);

/* Do the first n bytes of a file look like one of torch.save? */
bool pth_is_start(const uint8_t *p, size_t n);

#endif
