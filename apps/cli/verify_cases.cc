#include "verify_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <utility>

#include "herd/engine.h"

namespace cli {
namespace {

using herd::Code;
using herd::LlamaModel;
using herd::Status;
using herd::TokenId;
using Indices = std::vector<std::size_t>;

constexpr std::int32_t kBatch = 16;
constexpr std::int32_t kPage = 32;
constexpr float kMarginBound =
    0.05f;  // below it two devices may choose differently (docs/fidelity.md)

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Indices all_of(const Baseline& baseline) {
  Indices all(baseline.sequences.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return all;
}

/// The shortest sequences, as many as have `most` tokens together, but at least one.
Indices shortest(const Baseline& baseline, std::int64_t most) {
  Indices order = all_of(baseline), taken;
  std::ranges::stable_sort(order, {},
                           [&](std::size_t s) { return baseline.sequences[s].ids.size(); });
  for (const std::size_t s : order) {
    most -= std::ssize(baseline.sequences[s].ids);
    if (most < 0 && !taken.empty()) break;
    taken.push_back(s);
  }
  return taken;
}

/// Whole numbers from a fixed seed: every run of verify does the same.
class Dice {
 public:
  std::size_t roll(std::size_t sides) {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<std::size_t>(state_ % sides);
  }
  void shuffle(Indices& order) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[roll(i)]);
  }

 private:
  std::uint64_t state_ = 0x9e3779b97f4a7c15ull;
};

/// Groups of at most `batch`.
template <class Run>
Status by_batches(const Indices& sequences, std::int32_t batch, Run&& run) {
  const auto most = static_cast<std::size_t>(batch);
  for (std::size_t at = 0; at < sequences.size(); at += most) {
    const std::size_t count = std::min(most, sequences.size() - at);
    Status status = run(std::span(sequences).subspan(at, count));
    if (!status.ok()) return status;
  }
  return {};
}

// ---- the model's batch calls ----

/// Sequences fed piece by piece, side by side; the logits after each piece are compared.
class Pieces {
 public:
  Pieces(LlamaModel& model, Comparison& c, std::span<const std::size_t> sequences)
      : model_(model), c_(c), sequences_(sequences), fed_(sequences.size(), 0) {}

  std::size_t left(std::size_t i) const { return ids(i).size() - fed_[i]; }
  bool done() const {
    for (std::size_t i = 0; i < fed_.size(); ++i)
      if (left(i) > 0) return false;
    return true;
  }
  /// The next call: size(i) more tokens of each, at most what is left.
  template <class Size>
  Status feed(Size&& size) {
    std::vector<std::vector<TokenId>> pieces;
    std::vector<std::int32_t> start;
    for (std::size_t i = 0; i < fed_.size(); ++i) {
      const std::size_t n = std::min<std::size_t>(size(i), left(i));
      const auto first = ids(i).begin() + static_cast<std::ptrdiff_t>(fed_[i]);
      pieces.emplace_back(first, first + static_cast<std::ptrdiff_t>(n));
      start.push_back(static_cast<std::int32_t>(fed_[i]));
      fed_[i] += n;
    }
    const auto logits = model_.forward_batch_with_position(pieces, start);
    if (!logits.ok()) return logits.status();
    for (std::size_t i = 0; i < fed_.size(); ++i)
      if (!pieces[i].empty()) c_.add(sequences_[i], fed_[i] - 1, (*logits)[i]);
    return {};
  }
  /// Goes back: what comes next is computed again, after what is kept.
  void cut(std::size_t i, std::size_t length) { fed_[i] = length; }
  Status forget(std::size_t i) {
    fed_[i] = 0;
    return model_.clear_sequence(static_cast<std::int32_t>(i));
  }

