// Matrix products as the model runs them: several matrices at once, many rows, scratch that was
// reserved for more. The sizes of single products are in ops_suite_test.cc.
#include "backend/backends.h"

namespace herd::testing {
namespace {

using quant::Type;

class MatmulSuite : public CpuEqualsReference {};
INSTANTIATE_TEST_SUITE_P(Every, MatmulSuite, ::testing::ValuesIn(setups()), setup_name);

std::size_t area(std::int32_t a, std::int32_t b) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

TEST_P(MatmulSuite, ManyRowsCrossEveryBlocking) {
  const std::uint64_t seed = 31;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  struct Case {
    Type type;
    std::int32_t columns, outputs;
  };
  for (const Case c : {Case{Type::F16, 300, 33}, {Type::Q4_1, 288, 17}, {Type::Q4_K, 512, 49}}) {
    const auto blocks = random_blocks(c.type, c.outputs, c.columns, random);
    for (const std::int32_t rows : {12, 13, 239, 240, 241, 253, 481}) {
      if (GetParam().isa == Isa::scalar && rows > 241) continue;  // slow, and no new path
      SCOPED_TRACE(std::string(quant::type_info(c.type).name) + " rows " + std::to_string(rows));
      const auto x = random.floats(area(rows, c.columns));
      ASSERT_TRUE(
          same_bits(run_matmul(*reference_, blocks, c.type, rows, c.columns, c.outputs, x, nullptr),
                    run_matmul(*cpu_, blocks, c.type, rows, c.columns, c.outputs, x, nullptr)));
    }
  }
}

/// q, k, v and gate, up: matrices of different types and sizes that read the same rows.
struct Shared {
  std::vector<std::byte> blocks[3];
  Type types[3];
  std::int32_t outputs[3];
};
constexpr std::int32_t kColumns = 512, kMostRows = 64;

std::vector<std::vector<float>> run_shared(Backend& backend, const Shared& s, std::int32_t n,
                                           std::int32_t rows, const std::vector<float>& x,
                                           bool add) {
  const MemoryMark mark = backend.mark();
  EXPECT_TRUE(backend.reserve_scratch({kMostRows, kColumns, 300}).ok());
  MatmulArgs args{x.data(), rows, n, {}, {}, add ? Epilogue::add : Epilogue::store};
  std::vector<Output> outputs;
  for (std::int32_t i = 0; i < n; ++i) {
    outputs.emplace_back(area(rows, s.outputs[i]));
    if (add) outputs.back() = Output(std::vector<float>(area(rows, s.outputs[i]), 0.75f));
  }
  std::uint64_t bytes = 0, flops = 0;
  for (std::int32_t i = 0; i < n; ++i) {
    const auto id = backend.load_matrix(source_of(s.blocks[i], s.types[i], s.outputs[i], kColumns));
    EXPECT_TRUE(id.ok());
    args.weights[i] = *id;
    args.out[i] = outputs[static_cast<std::size_t>(i)].data();
    bytes += static_cast<std::uint64_t>(backend.matrix_bytes(s.types[i], s.outputs[i], kColumns));
    flops += 2ull * static_cast<std::uint64_t>(rows) * static_cast<std::uint64_t>(s.outputs[i]) *
             kColumns;
  }
  const Counters before = backend.counters();
  backend.matmul(args);
  EXPECT_EQ(backend.counters().weight_bytes - before.weight_bytes, bytes);
  EXPECT_EQ(backend.counters().matmul_flops - before.matmul_flops, flops);
  backend.release_to(mark);
  std::vector<std::vector<float>> results;
  for (const Output& out : outputs) results.push_back(out.take());
  return results;
}

Shared shared_matrices(Random& random) {
  Shared s{{}, {Type::Q4_K, Type::Q6_K, Type::BF16}, {33, 1, 80}};
  for (int i = 0; i < 3; ++i)
    s.blocks[i] = random_blocks(s.types[i], s.outputs[i], kColumns, random);
  return s;
}

TEST_P(MatmulSuite, MatricesThatShareTheirInput) {
  const std::uint64_t seed = 32;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  const Shared s = shared_matrices(random);
  for (const std::int32_t rows : {1, 2, 3, 4, 5, 12, 17, 64}) {
    for (const std::int32_t n : {1, 2, 3}) {
      for (const bool add : {false, true}) {
        SCOPED_TRACE("rows " + std::to_string(rows) + " matrices " + std::to_string(n) +
                     (add ? " added" : ""));
        const auto x = random.floats(area(rows, kColumns));
        const auto a = run_shared(*reference_, s, n, rows, x, add);
        const auto b = run_shared(*cpu_, s, n, rows, x, add);
        for (std::size_t i = 0; i < a.size(); ++i) ASSERT_TRUE(same_bits(a[i], b[i])) << i;
      }
    }
  }
}

TEST_P(MatmulSuite, ARowIsTheSameInAnyCompany) {
  const std::uint64_t seed = 33;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  const Shared s = shared_matrices(random);
  const auto all = random.floats(area(33, kColumns));
  const auto together = run_shared(*cpu_, s, 3, 33, all, false);
  for (const std::int32_t row : {0, 7, 32}) {
    const std::vector<float> x(all.begin() + row * kColumns, all.begin() + (row + 1) * kColumns);
    const auto alone = run_shared(*cpu_, s, 3, 1, x, false);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      const auto from = together[i].begin() + row * s.outputs[i];
      ASSERT_TRUE(same_bits(alone[i], {from, from + s.outputs[i]})) << "row " << row;
    }
  }
}

/// Values no well-behaved model holds must come out as IEEE says, not disappear.
TEST_P(MatmulSuite, InfinityAndNanComeThrough) {
  const std::int32_t columns = 300, outputs = 3;
  std::vector<float> w(area(outputs, columns), 0.5f);
  w[5] = std::numeric_limits<float>::infinity();
  w[static_cast<std::size_t>(columns) + 299] = kPoison;
  std::vector<std::byte> blocks(w.size() * 4);
  std::memcpy(blocks.data(), w.data(), blocks.size());
  for (const std::int32_t rows : {1, 5}) {
    std::vector<float> x(area(rows, columns), 0.25f);
    x[6] = -std::numeric_limits<float>::infinity();
    const auto a = run_matmul(*reference_, blocks, Type::F32, rows, columns, outputs, x, nullptr);
    const auto b = run_matmul(*cpu_, blocks, Type::F32, rows, columns, outputs, x, nullptr);
    ASSERT_TRUE(same_values(a, b));
    EXPECT_TRUE(std::isnan(a[0]) && std::isnan(a[1])) << a[0] << " " << a[1];
    EXPECT_EQ(a[2], -std::numeric_limits<float>::infinity());
    for (std::int32_t r = 1; r < rows; ++r)  // 300 * 0.5 * 0.25, in rows without any
      EXPECT_EQ(a[area(r, outputs) + 2], 37.5f);
  }
}

}  // namespace
}  // namespace herd::testing
