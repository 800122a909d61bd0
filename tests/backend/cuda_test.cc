// The cuda backend's ops against the reference within the rounding of halves, and against
// themselves bit for bit. Skipped where there is no device.
#include <cstring>

#include "backend/backends.h"

namespace herd::testing {
namespace {

class Cuda : public ::testing::Test {
 protected:
  void SetUp() override {
    auto backend = make_backend({DeviceType::cuda, 1, Isa::automatic});
    if (!backend.ok()) GTEST_SKIP() << backend.error().message;
    cuda_ = std::move(*backend);
    reference_ = make(DeviceType::reference, Isa::automatic, 1);
  }
  void reopen() { cuda_ = make(DeviceType::cuda, Isa::automatic, 1); }

  void* room(Backend& b, std::size_t bytes) {
    auto p = b.allocate(static_cast<std::int64_t>(bytes));
    EXPECT_TRUE(p.ok());
    return p.ok() ? *p : nullptr;
  }
  float* put(Backend& b, const std::vector<float>& values) {
    auto* p = static_cast<float*>(room(b, values.size() * 4));
    b.upload(p, values.data(), std::ssize(values) * 4);
    return p;
  }
  void* activations(Backend& b, const std::vector<float>& values) {
    float* from = put(b, values);
    void* p = room(b, values.size() * static_cast<std::size_t>(b.activation_bytes()));
    b.to_activations(from, p, std::ssize(values));
    return p;
  }
  std::vector<float> floats(Backend& b, const float* p, std::size_t n) {
    std::vector<float> out(n, kPoison);
    const Status status = b.download(out.data(), p, static_cast<std::int64_t>(n) * 4);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
    return out;
  }
  std::vector<float> values_of(Backend& b, const void* p, std::size_t n) {
    if (b.activation_bytes() == 4) return floats(b, static_cast<const float*>(p), n);
    std::vector<std::uint16_t> halves(n);
    EXPECT_TRUE(b.download(halves.data(), p, static_cast<std::int64_t>(n) * 2).ok());
    std::vector<float> out;
    for (const std::uint16_t h : halves) out.push_back(half_to_float(h));
    return out;
  }

