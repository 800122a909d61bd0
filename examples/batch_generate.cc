// Answers several prompts in one batch and prints each token as it comes.
// usage: batch_generate MODEL.gguf [PROMPT]...
#include <cstdio>
#include <string>
#include <vector>

#include "herd/llama.h"

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s MODEL.gguf [PROMPT]...\n", argv[0]);
    return 2;
  }
  std::vector<std::string> prompts(argv + 2, argv + argc);
  if (prompts.empty()) prompts = {"Once upon a time", "The capital of France is"};

  // Errors are values: a Result holds the model, or an error with a message for people. Memory for
  // the keys and values of all sequences is taken here, so size the model to what it is for.
  herd::ModelOptions options;
  options.batch_size = static_cast<int>(prompts.size());  // sequences that run at once
  options.context = 256;                                  // longest prompt with its answer
  auto model = herd::LlamaModel::from_gguf(argv[1], options);
  if (!model.ok()) {
    std::fprintf(stderr, "%s\n", model.error().message.c_str());
    return 1;
  }

  // One request for each prompt; lengths, sampling and stop strings may differ.
  std::vector<herd::GenerateRequest> requests(prompts.size());
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    requests[i].prompt = prompts[i];
    requests[i].max_tokens = 32;
    requests[i].sampling.temperature = 0.7f;  // 0, the default, is greedy
    requests[i].sampling.seed = 42;           // the same seed, the same answer, in any company
  }

  // Every step runs one token of every sequence; the events tell what each of them got.
  herd::GenerateOptions watch;
  watch.on_event = [](const herd::GenerateEvent& event) {
    std::fprintf(stderr, "[%zu] token %d\n", event.request, event.id);
  };
  auto answers = herd::generate(*model, requests, watch);
  if (!answers.ok()) {
    std::fprintf(stderr, "%s\n", answers.error().message.c_str());
    return 1;
  }

  // A request that cannot run fails alone, with a reason.
  bool failed = false;
  for (std::size_t i = 0; i < answers->size(); ++i) {
    const herd::GenerateResult& answer = (*answers)[i];
    failed = failed || answer.finish_reason == herd::FinishReason::error;
    std::printf("> %s\n%s%s\n", prompts[i].c_str(), answer.text.c_str(), answer.error.c_str());
  }
  return failed ? 1 : 0;
}
