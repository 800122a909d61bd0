// The metal backend's ops over the emulator: against the reference within the rounding of halves,
// with the GPU's threads in several orders, and against themselves bit for bit.
#include <cstdlib>

#include "backend/backends.h"

namespace herd::testing {
namespace {

constexpr double kHalf = 0x1.0p-11;   // relative rounding of a half
constexpr double kFloat = 0x1.0p-24;  // of a float
constexpr double kSmallestHalf = 0x1.0p-25;

std::vector<float> rounded(std::vector<float> x) {
  for (float& v : x) v = half_to_float(float_to_half(v));
  return x;
}
std::size_t area(std::int64_t a, std::int64_t b) {
  return static_cast<std::size_t>(a * b);
}

std::vector<float> slice(const std::vector<float>& of, std::int64_t first, std::int64_t end,
                         std::int64_t width) {
  return {of.begin() + static_cast<std::ptrdiff_t>(first * width),
          of.begin() + static_cast<std::ptrdiff_t>(end * width)};
}

/// A backend whose threads run in an order; one of them with small threadgroups.
std::unique_ptr<Backend> emulated(const std::string& order) {
  setenv("HERD_EMULATOR_ORDER", order.c_str(), 1);
  if (order == "reverse") setenv("HERD_EMULATOR_THREADS", "96", 1);
  auto backend = make_backend({DeviceType::metal_emulated, 1, Isa::automatic});
  unsetenv("HERD_EMULATOR_ORDER");
  unsetenv("HERD_EMULATOR_THREADS");
  EXPECT_TRUE(backend.ok()) << (backend.ok() ? "" : backend.error().message);
  return backend.ok() ? std::move(*backend) : nullptr;
}

/// By the order in which the emulator runs threads.
class Metal : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    metal_ = emulated(GetParam());
    ASSERT_TRUE(metal_ != nullptr);
    reference_ = make(DeviceType::reference, Isa::automatic, 1);
  }

  void* room(std::size_t bytes) {
    auto p = metal_->allocate(static_cast<std::int64_t>(bytes));
    EXPECT_TRUE(p.ok());
    return p.ok() ? *p : nullptr;
  }
  float* put(const std::vector<float>& values) {
    auto* p = static_cast<float*>(room(values.size() * 4));
    metal_->upload(p, values.data(), std::ssize(values) * 4);
    return p;
  }
  float* poisoned(std::size_t n) { return put(std::vector<float>(n, kPoison)); }
  void* activations(const std::vector<float>& values) {
    float* from = put(values);
    void* p = room(values.size() * 2);
    metal_->to_activations(from, p, std::ssize(values));
    return p;
  }
  std::vector<float> floats(const float* p, std::size_t n) {
    std::vector<float> out(n, kPoison);
    const Status status = metal_->download(out.data(), p, static_cast<std::int64_t>(n) * 4);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
    return out;
  }
  std::vector<float> halves(const void* p, std::size_t n) {
    std::vector<std::uint16_t> bits(n, 0x7e00);
    const Status status = metal_->download(bits.data(), p, static_cast<std::int64_t>(n) * 2);
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
    std::vector<float> out;
    for (const std::uint16_t h : bits) out.push_back(half_to_float(h));
    return out;
  }
  std::vector<float> product(MatrixId id, const std::vector<float>& x, std::int32_t rows,
                             std::int32_t outputs) {
    float* out = poisoned(area(rows, outputs));
    metal_->matmul({activations(x), rows, 1, {id}, {out}});
    return floats(out, area(rows, outputs));
  }

  std::unique_ptr<Backend> metal_, reference_;
};

/// Sums in double, and what may be off: each weight is rounded to a half, each sum to floats.
void expect_products(const std::vector<float>& got, const std::vector<float>& w,
                     const std::vector<float>& x, std::int64_t rows, std::int64_t outputs,
                     std::int64_t inputs) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t n = 0; n < outputs; ++n) {
      double exact = 0, size = 0, inputs_size = 0;
      for (std::int64_t k = 0; k < inputs; ++k) {
        const double a = w[area(n, inputs) + static_cast<std::size_t>(k)];
        const double b = x[area(r, inputs) + static_cast<std::size_t>(k)];
        exact += a * b, size += std::fabs(a * b), inputs_size += std::fabs(b);
      }
      const double tolerance =
          size * (kHalf + static_cast<double>(inputs) * kFloat) + inputs_size * kSmallestHalf;
      const double error = std::fabs(got[area(r, outputs) + static_cast<std::size_t>(n)] - exact);
      ASSERT_FALSE(!(error <= tolerance))
          << "row " << r << " output " << n << ": " << error << " above " << tolerance;
    }
  }
}

