// The small ops: in place, at every length around a vector, over many rows, with values at the
// edges.
#include "backend/backends.h"

namespace herd::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class ElementwiseSuite : public CpuEqualsReference {
 protected:
  std::vector<Backend*> both() { return {reference_.get(), cpu_.get()}; }
};
INSTANTIATE_TEST_SUITE_P(Every, ElementwiseSuite, ::testing::ValuesIn(setups()), setup_name);

std::size_t area(std::int32_t a, std::int32_t b) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b);
}

TEST_P(ElementwiseSuite, RmsNormOfManyRowsAndInPlace) {
  Random random(51);
  for (const std::int32_t rows : {1, 2, 33, 300}) {
    for (const std::int32_t columns : {1, 2, 17, 64, 576}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
      const auto x = random.floats(area(rows, columns), -20, 20);
      const auto weight = random.floats(static_cast<std::size_t>(columns));
      std::vector<std::vector<float>> results;
      for (Backend* backend : both()) {
        Output out(x.size()), in_place(x);
        backend->rms_norm({x.data(), weight.data(), out.data(), rows, columns, 1e-6f});
        backend->rms_norm({in_place.data(), weight.data(), in_place.data(), rows, columns, 1e-6f});
        results.push_back(out.take());
        results.push_back(in_place.take());
      }
      for (const auto& result : results) ASSERT_TRUE(same_bits(results[0], result));
    }
  }
}

TEST_P(ElementwiseSuite, SwigluAndAddOfAnyLengthAndInPlace) {
  Random random(52);
  for (const std::size_t n : {1u, 15u, 16u, 17u, 2047u, 2048u, 2049u, 5001u, 40000u}) {
    SCOPED_TRACE(n);
    const auto a = random.floats(n, -90, 90), b = random.floats(n, -2, 2);
    const std::int64_t size = std::ssize(a);
    std::vector<std::vector<float>> silu, sum;
    for (Backend* backend : both()) {
      Output out(n), over_a(a), over_b(b);
      backend->swiglu({a.data(), b.data(), out.data(), size});
      backend->swiglu({over_a.data(), b.data(), over_a.data(), size});
      backend->swiglu({a.data(), over_b.data(), over_b.data(), size});
      for (const Output* o : {&out, &over_a, &over_b}) silu.push_back(o->take());
      Output added(n), added_a(a), added_b(b);
      backend->add({a.data(), b.data(), added.data(), size});
      backend->add({added_a.data(), b.data(), added_a.data(), size});
      backend->add({a.data(), added_b.data(), added_b.data(), size});
      for (const Output* o : {&added, &added_a, &added_b}) sum.push_back(o->take());
    }
    for (const auto& result : silu) ASSERT_TRUE(same_bits(silu[0], result));
    for (const auto& result : sum) ASSERT_TRUE(same_bits(sum[0], result));
  }
}

TEST_P(ElementwiseSuite, ValuesAtTheEdges) {
  const std::vector<float> edges = {0.0f,       -0.0f,  1e-45f, -1e-45f, 1e-38f, 86.9f,   87.0f,
                                    87.1f,      87.9f,  88.0f,  88.1f,   -86.9f, -87.0f,  -87.1f,
                                    -88.0f,     -88.1f, 3e38f,  -3e38f,  1e30f,  kPoison, kInfinity,
                                    -kInfinity, 0.5f,   -0.5f,  1.0f};
  std::vector<float> ones(edges.size(), 1.0f);
  std::vector<std::vector<float>> silu, sum;
  for (Backend* backend : both()) {
    Output out(edges.size()), added(edges.size());
    backend->swiglu({edges.data(), ones.data(), out.data(), std::ssize(edges)});
    backend->add({edges.data(), edges.data(), added.data(), std::ssize(edges)});
    silu.push_back(out.take());
    sum.push_back(added.take());
  }
  ASSERT_TRUE(same_values(silu[0], silu[1]));
  ASSERT_TRUE(same_values(sum[0], sum[1]));
}

/// max, exp and sum, divide of rows that hold masked places, as the dense stages see them.
TEST_P(ElementwiseSuite, SoftmaxOfMaskedRows) {
  const std::uint64_t seed = 53;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const std::int32_t columns : {1, 2, 15, 16, 17, 31, 255, 256, 257, 1000}) {
    SCOPED_TRACE(columns);
    const std::int32_t rows = 40;
    auto x = random.floats(area(rows, columns), -30, 30);
    for (std::int32_t r = 0; r < rows; ++r)  // at least the first place is seen
      for (std::int32_t j = 1 + random.below(columns); j < columns; ++j)
        x[area(r, columns) + static_cast<std::size_t>(j)] = -kInfinity;
    std::vector<std::vector<float>> maxima, sums, weights;
    for (Backend* backend : both()) {
      Output values(x), max(rows), sum(rows);
      backend->softmax_max({values.data(), max.data(), nullptr, rows, columns});
      backend->softmax_exp_sum({values.data(), max.data(), sum.data(), rows, columns});
      backend->softmax_normalize({values.data(), nullptr, sum.data(), rows, columns});
      maxima.push_back(max.take());
      sums.push_back(sum.take());
      weights.push_back(values.take());
    }
    ASSERT_TRUE(same_bits(maxima[0], maxima[1]));
    ASSERT_TRUE(same_bits(sums[0], sums[1]));
    ASSERT_TRUE(same_bits(weights[0], weights[1]));
    for (const float w : weights[1]) ASSERT_TRUE(w >= 0 && w <= 1) << w;
  }
}