  std::unique_ptr<Backend> cuda_, reference_;
};

std::vector<float> rounded(std::vector<float> x) {
  for (float& v : x) v = half_to_float(float_to_half(v));
  return x;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(error / size);
}

TEST_F(Cuda, MatmulOfEveryType) {
  Random random(71);
  for (const quant::TypeInfo& info : quant::kTypes) {
    for (const std::int32_t rows : {1, 3, 17, 130}) {
      SCOPED_TRACE(std::string(info.name) + " rows " + std::to_string(rows));
      const std::int32_t columns = 768, outputs = 200;
      const auto blocks = random_blocks(info.type, outputs, columns, random);
      const auto n = static_cast<std::size_t>(rows) * 768;
      const auto x = rounded(random.floats(n));
      const auto wanted =
          run_matmul(*reference_, blocks, info.type, rows, columns, outputs, x, nullptr);
      const MemoryMark mark = cuda_->mark();
      const auto id = cuda_->load_matrix(source_of(blocks, info.type, outputs, columns));
      ASSERT_TRUE(id.ok());
      auto* out = put(*cuda_, std::vector<float>(wanted.size(), kPoison));
      cuda_->matmul({activations(*cuda_, x), rows, 1, {*id}, {out}});
      const double error = relative_error(floats(*cuda_, out, wanted.size()), wanted);
      EXPECT_FALSE(!(error < 1e-3)) << error;
      cuda_->release_to(mark);
    }
  }
}

/// A product's sums go through other kernels, blocks and splits when there are many rows: every row
/// must come out as it does alone, stored or added. Several times, since what goes wrong here goes
/// wrong now and then.
struct RowsOfProducts {
  std::int32_t columns, outputs, each;  // every so manyth row is looked at
  std::vector<std::int32_t> counts;     // of rows, the most last
};
class CudaRows : public Cuda, public ::testing::WithParamInterface<RowsOfProducts> {};

TEST_P(CudaRows, EqualThemselvesAlone) {
  const std::uint64_t seed = 72;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  const auto& [columns, outputs, each, counts] = GetParam();
  const std::int32_t most = counts.back();
  const auto x = rounded(random.floats(static_cast<std::size_t>(most) * columns));
  const auto base = random.floats(static_cast<std::size_t>(most) * outputs);
  for (const quant::Type type : {quant::Type::F16, quant::Type::Q8_0, quant::Type::Q4_K}) {
    SCOPED_TRACE(std::string(quant::type_info(type).name));
    const MemoryMark mark = cuda_->mark();
    const auto blocks = random_blocks(type, outputs, columns, random);
    const auto id = cuda_->load_matrix(source_of(blocks, type, outputs, columns));
    ASSERT_TRUE(id.ok());
    auto* in = static_cast<std::byte*>(activations(*cuda_, x));
    auto* out = put(*cuda_, base);
    const auto run = [&](std::int32_t first, std::int32_t rows, Epilogue epilogue) {
      cuda_->matmul({in + std::int64_t{2} * first * columns, rows, 1, {*id}, {out}, epilogue});
      return floats(*cuda_, out, static_cast<std::size_t>(rows) * outputs);
    };
    std::vector<std::vector<float>> alone;
    for (std::int32_t r = 0; r < most; r += each) alone.push_back(run(r, 1, Epilogue::store));
    for (const std::int32_t rows : counts) {
      const auto stored = run(0, rows, Epilogue::store);
      cuda_->upload(out, base.data(), std::ssize(base) * 4);
      const auto added = run(0, rows, Epilogue::add);
      for (std::int32_t r = 0; r < rows; r += each) {
        const std::size_t at = static_cast<std::size_t>(r) * static_cast<std::size_t>(outputs);
        const auto& one = alone[static_cast<std::size_t>(r / each)];
        EXPECT_EQ(std::memcmp(&stored[at], one.data(), one.size() * 4), 0)
            << "row " << r << " of " << rows;
        for (std::size_t i = 0; i < one.size(); ++i)
          ASSERT_EQ(added[at + i], base[at + i] + one[i]) << "row " << r << " of " << rows;
      }
    }
    cuda_->release_to(mark);
  }
}
// The second: inputs that one block cannot hold, in tiles for more than one round.
INSTANTIATE_TEST_SUITE_P(
    Products, CudaRows,
    ::testing::Values(RowsOfProducts{4096, 4096, 13, {20, 64, 129, 160, 257, 300, 300, 300}},
                      RowsOfProducts{14336, 6144, 1, {2, 5, 6, 7, 8, 8, 8, 9}}));

TEST_F(Cuda, EmbedReadsAnyRow) {
  Random random(72);
  for (const quant::TypeInfo& info : quant::kTypes) {
    SCOPED_TRACE(info.name);
    const auto blocks = random_blocks(info.type, 37, 512, random);
    const std::vector<TokenId> ids = {0, 36, 15, 16, 31, 32, 7, 36};
    std::vector<float> wanted(ids.size() * 512, kPoison);
    const auto ra = reference_->load_matrix(source_of(blocks, info.type, 37, 512));
    const auto rb = cuda_->load_matrix(source_of(blocks, info.type, 37, 512));
    ASSERT_TRUE(ra.ok() && rb.ok());
    embed(*reference_, *ra, ids, wanted.data());
    auto* out = put(*cuda_, std::vector<float>(wanted.size(), kPoison));
    embed(*cuda_, *rb, ids, out);
    const auto got = floats(*cuda_, out, wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_FALSE(!(std::fabs(got[i] - wanted[i]) <= 1e-6f * std::fabs(wanted[i]) + 1e-7f)) << i;
  }
}

/// A sequence's keys, values and queries; pages in reverse order.
struct Dialogue {
  std::int32_t heads, kv_heads, size, length;
  std::vector<float> q, k, v;
  std::vector<std::int32_t> pages;
};

Batch rows_of(const Dialogue& d, std::int32_t first, std::int32_t end) {
  Batch batch;
  batch.sequences.push_back({0, end - first, end, 0});
  batch.block_table = d.pages;
  for (std::int32_t p = first; p < end; ++p) {
    batch.ids.push_back(0), batch.positions.push_back(p);
    batch.slots.push_back(d.pages[static_cast<std::size_t>(p / 32)] * 32 + p % 32);
  }
  return batch;
}

class CudaAttention : public Cuda {
 protected:
  static Dialogue dialogue(std::int32_t heads, std::int32_t kv_heads, std::int32_t size,
                           std::int32_t length, Random& random) {
    const auto n = static_cast<std::size_t>(length);
    Dialogue d{heads,
               kv_heads,
               size,
               length,
               rounded(random.floats(n * static_cast<std::size_t>(heads * size))),
               rounded(random.floats(n * static_cast<std::size_t>(kv_heads * size), -3, 3)),
               rounded(random.floats(n * static_cast<std::size_t>(kv_heads * size))),
               {}};
    for (std::int32_t p = (length + 31) / 32; p-- > 0;) d.pages.push_back(p);
    return d;
  }
  void prepare(Backend& b, const Dialogue& d) {
    const KvType type = b.activation_bytes() == 4 ? KvType::f32 : KvType::f16;
    ASSERT_TRUE(b.create_kv({1, d.kv_heads, d.size, 32, (d.length + 31) / 32, type}).ok());
    StepLimits limits{d.length, 512, d.length};
    limits.max_sequences = 4, limits.heads = d.heads, limits.kv_heads = d.kv_heads;
    limits.head_size = d.size;
    ASSERT_TRUE(b.reserve_scratch(limits).ok());
  }
  /// Stores rows [first, end) and attends them.
  std::vector<float> attend(Backend& b, const Dialogue& d, std::int32_t first, std::int32_t end) {
    const Batch batch = rows_of(d, first, end);
    const auto part = [&](const std::vector<float>& all, std::int32_t heads) {
      const std::ptrdiff_t row = heads * d.size;
      return std::vector<float>(all.begin() + first * row, all.begin() + end * row);
    };
    const auto q = part(d.q, d.heads), k = part(d.k, d.kv_heads), v = part(d.v, d.kv_heads);
    const MemoryMark mark = b.mark();
    float *dk = put(b, k), *dv = put(b, v);
    void *dq = activations(b, q), *out = activations(b, std::vector<float>(q.size(), kPoison));
    b.begin_step(batch);
    b.rope_store(
        {nullptr, dk, dv, nullptr, nullptr, end - first, d.heads, d.kv_heads, d.size, 0, 0});
    b.attention({dq, out, 0, d.heads, 0.125f});
    b.end_step();
    auto result = values_of(b, out, q.size());
    b.release_to(mark);
    return result;
  }
};

TEST_F(CudaAttention, EqualsReferenceAndItselfInChunks) {
  Random random(73);
  for (const auto& [heads, kv_heads, size, length] : {std::tuple{4, 2, 64, 300},
                                                      {8, 2, 128, 700},
                                                      {3, 1, 80, 200},
                                                      {2, 2, 16, 129},
                                                      {20, 1, 64, 150},
                                                      {9, 3, 64, 1100}}) {
    SCOPED_TRACE("heads " + std::to_string(heads) + "/" + std::to_string(kv_heads) + " size " +
                 std::to_string(size) + " length " + std::to_string(length));
    const Dialogue d = dialogue(heads, kv_heads, size, length, random);
    reopen();
    reference_ = make(DeviceType::reference, Isa::automatic, 1);
    prepare(*cuda_, d), prepare(*reference_, d);
    const auto whole = attend(*cuda_, d, 0, length);
    const double error = relative_error(whole, attend(*reference_, d, 0, length));
    EXPECT_FALSE(!(error < 2e-3)) << error;
    for (const std::int32_t chunk : {1, 3, 40}) {
      reopen();
      prepare(*cuda_, d);
      std::vector<float> got;
      for (std::int32_t at = 0; at < length; at += chunk) {
        const auto rows = attend(*cuda_, d, at, std::min(length, at + chunk));
        got.insert(got.end(), rows.begin(), rows.end());
      }
      ASSERT_TRUE(same_bits(whole, got)) << "chunks of " << chunk;
    }
  }
}

/// Pages are used again: what another sequence left behind the last key may be no number.
TEST_F(CudaAttention, WhatAnotherSequenceLeftInAPageIsNotRead) {
  Random random(74);
  for (const std::int32_t size : {32, 64, 128}) {
    const Dialogue d = dialogue(4, 2, size, 224, random);
    Dialogue other = d;
    std::fill(other.k.begin(), other.k.end(), std::nanf(""));
    std::fill(other.v.begin(), other.v.end(), std::nanf(""));
    for (const std::int32_t length : {1, 31, 70, 130, 200}) {
      for (const std::int32_t chunk : {1, 200}) {
        SCOPED_TRACE(::testing::Message()
                     << "size " << size << ", " << length << " keys in chunks of " << chunk);
        std::vector<float> results[2];
        for (const bool used : {false, true}) {
          reopen();
          prepare(*cuda_, d);
          if (used) attend(*cuda_, other, 0, d.length);
          for (std::int32_t at = 0; at < length; at += chunk) {
            const auto rows = attend(*cuda_, d, at, std::min(length, at + chunk));
            results[used].insert(results[used].end(), rows.begin(), rows.end());
          }
        }
        for (const float x : results[0]) ASSERT_FALSE(std::isnan(x));
        ASSERT_TRUE(same_bits(results[0], results[1]));
      }
    }
  }
}

}  // namespace
}  // namespace herd::testing