TEST_P(Metal, BatchMatmulOfEveryTypeAndOddSizes) {
  const std::uint64_t seed = 81;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const quant::TypeInfo& info : quant::kTypes) {
    for (const auto& [rows, outputs, about] : {std::tuple{1, 33, 257},
                                               {8, 31, 31},
                                               {9, 1, 255},
                                               {33, 32, 33},
                                               {3, 65, 1},
                                               {512, 9, 32}}) {
      const std::int32_t inputs = (about + info.block - 1) / info.block * info.block;
      SCOPED_TRACE(std::string(info.name) + " rows " + std::to_string(rows) + " outputs " +
                   std::to_string(outputs) + " inputs " + std::to_string(inputs));
      const auto blocks = random_blocks(info.type, outputs, inputs, random);
      std::vector<float> w(area(outputs, inputs));
      quant::dequantize(info.type, blocks, w);
      const auto x = rounded(random.floats(area(rows, inputs)));
      const MemoryMark mark = metal_->mark();
      const auto id = metal_->load_matrix(source_of(blocks, info.type, outputs, inputs));
      ASSERT_TRUE(id.ok());
      expect_products(product(*id, x, rows, outputs), w, x, rows, outputs, inputs);
      metal_->release_to(mark);
    }
  }
}

TEST_P(Metal, ARowsProductsDoNotDependOnTheBatch) {
  Random random(82);
  const std::int32_t rows = 70, outputs = 40, inputs = 512;
  for (const quant::Type type : {quant::Type::Q4_K, quant::Type::Q8_0, quant::Type::F16}) {
    const auto blocks = random_blocks(type, outputs, inputs, random);
    const auto x = random.floats(area(rows, inputs));
    const auto id = metal_->load_matrix(source_of(blocks, type, outputs, inputs));
    ASSERT_TRUE(id.ok());
    const auto all = product(*id, x, rows, outputs);
    for (const auto& [first, count] : {std::pair{0, 1}, {69, 1}, {3, 8}, {11, 9}, {30, 33}}) {
      const auto part = [](const std::vector<float>& of, std::int64_t from, std::int64_t n,
                           std::int64_t width) {
        const auto begin = of.begin() + static_cast<std::ptrdiff_t>(from * width);
        return std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>(n * width));
      };
      ASSERT_TRUE(same_bits(product(*id, part(x, first, count, inputs), count, outputs),
                            part(all, first, count, outputs)))
          << "rows " << first << " to " << first + count;
    }
  }
}

/// Whose inputs are no numbers, or lie behind another's.
TEST_P(Metal, ARowsProductsDoNotDependOnItsNeighbours) {
  Random random(99);
  const std::int32_t rows = 3, outputs = 9, inputs = 33;
  const auto blocks = random_blocks(quant::Type::F32, outputs, inputs, random);
  auto x = random.floats(area(rows, inputs));
  const auto id = metal_->load_matrix(source_of(blocks, quant::Type::F32, outputs, inputs));
  ASSERT_TRUE(id.ok());
  const auto clean = product(*id, x, rows, outputs);
  for (std::int32_t i = 0; i < inputs; ++i) x[static_cast<std::size_t>(inputs + i)] = kPoison;
  const auto got = product(*id, x, rows, outputs);
  for (const std::int32_t row : {0, 2})
    ASSERT_TRUE(same_bits(slice(got, row, row + 1, outputs), slice(clean, row, row + 1, outputs)))
        << "row " << row;
}

