// LlamaModel: loading, the batch calls, and the step they and generate() share.
#include <fmt/format.h>

#include <algorithm>

#include "engine/impl.h"
#include "engine/limits.h"

namespace herd {

// ---- steps ----

Status LlamaModel::Impl::add(std::int32_t place, std::span<const TokenId> ids, WantLogits want) {
  BlockTable& table = tables[static_cast<std::size_t>(place)];
  const std::int32_t start = table.length(), n = static_cast<std::int32_t>(ids.size());
  if (Status status = table.extend(pool, n); !status.ok()) return status;
  const std::int32_t first_row = batch.n_rows();
  batch.sequences.push_back(
      {first_row, n, start + n, static_cast<std::int32_t>(batch.block_table.size())});
  batch.block_table.insert(batch.block_table.end(), table.pages().begin(), table.pages().end());
  for (std::int32_t i = 0; i < n; ++i) {
    batch.ids.push_back(ids[static_cast<std::size_t>(i)]);
    batch.positions.push_back(start + i);
    batch.slots.push_back(table.slot(pool, start + i));
    if (want == WantLogits::all || (want == WantLogits::last && i + 1 == n))
      batch.logit_rows.push_back(first_row + i);
  }
  return {};
}

void LlamaModel::Impl::enqueue(const Batch& step) {
  device_logits = model->forward(step);
  ++steps;
  rows += static_cast<std::uint64_t>(step.n_rows());
}

Result<std::span<const float>> LlamaModel::Impl::read_logits(std::size_t first, std::size_t count) {
  const auto width = static_cast<std::size_t>(vocab());
  if (Status status =
          model->backend().download(logits.data() + first * width, device_logits + first * width,
                                    static_cast<std::int64_t>(count * width) * 4);
      !status.ok())
    return status.error();
  return std::span<const float>(logits).subspan(first * width, count * width);
}

Result<std::span<const float>> LlamaModel::Impl::run_step() {
  enqueue(batch);
  return read_logits(0, batch.logit_rows.size());
}

Status LlamaModel::Impl::check_ids(std::size_t sequence, std::span<const TokenId> ids) const {
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= vocab())
      return {Code::invalid_argument,
              fmt::format("sequence {}: token {} is id {}, the vocabulary has 0 to {}", sequence, i,
                          ids[i], vocab() - 1)};
  return {};
}

void LlamaModel::Impl::clear() {
  for (BlockTable& table : tables) table.clear(pool);
}

// ---- loading ----

namespace {

struct Opened {
  gguf::File file;
  ModelConfig config;
  ModelLimits limits;
  std::unique_ptr<Backend> backend;
};

Error named(const std::string& path, const Error& error) {
  return {error.code, path + ": " + error.message};
}

Result<Opened> open_model(const std::string& path, const ModelOptions& options) {
  auto file = gguf::open(path);
  if (!file.ok()) return file.error();
  const auto config = read_config(*file);
  if (!config.ok()) return named(path, config.error());
  auto backend = make_backend({.device = options.device,
                               .threads = options.threads,
                               .isa = options.isa,
                               .profile = options.profile});
  if (!backend.ok()) return backend.error();
  const auto limits = choose_limits(options, *config, **backend);
  if (!limits.ok()) return limits.error();
  return Opened{std::move(*file), *config, *limits, std::move(*backend)};
}

/// Room for the largest step, so that no step allocates.
void reserve(LlamaModel::Impl& impl) {
  const ModelLimits& limits = impl.model->limits();
  const auto rows = static_cast<std::size_t>(limits.max_rows);
  const std::int32_t per_sequence = impl.pool.pages_for(limits.context);
  impl.batch.ids.reserve(rows);
  impl.batch.positions.reserve(rows);
  impl.batch.slots.reserve(rows);
  impl.batch.logit_rows.reserve(rows);
  impl.batch.sampling.reserve(rows);
  impl.batch.sequences.reserve(impl.tables.size());
  impl.batch.block_table.reserve(
      std::min(impl.tables.size() * static_cast<std::size_t>(per_sequence),
               static_cast<std::size_t>(limits.kv_pages)));
  impl.logits.resize(static_cast<std::size_t>(limits.max_logits) *
                     static_cast<std::size_t>(impl.vocab()));
}

}  // namespace

