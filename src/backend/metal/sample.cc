// Choosing ids on the GPU. Ids of two steps may wait to be read by the host.
#include <cstddef>

#include "backend/metal/metal.h"

namespace herd::metal {

static_assert(sizeof(SamplingRow) == sizeof(args::Sampling));
static_assert(offsetof(SamplingRow, top_k) == offsetof(args::Sampling, top_k));
static_assert(offsetof(SamplingRow, seed) == offsetof(args::Sampling, seed));
static_assert(offsetof(SamplingRow, position) == offsetof(args::Sampling, position));

void MetalBackend::sample(const SampleArgs& a) {
  if (a.rows == 0) return;
  Chosen& here = chosen_[n_sampled_++ % 2];
  here.rows = a.rows;
  step_samples_ = true;
  run("sample_batch", {a.logits, step_part(room_.sampling()), here.ids.data},
      args::Sample{static_cast<std::uint32_t>(a.vocab), 0}, {static_cast<std::uint32_t>(a.rows)},
      threads_of("sample_batch", 256));
  done("sample", here.ids.data, 0, 0, false);
}

Result<std::span<const TokenId>> MetalBackend::sampled() {
  if (n_read_ == n_sampled_ && status_.ok())
    return Error{Code::internal, "metal: no step with choices is open"};
  const Chosen& here = chosen_[n_read_++ % 2];
  note(device_->wait(here.writer));
  if (!status_.ok()) return status_.error();
  return std::span<const TokenId>(reinterpret_cast<const TokenId*>(here.ids.data),
                                  static_cast<std::size_t>(here.rows));
}

}  // namespace herd::metal
