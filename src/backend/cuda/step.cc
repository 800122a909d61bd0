// A step: its batch goes to the device in one place, attention's work is cut up, launches that
// repeat are recorded, and chosen ids come back.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backend/cuda/cuda.h"

namespace herd::cuda {
namespace {

constexpr std::int64_t kPartialBytes = std::int64_t{64} << 20;  // most memory for split results

std::int32_t pieces(std::int64_t n, std::int64_t each) {
  return static_cast<std::int32_t>((n + each - 1) / each);
}
std::int64_t aligned(std::int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}
StepRoom room_of(const Batch& batch, std::int32_t rows) {
  return {rows, std::max<std::int64_t>(rows, std::ssize(batch.logit_rows)),
          std::ssize(batch.sequences), std::ssize(batch.block_table), 0};
}
template <class T>
void put(std::byte* to, const std::vector<T>& from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size() * sizeof(T));
}

}  // namespace

bool StepRoom::holds(const StepRoom& o) const {
  return rows >= o.rows && logits >= o.logits && sequences >= o.sequences && pages >= o.pages &&
         items >= o.items;
}

/// Where each part lies; `fixed` bytes from the start go to the device every step, of the parts
/// behind it only what is used.
struct CudaBackend::StepOffsets {
  std::int64_t ids, positions, slots, logit_rows, sampling, fixed, few, many, pages, sampled, bytes;
};

CudaBackend::StepOffsets CudaBackend::step_offsets(const StepRoom& r) {
  StepOffsets o = {};
  std::int64_t at = sizeof(StepCounts);
  const auto take = [&](std::int64_t& offset, std::int64_t bytes) {
    offset = aligned(at);
    at = offset + bytes;
  };
  take(o.ids, 4 * r.rows);
  take(o.positions, 4 * r.rows);
  take(o.slots, 4 * r.rows);
  take(o.logit_rows, 4 * r.logits);
  take(o.sampling, r.logits * std::int64_t{sizeof(SamplingRow)});
  o.fixed = at;
  take(o.few, r.items * std::int64_t{sizeof(AttentionItem)});
  take(o.many, r.items * std::int64_t{sizeof(AttentionItem)});
  take(o.pages, 4 * r.pages);
  take(o.sampled, 4 * r.logits);
  o.bytes = aligned(at);
  return o;
}

// ---- scratch ----

StepRoom CudaBackend::step_room(const StepLimits& l) const {
  StepRoom room;
  room.rows = l.max_rows;
  room.logits = std::max(l.max_logits, l.max_rows);
  room.sequences = l.max_sequences > 0 ? l.max_sequences : l.max_rows;
  const std::int64_t per_sequence = pieces(l.max_context, kGroupedPages);
  room.pages = std::min(room.sequences * per_sequence, std::int64_t{1} << 20);
  const std::int64_t group = std::max(1, l.heads / std::max(1, l.kv_heads));
  // Warps' items: a split each at most; blocks': 128 pairs each, the last part full.
  room.items = std::max(room.sequences * pieces(l.max_context, kSplitKeys),
                        room.sequences + pieces(l.max_rows * group, kPrefillRows));
  return room;
}

CudaBackend::Scratch CudaBackend::scratch_for(const StepLimits& l) const {
  const std::int64_t sequences = l.max_sequences > 0 ? l.max_sequences : l.max_rows;
  const std::int64_t kv_heads = std::max(1, l.kv_heads);
  const std::int64_t slot = 4 * kv_heads * partial_floats(attention_stride(l.head_size));
  Scratch s = {};
  s.n_partials = std::min(kPartialBytes / slot, sequences * pieces(l.max_context, kSplitKeys));
  s.n_counters = sequences;
  s.partials = s.n_partials * slot;
  s.counters = s.n_counters * kv_heads * 4;
  s.sampling = sample_scratch_bytes(std::max(l.max_logits, l.max_rows));
  return s;
}

std::int64_t CudaBackend::scratch_bytes(const StepLimits& l) const {
  const Scratch s = scratch_for(l);
  return step_offsets(step_room(l)).bytes + s.partials + s.counters + s.sampling +
         static_cast<std::int64_t>(workspace_bytes(l.max_rows, l.max_columns));
}

