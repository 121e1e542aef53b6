/* The handlers named in routes.def. Each runs on a reactor thread with the whole body in x->body
 * and leaves an answer (exchange_answer, exchange_fail) or a generation that waits (call_start). */
#ifndef SERVER_API_H
#define SERVER_API_H

typedef struct exchange exchange;

void api_health(exchange *x);
void api_ready(exchange *x);
void api_live(exchange *x);
void api_metrics(exchange *x);
void api_version(exchange *x);
void api_server_info(exchange *x);
void api_models(exchange *x);
void api_model(exchange *x);
void api_chat(exchange *x);
void api_completions(exchange *x);
void api_load_lora(exchange *x);
void api_unload_lora(exchange *x);
void api_embeddings(exchange *x);
void api_tokenize(exchange *x);
void api_detokenize(exchange *x);
void api_apply_template(exchange *x);

#endif
