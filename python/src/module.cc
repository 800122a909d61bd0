// The extension under the Python package: the public headers, one to one. What Python users see,
// with its checks and types, is python/herd/_model.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "herd/llama.h"
#include "herd/score.h"
#include "herd/vocabulary.h"

namespace py = pybind11;

namespace {

using herd::TokenId;

[[noreturn]] void raise(const herd::Error& error) {
  const py::object type = py::module_::import("herd._error").attr("Error");
  const py::object value = type(error.message, std::string(to_string(error.code)));
  PyErr_SetObject(type.ptr(), value.ptr());
  throw py::error_already_set();
}

template <class T>
T value_or_raise(herd::Result<T> result) {
  if (!result.ok()) raise(result.error());
  return *std::move(result);
}

/// The one of `values` that `name_of` calls so. Error: invalid_argument, with the names there are.
template <class E>
E by_name(const char* what, const std::string& name, const std::vector<E>& values,
          std::string_view (*name_of)(E)) {
  std::string known;
  for (const E value : values) {
    if (name == name_of(value)) return value;
    known += (known.empty() ? "" : ", ") + std::string(name_of(value));
  }
  raise({herd::Code::invalid_argument,
         std::string(what) + " '" + name + "' is unknown; known: " + known});
}

herd::DeviceType device_named(const std::string& name) {
  using enum herd::DeviceType;
  return by_name<herd::DeviceType>("device", name, {cpu, reference, cuda, metal, metal_emulated},
                                   herd::to_string);
}

herd::Isa isa_named(const std::string& name) {
  std::vector<herd::Isa> isas = {herd::Isa::automatic};
  isas.insert(isas.end(), std::begin(herd::kIsas), std::end(herd::kIsas));
  return by_name<herd::Isa>("isa", name, isas, herd::to_string);
}

std::string_view kv_type_name(herd::KvType type) {
  return type == herd::KvType::f16 ? "f16" : "f32";
}

herd::KvType kv_type_named(const std::string& name) {
  return by_name<herd::KvType>("kv_type", name, {herd::KvType::f16, herd::KvType::f32},
                               kv_type_name);
}

/// What a call asks of Python now and then: whether a signal has come, and to hear of the tokens
/// done since. Made and ended with the GIL held; used in between by a thread that has let go of it.
class Watch {
 public:
  explicit Watch(py::object on_tokens) : on_tokens_(std::move(on_tokens)) {}
  void count(std::int64_t tokens) { tokens_ += tokens; }
  /// Whether the work must stop.
  bool operator()() {
    const auto now = std::chrono::steady_clock::now();
    if (raised_ || now < next_) return raised_;
    next_ = now + std::chrono::milliseconds(20);
    const py::gil_scoped_acquire gil;
    raised_ = PyErr_CheckSignals() != 0;
    if (raised_) error_.emplace();  // takes it from this thread's state
    if (!raised_) tell();
    return raised_;
  }
  /// REQUIRES: the GIL is held. Throws what the signal's handler or on_tokens raised.
  void end() {
    if (!raised_) tell();
    if (error_) throw py::error_already_set(*error_);
  }

 private:
  void tell() {
    const std::int64_t tokens = std::exchange(tokens_, 0);
    if (tokens == 0 || on_tokens_.is_none()) return;
    try {
      on_tokens_(tokens);
    } catch (const py::error_already_set& error) {
      error_.emplace(error);
      raised_ = true;
    }
  }

