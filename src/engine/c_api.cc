// include/herd/c.h over the C++ API. What C owns is malloc'ed; no exception leaves.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "herd/c.h"
#include "herd/llama.h"
#include "herd/score.h"

struct herd_model {
  herd::LlamaModel model;
};

namespace {

template <class T>
T* copy_out(const T* from, std::size_t count) {
  auto* to = static_cast<T*>(std::malloc(std::max<std::size_t>(1, count * sizeof(T))));
  if (to == nullptr) throw std::bad_alloc();
  if (count > 0) std::memcpy(to, from, count * sizeof(T));
  return to;
}
char* copy_out(const std::string& text) {
  return copy_out(text.c_str(), text.size() + 1);
}

void tell(char** error, const char* message) {
  if (error == nullptr) return;
  const std::size_t bytes = std::strlen(message) + 1;
  *error = static_cast<char*>(std::malloc(bytes));
  if (*error != nullptr) std::memcpy(*error, message, bytes);
}

/// Runs what returns a Status; 0 if it went well.
template <class Run>
int guarded(char** error, Run&& run) noexcept {
  try {
    const herd::Status status = run();
    if (status.ok()) return 0;
    tell(error, status.error().message.c_str());
  } catch (const std::exception& e) {
    tell(error, e.what());
  } catch (...) {
    tell(error, "unknown failure");
  }
  return 1;
}

herd::Result<herd::ModelOptions> options_of(const herd_options* given) {
  herd::ModelOptions options;
  if (given == nullptr) return options;
  const std::string_view device = given->device == nullptr ? "cpu" : given->device;
  constexpr herd::DeviceType kDevices[] = {herd::DeviceType::cpu, herd::DeviceType::reference,
                                           herd::DeviceType::cuda, herd::DeviceType::metal,
                                           herd::DeviceType::metal_emulated};
  const auto* found = std::find_if(std::begin(kDevices), std::end(kDevices),
                                   [&](auto d) { return herd::to_string(d) == device; });
  if (found == std::end(kDevices))
    return herd::Error{herd::Code::invalid_argument, "device: unknown: " + std::string(device)};
  options.device = *found;
  options.threads = given->threads;
  if (given->batch_size != 0) options.batch_size = given->batch_size;
  options.context = given->context;
  options.kv_tokens = given->kv_tokens;
  if (given->kv_f32 != 0) options.kv_type = herd::KvType::f32;
  return options;
}

herd::GenerateRequest request_of(const herd_request& given) {
  herd::GenerateRequest request;
  if (given.n_ids > 0)
    request.ids.assign(given.ids, given.ids + given.n_ids);
  else if (given.prompt != nullptr)
    request.prompt = given.prompt;
  if (given.max_tokens != 0) request.max_tokens = given.max_tokens;
  request.sampling.temperature = given.temperature;
  request.sampling.top_k = given.top_k;
  if (given.top_p != 0) request.sampling.top_p = given.top_p;
  request.sampling.min_p = given.min_p;
  request.sampling.seed = given.seed;
  request.stop.assign(given.stop, given.stop + given.n_stop);
  request.ignore_end = given.ignore_end != 0;
  return request;
}

void fill(herd_answer& out, const herd::GenerateResult& result) {
  out.ids = copy_out(result.ids.data(), result.ids.size());
  out.n_ids = result.ids.size();
  out.text = copy_out(result.text);
  out.text_bytes = result.text.size();
  out.finish_reason = herd::to_string(result.finish_reason).data();  // of a literal
  if (!result.error.empty()) out.error = copy_out(result.error);
}

void fill(herd_scored& out, const herd::ScoreResult& result) {
  out.logprobs = copy_out(result.logprobs.data(), result.logprobs.size());
  out.greedy = copy_out(result.greedy.data(), result.greedy.size());
  out.n = result.logprobs.size();
  out.sum = result.sum;
  if (!result.error.empty()) out.error = copy_out(result.error);
}

/// Fills all of `out`, or leaves it empty and throws.
template <class Out, class Result, class Clear>
void fill_all(Out* out, const std::vector<Result>& results, Clear&& clear) {
  std::fill_n(out, results.size(), Out{});
  try {
    for (std::size_t i = 0; i < results.size(); ++i) fill(out[i], results[i]);
  } catch (...) {
    clear(out, results.size());
    throw;
  }
}

}  // namespace

const char* herd_version(void) {
  return HERD_VERSION;
}

herd_model* herd_load(const char* path, const herd_options* options, char** error) {
  herd_model* loaded = nullptr;
  guarded(error, [&]() -> herd::Status {
    auto given = options_of(options);
    if (!given.ok()) return given.status();
    auto model = herd::LlamaModel::from_gguf(path == nullptr ? "" : path, std::move(*given));
    if (!model.ok()) return model.status();
    loaded = new herd_model{std::move(*model)};
    return {};
  });
  return loaded;
}

void herd_close(herd_model* model) {
  delete model;
}

int herd_encode(const herd_model* model, const char* text, size_t bytes, int add_bos, int32_t** ids,
                size_t* n_ids, char** error) {
  return guarded(error, [&]() -> herd::Status {
    const auto encoded = model->model.encode(std::string_view(text, bytes), add_bos != 0);
    if (!encoded.ok()) return encoded.status();
    *ids = copy_out(encoded->data(), encoded->size());
    *n_ids = encoded->size();
    return {};
  });
}

int herd_decode(const herd_model* model, const int32_t* ids, size_t n_ids, char** text,
                char** error) {
  return guarded(error, [&]() -> herd::Status {
    const auto decoded = model->model.decode(std::span(ids, n_ids));
    if (!decoded.ok()) return decoded.status();
    *text = copy_out(*decoded);
    return {};
  });
}

int herd_generate(herd_model* model, const herd_request* requests, size_t n, herd_answer* answers,
                  char** error) {
  return guarded(error, [&]() -> herd::Status {
    std::vector<herd::GenerateRequest> all;
    for (std::size_t i = 0; i < n; ++i) all.push_back(request_of(requests[i]));
    const auto results = herd::generate(model->model, all);
    if (!results.ok()) return results.status();
    fill_all(answers, *results, herd_clear_answers);
    return {};
  });
}

void herd_clear_answers(herd_answer* answers, size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    for (void* memory : {static_cast<void*>(answers[i].ids), static_cast<void*>(answers[i].text),
                         static_cast<void*>(answers[i].error)})
      std::free(memory);
    answers[i] = {};
  }
}

int herd_score(herd_model* model, const herd_score_request* requests, size_t n, herd_scored* scores,
               char** error) {
  return guarded(error, [&]() -> herd::Status {
    std::vector<herd::ScoreRequest> all;
    for (std::size_t i = 0; i < n; ++i) {
      const auto first = std::min<std::size_t>(requests[i].first, INT32_MAX);
      all.push_back({{requests[i].ids, requests[i].ids + requests[i].n_ids},
                     static_cast<std::int32_t>(first)});
    }
    const auto results = herd::score(model->model, all);
    if (!results.ok()) return results.status();
    fill_all(scores, *results, herd_clear_scores);
    return {};
  });
}

void herd_clear_scores(herd_scored* scores, size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    for (void* memory : {static_cast<void*>(scores[i].logprobs),
                         static_cast<void*>(scores[i].greedy), static_cast<void*>(scores[i].error)})
      std::free(memory);
    scores[i] = {};
  }
}

void herd_free(void* memory) {
  std::free(memory);
}