Result<LlamaModel> LlamaModel::from_gguf(const std::string& path, ModelOptions options) {
  auto opened = open_model(path, options);
  if (!opened.ok()) return opened.error();
  const auto need = memory_need(opened->file, *opened->backend, opened->limits, options);
  if (!need.ok()) return named(path, need.error());
  if (Status fits = check_fits(*need); !fits.ok()) return named(path, fits.error());

  auto impl = std::make_unique<Impl>();
  auto tokenizer = Tokenizer::from_gguf(opened->file);
  if (tokenizer.ok())
    impl->tokenizer = *tokenizer;
  else
    impl->tokenizer_error = named(path, tokenizer.error());
  if (const auto name = opened->file.get_string("general.name"); name.ok()) impl->name = *name;
  impl->weight_bytes = need->weights;

  auto model =
      Model::load(opened->file, std::move(opened->backend), opened->limits, options.progress);
  if (!model.ok()) return named(path, model.error());
  impl->model = std::move(*model);
  impl->pool = PagePool(opened->limits.kv_pages, opened->limits.page_size);
  const std::int32_t pages = impl->pool.pages_for(opened->limits.context);
  for (std::int32_t i = 0; i < options.batch_size; ++i) impl->tables.emplace_back(pages);
  impl->active = options.batch_size;
  reserve(*impl);
  return LlamaModel(std::move(impl));
}

Result<LlamaModel> LlamaModel::from_gguf_with_backend(const std::string& path, DeviceType device) {
  ModelOptions options;
  options.device = device;
  return from_gguf(path, options);
}

Result<MemoryNeed> LlamaModel::plan(const std::string& path, const ModelOptions& options) {
  const auto opened = open_model(path, options);
  if (!opened.ok()) return opened.error();
  const auto need = memory_need(opened->file, *opened->backend, opened->limits, options);
  if (!need.ok()) return named(path, need.error());
  return *need;
}

LlamaModel::LlamaModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
LlamaModel::LlamaModel(LlamaModel&&) noexcept = default;
LlamaModel& LlamaModel::operator=(LlamaModel&&) noexcept = default;
LlamaModel::~LlamaModel() = default;

// ---- the guide's batch calls ----

Result<std::vector<std::vector<float>>> LlamaModel::forward_batch(
    std::span<const std::vector<TokenId>> ids) {
  if (ids.size() > static_cast<std::size_t>(impl_->active))
    return Error{Code::invalid_argument,
                 fmt::format("{} sequences given, batch_size is {}", ids.size(), impl_->active)};
  std::vector<std::int32_t> start;
  for (std::size_t i = 0; i < ids.size(); ++i) start.push_back(impl_->tables[i].length());
  return forward_batch_with_position(ids, start);
}

namespace {

/// Everything that can be wrong with a call, before anything changes.
Status check_call(const LlamaModel::Impl& impl, std::span<const std::vector<TokenId>> ids,
                  std::span<const std::int32_t> start) {
  if (ids.size() > static_cast<std::size_t>(impl.active))
    return {Code::invalid_argument,
            fmt::format("{} sequences given, batch_size is {}", ids.size(), impl.active)};
  if (start.size() != ids.size())
    return {Code::invalid_argument,
            fmt::format("{} start positions given for {} sequences", start.size(), ids.size())};
  std::int64_t pages = 0, freed = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const BlockTable& table = impl.tables[i];
    if (Status status = impl.check_ids(i, ids[i]); !status.ok()) return status;
    if (start[i] < 0 || start[i] > table.length())
      return {Code::out_of_range,
              fmt::format("sequence {}: start {} is outside the {} cached tokens", i, start[i],
                          table.length())};
    const std::int64_t end = start[i] + std::ssize(ids[i]);
    if (end > impl.context())
      return {Code::out_of_range,
              fmt::format("sequence {}: {} tokens, the context holds {}", i, end, impl.context())};
    const std::int32_t kept = impl.pool.pages_for(start[i]);
    freed += std::ssize(table.pages()) - kept;
    pages += impl.pool.pages_for(end) - kept;
  }
  if (pages > impl.pool.free() + freed)
    return {Code::resource_exhausted,
            fmt::format("KV cache: {} pages of {} tokens needed, {} free", pages,
                        impl.pool.page_size(), impl.pool.free() + freed)};
  return {};
}

