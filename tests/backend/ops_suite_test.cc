// Every op of the cpu backend, on every instruction set and thread count, equals the reference bit
// for bit; and the reference equals a slow twin in double precision within rounding.
#include "backend/backends.h"

namespace herd::testing {
namespace {

INSTANTIATE_TEST_SUITE_P(Every, CpuEqualsReference, ::testing::ValuesIn(setups()), setup_name);

TEST_P(CpuEqualsReference, RunsWhatWasForced) {
  const std::string wanted = "cpu " + std::string(to_string(GetParam().isa)) + ", " +
                             std::to_string(GetParam().threads) + " thread";
  EXPECT_EQ(cpu_->description().substr(0, wanted.size()), wanted);
}

TEST_P(CpuEqualsReference, MatmulOfEveryTypeAndSize) {
  const std::uint64_t seed = 11;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const quant::TypeInfo& info : quant::kTypes) {
    std::vector<std::int32_t> widths =
        info.block == 1    ? std::vector<std::int32_t>{1, 7, 31, 255, 256, 257, 1000}
        : info.block == 32 ? std::vector<std::int32_t>{32, 256, 288, 576}
                           : std::vector<std::int32_t>{256, 512};
    for (const std::int32_t columns : widths) {
      for (const std::int32_t outputs : {1, 15, 16, 17, 33, 96}) {
        const auto blocks = random_blocks(info.type, outputs, columns, random);
        for (const std::int32_t rows : {1, 2, 3, 5, 8, 12, 15, 16, 17, 24, 32, 33, 64}) {
          if (GetParam().isa == Isa::scalar && rows > 5 && outputs > 17)
            continue;  // slow, and no new path
          SCOPED_TRACE(std::string(info.name) + " rows " + std::to_string(rows) + " columns " +
                       std::to_string(columns) + " outputs " + std::to_string(outputs));
          const auto x =
              random.floats(static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns));
          const auto start =
              random.floats(static_cast<std::size_t>(rows) * static_cast<std::size_t>(outputs));
          const auto* add_to = rows % 2 == 0 ? &start : nullptr;
          ASSERT_TRUE(same_bits(
              run_matmul(*reference_, blocks, info.type, rows, columns, outputs, x, add_to),
              run_matmul(*cpu_, blocks, info.type, rows, columns, outputs, x, add_to)));
        }
      }
    }
  }
}

TEST_P(CpuEqualsReference, EmbedReadsAnyRow) {
  Random random(12);
  for (const quant::TypeInfo& info : quant::kTypes) {
    SCOPED_TRACE(info.name);
    const std::int32_t columns = info.block == 1 ? 300 : info.block == 32 ? 288 : 512, rows = 37;
    const auto blocks = random_blocks(info.type, rows, columns, random);
    const std::vector<TokenId> ids = {0, 36, 15, 16, 31, 32, 7, 36};
    std::vector<float> a(ids.size() * static_cast<std::size_t>(columns), kPoison), b = a;
    const auto ra = reference_->load_matrix(source_of(blocks, info.type, rows, columns));
    const auto rb = cpu_->load_matrix(source_of(blocks, info.type, rows, columns));
    embed(*reference_, *ra, ids, a.data());
    embed(*cpu_, *rb, ids, b.data());
    ASSERT_TRUE(same_bits(a, b));
  }
}

TEST_P(CpuEqualsReference, ElementwiseOps) {
  Random random(13);
  for (const std::int32_t columns : {1, 15, 16, 17, 255, 576, 1000}) {
    SCOPED_TRACE(columns);
    const std::int32_t rows = 5;
    const auto n = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
    const auto x = random.floats(n, -100, 100), y = random.floats(n),
               w = random.floats(static_cast<std::size_t>(columns));
    std::vector<float> a(n, kPoison), b(n, kPoison);
    reference_->rms_norm({x.data(), w.data(), a.data(), rows, columns, 1e-5f});
    cpu_->rms_norm({x.data(), w.data(), b.data(), rows, columns, 1e-5f});
    ASSERT_TRUE(same_bits(a, b));
    reference_->swiglu({x.data(), y.data(), a.data(), std::ssize(x)});
    cpu_->swiglu({x.data(), y.data(), b.data(), std::ssize(x)});
    ASSERT_TRUE(same_bits(a, b));
    reference_->add({x.data(), y.data(), a.data(), std::ssize(x)});
    cpu_->add({x.data(), y.data(), b.data(), std::ssize(x)});
    ASSERT_TRUE(same_bits(a, b));
    std::vector<float> max_a(rows), max_b(rows), sum_a(rows), sum_b(rows);
    a = b = y;
    reference_->softmax_max({a.data(), max_a.data(), nullptr, rows, columns});
    cpu_->softmax_max({b.data(), max_b.data(), nullptr, rows, columns});
    ASSERT_TRUE(same_bits(max_a, max_b));
    reference_->softmax_exp_sum({a.data(), max_a.data(), sum_a.data(), rows, columns});
    cpu_->softmax_exp_sum({b.data(), max_b.data(), sum_b.data(), rows, columns});
    ASSERT_TRUE(same_bits(sum_a, sum_b));
    reference_->softmax_normalize({a.data(), nullptr, sum_a.data(), rows, columns});
    cpu_->softmax_normalize({b.data(), nullptr, sum_b.data(), rows, columns});
    ASSERT_TRUE(same_bits(a, b));
  }
}

