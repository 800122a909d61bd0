/* The C API, used from C. usage: test_c_api MODEL; exit status 0: all as it should be. */
#include <herd/c.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static int failures = 0;
#define CHECK(condition)                                             \
  do {                                                               \
    if (!(condition)) {                                              \
      printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      ++failures;                                                    \
    }                                                                \
  } while (0)

static void check_errors(const char* path) {
  char* error = NULL;
  CHECK(herd_load("/nonexistent/model.gguf", NULL, &error) == NULL);
  CHECK(error != NULL && strstr(error, "/nonexistent/model.gguf") != NULL);
  herd_free(error);
  CHECK(herd_load("/nonexistent/model.gguf", NULL, NULL) == NULL);
  herd_options options = {0};
  options.device = "abacus";
  CHECK(herd_load(path, &options, &error) == NULL);
  CHECK(strstr(error, "abacus") != NULL);
  herd_free(error);
  herd_close(NULL);
}

static void check_text(const herd_model* model) {
  char* error = NULL;
  int32_t* ids = NULL;
  size_t n = 0;
  const char text[] = "the cat";
  CHECK(herd_encode(model, text, strlen(text), 0, &ids, &n, &error) == 0);
  CHECK(n > 0);
  char* back = NULL;
  CHECK(herd_decode(model, ids, n, &back, &error) == 0);
  CHECK(strcmp(back, text) == 0);
  herd_free(back);
  herd_free(ids);
  const int32_t unknown = 1 << 29;
  CHECK(herd_decode(model, &unknown, 1, &back, &error) != 0);
  CHECK(error != NULL);
  herd_free(error);
}

static void check_answers(herd_model* model) {
  char* error = NULL;
  const int32_t ids[] = {5, 6, 7}, bad[] = {1, 1 << 29};
  herd_request requests[3] = {{0}, {0}, {0}};
  requests[0].prompt = "the cat";
  requests[1].ids = bad, requests[1].n_ids = 2;
  requests[2].ids = ids, requests[2].n_ids = 3;
  requests[0].max_tokens = requests[1].max_tokens = requests[2].max_tokens = 6;
  requests[0].ignore_end = requests[2].ignore_end = 1;
  herd_answer answers[3], alone;
  CHECK(herd_generate(model, requests, 3, answers, &error) == 0);
  CHECK(answers[0].n_ids == 6 && answers[2].n_ids == 6);
  CHECK(strlen(answers[0].text) == answers[0].text_bytes);
  CHECK(strcmp(answers[0].finish_reason, "length") == 0);
  CHECK(strcmp(answers[1].finish_reason, "error") == 0 && answers[1].error != NULL);
  CHECK(answers[0].error == NULL);
  CHECK(herd_generate(model, &requests[2], 1, &alone, &error) == 0);
  CHECK(memcmp(alone.ids, answers[2].ids, 6 * sizeof(int32_t)) == 0);

  int32_t whole[9] = {5, 6, 7};
  memcpy(whole + 3, alone.ids, 6 * sizeof(int32_t));
  const herd_score_request score[2] = {{whole, 9, 3}, {whole, 9, 10}};
  herd_scored scores[2];
  CHECK(herd_score(model, score, 2, scores, &error) == 0);
  CHECK(scores[0].n == 6);
  double sum = 0;
  for (size_t i = 0; i < scores[0].n; ++i) {
    CHECK(scores[0].greedy[i] == 1);
    CHECK(scores[0].logprobs[i] <= 0);
    sum += scores[0].logprobs[i];
  }
  CHECK(!(fabs(sum - scores[0].sum) > 1e-9));
  CHECK(scores[1].error != NULL && scores[1].n == 0);
  herd_clear_scores(scores, 2);
  herd_clear_answers(answers, 3);
  herd_clear_answers(&alone, 1);
  CHECK(alone.ids == NULL);
  CHECK(herd_generate(model, requests, 0, answers, &error) != 0);
  herd_free(error);
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  CHECK(strlen(herd_version()) >= 5);
  check_errors(argv[1]);
  char* error = NULL;
  herd_options options = {0};
  options.batch_size = 3;
  options.context = 64;
  herd_model* model = herd_load(argv[1], &options, &error);
  if (model == NULL) {
    printf("%s\n", error);
    return 1;
  }
  check_text(model);
  check_answers(model);
  herd_close(model);
  return failures == 0 ? 0 : 1;
}
