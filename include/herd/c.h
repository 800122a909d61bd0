/* herd from C. Plain structs: one that is all zero means the defaults.
 *
 *   char* error = NULL;
 *   herd_model* model = herd_load("model.gguf", NULL, &error);
 *   herd_request request = {0};
 *   request.prompt = "Once upon a time";
 *   herd_answer answer;
 *   if (herd_generate(model, &request, 1, &answer, &error) == 0) puts(answer.text);
 *
 * Functions that can fail return nonzero (or NULL) and set *error, if `error` is not NULL, to one
 * line that the caller frees with herd_free. One caller at a time per model. What a model gives
 * does not depend on what else is in the batch. */
#ifndef HERD_C_H
#define HERD_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct herd_model herd_model;

typedef struct herd_options {
  const char* device; /* "cpu", "cuda", "reference"; NULL: "cpu" */
  int threads;        /* 0: one per core */
  int32_t batch_size; /* sequences that run at once; 0: 16 */
  int32_t context;    /* longest sequence; 0: what the model was trained for */
  int64_t kv_tokens;  /* room for tokens of all sequences; 0: automatic */
  int kv_f32;         /* not 0: keys and values are kept as f32 */
} herd_options;

typedef struct herd_request {
  const char* prompt; /* UTF-8, ended by a zero byte; used when n_ids is 0 */
  const int32_t* ids; /* [n_ids] */
  size_t n_ids;
  int32_t max_tokens;      /* 0: 128 */
  float temperature;       /* 0: greedy */
  int32_t top_k;           /* 0: off */
  float top_p;             /* 0: off */
  float min_p;             /* 0: off */
  uint64_t seed;           /* a token's draw depends on the seed and its position only */
  const char* const* stop; /* [n_stop] texts that end the answer */
  size_t n_stop;
  int ignore_end; /* not 0: go on past the model's end token */
} herd_request;

typedef struct herd_answer {
  int32_t* ids; /* [n_ids] */
  size_t n_ids;
  char* text; /* [text_bytes], ended by a zero byte */
  size_t text_bytes;
  const char* finish_reason; /* "length", "stop", "error"; static */
  char* error;               /* NULL unless this request failed; the others did not */
} herd_answer;

typedef struct herd_score_request {
  const int32_t* ids; /* [n_ids] the context, then what is scored */
  size_t n_ids;
  size_t first; /* ids[first] is the first that is scored: 1 to n_ids */
} herd_score_request;

typedef struct herd_scored {
  float* logprobs; /* [n] log-probability of each token given all before it */
  uint8_t* greedy; /* [n] 1: it is the likeliest */
  size_t n;
  double sum;
  char* error; /* as in herd_answer */
} herd_scored;

/* "0.1.0"; static. */
const char* herd_version(void);

/* `options` may be NULL. NULL on failure. */
herd_model* herd_load(const char* path, const herd_options* options, char** error);
void herd_close(herd_model* model); /* NULL is fine */

/* *ids [*n_ids] is the caller's, freed with herd_free. */
int herd_encode(const herd_model* model, const char* text, size_t bytes, int add_bos, int32_t** ids,
                size_t* n_ids, char** error);
/* *text, ended by a zero byte, is the caller's, freed with herd_free. */
int herd_decode(const herd_model* model, const int32_t* ids, size_t n_ids, char** text,
                char** error);

/* All requests in one batch; fills answers [n], which the caller clears. A bad request has an error
 * of its own. On failure nothing is filled. */
int herd_generate(herd_model* model, const herd_request* requests, size_t n, herd_answer* answers,
                  char** error);
void herd_clear_answers(herd_answer* answers, size_t n);

/* As herd_generate. */
int herd_score(herd_model* model, const herd_score_request* requests, size_t n, herd_scored* scores,
               char** error);
void herd_clear_scores(herd_scored* scores, size_t n);

void herd_free(void* memory);

#ifdef __cplusplus
}
#endif
#endif