 private:
  const std::vector<TokenId>& ids(std::size_t i) const {
    return c_.baseline().sequences[sequences_[i]].ids;
  }
  LlamaModel& model_;
  Comparison& c_;
  std::span<const std::size_t> sequences_;
  std::vector<std::size_t> fed_;  // [sequences]
};

/// Whole sequences, `batch` places, all logits: prompts share steps raggedly. Then token by token,
/// `batch` side by side: as many sequences in each step.
Status in_batches(LlamaModel& model, Comparison& c, const Indices& order, std::int32_t batch) {
  if (Status status = model.set_batch_size(batch); !status.ok()) return status;
  std::vector<std::vector<TokenId>> ids;
  for (const std::size_t s : order) ids.push_back(c.baseline().sequences[s].ids);
  Status status =
      model.forward_all(ids, [&](std::size_t i, std::size_t t, std::span<const float> logits) {
        c.add(order[i], t, logits);
      });
  if (!status.ok()) return status;
  return by_batches(order, batch, [&](std::span<const std::size_t> sequences) -> Status {
    model.clear_batch();
    Pieces pieces(model, c, sequences);
    while (!pieces.done()) {
      Status fed = pieces.feed([](std::size_t) { return std::size_t{1}; });
      if (!fed.ok()) return fed;
    }
    return {};
  });
}

Status start_batch(LlamaModel& model) {
  return model.set_batch_size(kBatch);  // also clears
}

/// Pieces of `size` tokens; 0: of any size, some left out of a call.
Status in_pieces(LlamaModel& model, Comparison& c, const Indices& all, std::size_t size) {
  Dice dice;
  return by_batches(all, kBatch, [&](std::span<const std::size_t> sequences) -> Status {
    if (Status status = start_batch(model); !status.ok()) return status;
    Pieces pieces(model, c, sequences);
    while (!pieces.done()) {
      Status status = pieces.feed([&](std::size_t) { return size > 0 ? size : dice.roll(40); });
      if (!status.ok()) return status;
    }
    return {};
  });
}

/// Each is fed whole, then cut back to some length and continued, three times.
Status cut_back(LlamaModel& model, Comparison& c, const Indices& all) {
  Dice dice;
  return by_batches(all, kBatch, [&](std::span<const std::size_t> sequences) -> Status {
    if (Status status = start_batch(model); !status.ok()) return status;
    Pieces pieces(model, c, sequences);
    Status status = pieces.feed([&](std::size_t i) { return pieces.left(i); });
    for (int round = 0; round < 3 && status.ok(); ++round) {
      for (std::size_t i = 0; i < sequences.size(); ++i)
        pieces.cut(i, dice.roll(c.baseline().sequences[sequences[i]].ids.size()));
      status = pieces.feed([&](std::size_t i) { return pieces.left(i); });
    }
    return status;
  });
}

/// Every other sequence is forgotten on its way and begins again while its neighbours go on.
Status neighbours_freed(LlamaModel& model, Comparison& c, const Indices& all) {
  return by_batches(all, kBatch, [&](std::span<const std::size_t> sequences) -> Status {
    if (Status status = start_batch(model); !status.ok()) return status;
    Pieces pieces(model, c, sequences);
    for (int round = 0; !pieces.done(); ++round) {
      for (std::size_t i = 0; i < sequences.size() && round < 6; ++i)
        if ((i + static_cast<std::size_t>(round)) % 3 == 0)
          if (Status status = pieces.forget(i); !status.ok()) return status;
      Status status = pieces.feed([](std::size_t i) { return 5 + 3 * (i % 4); });
      if (!status.ok()) return status;
    }
    return {};
  });
}

/// What the model answers by itself, in batches: choices, made where the device makes them.
Status greedy(LlamaModel& model, Comparison& c, const Indices& all) {
  return by_batches(all, kBatch, [&](std::span<const std::size_t> sequences) -> Status {
    if (Status status = start_batch(model); !status.ok()) return status;
    std::vector<std::vector<TokenId>> prompts;
    std::vector<TokenId> next;
    std::int32_t steps = 0;
    for (const std::size_t s : sequences) {
      const Sequence& q = c.baseline().sequences[s];
      prompts.emplace_back(q.ids.begin(), q.ids.begin() + q.prompt);
      next.push_back(q.ids[static_cast<std::size_t>(q.prompt)]);
      steps = std::max(steps, q.answer - 1);
    }
    if (const auto done = model.forward_batch(prompts); !done.ok()) return done.status();
    // All go on as long as the longest; what is beyond a sequence's own answer is not compared.
    const auto chosen = model.continue_greedy(next, steps);
    if (!chosen.ok()) return chosen.status();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& q = c.baseline().sequences[sequences[i]];
      for (std::int32_t k = 0; k + 1 < q.answer; ++k)
        c.add_choice(sequences[i], static_cast<std::size_t>(q.prompt + k),
                     (*chosen)[i][static_cast<std::size_t>(k)]);
    }
    return {};
  });
}