  py::object on_tokens_;  // a callable, or None
  std::int64_t tokens_ = 0;
  bool raised_ = false;
  std::optional<py::error_already_set> error_;
  std::chrono::steady_clock::time_point next_{};
};

struct Event {
  std::size_t index = 0;
  TokenId token = -1;
  std::string text;
  herd::FinishReason finish_reason = herd::FinishReason::none;
  std::string error;
  std::optional<herd::TokenLogprob> logprob;
};

struct Held {
  herd::LlamaModel model;
  herd::Result<herd::Vocabulary> vocabulary;  // a file may have weights and an unknown tokeniser
  std::atomic<bool> busy = false;
};

/// Takes the model for one call; a LlamaModel has one caller at a time.
class Turn {
 public:
  explicit Turn(std::shared_ptr<Held> held) : held_(std::move(held)) {
    if (held_->busy.exchange(true))
      raise({herd::Code::resource_exhausted,
             "the model is busy with another call or an open stream; one at a time"});
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { held_->busy = false; }
  herd::LlamaModel& model() { return held_->model; }

 private:
  std::shared_ptr<Held> held_;
};

/// herd::generate in a thread of its own, which never takes the GIL; the reader takes its events.
class Stream {
 public:
  Stream(std::shared_ptr<Held> held, std::vector<herd::GenerateRequest> requests)
      : turn_(std::make_unique<Turn>(std::move(held))), requests_(std::move(requests)) {
    thread_ = std::thread([this] { run(); });
  }
  ~Stream() { close(); }

  /// Waits for the next event; none after the last. REQUIRES: the GIL is held.
  std::optional<Event> next() {
    for (;;) {
      {
        const py::gil_scoped_release no_gil;
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, std::chrono::milliseconds(20),
                          [&] { return done_ || !events_.empty(); });
        if (!events_.empty()) {
          Event event = std::move(events_.front());
          events_.pop_front();
          return event;
        }
        if (done_) break;
      }
      if (PyErr_CheckSignals() != 0) {
        py::error_already_set error;
        close();
        throw error;
      }
    }
    close();
    if (failure_) raise(*std::exchange(failure_, std::nullopt));
    return std::nullopt;
  }

  /// Stops the work within a step and gives the model back. May be repeated.
  void close() {
    const py::gil_scoped_release no_gil;
    cancelled_ = true;
    if (thread_.joinable()) thread_.join();
    turn_.reset();
    const std::lock_guard lock(mutex_);
    events_.clear();
  }

 private:
  void run() {
    herd::GenerateOptions options;
    options.cancelled = [this] { return cancelled_.load(); };
    options.on_event = [this](const herd::GenerateEvent& e) {
      if (e.finish_reason == herd::FinishReason::error) return;  // comes below, with its message
      Event event{e.request, e.id, std::string(e.text), e.finish_reason, "", std::nullopt};
      if (e.logprob != nullptr) event.logprob = *e.logprob;
      put(std::move(event));
    };
    const auto results = herd::generate(turn_->model(), requests_, options);
    if (results.ok())
      for (std::size_t i = 0; i < results->size(); ++i)
        if ((*results)[i].finish_reason == herd::FinishReason::error)
          put({i, -1, "", herd::FinishReason::error, (*results)[i].error, std::nullopt});
    const std::lock_guard lock(mutex_);
    if (!results.ok()) failure_ = results.error();
    done_ = true;
    changed_.notify_one();
  }
  void put(Event event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
    changed_.notify_one();
  }

