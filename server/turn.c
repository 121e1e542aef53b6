/* A token that is not special comes out as text too, and the same text may be spelled with other
 * tokens: such a stop is looked for both ways. */
#include "server/turn.h"

#include "tokenizer/chat.h"

turn_ends turn_ends_of(const chat *c, const tokenizer *t) {
    turn_ends e = {0};
    if (!c) return e;
    str stops[LIMIT_TEMPLATE_STOPS];
    size_t n = chat_stops(c, stops);
    e.add_special_tokens = chat_adds_special_tokens(c);
    for (size_t i = 0; i < n; i++) {
        int32_t id = tokenizer_id(t, stops[i]);
        if (id >= 0) e.ids[e.n_ids++] = id;
        if (id < 0 || !tokenizer_is_special(t, id)) e.texts[e.n_texts++] = stops[i];
    }
    return e;
}