TEST_P(Metal, EpiloguesOfBatchMatmul) {
  Random random(83);
  const std::int32_t rows = 5, outputs = 35, inputs = 64;
  const auto blocks = random_blocks(quant::Type::Q5_1, outputs, inputs, random);
  const auto other = random_blocks(quant::Type::Q4_0, outputs, inputs, random);
  const auto id = metal_->load_matrix(source_of(blocks, quant::Type::Q5_1, outputs, inputs));
  const auto up = metal_->load_matrix(source_of(other, quant::Type::Q4_0, outputs, inputs));
  ASSERT_TRUE(id.ok() && up.ok());
  const auto x = random.floats(area(rows, inputs)), before = random.floats(area(rows, outputs));
  const auto y = product(*id, x, rows, outputs), u = product(*up, x, rows, outputs);
  float* out = put(before);
  metal_->matmul({activations(x), rows, 1, {*id}, {out}, Epilogue::add});
  auto wanted = before;
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] += y[i];
  ASSERT_TRUE(same_bits(floats(out, wanted.size()), wanted));
  void* gate = room(wanted.size() * 2);
  metal_->matmul(
      {activations(x), rows, 2, {*id, *up}, {gate, room(wanted.size() * 2)}, Epilogue::swiglu});
  const auto got = halves(gate, wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double exact =
        static_cast<double>(y[i]) / (1 + std::exp(-static_cast<double>(y[i]))) * u[i];
    const double error = std::fabs(got[i] - exact);
    ASSERT_FALSE(!(error <= std::fabs(exact) * kHalf * 1.01 + kSmallestHalf)) << i;
  }
}

TEST_P(Metal, EmbedReadsAnyRow) {
  Random random(84);
  for (const quant::TypeInfo& info : quant::kTypes) {
    SCOPED_TRACE(info.name);
    const std::int32_t columns = info.block == 1 ? 33 : 256;
    const auto blocks = random_blocks(info.type, 37, columns, random);
    std::vector<TokenId> ids = {0, 36, 15, 16, 36};
    if (info.type == quant::Type::F16)
      while (ids.size() < 512) ids.push_back(random.below(37));
    std::vector<float> wanted(area(std::ssize(ids), columns), kPoison);
    const auto ra = reference_->load_matrix(source_of(blocks, info.type, 37, columns));
    const auto rb = metal_->load_matrix(source_of(blocks, info.type, 37, columns));
    ASSERT_TRUE(ra.ok() && rb.ok());
    embed(*reference_, *ra, ids, wanted.data());
    float* out = poisoned(wanted.size());
    embed(*metal_, *rb, ids, out);
    ASSERT_TRUE(same_bits(floats(out, wanted.size()), wanted));
  }
}

TEST_P(Metal, RmsNormOfAnyWidthAndOfLogitRows) {
  Random random(85);
  for (const auto& [rows, columns] :
       {std::pair{3, 1}, {3, 31}, {3, 32}, {3, 33}, {3, 255}, {3, 257}, {3, 1000}, {512, 33}}) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
    const auto x = random.floats(area(rows, columns), -100, 100);
    const auto weight = random.floats(static_cast<std::size_t>(columns));
    std::vector<float> wanted(x.size(), kPoison);
    reference_->rms_norm({x.data(), weight.data(), wanted.data(), rows, columns, 1e-5f});
    float *dx = put(x), *dw = put(weight), *out = poisoned(x.size());
    metal_->rms_norm({dx, dw, out, rows, columns, 1e-5f, false, true});
    void* activation = room(x.size() * 2);
    metal_->rms_norm({dx, dw, activation, rows, columns, 1e-5f});
    const auto got = floats(out, x.size()), rough = halves(activation, x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float size = std::fabs(wanted[i]);
      ASSERT_FALSE(!(std::fabs(got[i] - wanted[i]) <= size * 64 * 0x1.0p-24f)) << i;
      ASSERT_FALSE(!(std::fabs(rough[i] - wanted[i]) <= size * 0x1.1p-11f + 0x1.0p-25f)) << i;
    }
    Batch batch;
    batch.logit_rows = {2, 0};
    batch.ids.resize(3);
    metal_->begin_step(batch);
    metal_->rms_norm({dx, dw, out, 2, columns, 1e-5f, true, true});
    metal_->end_step();
    const auto picked = floats(out, area(2, columns));
    for (std::size_t i = 0; i < static_cast<std::size_t>(columns); ++i) {
      ASSERT_EQ(picked[i], got[area(2, columns) + i]);
      ASSERT_EQ(picked[area(1, columns) + i], got[i]);
    }
    metal_->release_to({0, 0});
  }
}