/// Feeds `ids` in chunks; calls done(sequence, logits) when a sequence's last token has run.
template <class Done>
Status feed(LlamaModel::Impl& impl, std::span<const std::vector<TokenId>> ids, Done&& done) {
  std::vector<std::size_t> fed(ids.size(), 0), finished;
  const auto vocab = static_cast<std::size_t>(impl.vocab());
  for (;;) {
    impl.start_step();
    finished.clear();
    for (std::size_t i = 0; i < ids.size() && impl.rows_left() > 0 && impl.logits_left() > 0; ++i) {
      const std::size_t n =
          std::min(ids[i].size() - fed[i], static_cast<std::size_t>(impl.rows_left()));
      if (n == 0) continue;
      const bool last = fed[i] + n == ids[i].size();
      Status status = impl.add(static_cast<std::int32_t>(i), std::span(ids[i]).subspan(fed[i], n),
                               last ? WantLogits::last : WantLogits::none);
      if (!status.ok()) return status;
      fed[i] += n;
      if (last) finished.push_back(i);
    }
    if (impl.batch.n_rows() == 0) return {};
    const auto logits = impl.run_step();
    if (!logits.ok()) return logits.status();
    for (std::size_t k = 0; k < finished.size(); ++k)
      done(finished[k], logits->subspan(k * vocab, vocab));
  }
}

}  // namespace

Result<std::vector<std::vector<float>>> LlamaModel::forward_batch_with_position(
    std::span<const std::vector<TokenId>> ids, std::span<const std::int32_t> start) {
  if (Status status = check_call(*impl_, ids, start); !status.ok()) return status.error();
  for (std::size_t i = 0; i < ids.size(); ++i) impl_->tables[i].truncate(impl_->pool, start[i]);
  std::vector<std::vector<float>> out(ids.size());
  Status status = feed(*impl_, ids, [&](std::size_t i, std::span<const float> logits) {
    out[i].assign(logits.begin(), logits.end());
  });
  if (status.ok()) return out;
  for (std::size_t i = 0; i < ids.size(); ++i) impl_->tables[i].truncate(impl_->pool, start[i]);
  return status.error();
}

namespace {

struct RowName {
  std::size_t sequence, token;
};

/// Gives free places to waiting sequences, in order, while pages for all of their tokens are free.
class Places {
 public:
  Places(LlamaModel::Impl& impl, std::span<const std::vector<TokenId>> ids)
      : impl_(impl),
        ids_(ids),
        sequence_(static_cast<std::size_t>(impl.active), kNone),
        fed_(ids.size(), 0) {}

  void admit() {
    for (std::size_t place = 0; place < sequence_.size() && next_ < ids_.size(); ++place) {
      while (next_ < ids_.size() && ids_[next_].empty()) ++next_;
      if (sequence_[place] != kNone || next_ == ids_.size()) continue;
      const std::int32_t pages = impl_.pool.pages_for(std::ssize(ids_[next_]));
      if (reserved_ + pages > impl_.pool.total()) return;
      reserved_ += pages;
      sequence_[place] = next_++;
    }
  }
  /// Adds up to the step's budget of rows, all wanting logits; `names` says which each is.
  Status fill(std::vector<RowName>& names) {
    for (std::size_t place = 0; place < sequence_.size(); ++place) {
      if (sequence_[place] == kNone) continue;
      const std::size_t s = sequence_[place];
      const auto left = static_cast<std::size_t>(std::min(impl_.rows_left(), impl_.logits_left()));
      const std::size_t n = std::min(ids_[s].size() - fed_[s], left);
      if (n == 0) continue;
      Status status = impl_.add(static_cast<std::int32_t>(place),
                                std::span(ids_[s]).subspan(fed_[s], n), WantLogits::all);
      if (!status.ok()) return status;
      for (std::size_t i = 0; i < n; ++i) names.push_back({s, fed_[s] + i});
      fed_[s] += n;
    }
    return {};
  }
  /// Frees the places of sequences that are through.
  void retire() {
    for (std::size_t place = 0; place < sequence_.size(); ++place) {
      if (sequence_[place] == kNone || fed_[sequence_[place]] < ids_[sequence_[place]].size())
        continue;
      reserved_ -= static_cast<std::int32_t>(impl_.tables[place].pages().size());
      impl_.tables[place].clear(impl_.pool);
      sequence_[place] = kNone;
    }
  }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  LlamaModel::Impl& impl_;
  std::span<const std::vector<TokenId>> ids_;
  std::vector<std::size_t> sequence_;  // [places] which sequence runs there
  std::vector<std::size_t> fed_;       // [sequences]
  std::size_t next_ = 0;
  std::int32_t reserved_ = 0;
};

}  // namespace