/// Zeros of both signs: which one is "the largest" must not depend on the vector's width.
TEST_P(ElementwiseSuite, MaximumOfZerosOfBothSigns) {
  Random random(54);
  for (const std::int32_t columns : {2, 5, 16, 17, 40, 100}) {
    for (int round = 0; round < 20; ++round) {
      SCOPED_TRACE("columns " + std::to_string(columns) + " round " + std::to_string(round));
      std::vector<float> x(static_cast<std::size_t>(columns));
      for (float& value : x)
        value = std::vector{0.0f, -0.0f, -1.0f}[static_cast<std::size_t>(random.below(3))];
      std::vector<std::vector<float>> maxima;
      for (Backend* backend : both()) {
        Output values(x), max(1);
        backend->softmax_max({values.data(), max.data(), nullptr, 1, columns});
        maxima.push_back(max.take());
      }
      ASSERT_TRUE(same_bits(maxima[0], maxima[1]));
    }
  }
}

TEST_P(ElementwiseSuite, DenseStagesOfEveryGrouping) {
  const std::uint64_t seed = 55;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const auto& [heads, kv_heads, size, keys] : {std::tuple{1, 1, 1, 1},
                                                    {2, 1, 20, 7},
                                                    {3, 3, 33, 256},
                                                    {4, 1, 64, 257},
                                                    {8, 2, 100, 513},
                                                    {2, 2, 8, 0}}) {
    SCOPED_TRACE("heads " + std::to_string(heads) + " keys " + std::to_string(keys));
    const std::int32_t batch = 3, queries = 2;
    const std::int32_t start[] = {0, keys / 2, keys + 5};
    const auto q = random.floats(static_cast<std::size_t>(batch * queries * heads * size));
    const auto k = random.floats(static_cast<std::size_t>(batch * keys * kv_heads * size));
    const auto weights =
        random.floats(static_cast<std::size_t>(batch * heads * queries * keys), 0, 1);
    std::vector<std::vector<float>> scores, outs;
    for (Backend* backend : both()) {
      Output s(weights.size()), out(q.size());
      backend->attention_scores(
          {q.data(), k.data(), s.data(), batch, queries, keys, heads, kv_heads, size, start, 0.3f});
      backend->apply_attention(
          {weights.data(), k.data(), out.data(), batch, queries, keys, heads, kv_heads, size});
      scores.push_back(s.take());
      outs.push_back(out.take());
    }
    ASSERT_TRUE(same_bits(scores[0], scores[1]));
    ASSERT_TRUE(same_bits(outs[0], outs[1]));
    if (keys == 0) {
      ASSERT_TRUE(same_bits(outs[1], std::vector<float>(q.size(), 0.0f)));
    }
  }
}

TEST_P(ElementwiseSuite, RopeOfManyRows) {
  Random random(56);
  for (const auto& [heads, size, rope] :
       {std::tuple{1, 2, 2}, {5, 64, 64}, {3, 80, 32}, {32, 128, 128}}) {
    const std::int32_t rows = 65;
    const auto table = random.floats(area(200, rope));
    std::vector<std::int32_t> positions;
    for (std::int32_t i = 0; i < rows; ++i) positions.push_back(random.below(200));
    const auto x = random.floats(area(rows * heads, size));
    std::vector<std::vector<float>> results;
    for (Backend* backend : both()) {
      Output rotated(x);
      testing::rope(*backend, rotated.data(), positions, table.data(), heads, size, rope);
      results.push_back(rotated.take());
    }
    ASSERT_TRUE(same_bits(results[0], results[1]));
    for (std::size_t i = 0; i < x.size(); ++i) {
      const bool rotates = static_cast<std::int32_t>(i % static_cast<std::size_t>(size)) < rope;
      ASSERT_TRUE(rotates || results[1][i] == x[i]) << i;
    }
  }
}

TEST_P(ElementwiseSuite, EmbedKnowsNoNegativeZero) {
  const std::vector<float> table = {0.0f, -0.0f, 1.5f, -0.0f};
  std::vector<std::byte> blocks(16);
  std::memcpy(blocks.data(), table.data(), 16);
  const std::vector<TokenId> ids = {1, 0, 1};
  for (Backend* backend : both()) {
    const auto id = backend->load_matrix(source_of(blocks, quant::Type::F32, 2, 2));
    ASSERT_TRUE(id.ok());
    Output out(6);
    embed(*backend, *id, ids, out.data());
    ASSERT_TRUE(same_bits(out.take(), {1.5f, 0.0f, 0.0f, 0.0f, 1.5f, 0.0f}));
  }
}

}  // namespace
}  // namespace herd::testing