Status CudaBackend::reserve_scratch(const StepLimits& limits) {
  slab_.reset(), raw_slab_.reset();  // loading is over
  drop_graphs();
  limits_ = limits;
  if (const StepRoom room = step_room(limits); !room_.holds(room))
    if (Status status = make_step_room(room); !status.ok()) return status;
  scratch_ = scratch_for(limits);
  partials_ = allocate_device(scratch_.partials);
  counters_memory_ = allocate_device(scratch_.counters);
  sample_scratch_ = allocate_device(scratch_.sampling);
  if (partials_ == nullptr || counters_memory_ == nullptr || sample_scratch_ == nullptr)
    return {Code::resource_exhausted,
            fmt::format("scratch: no device memory for {} bytes", scratch_bytes(limits))};
  reserve_workspace(limits.max_rows, limits.max_columns);
  note(cudaMemsetAsync(counters_memory_.get(), 0, static_cast<std::size_t>(scratch_.counters),
                       stream_),
       "scratch");
  return status_;
}

Status CudaBackend::make_step_room(const StepRoom& room) {
  settle();
  drop_graphs();
  const StepOffsets o = step_offsets(room);
  step_memory_ = allocate_device(o.bytes);
  bool ok = step_memory_ != nullptr;
  for (InFlight& step : in_flight_) {
    step.staging = allocate_pinned(o.bytes);
    step.ids = allocate_pinned(4 * room.logits);
    ok = ok && step.staging != nullptr && step.ids != nullptr;
  }
  if (!ok)
    return status_ = {Code::resource_exhausted,
                      fmt::format("a step's batch: no memory for {} bytes", o.bytes)};
  room_ = room;
  std::byte* base = step_memory_.get();
  const auto part = [&]<class T>(const T*& pointer, std::int64_t offset) {
    pointer = reinterpret_cast<const T*>(base + offset);
  };
  part(view_.counts, 0);
  part(view_.ids, o.ids);
  part(view_.positions, o.positions);
  part(view_.slots, o.slots);
  part(view_.logit_rows, o.logit_rows);
  part(view_.sampling, o.sampling);
  part(view_.few, o.few);
  part(view_.many, o.many);
  part(view_.block_table, o.pages);
  view_.sampled = reinterpret_cast<std::int32_t*>(base + o.sampled);
  return {};
}

// ---- attention's work ----

void CudaBackend::plan_attention(const Batch& batch) {
  few_.clear(), many_.clear();
  few_blocks_ = 0;
  if (kv_.kv_heads == 0 || limits_.heads == 0) return;
  const std::int32_t group = limits_.heads / kv_.kv_heads;
  for (const BatchSequence& s : batch.sequences) {
    const std::int32_t pairs = s.n_rows * group;
    if (pairs <= kWarpRows) {
      const std::int32_t n = pieces(s.kv_length, kSplitKeys);
      few_.push_back({s, 0, 0, n, n, 0, -1, {}});
      continue;
    }
    for (std::int32_t first = 0; first < pairs; first += kPrefillRows)
      many_.push_back({s, first, 0, 0, 0, 0, -1, {}});
  }
  // Those that see the most keys first, so that no long one is left for the end.
  const auto keys = [&](const AttentionItem& item) {
    const BatchSequence& s = item.sequence;
    const std::int32_t last = std::min(s.n_rows, (item.first_pair + kPrefillRows) / group);
    return s.kv_length - s.n_rows + last;
  };
  std::stable_sort(many_.begin(), many_.end(),
                   [&](const auto& x, const auto& y) { return keys(x) > keys(y); });
  if (!few_.empty()) plan_few();
}

namespace {

/// What a plan costs, in tiles of the busiest warp: a tile of keys and values is one, to begin an
/// item is another, and results that others fold are one more.
double plan_cost(const std::vector<AttentionItem>& whole, std::int32_t each, std::int32_t kv_heads,
                 std::int32_t warps) {
  std::int64_t items = 0, cost = 0, largest = 0;
  for (const AttentionItem& item : whole) {
    const std::int32_t n = pieces(item.n_splits, each);
    const std::int64_t own = n == 1 ? 1 : 2, tiles = pieces(item.sequence.kv_length, kTileKeys);
    items += n;
    cost += n * own + tiles;
    largest = std::max(largest, own + std::min<std::int64_t>(tiles, each * kSplitKeys / kTileKeys));
  }
  const std::int64_t rounds = pieces(items * kv_heads, warps);
  if (rounds == 1) return static_cast<double>(largest);
  return static_cast<double>(rounds * cost) / static_cast<double>(items);
}

}  // namespace

