// Greedy continuation of a whole batch: what decoding costs when nothing else is asked for.
#include <fmt/format.h>

#include "engine/impl.h"
#include "sample/sampler.h"

namespace herd {
namespace {

Status check(const LlamaModel::Impl& impl, std::span<const TokenId> next, std::int32_t steps) {
  if (next.size() > static_cast<std::size_t>(impl.active))
    return {Code::invalid_argument,
            fmt::format("{} sequences given, batch_size is {}", next.size(), impl.active)};
  if (steps < 0) return {Code::invalid_argument, fmt::format("steps {}: at least 0", steps)};
  std::int64_t pages = 0;
  for (std::size_t i = 0; i < next.size(); ++i) {
    if (Status status = impl.check_ids(i, next.subspan(i, 1)); !status.ok()) return status;
    const std::int64_t end = std::int64_t{impl.tables[i].length()} + steps;
    if (end > impl.context())
      return {Code::out_of_range,
              fmt::format("sequence {}: {} tokens, the context holds {}", i, end, impl.context())};
    pages += impl.pool.pages_for(end) - std::ssize(impl.tables[i].pages());
  }
  if (pages > impl.pool.free())
    return {Code::resource_exhausted, fmt::format("KV cache: {} pages of {} tokens needed, {} free",
                                                  pages, impl.pool.page_size(), impl.pool.free())};
  return {};
}

using Answers = std::vector<std::vector<TokenId>>;

Status take(std::span<const TokenId> ids, Answers& answers) {
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (ids[i] < 0)
      return {Code::internal, fmt::format("sequence {}: the logits are not finite", i)};
    answers[i].push_back(ids[i]);
  }
  return {};
}

/// The likeliest of each row, or -1: not finite.
std::vector<TokenId> largest(std::span<const float> logits, std::size_t vocab) {
  std::vector<TokenId> ids;
  for (std::size_t at = 0; at < logits.size(); at += vocab)
    ids.push_back(largest_logit(logits.subspan(at, vocab)));
  return ids;
}

/// A device's ids are read one step late, so that it never waits for the host.
Status run(LlamaModel::Impl& impl, std::span<const TokenId> next, std::int32_t steps,
           Answers& answers) {
  Backend& backend = impl.model->backend();
  const bool on_device = backend.samples_on_device();
  int open = 0;
  Status status;
  for (std::int32_t step = 0; step < steps && status.ok(); ++step) {
    impl.start_step();
    for (std::size_t i = 0; i < next.size() && status.ok(); ++i) {
      const TokenId id = step == 0    ? next[i]
                         : !on_device ? answers[i].back()
                                      : -1 - static_cast<TokenId>(i);
      status = impl.add(static_cast<std::int32_t>(i), std::span(&id, 1), WantLogits::last);
    }
    if (!status.ok()) break;
    if (!on_device) {
      const auto logits = impl.run_step();
      status = logits.ok() ? take(largest(*logits, static_cast<std::size_t>(impl.vocab())), answers)
                           : logits.status();
      continue;
    }
    impl.batch.sampling.assign(next.size(), SamplingRow{});
    impl.enqueue(impl.batch);
    if (++open < 2) continue;
    const auto ids = backend.sampled();
    --open;
    status = ids.ok() ? take(*ids, answers) : ids.status();
  }
  for (; open > 0; --open) {
    const auto ids = backend.sampled();
    if (status.ok()) status = ids.ok() ? take(*ids, answers) : ids.status();
  }
  return status;
}

}  // namespace

Result<Answers> LlamaModel::continue_greedy(std::span<const TokenId> next, std::int32_t steps) {
  Impl& impl = *impl_;
  if (Status status = check(impl, next, steps); !status.ok()) return status.error();
  Answers answers(next.size());
  if (next.empty()) return answers;
  std::vector<std::int32_t> lengths;
  for (std::size_t i = 0; i < next.size(); ++i) {
    lengths.push_back(impl.tables[i].length());
    answers[i].reserve(static_cast<std::size_t>(steps));
  }
  Status status = run(impl, next, steps, answers);
  if (status.ok()) return answers;
  for (std::size_t i = 0; i < next.size(); ++i) impl.tables[i].truncate(impl.pool, lengths[i]);
  return status.error();
}

}  // namespace herd