TEST_P(CpuEqualsReference, DenseAttentionStages) {
  Random random(14);
  for (const auto& [heads, kv_heads, size] : {std::tuple{4, 4, 32}, {6, 2, 64}, {3, 1, 80}}) {
    const std::int32_t batch = 2, queries = 3, keys = 300;
    const std::int32_t start[] = {297, 5};
    const auto q = random.floats(static_cast<std::size_t>(batch * queries * heads * size));
    const auto k = random.floats(static_cast<std::size_t>(batch * keys * kv_heads * size));
    std::vector<float> a(static_cast<std::size_t>(batch * heads * queries * keys), kPoison), b = a;
    reference_->attention_scores(
        {q.data(), k.data(), a.data(), batch, queries, keys, heads, kv_heads, size, start, 0.1f});
    cpu_->attention_scores(
        {q.data(), k.data(), b.data(), batch, queries, keys, heads, kv_heads, size, start, 0.1f});
    ASSERT_TRUE(same_bits(a, b));
    const auto weights = random.floats(a.size(), 0, 1);
    std::vector<float> out_a(q.size(), kPoison), out_b = out_a;
    reference_->apply_attention(
        {weights.data(), k.data(), out_a.data(), batch, queries, keys, heads, kv_heads, size});
    cpu_->apply_attention(
        {weights.data(), k.data(), out_b.data(), batch, queries, keys, heads, kv_heads, size});
    ASSERT_TRUE(same_bits(out_a, out_b));
  }
}

/// A ragged batch over scattered pages: what each sequence has cached, and its new rows.
struct Ragged {
  Batch batch;
  std::vector<std::int32_t> lengths;  // of each sequence, before this step
};
Ragged random_batch(Random& random, std::int32_t pages, std::int32_t page_size) {
  std::vector<std::int32_t> free(static_cast<std::size_t>(pages));
  for (std::int32_t i = 0; i < pages; ++i) free[static_cast<std::size_t>(i)] = i;
  for (std::size_t i = free.size(); i > 1; --i)
    std::swap(free[i - 1],
              free[static_cast<std::size_t>(random.below(static_cast<std::int32_t>(i)))]);
  Ragged r;
  const std::int32_t cached[] = {0, 1, 254, 255, 256, 31, 600};
  for (std::int32_t s = 0; s < 4; ++s) {
    const std::int32_t before = cached[random.below(7)], rows = 1 + random.below(9);
    const std::int32_t end = before + rows, first = r.batch.n_rows();
    r.lengths.push_back(before);
    r.batch.sequences.push_back(
        {first, rows, end, static_cast<std::int32_t>(r.batch.block_table.size())});
    const std::size_t base = r.batch.block_table.size();
    for (std::int32_t p = 0; p * page_size < end; ++p) {
      r.batch.block_table.push_back(free.back());
      free.pop_back();
    }
    for (std::int32_t i = before; i < end; ++i) {
      r.batch.ids.push_back(0);
      r.batch.positions.push_back(i);
      r.batch.slots.push_back(r.batch.block_table[base + static_cast<std::size_t>(i / page_size)] *
                                  page_size +
                              i % page_size);
    }
  }
  return r;
}