  std::unique_ptr<Turn> turn_;
  const std::vector<herd::GenerateRequest> requests_;
  std::atomic<bool> cancelled_ = false;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Event> events_;
  bool done_ = false;
  std::optional<herd::Error> failure_;
  std::thread thread_;  // last: it uses all of the above
};

std::shared_ptr<Held> load(const std::string& path, const std::string& device, int threads,
                           const std::string& isa, std::int32_t batch_size, std::int32_t context,
                           std::int64_t kv_tokens, std::int32_t max_rows,
                           const std::string& kv_type) {
  herd::ModelOptions options;
  options.device = device_named(device);
  options.threads = threads;
  options.isa = isa_named(isa);
  options.batch_size = batch_size;
  options.context = context;
  options.kv_tokens = kv_tokens;
  options.max_rows = max_rows;
  options.kv_type = kv_type_named(kv_type);
  std::optional<herd::Result<herd::LlamaModel>> model;
  std::optional<herd::Result<herd::Vocabulary>> vocabulary;
  {
    const py::gil_scoped_release no_gil;
    model = herd::LlamaModel::from_gguf(path, options);
    if (model->ok()) vocabulary = herd::Vocabulary::from_gguf(path);
  }
  return std::make_shared<Held>(value_or_raise(std::move(*model)), std::move(*vocabulary));
}

/// work(model, watch) with the model taken and the GIL let go; what the watch raises is raised.
template <class Work>
auto in_turn(const std::shared_ptr<Held>& held, py::object on_tokens, Work work) {
  Turn turn(held);
  Watch watch(std::move(on_tokens));
  auto results = [&] {
    const py::gil_scoped_release no_gil;
    return work(turn.model(), watch);
  }();
  watch.end();
  return value_or_raise(std::move(results));
}

std::vector<herd::GenerateResult> generate(const std::shared_ptr<Held>& held,
                                           const std::vector<herd::GenerateRequest>& requests,
                                           py::object on_tokens) {
  const bool counts = !on_tokens.is_none();
  return in_turn(held, std::move(on_tokens), [&](herd::LlamaModel& model, Watch& watch) {
    herd::GenerateOptions options;
    options.cancelled = std::ref(watch);
    if (counts)
      options.on_event = [&](const herd::GenerateEvent& e) { watch.count(e.id >= 0 ? 1 : 0); };
    return herd::generate(model, requests, options);
  });
}

std::vector<herd::ScoreResult> score(const std::shared_ptr<Held>& held,
                                     const std::vector<herd::ScoreRequest>& requests,
                                     py::object on_tokens) {
  return in_turn(held, std::move(on_tokens), [&](herd::LlamaModel& model, Watch& watch) {
    herd::ScoreOptions options;
    options.cancelled = std::ref(watch);
    std::int64_t before = 0;
    options.on_progress = [&](std::int64_t tokens) {
      watch.count(tokens - std::exchange(before, tokens));
    };
    return herd::score(model, requests, options);
  });
}

const herd::Vocabulary& vocabulary_of(const Held& held) {
  if (!held.vocabulary.ok()) raise(held.vocabulary.error());
  return *held.vocabulary;
}

void bind_requests(py::module_& m) {
  using herd::SamplingParams;
  py::class_<SamplingParams>(m, "Sampling")
      .def(py::init<>())
      .def_readwrite("temperature", &SamplingParams::temperature)
      .def_readwrite("top_k", &SamplingParams::top_k)
      .def_readwrite("top_p", &SamplingParams::top_p)
      .def_readwrite("min_p", &SamplingParams::min_p)
      .def_readwrite("repetition_penalty", &SamplingParams::repetition_penalty)
      .def_readwrite("presence_penalty", &SamplingParams::presence_penalty)
      .def_readwrite("frequency_penalty", &SamplingParams::frequency_penalty)
      .def_readwrite("seed", &SamplingParams::seed)
      .def_readwrite("logit_bias", &SamplingParams::logit_bias);
  using herd::GenerateRequest;
  py::class_<GenerateRequest>(m, "Request")
      .def(py::init<>())
      .def_readwrite("prompt", &GenerateRequest::prompt)
      .def_readwrite("ids", &GenerateRequest::ids)
      .def_readwrite("max_tokens", &GenerateRequest::max_tokens)
      .def_readwrite("sampling", &GenerateRequest::sampling)
      .def_readwrite("stop", &GenerateRequest::stop)
      .def_readwrite("stop_ids", &GenerateRequest::stop_ids)
      .def_readwrite("ignore_end", &GenerateRequest::ignore_end)
      .def_readwrite("logprobs", &GenerateRequest::logprobs);
  using herd::ScoreRequest;
  py::class_<ScoreRequest>(m, "ScoreRequest")
      .def(py::init<>())
      .def_readwrite("ids", &ScoreRequest::ids)
      .def_readwrite("first", &ScoreRequest::first);
}

void bind_results(py::module_& m) {
  using herd::GenerateResult;
  py::class_<herd::TokenLogprob>(m, "TokenLogprob")
      .def_readonly("id", &herd::TokenLogprob::id)
      .def_readonly("logprob", &herd::TokenLogprob::logprob)
      .def_readonly("top", &herd::TokenLogprob::top);
  py::class_<GenerateResult>(m, "Result")
      .def_readonly("prompt_ids", &GenerateResult::prompt_ids)
      .def_readonly("ids", &GenerateResult::ids)
      .def_readonly("text", &GenerateResult::text)
      .def_readonly("error", &GenerateResult::error)
      .def_readonly("logprobs", &GenerateResult::logprobs)
      .def_property_readonly("finish_reason", [](const GenerateResult& r) {
        return std::string(to_string(r.finish_reason));
      });
  py::class_<herd::ScoreResult>(m, "Score")
      .def_readonly("logprobs", &herd::ScoreResult::logprobs)
      .def_readonly("greedy", &herd::ScoreResult::greedy)
      .def_readonly("sum", &herd::ScoreResult::sum)
      .def_readonly("error", &herd::ScoreResult::error);
  py::class_<Event>(m, "Event")
      .def_readonly("index", &Event::index)
      .def_readonly("token", &Event::token)
      .def_readonly("text", &Event::text)
      .def_readonly("error", &Event::error)
      .def_readonly("logprob", &Event::logprob)
      .def_property_readonly(
          "finish_reason", [](const Event& e) { return std::string(to_string(e.finish_reason)); });
}

void bind_model(py::module_& m) {
  py::class_<Stream>(m, "Stream").def("next", &Stream::next).def("close", &Stream::close);
  py::class_<Held, std::shared_ptr<Held>>(m, "Model")
      .def(py::init(&load), py::arg("path"), py::arg("device"), py::arg("threads"), py::arg("isa"),
           py::arg("batch_size"), py::arg("context"), py::arg("kv_tokens"), py::arg("max_rows"),
           py::arg("kv_type"))
      .def("generate", &generate, py::arg("requests"), py::arg("on_tokens") = py::none())
      .def("score", &score, py::arg("requests"), py::arg("on_tokens") = py::none())
      .def("stream",
           [](std::shared_ptr<Held> held, std::vector<herd::GenerateRequest> requests) {
             return std::make_unique<Stream>(std::move(held), std::move(requests));
           })
      .def("encode", [](const Held& held, const std::string& text, bool bos,
                        bool special) { return vocabulary_of(held).encode(text, bos, special); })
      .def("decode",
           [](const Held& held, const std::vector<TokenId>& ids, bool special) {
             return py::bytes(value_or_raise(vocabulary_of(held).decode(ids, special)));
           })
      .def("score_request",
           [](const Held& held, const std::string& context, const std::string& continuation) {
             return herd::encode_score(vocabulary_of(held), context, continuation);
           })
      .def("info", [](const Held& held) {
        const herd::ModelInfo i = held.model.info();
        return py::dict(py::arg("architecture") = i.architecture, py::arg("name") = i.name,
                        py::arg("backend") = i.backend, py::arg("layers") = i.layers,
                        py::arg("hidden") = i.hidden, py::arg("heads") = i.heads,
                        py::arg("kv_heads") = i.kv_heads, py::arg("head_size") = i.head_size,
                        py::arg("vocab") = i.vocab, py::arg("context") = i.context,
                        py::arg("weight_bytes") = i.weight_bytes,
                        py::arg("batch_size") = held.model.batch_size());
      });
}

}  // namespace

PYBIND11_MODULE(_herd, m) {
  m.doc() = "herd's public C++ headers; use the package herd";
  m.attr("version") = HERD_VERSION;
  bind_requests(m);
  bind_results(m);
  bind_model(m);
}
