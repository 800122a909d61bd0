// Sizes and offsets that come from files: arithmetic that cannot wrap unnoticed.
#pragma once

#include <cstdint>

namespace herd {

/// A number of bytes (or of things) that remembers whether it ever overflowed 64 bits. An
/// overflowed size stays overflowed through later arithmetic and is within no limit.
class ByteSize {
 public:
  constexpr ByteSize() = default;
  constexpr ByteSize(std::uint64_t value) : value_(value) {}  // NOLINT: sizes start as integers

  constexpr bool ok() const { return ok_; }
  /// REQUIRES: ok(), or the caller uses the number in a message only.
  constexpr std::uint64_t value() const { return value_; }
  constexpr bool within(std::uint64_t limit) const { return ok_ && value_ <= limit; }

  friend constexpr ByteSize operator+(ByteSize a, ByteSize b) {
    ByteSize sum;
    sum.ok_ = !__builtin_add_overflow(a.value_, b.value_, &sum.value_) && a.ok_ && b.ok_;
    return sum;
  }
  friend constexpr ByteSize operator*(ByteSize a, ByteSize b) {
    ByteSize product;
    product.ok_ = !__builtin_mul_overflow(a.value_, b.value_, &product.value_) && a.ok_ && b.ok_;
    return product;
  }
  /// The next multiple of `alignment`. REQUIRES: alignment is a power of two.
  constexpr ByteSize aligned(std::uint64_t alignment) const {
    ByteSize up = *this + ByteSize(alignment - 1);
    up.value_ &= ~(alignment - 1);
    return up;
  }

 private:
  std::uint64_t value_ = 0;
  bool ok_ = true;
};

}  // namespace herd
