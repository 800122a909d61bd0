// The smallest program that uses an installed herd.
#include <herd/llama.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto model = herd::LlamaModel::from_gguf(argv[1]);
  if (!model) {
    std::printf("%s\n", model.error().message.c_str());
    return 1;
  }
  herd::GenerateRequest request;
  request.ids = {5, 6, 7};
  request.max_tokens = 4;
  request.ignore_end = true;
  const auto answers = herd::generate(*model, {&request, 1});
  return answers && (*answers)[0].ids.size() == 4 ? 0 : 1;
}