/// Another device: its bits are its own, its choices are not.
Status same_choices(LlamaModel& model, Comparison& c, const Indices& all) {
  if (Status status = start_batch(model); !status.ok()) return status;
  std::vector<std::vector<TokenId>> ids;
  for (const std::size_t s : all) ids.push_back(c.baseline().sequences[s].ids);
  return model.forward_all(ids, [&](std::size_t i, std::size_t t, std::span<const float> logits) {
    c.add_likeliest(all[i], t, logits, kMarginBound);
  });
}

// ---- the engine ----

/// Requests for the whole work on a running engine, and the logits they see.
class Stream {
 public:
  Stream(herd::Engine& engine, Comparison& c) : engine_(engine), c_(c) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {  // whatever still runs must not call back
    answers_.clear();
    leavers_.clear();
    engine_.wait_idle(std::chrono::minutes(1));
  }

  Status submit(std::size_t s, bool prompt_too) {
    const Sequence& q = c_.baseline().sequences[s];
    herd::GenerateRequest request;
    request.ids.assign(q.ids.begin(), q.ids.begin() + q.prompt);
    request.max_tokens = q.answer;
    request.ignore_end = true;
    request.prompt_logprobs = prompt_too;
    request.on_logits = [this, s](std::int32_t position, std::span<const float> logits) {
      c_.add(s, static_cast<std::size_t>(position), logits);  // in the engine's thread
    };
    expected_ += q.answer + (prompt_too ? q.prompt - 1 : 0);
    auto answer = engine_.submit(std::move(request));
    if (!answer.ok()) return answer.status();
    answers_.push_back(std::move(*answer));
    return {};
  }
  /// Somebody who begins alike, goes elsewhere and leaves after a token or two.
  Status submit_leaver(std::size_t s, std::int32_t room) {
    const Sequence& q = c_.baseline().sequences[s];
    herd::GenerateRequest request;
    request.ids.assign(q.ids.begin(), q.ids.begin() + q.prompt);
    std::reverse(request.ids.begin() + q.prompt / 2, request.ids.end());
    request.max_tokens = room - q.prompt;
    request.ignore_end = true;
    auto answer = engine_.submit(std::move(request));
    if (!answer.ok()) return answer.status();
    leavers_.push_back(std::move(*answer));
    return {};
  }
  void cancel_leavers() {
    for (std::size_t i = 0; i < leavers_.size(); ++i) {
      for (std::size_t token = 0; token <= i % 3; ++token)
        if (!leavers_[i].next()) break;
      leavers_[i].cancel();
    }
  }
  /// Waits for all. Error: of an answer that did not end as it should.
  Status finish() {
    Status status;
    for (herd::Answer& answer : answers_)
      while (const auto event = answer.next()) {
        cached_ +=
            event->finish_reason != herd::FinishReason::none ? event->usage.cached_tokens : 0;
        if (event->finish_reason == herd::FinishReason::error ||
            event->finish_reason == herd::FinishReason::cancelled)
          status = event->error;
      }
    for (herd::Answer& leaver : leavers_)
      while (leaver.next()) continue;
    if (status.ok() && !engine_.wait_idle(std::chrono::minutes(1)))
      return {Code::internal, "the engine does not come to rest"};
    if (status.ok() && c_.tokens() < expected_)
      return {Code::internal, fmt::format("{} of {} tokens seen", c_.tokens(), expected_)};
    return status;
  }
  std::int64_t cached() const { return cached_; }