Status LlamaModel::forward_all(
    std::span<const std::vector<TokenId>> ids,
    const std::function<void(std::size_t, std::size_t, std::span<const float>)>& on_row) {
  Impl& impl = *impl_;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (Status status = impl.check_ids(i, ids[i]); !status.ok()) return status;
    const std::int64_t most = std::min<std::int64_t>(
        impl.context(), std::int64_t{impl.pool.total()} * impl.pool.page_size());
    if (std::ssize(ids[i]) > most)
      return {Code::out_of_range,
              fmt::format("sequence {}: {} tokens, the context holds {}", i, ids[i].size(), most)};
  }
  impl.clear();
  Places places(impl, ids);
  std::vector<RowName> names;
  Status status;
  const auto vocab = static_cast<std::size_t>(impl.vocab());
  while (status.ok()) {
    impl.start_step();
    names.clear();
    places.admit();
    status = places.fill(names);
    if (!status.ok() || names.empty()) break;
    const auto logits = impl.run_step();
    if (!logits.ok())
      status = logits.status();
    else
      for (std::size_t k = 0; k < names.size(); ++k)
        on_row(names[k].sequence, names[k].token, logits->subspan(k * vocab, vocab));
    places.retire();
  }
  impl.clear();
  return status;
}

Status LlamaModel::set_batch_size(std::int32_t sequences) {
  const auto most = static_cast<std::int32_t>(impl_->tables.size());
  if (sequences < 1 || sequences > most)
    return {Code::invalid_argument,
            fmt::format("batch size {}: this model was loaded for 1 to {}", sequences, most)};
  impl_->clear();
  impl_->active = sequences;
  return {};
}

std::int32_t LlamaModel::batch_size() const {
  return impl_->active;
}
void LlamaModel::clear_batch() {
  impl_->clear();
}

Status LlamaModel::clear_sequence(std::int32_t sequence) {
  if (sequence < 0 || sequence >= impl_->active)
    return {Code::invalid_argument,
            fmt::format("sequence {}: the batch has 0 to {}", sequence, impl_->active - 1)};
  impl_->tables[static_cast<std::size_t>(sequence)].clear(impl_->pool);
  return {};
}

std::vector<std::int32_t> LlamaModel::cached_tokens() const {
  std::vector<std::int32_t> lengths;
  for (std::int32_t i = 0; i < impl_->active; ++i)
    lengths.push_back(impl_->tables[static_cast<std::size_t>(i)].length());
  return lengths;
}

Status LlamaModel::check_integrity() const {
  std::vector<PageId> owned;
  for (const BlockTable& table : impl_->tables)
    owned.insert(owned.end(), table.pages().begin(), table.pages().end());
  return impl_->pool.check_integrity(owned);
}

// ---- text and figures ----

Result<std::vector<TokenId>> LlamaModel::encode(std::string_view text, bool add_bos) const {
  if (impl_->tokenizer == nullptr) return impl_->tokenizer_error;
  return impl_->tokenizer->encode(text, {.add_bos = add_bos, .parse_special = true});
}

Result<std::string> LlamaModel::decode(std::span<const TokenId> ids, bool special) const {
  if (impl_->tokenizer == nullptr) return impl_->tokenizer_error;
  return impl_->tokenizer->decode(ids, special);
}

const std::shared_ptr<const Tokenizer>& LlamaModel::tokenizer() const {
  return impl_->tokenizer;
}

ModelInfo LlamaModel::info() const {
  const ModelConfig& c = impl_->model->config();
  return {c.architecture, impl_->name,        impl_->model->backend().description(),
          c.layers,       c.hidden,           c.heads,
          c.kv_heads,     c.head_size,        c.vocab,
          c.context,      impl_->weight_bytes};
}

std::vector<OpTime> LlamaModel::op_times() const {
  auto times = impl_->model->backend().op_times();
  std::ranges::stable_sort(times, std::greater(), &OpTime::seconds);
  return times;
}

ModelCounters LlamaModel::counters() const {
  const Counters c = impl_->model->backend().counters();
  return {c.weight_bytes, c.matmul_flops, impl_->steps, impl_->rows};
}

}  // namespace herd