TEST_P(CpuEqualsReference, PagedAttentionOverRaggedBatches) {
  const std::uint64_t seed = 15;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  struct Shape {
    std::int32_t heads, kv_heads, size, page;
  };
  for (const Shape s :
       {Shape{4, 4, 32, 32}, {9, 3, 64, 32}, {8, 2, 80, 64}, {2, 1, 128, 128}, {28, 2, 16, 256}}) {
    for (const KvType type : {KvType::f16, KvType::f32}) {
      SCOPED_TRACE("heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) +
                   " size " + std::to_string(s.size) + (type == KvType::f16 ? " f16" : " f32"));
      auto reference = make(DeviceType::reference, Isa::automatic, 1);
      auto cpu = make(DeviceType::cpu, GetParam().isa, GetParam().threads);
      const KvLayout layout{2, s.kv_heads, s.size, s.page, 4 * 640 / s.page + 4, type};
      const Ragged r = random_batch(random, layout.pages, s.page);
      const auto rows = static_cast<std::size_t>(r.batch.n_rows());
      const auto kv_row = static_cast<std::size_t>(s.kv_heads * s.size),
                 q_row = static_cast<std::size_t>(s.heads * s.size);
      for (Backend* b : {reference.get(), cpu.get()}) {
        ASSERT_TRUE(b->create_kv(layout).ok());
        ASSERT_TRUE(b->reserve_scratch({static_cast<std::int32_t>(rows), 512, 640}).ok());
      }
      // What earlier steps left: every position of every sequence, layer 1; then this step's rows.
      for (std::size_t i = 0; i < r.lengths.size(); ++i) {
        std::vector<std::int32_t> slots;
        for (std::int32_t p = 0; p < r.lengths[i]; ++p)
          slots.push_back(r.batch.block_table[static_cast<std::size_t>(
                              r.batch.sequences[i].first_page + p / s.page)] *
                              s.page +
                          p % s.page);
        const auto k = random.floats(slots.size() * kv_row, -3, 3),
                   v = random.floats(slots.size() * kv_row);
        for (Backend* b : {reference.get(), cpu.get()}) kv_store(*b, k, v, slots, 1);
      }
      const auto k = random.floats(rows * kv_row, -3, 3), v = random.floats(rows * kv_row);
      const auto q = random.floats(rows * q_row);
      std::vector<float> a(rows * q_row, kPoison), b = a;
      kv_store(*reference, k, v, r.batch.slots, 1);
      kv_store(*cpu, k, v, r.batch.slots, 1);
      attention(*reference, q.data(), a.data(), r.batch, 1, s.heads, 0.125f);
      attention(*cpu, q.data(), b.data(), r.batch, 1, s.heads, 0.125f);
      ASSERT_TRUE(same_bits(a, b));
    }
  }
}

TEST_P(CpuEqualsReference, RopeAndNormOfLogitRows) {
  Random random(16);
  const std::int32_t heads = 3, size = 80, rope = 64, rows = 7;
  const auto table = random.floats(100 * 64);
  const std::vector<std::int32_t> positions = {0, 1, 2, 99, 50, 7, 7};
  auto a = random.floats(static_cast<std::size_t>(rows * heads * size)), b = a;
  testing::rope(*reference_, a.data(), positions, table.data(), heads, size, rope);
  testing::rope(*cpu_, b.data(), positions, table.data(), heads, size, rope);
  ASSERT_TRUE(same_bits(a, b));
  const std::vector<std::int32_t> picks = {6, 0, 3};
  std::vector<float> ga(3 * static_cast<std::size_t>(heads * size), kPoison), gb = ga;
  const auto weight = random.floats(static_cast<std::size_t>(heads * size));
  norm_of_logit_rows(*reference_, a, picks, weight, ga.data(), heads * size);
  norm_of_logit_rows(*cpu_, b, picks, weight, gb.data(), heads * size);
  ASSERT_TRUE(same_bits(ga, gb));
}

// ---- the reference against double precision ----

TEST(Reference, MatmulIsWithinRoundingOfDouble) {
  Random random(17);
  auto backend = make(DeviceType::reference, Isa::automatic, 1);
  for (const quant::TypeInfo& info : quant::kTypes) {
    SCOPED_TRACE(info.name);
    const std::int32_t rows = 3, columns = info.block == 1 ? 301 : 768, outputs = 5;
    const auto blocks = random_blocks(info.type, outputs, columns, random);
    std::vector<float> w(static_cast<std::size_t>(outputs * columns));
    quant::dequantize(info.type, blocks, w);
    const auto x = random.floats(static_cast<std::size_t>(rows * columns));
    const auto y = run_matmul(*backend, blocks, info.type, rows, columns, outputs, x, nullptr);
    for (std::int32_t r = 0; r < rows; ++r) {
      for (std::int32_t n = 0; n < outputs; ++n) {
        double exact = 0, size = 0;
        for (std::int32_t k = 0; k < columns; ++k) {
          const double term = static_cast<double>(w[static_cast<std::size_t>(n * columns + k)]) *
                              x[static_cast<std::size_t>(r * columns + k)];
          exact += term;
          size += std::fabs(term);
        }
        const double tolerance = size * 256 * 0x1.0p-24;  // a chain of 256 roundings
        const double error =
            std::fabs(static_cast<double>(y[static_cast<std::size_t>(r * outputs + n)]) - exact);
        EXPECT_FALSE(!(error <= tolerance)) << error << " above " << tolerance;
      }
    }
  }
}