/// Fused with the residual add: the same bits as adding first, and the sums in x.
TEST_P(Metal, RmsNormOfASum) {
  Random random(98);
  for (const auto& [rows, columns] :
       {std::pair{3, 1}, {2, 31}, {3, 33}, {1, 255}, {3, 257}, {512, 32}}) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
    const auto x = random.floats(area(rows, columns), -100, 100);
    const auto delta = random.floats(x.size(), -50, 50);
    auto sum = x;
    for (std::size_t i = 0; i < x.size(); ++i) sum[i] += delta[i];
    float *weight = put(random.floats(static_cast<std::size_t>(columns))), *dd = put(delta);
    float *dx = put(x), *ds = put(sum), *out = poisoned(x.size()), *wanted = poisoned(x.size());
    void *half = room(x.size() * 2), *half_wanted = room(x.size() * 2);
    metal_->rms_norm({dx, weight, out, rows, columns, 1e-5f, false, true, dd});
    metal_->rms_norm({ds, weight, wanted, rows, columns, 1e-5f, false, true});
    ASSERT_TRUE(same_bits(floats(out, x.size()), floats(wanted, x.size())));
    ASSERT_TRUE(same_bits(floats(dx, x.size()), sum));
    metal_->upload(dx, x.data(), std::ssize(x) * 4);
    metal_->rms_norm({dx, weight, half, rows, columns, 1e-5f, false, false, dd});
    metal_->rms_norm({ds, weight, half_wanted, rows, columns, 1e-5f});
    ASSERT_TRUE(same_bits(halves(half, x.size()), halves(half_wanted, x.size())));
    ASSERT_TRUE(same_bits(floats(dx, x.size()), sum));
    if (rows == 3) {
      Batch batch;
      batch.logit_rows = {2, 0};
      batch.ids.resize(3);
      metal_->upload(dx, x.data(), std::ssize(x) * 4);
      metal_->begin_step(batch);
      metal_->rms_norm({dx, weight, out, 2, columns, 1e-5f, true, true, dd});
      metal_->end_step();
      const auto all = floats(wanted, x.size());
      auto picked = slice(all, 2, 3, columns);
      const auto first = slice(all, 0, 1, columns);
      picked.insert(picked.end(), first.begin(), first.end());
      ASSERT_TRUE(same_bits(floats(out, picked.size()), picked));
      ASSERT_TRUE(same_bits(floats(dx, x.size()), x)) << "x stays";
    }
    metal_->release_to({0, 0});
  }
}

TEST_P(Metal, RopeRotatesWhatTheReferenceRotates) {
  Random random(86);
  for (const auto& [heads, size, rope_size] : {std::tuple{3, 80, 64}, {1, 2, 2}, {2, 33, 32}}) {
    std::vector<std::int32_t> prompt;
    for (std::int32_t i = 0; i < 512; ++i) prompt.push_back(i);
    for (const auto& positions :
         {std::vector<std::int32_t>{0, 1, 2, 99, 50, 7, 7}, {511}, prompt}) {
      SCOPED_TRACE(std::to_string(positions.size()) + " tokens, size " + std::to_string(size));
      const auto table = random.floats(area(512, rope_size));
      const auto before = random.floats(area(std::ssize(positions) * heads, size));
      auto wanted = before;
      float* x = put(wanted);
      rope(*reference_, wanted.data(), positions, table.data(), heads, size, rope_size);
      rope(*metal_, x, positions, put(table), heads, size, rope_size);
      ASSERT_TRUE(same_bits(floats(x, wanted.size()), wanted));
      const auto heads_of = [&, h = heads, s = size, r = rope_size](float* q, void* out) {
        Batch batch;
        batch.positions = positions, batch.ids.resize(positions.size());
        metal_->begin_step(batch);
        metal_->rope_store({q, nullptr, nullptr, out, put(table), batch.n_rows(), h, 0, s, r, 0});
        metal_->end_step();
        return halves(out, wanted.size());
      };
      ASSERT_TRUE(same_bits(heads_of(put(before), room(wanted.size() * 2)), rounded(wanted)));
    }
  }
}

/// batch, queries, keys, heads, kv_heads, size, where each sequence's queries start.
struct StagesShape {
  std::int32_t batch, queries, keys, heads, kv_heads, size;
  std::vector<std::int32_t> starts;
};
class MetalStages : public Metal {
 protected:
  void check(const StagesShape& shape);
};

TEST_P(MetalStages, AreTheReferences) {
  check({2, 3, 257, 4, 2, 33, {254, 5}});
  check({1, 512, 512, 1, 1, 8, {0}});
  check({1, 1, 1, 3, 1, 31, {0}});
}

