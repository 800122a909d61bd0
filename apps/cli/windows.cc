#include "windows.h"

#include <fmt/format.h>

#include <algorithm>

#include "common.h"
#include "herd/vocabulary.h"

namespace cli {
namespace {

constexpr std::int32_t kContext = 512;

/// The context the model was trained for; the error of a file that is no model.
herd::Result<std::int32_t> trained_context(const std::string& model) {
  herd::ModelOptions one;
  one.batch_size = 1;
  const auto need = herd::LlamaModel::plan(model, one);
  if (!need.ok()) return need.error();
  return need->context;
}

}  // namespace

std::int64_t Windows::scored() const {
  std::int64_t count = 0;
  for (const auto& window : ids) count += std::ssize(window) - 1;
  return count;
}

herd::Result<Windows> cut_windows(const std::string& model, const std::string& text_path,
                                  std::int32_t context, std::int64_t most) {
  const auto trained = trained_context(model);
  if (!trained.ok()) return trained.error();
  const auto text = read_file(text_path);
  if (!text.ok()) return text.error();
  const auto vocabulary = herd::Vocabulary::from_gguf(model);
  if (!vocabulary.ok()) return vocabulary.error();
  if (context == 0) context = std::min(kContext, *trained);
  if (context < 2 || context > *trained)
    return herd::Error{herd::Code::out_of_range,
                       fmt::format("context {}: must be 2 to {}", context, *trained)};

  std::vector<herd::TokenId> ids = vocabulary->encode(*text, false);
  if (most > 0 && std::ssize(ids) > most) ids.resize(static_cast<std::size_t>(most));
  std::vector<herd::TokenId> start;
  if (vocabulary->adds_bos()) start = vocabulary->encode("", true);
  Windows windows;
  windows.context = context;
  const std::size_t step = static_cast<std::size_t>(context) - start.size();
  for (std::size_t at = 0; at < ids.size(); at += step) {
    const std::size_t count = std::min(step, ids.size() - at);
    if (start.size() + count < 2) break;  // nothing before it
    auto& window = windows.ids.emplace_back(start);
    window.insert(window.end(), ids.begin() + static_cast<std::ptrdiff_t>(at),
                  ids.begin() + static_cast<std::ptrdiff_t>(at + count));
  }
  if (windows.ids.empty())
    return herd::Error{
        herd::Code::invalid_argument,
        fmt::format("{}: {} tokens are too few to score one", text_path, ids.size())};
  return windows;
}

}  // namespace cli