TEST(Reference, AttentionIsSoftmaxOfScoresTimesValues) {
  Random random(18);
  auto backend = make(DeviceType::reference, Isa::automatic, 1);
  const std::int32_t size = 32, keys = 300;
  ASSERT_TRUE(backend->create_kv({1, 1, size, 32, 10, KvType::f32}).ok());
  Batch batch;
  for (std::int32_t p = 0; p < 10; ++p) batch.block_table.push_back(9 - p);
  for (std::int32_t i = 0; i < keys; ++i) {
    batch.ids.push_back(0), batch.positions.push_back(i);
    batch.slots.push_back((9 - i / 32) * 32 + i % 32);
  }
  batch.sequences.push_back({0, keys, keys, 0});
  const auto n = static_cast<std::size_t>(keys * size);
  const auto q = random.floats(n), k = random.floats(n), v = random.floats(n);
  std::vector<float> out(n, kPoison);
  kv_store(*backend, k, v, batch.slots, 0);
  attention(*backend, q.data(), out.data(), batch, 0, 1, 0.25f);
  for (const std::int32_t i : {0, 1, 31, 32, 255, 256, 299}) {
    std::vector<double> e(static_cast<std::size_t>(i) + 1);
    double sum = 0;
    for (std::int32_t j = 0; j <= i; ++j) {
      double s = 0;
      for (std::int32_t d = 0; d < size; ++d)
        s += static_cast<double>(q[static_cast<std::size_t>(i * size + d)]) *
             k[static_cast<std::size_t>(j * size + d)];
      sum += e[static_cast<std::size_t>(j)] = std::exp(s * 0.25);
    }
    for (std::int32_t d = 0; d < size; ++d) {
      double exact = 0;
      for (std::int32_t j = 0; j <= i; ++j)
        exact += e[static_cast<std::size_t>(j)] / sum * v[static_cast<std::size_t>(j * size + d)];
      const double error = std::fabs(out[static_cast<std::size_t>(i * size + d)] - exact);
      EXPECT_FALSE(!(error <= 64 * 0x1.0p-24)) << "row " << i << " error " << error;  // |v| <= 1
    }
  }
}

TEST(Registry, MachineOffersItsInstructionSets) {
  for (const Isa isa : present_isas()) EXPECT_NE(make(DeviceType::cpu, isa, 1), nullptr);
  const auto widest = make(DeviceType::cpu, Isa::automatic, 1);
  EXPECT_NE(widest->description().find(to_string(present_isas().back())), std::string::npos)
      << widest->description();
}

TEST(Registry, AbsentThingsAreNamed) {
  for (const DeviceType device :
       {DeviceType::cuda, DeviceType::metal, DeviceType::metal_emulated}) {
    const auto backend = make_backend({device, 1, Isa::automatic});
    if (backend.ok()) continue;  // this build and machine have it
    ASSERT_FALSE(backend.ok());
    EXPECT_EQ(backend.error().code, Code::unsupported);
    EXPECT_NE(backend.error().message.find(to_string(device)), std::string::npos)
        << backend.error().message;
  }
#if defined(__x86_64__)
  const auto neon = make_backend({DeviceType::cpu, 1, Isa::neon});
  ASSERT_FALSE(neon.ok());
  EXPECT_NE(neon.error().message.find("neon"), std::string::npos);
#endif
  EXPECT_FALSE(make_backend({DeviceType::cpu, -1, Isa::automatic}).ok());
}

TEST(Cpu, WeightsAreReadOncePerStepWhateverTheRows) {
  Random random(19);
  auto backend = make(DeviceType::cpu, Isa::automatic, 2);
  const auto blocks = random_blocks(quant::Type::Q4_1, 96, 576, random);
  const auto id = backend->load_matrix(source_of(blocks, quant::Type::Q4_1, 96, 576));
  ASSERT_TRUE(backend->reserve_scratch({64, 576, 1}).ok());
  const auto x = random.floats(64 * 576);
  std::vector<float> out(64 * 96);
  std::uint64_t bytes[2];
  int i = 0;
  for (const std::int32_t rows : {1, 64}) {
    const std::uint64_t before = backend->counters().weight_bytes;
    backend->matmul({x.data(), rows, 1, {*id}, {out.data()}});
    bytes[i++] = backend->counters().weight_bytes - before;
  }
  EXPECT_EQ(bytes[0], bytes[1]);
  EXPECT_EQ(bytes[0],
            static_cast<std::uint64_t>(backend->matrix_bytes(quant::Type::Q4_1, 96, 576)));
}

}  // namespace
}  // namespace herd::testing