void MetalStages::check(const StagesShape& shape) {
  const auto& [batch, queries, keys, heads, kv_heads, size, starts] = shape;
  const std::int32_t* start = starts.data();
  SCOPED_TRACE(std::to_string(queries) + " queries, " + std::to_string(keys) + " keys");
  // Of sums of exponentials: each lane adds every 32nd, then the lanes are added.
  const float rounding = static_cast<float>(keys / 16 + 16) * 0x1.0p-24f;
  Random random(87);
  const auto q = random.floats(area(batch * queries * heads, size));
  const auto k = random.floats(area(batch * keys * kv_heads, size));
  const std::size_t n = area(batch * heads * queries, keys);
  const std::int32_t rows = batch * heads * queries;
  std::vector<float> a(n, kPoison), max_a(static_cast<std::size_t>(rows), kPoison), sum_a = max_a;
  std::vector<float> out_a(q.size(), kPoison);
  float *dq = put(q), *dk = put(k), *scores = poisoned(n), *max = poisoned(max_a.size());
  float *sum = poisoned(max_a.size()), *out = poisoned(q.size());
  reference_->attention_scores(
      {q.data(), k.data(), a.data(), batch, queries, keys, heads, kv_heads, size, start, 0.1f});
  metal_->attention_scores(
      {dq, dk, scores, batch, queries, keys, heads, kv_heads, size, start, 0.1f});
  ASSERT_TRUE(same_bits(floats(scores, n), a)) << "one chain of fma each";
  reference_->softmax_max({a.data(), max_a.data(), nullptr, rows, keys});
  metal_->softmax_max({scores, max, nullptr, rows, keys});
  ASSERT_TRUE(same_bits(floats(max, max_a.size()), max_a));
  reference_->softmax_exp_sum({a.data(), max_a.data(), sum_a.data(), rows, keys});
  metal_->softmax_exp_sum({scores, max, sum, rows, keys});
  const auto sums = floats(sum, max_a.size());
  for (std::size_t i = 0; i < sums.size(); ++i)
    ASSERT_FALSE(!(std::fabs(sums[i] - sum_a[i]) <= sum_a[i] * rounding)) << i;
  reference_->softmax_normalize({a.data(), nullptr, sum_a.data(), rows, keys});
  metal_->softmax_normalize({scores, nullptr, sum, rows, keys});
  const auto weights = floats(scores, n);
  for (std::size_t i = 0; i < n; ++i)
    ASSERT_FALSE(!(std::fabs(weights[i] - a[i]) <= a[i] * (rounding + 8 * 0x1.0p-24f))) << i;
  reference_->apply_attention(
      {a.data(), k.data(), out_a.data(), batch, queries, keys, heads, kv_heads, size});
  metal_->apply_attention({scores, dk, out, batch, queries, keys, heads, kv_heads, size});
  const auto applied = floats(out, out_a.size());
  for (std::size_t i = 0; i < applied.size(); ++i)  // weights sum to 1, values are within 1
    ASSERT_FALSE(!(std::fabs(applied[i] - out_a[i]) <= static_cast<float>(keys + 64) * 0x1.0p-24f))
        << i;
}

TEST_P(Metal, ElementsOfAnyLength) {
  Random random(88);
  for (const std::size_t n : {1u, 31u, 255u, 257u, 2049u}) {
    const auto a = random.floats(n, -90, 90), b = random.floats(n, -2, 2);
    std::vector<float> sum(n, kPoison), silu(n, kPoison);
    const std::int64_t count = std::ssize(a);
    reference_->add({a.data(), b.data(), sum.data(), count});
    reference_->swiglu({a.data(), b.data(), silu.data(), count});  // which has exp(-87) as 0
    float *da = put(a), *db = put(b), *out = poisoned(n);
    metal_->add({da, db, out, count});
    ASSERT_TRUE(same_bits(floats(out, n), sum));
    metal_->swiglu({da, db, da, count});  // in place
    const auto got = floats(da, n);
    for (std::size_t i = 0; i < n; ++i)
      ASSERT_FALSE(!(std::fabs(got[i] - silu[i]) <= std::fabs(silu[i]) * 4 * 0x1.0p-24f + 2e-36f))
          << i << ": " << got[i] << " and " << silu[i];
  }
}

