#include "gguf/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace herd::gguf {

std::string quoted(std::string_view name) {
  constexpr std::size_t kShown = 80;
  std::string text = "\"";
  for (const char c : name.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') text += '\\';
    if (byte >= 0x20 && byte < 0x7f)
      text += c;
    else
      text += fmt::format("\\x{:02x}", byte);
  }
  text += name.size() > kShown ? "\"..." : "\"";
  return text;
}

bool Budget::charge(ByteSize bytes) {
  const ByteSize total = ByteSize(used_) + bytes;
  if (!total.within(limit())) return false;
  used_ = total.value();
  return true;
}

Reader::Reader(const Source& source, std::int32_t part, std::uint64_t size)
    : source_(&source), part_(part), size_(size) {
  constexpr std::uint64_t kWindow = 256 << 10;
  buffer_.resize(static_cast<std::size_t>(std::min(kWindow, size)));
}

void Reader::copy(std::span<std::byte> out) {
  if (out.empty()) return;
  std::memcpy(out.data(), window_.data() + position_, out.size());
  position_ += out.size();
}

bool Reader::refill(std::size_t wanted) {
  window_start_ += position_;
  position_ = 0;
  window_ = {};
  const std::uint64_t bytes = std::min<std::uint64_t>(buffer_.size(), size_ - window_start_);
  const std::span<std::byte> fresh(buffer_.data(), static_cast<std::size_t>(bytes));
  if (fresh.size() < wanted) return false;
  source_status_ = source_->read(part_, window_start_, fresh);
  if (source_status_.ok()) window_ = fresh;
  return source_status_.ok();
}

bool Reader::read_beyond(std::span<std::byte> out) {
  if (out.size() > remaining() || source_ == nullptr) return false;
  while (!out.empty()) {
    const std::size_t here = std::min(out.size(), window_.size() - position_);
    copy(out.first(here));
    out = out.subspan(here);
    if (!out.empty() && !refill(1)) return false;
  }
  return true;
}

}  // namespace herd::gguf