/// How many splits of a sequence one warp takes in a row, so that all warps end together.
std::int32_t CudaBackend::splits_each(std::int32_t warps) const {
  std::int32_t most = 1;
  for (const AttentionItem& item : few_) most = std::max(most, item.n_splits);
  std::int32_t best = most;
  double least = 0;
  for (std::int32_t each = most; each >= 1; each = each > 8 ? each / 2 : each - 1) {
    const double cost = plan_cost(few_, each, kv_.kv_heads, warps);
    if (each == most || cost < least) best = each, least = cost;
  }
  return best;
}

/// Items are whole sequences or parts of them, the longest first.
void CudaBackend::plan_few() {
  const std::int64_t parts =
      std::ssize(few_) * kv_.kv_heads * pieces(limits_.max_context, kSplitKeys);
  few_blocks_ = static_cast<std::int32_t>(
      std::min<std::int64_t>(attention_warps_, std::max<std::int64_t>(1, parts)));
  const std::int32_t each = splits_each(attention_warps_);
  const std::vector<AttentionItem> whole = std::move(few_);
  few_.clear();
  std::int32_t slot = 0, tile = 0;
  for (AttentionItem item : whole) {
    if (item.n_splits <= each || slot + item.n_splits > scratch_.n_partials ||
        tile >= scratch_.n_counters) {
      few_.push_back(item);
      continue;
    }
    item.slot = slot, item.tile = tile++;
    slot += item.n_splits;
    for (item.first_split = 0; item.first_split < item.n_splits; item.first_split += each) {
      item.end_split = std::min(item.n_splits, item.first_split + each);
      few_.push_back(item);
    }
  }
  const auto tiles = [](const AttentionItem& item) {
    const std::int32_t end = std::min(item.end_split * kSplitKeys, item.sequence.kv_length);
    return pieces(end - item.first_split * kSplitKeys, kTileKeys);
  };
  std::stable_sort(few_.begin(), few_.end(),
                   [&](const auto& x, const auto& y) { return tiles(x) > tiles(y); });
}

// ---- steps ----

/// Steps in which every sequence gets one row and one choice are rounded up, so that few different
/// ones exist.
StepRows CudaBackend::bucketed(const Batch& batch) const {
  const auto n = static_cast<std::int32_t>(batch.sequences.size());
  const StepRows as_is = {batch.n_rows(), static_cast<std::int32_t>(batch.logit_rows.size())};
  if (n == 0 || as_is.rows != n || as_is.logits != n ||
      batch.sampling.size() != batch.logit_rows.size())
    return as_is;
  const std::int32_t step = n <= 8 ? 1 : n <= 32 ? 4 : n <= 64 ? 8 : 16;
  const std::int32_t most = std::min(limits_.max_rows, limits_.max_logits);
  const std::int32_t rows = std::max(n, std::min(pieces(n, step) * step, most));
  return {rows, rows};
}

void CudaBackend::write_step(const Batch& batch, std::int32_t rows, std::byte* to) {
  const StepOffsets o = step_offsets(room_);
  const auto extra = static_cast<std::size_t>(rows - batch.n_rows());
  const auto fill = [&](std::int64_t offset, const std::vector<std::int32_t>& from, int value) {
    put(to + offset, from);
    std::int32_t* rest = reinterpret_cast<std::int32_t*>(to + offset) + from.size();
    std::fill_n(rest, extra, value);
  };
  reinterpret_cast<StepCounts*>(to)->few_items = static_cast<std::int32_t>(few_.size());
  fill(o.ids, batch.ids, 0);
  fill(o.positions, batch.positions, 0);
  fill(o.slots, batch.slots, -1);
  fill(o.logit_rows, batch.logit_rows, 0);
  put(to + o.sampling, batch.sampling);
  if (!batch.sampling.empty())
    std::fill_n(reinterpret_cast<SamplingRow*>(to + o.sampling) + batch.sampling.size(), extra,
                SamplingRow{});
  put(to + o.few, few_);
  put(to + o.many, many_);
  put(to + o.pages, batch.block_table);
  const auto copy = [&](std::int64_t offset, std::size_t bytes) {
    if (bytes > 0)
      note(cudaMemcpyAsync(step_memory_.get() + offset, to + offset, bytes, cudaMemcpyHostToDevice,
                           stream_),
           "begin_step");
  };
  copy(0, static_cast<std::size_t>(o.fixed));
  copy(o.few, few_.size() * sizeof(AttentionItem));
  copy(o.many, many_.size() * sizeof(AttentionItem));
  copy(o.pages, batch.block_table.size() * 4);
}