TEST(MetalCheck, NamesTheFirstOpThatIsNotFinite) {
  auto made = make_backend({DeviceType::metal_emulated, 1, Isa::automatic, true});
  if (!made.ok()) GTEST_SKIP() << made.error().message;
  Backend& backend = **made;
  const std::vector<float> x = {1, 2, 3, 4, kPoison, 6};
  const auto in = backend.allocate(24), weight = backend.allocate(8), out = backend.allocate(24);
  ASSERT_TRUE(in.ok() && weight.ok() && out.ok());
  backend.upload(*in, x.data(), 24);
  Batch batch;
  batch.ids.resize(3);
  backend.begin_step(batch);
  backend.rms_norm(
      {static_cast<const float*>(*in), static_cast<const float*>(*weight), *out, 3, 2, 1e-5f});
  backend.end_step();
  std::vector<float> back(3);
  const Status status = backend.download(back.data(), *out, 12);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("rms_norm of layer 0, row 2"), std::string::npos)
      << status.error().message;
}

// ---- paged attention ----

/// A sequence's keys, values and queries; pages in reverse order.
struct Dialogue {
  std::int32_t heads, kv_heads, size, length;
  std::vector<float> q, k, v;
  std::vector<std::int32_t> pages;
};
Dialogue dialogue(std::int32_t heads, std::int32_t kv_heads, std::int32_t size, std::int32_t length,
                  std::int32_t first_page, Random& random) {
  Dialogue d{heads,
             kv_heads,
             size,
             length,
             rounded(random.floats(area(length * heads, size))),
             rounded(random.floats(area(length * kv_heads, size), -3, 3)),
             rounded(random.floats(area(length * kv_heads, size))),
             {}};
  for (std::int32_t p = (length + 31) / 32; p > 0; --p) d.pages.push_back(first_page + p - 1);
  return d;
}

struct Part {
  const Dialogue* of;
  std::int32_t first, end;
};
void append(Batch& batch, const Part& part) {
  const auto page = [&](std::int32_t p) {
    return part.of->pages[static_cast<std::size_t>(p / 32)];
  };
  batch.sequences.push_back({batch.n_rows(), part.end - part.first, part.end,
                             static_cast<std::int32_t>(batch.block_table.size())});
  batch.block_table.insert(batch.block_table.end(), part.of->pages.begin(), part.of->pages.end());
  for (std::int32_t p = part.first; p < part.end; ++p) {
    batch.ids.push_back(0), batch.positions.push_back(p);
    batch.slots.push_back(page(p) * 32 + p % 32);
  }
}

/// Softmax of scores times values in double, row by row.
void expect_attention(const std::vector<float>& got, const Dialogue& d, double scale) {
  const std::int64_t group = d.heads / d.kv_heads;
  const auto at = [&](const std::vector<float>& x, std::int64_t row, std::int64_t heads,
                      std::int64_t head, std::int64_t i) -> double {
    return x[static_cast<std::size_t>((row * heads + head) * d.size + i)];
  };
  for (std::int64_t row = 0; row < d.length; ++row) {
    for (std::int64_t h = 0; h < d.heads; ++h) {
      std::vector<double> e(static_cast<std::size_t>(row + 1));
      double sum = 0;
      for (std::int64_t j = 0; j <= row; ++j) {
        double s = 0;
        for (std::int64_t i = 0; i < d.size; ++i)
          s += at(d.q, row, d.heads, h, i) * at(d.k, j, d.kv_heads, h / group, i);
        sum += e[static_cast<std::size_t>(j)] = std::exp(s * scale);
      }
      for (std::int64_t i = 0; i < d.size; ++i) {
        double exact = 0;
        for (std::int64_t j = 0; j <= row; ++j)
          exact += e[static_cast<std::size_t>(j)] / sum * at(d.v, j, d.kv_heads, h / group, i);
        // Values are within 1; scores within a few units, so weights are good to some 2^-20.
        const double error = std::fabs(at(got, row, d.heads, h, i) - exact);
        ASSERT_FALSE(!(error <= std::fabs(exact) * kHalf + 0x1.0p-18))
            << "row " << row << " head " << h << ": " << error;
      }
    }
  }
}