 private:
  herd::Engine& engine_;
  Comparison& c_;
  std::vector<herd::Answer> answers_, leavers_;
  std::int64_t expected_ = 0, cached_ = 0;
};

Status engine_together(herd::Engine& engine, Comparison& c, const Indices& all, bool prompt_too) {
  Stream stream(engine, c);
  for (const std::size_t s : all)
    if (Status status = stream.submit(s, prompt_too); !status.ok()) return status;
  return stream.finish();
}

/// Everything has run before, so that what can be cached is.
Status engine_warm(herd::Engine& engine, Comparison& c, const Indices& all) {
  Stream stream(engine, c);
  bool cachable = false;
  for (const std::size_t s : all) {
    if (Status status = stream.submit(s, false); !status.ok()) return status;
    cachable = cachable || c.baseline().sequences[s].prompt > kPage;
  }
  Status status = stream.finish();
  if (status.ok() && cachable && stream.cached() == 0)
    return {Code::internal, "nothing came from the cache"};
  return status;
}

Status engine_cancelled(herd::Engine& engine, Comparison& c, const Indices& all) {
  Stream stream(engine, c);
  for (std::size_t i = 0; i < all.size(); ++i) {
    Status status = stream.submit_leaver(all[i], engine.context());
    if (status.ok()) status = stream.submit(all[all.size() - 1 - i], i % 2 == 0);
    if (!status.ok()) return status;
  }
  stream.cancel_leavers();
  return stream.finish();
}

Status engine_preempted(herd::Engine& engine, Comparison& c, const Indices& some) {
  Status status = engine_together(engine, c, some, false);
  if (status.ok() && engine.stats().preemptions == 0)
    return {Code::internal, "nobody was preempted: the pool was not small enough"};
  return status;
}

// ---- all cases of a device ----

/// Cases that share one load of the model.
struct Group {
  herd::ModelOptions options;
  std::vector<std::pair<std::string, std::function<Status(LlamaModel&, Comparison&)>>> cases;
  std::vector<std::pair<std::string, std::function<Status(herd::Engine&, Comparison&)>>> engine;
  std::string variant;  // not empty: may be absent from this machine
};

class Verifier {
 public:
  Verifier(const OpenModel& open, const VerifyOptions& options, const OnCase& on_case)
      : open_(open), options_(options), on_case_(on_case) {}

  herd::Result<VerifyReport> run() {
    for (const herd::DeviceType device : options_.devices) {
      device_ = std::string(herd::to_string(device));
      Status status = run_device(device);
      const bool missing = !status.ok() && status.error().code == Code::unsupported;
      if (missing && options_.skip_missing) continue;
      if (!status.ok()) return status.error();
    }
    return std::move(report_);
  }

 private:
  herd::ModelOptions options_for(herd::DeviceType device) const {
    herd::ModelOptions o;
    o.device = device;
    o.threads = options_.threads;
    o.batch_size = kBatch;
    o.kv_type = options_.kv_type;
    o.context = options_.context;
    if (options_.work.empty()) o.context = std::min(o.context, options_.full ? 448 : 160);
    return o;
  }

  Status run_device(herd::DeviceType device) {
    const herd::ModelOptions options = options_for(device);
    if (device == herd::DeviceType::reference && host_) return run_reference(options);
    if (!on_case_(device_, "alone")) return stopped();
    auto model = open_(options);
    if (!model.ok()) return model.status();
    auto work = options_.work;
    if (work.empty()) work = default_work(*model, options_.full, options.context);
    auto made = make_baseline(*model, std::move(work));
    if (!made.ok()) return made.status();
    baseline_ = std::make_shared<const Baseline>(std::move(*made));
    report_.devices.push_back(
        {device_, model->info().backend, baseline_->sha256, baseline_->tokens(), {}});
    Status status = run_group(main_group(options), std::move(*model));
    for (const Group& group : other_groups(options)) {
      if (!status.ok()) return status;
      auto other = open_(group.options);
      if (!other.ok() && other.error().code == Code::unsupported && !group.variant.empty())
        note_absent(group.variant);
      else
        status = other.ok() ? run_group(group, std::move(*other)) : other.status();
    }
    if (device == herd::DeviceType::cpu) host_ = baseline_;
    return status;
  }