StepRows CudaBackend::begin_step(const Batch& batch) {
  StepRows step = bucketed(batch);
  plan_attention(batch);
  StepRoom room = room_of(batch, step.rows);
  room.items = std::max(std::ssize(few_), std::ssize(many_));
  if (status_.ok() && !room_.holds(room)) {  // outside of a model, or pages shared by many
    StepRoom larger = room_;
    larger.rows = std::max(larger.rows, room.rows);
    larger.logits = std::max(larger.logits, room.logits);
    larger.sequences = std::max(larger.sequences, room.sequences);
    larger.pages = std::max(larger.pages, room.pages);
    larger.items = std::max(larger.items, room.items);
    static_cast<void>(make_step_room(larger));  // told by status_
  }
  step_samples_ = 0;
  if (!status_.ok()) return {step.rows, step.logits, true};
  InFlight& here = in_flight_[steps_++ % 2];
  note(cudaEventSynchronize(here.copied), "begin_step");
  write_step(batch, step.rows, here.staging.get());
  note(cudaEventRecord(here.copied, stream_), "begin_step");
  step_samples_ = static_cast<std::int32_t>(batch.sampling.size());
  const bool repeats = !batch.sampling.empty() && many_.empty() &&
                       batch.n_rows() == static_cast<std::int32_t>(batch.sequences.size()) &&
                       step.rows == step.logits;
  step.recorded = repeats && !check_each_op_ && replay_or_record({step.rows, true});
  return step;
}

/// True: a graph did the whole step. The second step of a kind is recorded, its launches being
/// warm.
bool CudaBackend::replay_or_record(const StepKey& key) {
  Recorded& r = recorded_[key];
  if (r.graph != nullptr) {
    note(cudaGraphLaunch(r.graph, stream_), "a recorded step");
    last_op_ = "a recorded step";
    counters_.weight_bytes += r.cost.weight_bytes;
    counters_.matmul_flops += r.cost.matmul_flops;
    counters_.matmuls += r.cost.matmuls;
    return true;
  }
  if (r.seen) {
    note(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording");
    recording_ = status_.ok();
    key_ = key;
    before_recording_ = counters_;
  }
  r.seen = true;
  return false;
}

void CudaBackend::end_step() {
  if (recording_) {
    recording_ = false;
    Recorded& r = recorded_[key_];
    cudaGraph_t graph = nullptr;
    note(cudaStreamEndCapture(stream_, &graph), "recording");
    if (status_.ok()) note(cudaGraphInstantiate(&r.graph, graph, 0), "recording");
    if (graph != nullptr) cudaGraphDestroy(graph);
    r.cost = {counters_.weight_bytes - before_recording_.weight_bytes,
              counters_.matmul_flops - before_recording_.matmul_flops,
              counters_.matmuls - before_recording_.matmuls};
    if (status_.ok()) note(cudaGraphLaunch(r.graph, stream_), "a recorded step");
  }
  if (step_samples_ == 0) return;
  InFlight& here = in_flight_[sampled_steps_++ % 2];
  here.n_sampled = step_samples_;
  note(cudaMemcpyAsync(here.ids.get(), view_.sampled, static_cast<std::size_t>(step_samples_) * 4,
                       cudaMemcpyDeviceToHost, stream_),
       "sampled ids");
  note(cudaEventRecord(here.done, stream_), "sampled ids");
}

Result<std::span<const TokenId>> CudaBackend::sampled() {
  if (!status_.ok()) return status_.error();
  if (read_steps_ == sampled_steps_)
    return Error{Code::internal, "cuda: no step with choices is open"};
  const InFlight& here = in_flight_[read_steps_++ % 2];
  if (cudaEventSynchronize(here.done) != cudaSuccess) {
    settle();
    return status_.error();
  }
  return std::span<const TokenId>(reinterpret_cast<const TokenId*>(here.ids.get()),
                                  static_cast<std::size_t>(here.n_sampled));
}

void CudaBackend::drop_graphs() {
  for (auto& [key, r] : recorded_)
    if (r.graph != nullptr) cudaGraphExecDestroy(r.graph);
  recorded_.clear();
}

}  // namespace herd::cuda