class MetalAttention : public Metal {
 protected:
  /// Stores the parts' keys and values and attends, all in one step.
  std::vector<float> step(const std::vector<Part>& parts) {
    Batch batch;
    std::vector<float> q, k, v;
    for (const Part& p : parts) {
      append(batch, p);
      const auto add = [&](std::vector<float>& to, const std::vector<float>& from,
                           std::int32_t heads) {
        const auto rows = slice(from, p.first, p.end, std::int64_t{heads} * p.of->size);
        to.insert(to.end(), rows.begin(), rows.end());
      };
      add(q, p.of->q, p.of->heads), add(k, p.of->k, p.of->kv_heads),
          add(v, p.of->v, p.of->kv_heads);
    }
    const Dialogue& d = *parts[0].of;
    const MemoryMark mark = metal_->mark();
    float *dk = put(k), *dv = put(v);
    void *dq = activations(q), *out = room(q.size() * 2);
    metal_->begin_step(batch);
    metal_->rope_store(
        {nullptr, dk, dv, nullptr, nullptr, batch.n_rows(), 0, d.kv_heads, d.size, 0, 1});
    metal_->attention({dq, out, 1, d.heads, 0.2f});
    metal_->end_step();
    const auto got = halves(out, q.size());
    metal_->release_to(mark);
    return got;
  }
};

TEST_P(MetalAttention, IsSoftmaxOfScoresTimesValues) {
  Random random(89);
  for (const auto& [heads, kv_heads, size, length] :
       {std::tuple{4, 4, 32, 70}, {9, 3, 64, 33}, {5, 1, 80, 1}, {2, 1, 33, 65}, {2, 1, 8, 512}}) {
    SCOPED_TRACE(std::to_string(heads) + "/" + std::to_string(kv_heads) + " size " +
                 std::to_string(size));
    metal_ = emulated(GetParam());
    ASSERT_TRUE(metal_->create_kv({2, kv_heads, size, 32, 17}).ok());
    const Dialogue d = dialogue(heads, kv_heads, size, length, 1, random);
    expect_attention(step({{&d, 0, length}}), d, 0.2f);
  }
}

TEST_P(MetalAttention, SameAloneInChunksAndInABatch) {
  Random random(90);
  ASSERT_TRUE(metal_->create_kv({2, 2, 40, 32, 12}).ok());
  const Dialogue a = dialogue(6, 2, 40, 75, 0, random), b = dialogue(6, 2, 40, 40, 6, random);
  const std::int64_t width = 6 * 40;
  const auto alone = step({{&a, 0, 75}}), other = step({{&b, 0, 40}});
  step({{&a, 0, 31}});
  const auto mixed = step({{&b, 0, 40}, {&a, 31, 74}});
  ASSERT_TRUE(same_bits(slice(mixed, 0, 40, width), other));
  ASSERT_TRUE(same_bits(slice(mixed, 40, 83, width), slice(alone, 31, 74, width)));
  ASSERT_TRUE(same_bits(step({{&a, 74, 75}}), slice(alone, 74, 75, width)));
}

/// What other sequences left in a page: larger scores, and values that are no numbers.
TEST_P(MetalAttention, WhatStandsBehindASequenceDoesNotMatter) {
  Random random(97);
  const std::int32_t kv_heads = 2, size = 40, slots = 12 * 32;
  ASSERT_TRUE(metal_->create_kv({2, kv_heads, size, 32, 12}).ok());
  const Dialogue a = dialogue(6, kv_heads, size, 75, 0, random),
                 b = dialogue(6, kv_heads, size, 33, 6, random);
  const auto clean = step({{&a, 0, 75}, {&b, 0, 33}});
  Batch all;
  for (std::int32_t slot = 0; slot < slots; ++slot)
    all.ids.push_back(0), all.positions.push_back(0), all.slots.push_back(slot);
  const std::size_t n = area(slots, kv_heads * size);
  float *k = put(random.floats(n, -30000, 30000)), *v = put(std::vector<float>(n, kPoison));
  metal_->begin_step(all);
  metal_->rope_store({nullptr, k, v, nullptr, nullptr, slots, 0, kv_heads, size, 0, 1});
  metal_->end_step();
  ASSERT_TRUE(same_bits(step({{&a, 0, 75}, {&b, 0, 33}}), clean));
}

INSTANTIATE_TEST_SUITE_P(Orders, Metal, ::testing::Values("forward", "reverse", "random7"),
                         [](const auto& param) { return std::string(param.param); });
INSTANTIATE_TEST_SUITE_P(Orders, MetalStages, ::testing::Values("forward", "reverse", "random7"),
                         [](const auto& param) { return std::string(param.param); });
INSTANTIATE_TEST_SUITE_P(Orders, MetalAttention, ::testing::Values("forward", "reverse", "random7"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace herd::testing