  /// The plain loops promise the bits of the cpu.
  Status run_reference(const herd::ModelOptions& options) {
    auto model = open_(options);
    if (!model.ok()) return model.status();
    baseline_ = host_;
    report_.devices.push_back({device_, model->info().backend, "", 0, {}});
    Group group;
    const Indices some = shortest(*baseline_, options_.full ? 60 : 20);
    group.cases.push_back({"the bits of the cpu", [some](LlamaModel& m, Comparison& c) {
                             return in_batches(m, c, some, kBatch);
                           }});
    return run_group(group, std::move(*model));
  }

  void note_absent(const std::string& variant) {
    auto& absent = report_.devices.back().absent;
    if (std::ranges::find(absent, variant) == absent.end()) absent.push_back(variant);
  }

  Group main_group(const herd::ModelOptions& options) const {
    Group g;
    g.options = options;
    const Indices all = all_of(*baseline_);
    const auto add = [&](std::string name, auto run) {
      g.cases.emplace_back(std::move(name), run);
    };
    for (const std::int32_t batch :
         options_.full ? std::vector{2, 3, 5, 8, 16} : std::vector{2, 5, 16})
      add(fmt::format("batch of {}", batch),
          [=](LlamaModel& m, Comparison& c) { return in_batches(m, c, all, batch); });
    Indices reversed(all.rbegin(), all.rend()), shuffled = all;
    Dice().shuffle(shuffled);
    add("batch, reversed",
        [=](LlamaModel& m, Comparison& c) { return in_batches(m, c, reversed, 7); });
    if (options_.full)
      add("batch, shuffled",
          [=](LlamaModel& m, Comparison& c) { return in_batches(m, c, shuffled, 11); });
    for (const std::size_t size :
         options_.full ? std::vector<std::size_t>{2, 7, 32, 100} : std::vector<std::size_t>{2, 7})
      add(fmt::format("pieces of {}", size),
          [=](LlamaModel& m, Comparison& c) { return in_pieces(m, c, all, size); });
    add("pieces of any size",
        [=](LlamaModel& m, Comparison& c) { return in_pieces(m, c, all, 0); });
    add("cut back, continued", [=](LlamaModel& m, Comparison& c) { return cut_back(m, c, all); });
    add("neighbours freed",
        [=](LlamaModel& m, Comparison& c) { return neighbours_freed(m, c, all); });
    add("greedy, in a batch", [=](LlamaModel& m, Comparison& c) { return greedy(m, c, all); });
    if (host_) g.cases.push_back({"the choices of the cpu", nullptr});  // against another baseline
    const auto engine = [&](std::string name, auto run) {
      g.engine.emplace_back(std::move(name), run);
    };
    engine("engine, together",
           [=](herd::Engine& e, Comparison& c) { return engine_together(e, c, all, true); });
    engine("engine, warm prefixes",
           [=](herd::Engine& e, Comparison& c) { return engine_warm(e, c, all); });
    engine("engine, others cancelled",
           [=](herd::Engine& e, Comparison& c) { return engine_cancelled(e, c, all); });
    return g;
  }

  std::vector<Group> other_groups(const herd::ModelOptions& options) const {
    std::vector<Group> groups;
    const Indices all = all_of(*baseline_);
    Group small;
    small.options = options;
    small.options.max_rows = 24;
    small.cases.push_back({"steps of 24 rows", [=](LlamaModel& m, Comparison& c) {
                             return in_batches(m, c, all, 16);
                           }});
    groups.push_back(std::move(small));
    if (const Indices growing = long_answers(); growing.size() >= 3) {
      Group pool;
      pool.options = options;
      pool.options.batch_size = static_cast<std::int32_t>(growing.size());
      pool.options.kv_tokens = 1;  // one page, and one more for each
      pool.engine.push_back({"engine, preempted", [=](herd::Engine& e, Comparison& c) {
                               return engine_preempted(e, c, growing);
                             }});
      groups.push_back(std::move(pool));
    }
    if (options.device == herd::DeviceType::cpu) add_variants(options, groups);
    return groups;
  }

