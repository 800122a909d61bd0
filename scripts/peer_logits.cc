// llama.cpp's logits after every token of given sequences, as `herd logits` writes them: float32
// [token][vocab], sequence after sequence. For scripts/evidence; not part of herd.
// usage: peer_logits MODEL IDS.txt OUT.f32 THREADS     (IDS.txt: one sequence a line, ids apart)
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

int fail(const std::string& what) {
  std::fprintf(stderr, "peer_logits: %s\n", what.c_str());
  return 1;
}

std::vector<std::vector<llama_token>> read_ids(const char* path) {
  std::vector<std::vector<llama_token>> sequences;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    sequences.emplace_back();
    for (llama_token id; words >> id;) sequences.back().push_back(id);
  }
  return sequences;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return fail("usage: peer_logits MODEL IDS.txt OUT.f32 THREADS");
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return fail("the model cannot be loaded");
  const auto sequences = read_ids(argv[2]);
  std::size_t longest = 0;
  for (const auto& ids : sequences) longest = std::max(longest, ids.size());
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<std::uint32_t>(longest);
  params.n_threads = params.n_threads_batch = std::atoi(argv[4]);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return fail("no context");
  const auto vocab = static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));

  std::ofstream out(argv[3], std::ios::binary);
  llama_batch batch = llama_batch_init(static_cast<std::int32_t>(longest), 0, 1);
  for (const auto& ids : sequences) {
    llama_memory_clear(llama_get_memory(context), true);
    batch.n_tokens = static_cast<std::int32_t>(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      batch.token[i] = ids[i];
      batch.pos[i] = static_cast<llama_pos>(i);
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) return fail("decoding failed");
    for (std::size_t i = 0; i < ids.size(); ++i)
      out.write(reinterpret_cast<const char*>(llama_get_logits_ith(context, static_cast<int>(i))),
                static_cast<std::streamsize>(vocab * sizeof(float)));
  }
  out.close();
  return out ? 0 : fail("cannot write");
}