  /// Few at first, several pages in the end, and alone no more than the small pool has.
  Indices long_answers() const {
    Indices found;
    for (std::size_t s = 0; s < baseline_->sequences.size(); ++s) {
      const Sequence& q = baseline_->sequences[s];
      if (q.prompt < kPage && q.answer > 2 * kPage && std::ssize(q.ids) <= 4 * kPage)
        found.push_back(s);
    }
    return found;
  }

  /// Every instruction set and thread counts the baseline did not use.
  void add_variants(const herd::ModelOptions& options, std::vector<Group>& groups) const {
    for (const herd::Isa isa : herd::kIsas)
      for (const int threads : options_.full ? std::vector{1, 3} : std::vector{3}) {
        Group g;
        g.options = options;
        g.options.isa = isa;
        g.options.threads = threads;
        g.variant = std::string(herd::to_string(isa));
        const bool slow = isa == herd::Isa::scalar;
        const Indices some =
            slow ? shortest(*baseline_, options_.full ? 120 : 60) : all_of(*baseline_);
        g.cases.push_back(
            {fmt::format("{}, {} thread{}", g.variant, threads, threads == 1 ? "" : "s"),
             [=](LlamaModel& m, Comparison& c) { return in_batches(m, c, some, 16); }});
        groups.push_back(std::move(g));
      }
  }

  Status run_group(const Group& group, LlamaModel model) {
    for (const auto& [name, run] : group.cases) {
      const bool host = run == nullptr;
      const auto ran = [&](Comparison& c) {
        Status status = host ? same_choices(model, c, all_of(*host_)) : run(model, c);
        return status.ok() ? model.check_integrity() : status;
      };
      if (Status status = run_case(name, host ? *host_ : *baseline_, ran); !status.ok())
        return status;
    }
    if (group.engine.empty()) return {};
    if (Status status = model.set_batch_size(group.options.batch_size); !status.ok()) return status;
    auto engine = herd::Engine::create(std::move(model));
    if (!engine.ok()) return engine.status();
    for (const auto& [name, run] : group.engine) {
      const auto ran = [&](Comparison& c) { return run(**engine, c); };
      if (Status status = run_case(name, *baseline_, ran); !status.ok()) return status;
    }
    return {};
  }

  template <class Run>
  Status run_case(const std::string& name, const Baseline& baseline, Run&& run) {
    if (!on_case_(device_, name)) return stopped();
    Comparison comparison(baseline);
    const double started = now();
    const Status status = run(comparison);
    CaseResult& result = report_.cases.emplace_back();
    result.device = device_;
    result.name = name;
    result.seconds = now() - started;
    result.tokens = comparison.tokens();
    result.first = comparison.first();
    if (!status.ok()) result.error = status.error().message;
    if (status.ok() && result.tokens == 0) result.error = "nothing was compared";
    return {};
  }

  static Status stopped() { return {Code::cancelled, "stopped"}; }

  const OpenModel& open_;
  const VerifyOptions& options_;
  const OnCase& on_case_;
  std::string device_;
  std::shared_ptr<const Baseline> baseline_;  // of the device
  std::shared_ptr<const Baseline> host_;      // of the cpu, once it has run
  VerifyReport report_;
};

}  // namespace

bool VerifyReport::kept() const {
  return !cases.empty() && std::ranges::all_of(cases, &CaseResult::kept);
}

herd::Result<VerifyReport> verify(const OpenModel& open, const VerifyOptions& options,
                                  const OnCase& on_case) {
  return Verifier(open, options, on_case).run();
}

}  // namespace cli
