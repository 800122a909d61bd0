// Paged attention and the KV pool: every way to run the cpu backend equals the reference, whatever
// else lies in the pool, and a sequence's rows are the same alone and in chunks.
#include "backend/backends.h"

namespace herd::testing {
namespace {

struct Shape {
  std::int32_t heads, kv_heads, size, page;
  KvType type;
};
constexpr float kScale = 0.15f;

std::string name_of(const Shape& s) {
  return "heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " size " +
         std::to_string(s.size) + " page " + std::to_string(s.page) +
         (s.type == KvType::f16 ? " f16" : " f32");
}

/// One sequence: keys, values and queries of all its positions, and the pages they live in.
struct Sequence {
  std::int32_t cached, rows;  // positions before the step, and in it
  std::vector<float> q, k, v;
  std::vector<std::int32_t> pages;
};

struct Case {
  Shape shape;
  KvLayout layout;
  std::vector<Sequence> sequences;
};

std::size_t kv_row(const Shape& s) {
  return static_cast<std::size_t>(s.kv_heads * s.size);
}
std::size_t q_row(const Shape& s) {
  return static_cast<std::size_t>(s.heads * s.size);
}

Case random_case(const Shape& shape,
                 const std::vector<std::pair<std::int32_t, std::int32_t>>& sizes, Random& random) {
  Case c{shape, {2, shape.kv_heads, shape.size, shape.page, 3, shape.type}, {}};
  for (const auto& [cached, rows] : sizes)
    c.layout.pages += (cached + rows + shape.page - 1) / shape.page;
  std::vector<std::int32_t> free(static_cast<std::size_t>(c.layout.pages));
  for (std::size_t i = 0; i < free.size(); ++i) {
    const auto j = static_cast<std::size_t>(random.below(static_cast<std::int32_t>(i) + 1));
    free[i] = free[j];
    free[j] = static_cast<std::int32_t>(i);
  }
  for (const auto& [cached, rows] : sizes) {
    const auto n = static_cast<std::size_t>(cached + rows);
    Sequence s{cached,
               rows,
               random.floats(n * q_row(shape)),
               random.floats(n * kv_row(shape), -3, 3),
               random.floats(n * kv_row(shape)),
               {}};
    for (std::int32_t p = 0; p * shape.page < cached + rows; ++p) {
      s.pages.push_back(free.back());
      free.pop_back();
    }
    c.sequences.push_back(std::move(s));
  }
  return c;
}

std::vector<std::int32_t> slots_of(const Case& c, const Sequence& s, std::int32_t first,
                                   std::int32_t end) {
  std::vector<std::int32_t> slots;
  for (std::int32_t i = first; i < end; ++i)
    slots.push_back(s.pages[static_cast<std::size_t>(i / c.shape.page)] * c.shape.page +
                    i % c.shape.page);
  return slots;
}

/// A pool full of NaN, so that a slot which is not the sequence's own is seen when it is read; then
/// what the sequences cached. Layer 0 holds it too, with keys and values exchanged.
std::unique_ptr<Backend> backend_with(const Case& c, DeviceType device, const CpuSetup& setup) {
  auto backend = make(device, setup.isa, setup.threads);
  EXPECT_TRUE(backend->create_kv(c.layout).ok());
  EXPECT_TRUE(backend->reserve_scratch({256, 64, 1024}).ok());
  std::vector<std::int32_t> every(static_cast<std::size_t>(c.layout.pages * c.shape.page));
  for (std::size_t i = 0; i < every.size(); ++i) every[i] = static_cast<std::int32_t>(i);
  const std::vector<float> nan(every.size() * kv_row(c.shape), kPoison);
  for (const std::int32_t layer : {0, 1}) kv_store(*backend, nan, nan, every, layer);
  for (const Sequence& s : c.sequences) {
    const auto slots = slots_of(c, s, 0, s.cached);
    kv_store(*backend, s.k, s.v, slots, 1);
    kv_store(*backend, s.v, s.k, slots, 0);
  }
  return backend;
}

struct Step {
  Batch batch;
  std::vector<float> q, k, v;
};

/// Rows [first[i], first[i] + rows[i]) of the sequences named, sequence after sequence.
Step step_of(const Case& c, const std::vector<std::size_t>& which,
             const std::vector<std::int32_t>& first, const std::vector<std::int32_t>& rows,
             std::int32_t layer = 1) {
  Step step;
  Batch& batch = step.batch;
  for (std::size_t i = 0; i < which.size(); ++i) {
    const Sequence& s = c.sequences[which[i]];
    const std::int32_t end = first[i] + rows[i];
    batch.sequences.push_back(
        {batch.n_rows(), rows[i], end, static_cast<std::int32_t>(batch.block_table.size())});
    batch.block_table.insert(batch.block_table.end(), s.pages.begin(), s.pages.end());
    for (const std::int32_t slot : slots_of(c, s, first[i], end)) batch.slots.push_back(slot);
    for (std::int32_t p = first[i]; p < end; ++p)
      batch.ids.push_back(0), batch.positions.push_back(p);
    const auto take = [&](std::vector<float>& to, const std::vector<float>& from, std::size_t row) {
      to.insert(to.end(),
                from.begin() + std::ptrdiff_t{first[i]} * static_cast<std::ptrdiff_t>(row),
                from.begin() + std::ptrdiff_t{end} * static_cast<std::ptrdiff_t>(row));
    };
    take(step.q, s.q, q_row(c.shape));
    take(step.k, layer == 1 ? s.k : s.v, kv_row(c.shape));
    take(step.v, layer == 1 ? s.v : s.k, kv_row(c.shape));
  }
  return step;
}

/// Stores and attends a step; returns what each row got.
std::vector<float> run(Backend& backend, const Case& c, const Step& step, std::int32_t layer = 1) {
  kv_store(backend, step.k, step.v, step.batch.slots, layer);
  Output out(step.q.size());
  attention(backend, step.q.data(), out.data(), step.batch, layer, c.shape.heads, kScale);
  return out.take();
}

/// All sequences at once.
Step whole_step_of(const Case& c, std::int32_t layer = 1) {
  std::vector<std::size_t> which;
  std::vector<std::int32_t> first, rows;
  for (std::size_t i = 0; i < c.sequences.size(); ++i) {
    which.push_back(i);
    first.push_back(c.sequences[i].cached);
    rows.push_back(c.sequences[i].rows);
  }
  return step_of(c, which, first, rows, layer);
}
std::vector<float> whole_step(Backend& backend, const Case& c, std::int32_t layer = 1) {
  return run(backend, c, whole_step_of(c, layer), layer);
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

const std::vector<std::pair<std::int32_t, std::int32_t>> kLengths = {
    {0, 1}, {0, 17}, {254, 3}, {255, 1}, {31, 2}, {256, 1}, {256, 29}, {599, 2}, {510, 4}};

std::vector<Shape> shapes() {
  std::vector<Shape> out;
  for (const KvType type : {KvType::f16, KvType::f32})
    for (const auto& [heads, kv_heads, size, page] : {std::tuple{1, 1, 32, 32},
                                                      {4, 2, 64, 32},
                                                      {9, 3, 64, 128},
                                                      {8, 2, 80, 64},
                                                      {3, 1, 128, 256},
                                                      {13, 1, 20, 32},
                                                      {2, 2, 100, 64}})
      out.push_back({heads, kv_heads, size, page, type});
  return out;
}

TEST(PagedAttention, EqualsReferenceWhateverElseIsInThePool) {
  const std::uint64_t seed = 41;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(name_of(shape));
    const Case c = random_case(shape, kLengths, random);
    const auto reference = backend_with(c, DeviceType::reference, {Isa::automatic, 1});
    const auto layer1 = whole_step(*reference, c), layer0 = whole_step(*reference, c, 0);
    ASSERT_TRUE(all_finite(layer1) && all_finite(layer0));
    for (const CpuSetup& setup : setups()) {
      SCOPED_TRACE(name_of(setup));
      const auto cpu = backend_with(c, DeviceType::cpu, setup);
      ASSERT_TRUE(same_bits(layer1, whole_step(*cpu, c)));
      ASSERT_TRUE(same_bits(layer0, whole_step(*cpu, c, 0)));
      ASSERT_TRUE(same_bits(layer1, whole_step(*cpu, c))) << "the second time";
    }
  }
}

TEST(PagedAttention, RandomLengths) {
  const std::uint64_t seed = 42;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (int round = 0; round < 12; ++round) {
    const std::int32_t group = 1 + random.below(4), kv_heads = 1 + random.below(3);
    const std::int32_t sizes[] = {32, 64, 80, 128}, pages[] = {32, 64, 128, 256};
    const Shape shape{group * kv_heads, kv_heads, sizes[random.below(4)], pages[random.below(4)],
                      random.below(2) == 0 ? KvType::f16 : KvType::f32};
    std::vector<std::pair<std::int32_t, std::int32_t>> lengths;
    for (std::int32_t n = 1 + random.below(6); n > 0; --n)
      lengths.emplace_back(random.below(4) == 0 ? 0 : random.below(601), 1 + random.below(20));
    SCOPED_TRACE("round " + std::to_string(round) + " " + name_of(shape));
    const Case c = random_case(shape, lengths, random);
    const auto wanted = whole_step(*backend_with(c, DeviceType::reference, {Isa::automatic, 1}), c);
    ASSERT_TRUE(all_finite(wanted));
    for (const CpuSetup& setup : setups()) {
      SCOPED_TRACE(name_of(setup));
      ASSERT_TRUE(same_bits(wanted, whole_step(*backend_with(c, DeviceType::cpu, setup), c)));
    }
  }
}

/// The rows of sequence i within whole_step's result.
std::vector<float> part_of(const std::vector<float>& all, const Case& c, std::size_t i) {
  std::size_t before = 0;
  for (std::size_t j = 0; j < i; ++j) before += static_cast<std::size_t>(c.sequences[j].rows);
  const auto row = static_cast<std::ptrdiff_t>(q_row(c.shape));
  const auto from = all.begin() + static_cast<std::ptrdiff_t>(before) * row;
  return {from, from + c.sequences[i].rows * row};
}

TEST(PagedAttention, SameAloneAndInChunks) {
  const std::uint64_t seed = 43;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const KvType type : {KvType::f16, KvType::f32}) {
    const Case c =
        random_case({6, 2, 64, 32, type}, {{250, 40}, {0, 33}, {3, 1}, {255, 7}}, random);
    for (const CpuSetup& setup : setups()) {
      SCOPED_TRACE(name_of(setup));
      const auto together = whole_step(*backend_with(c, DeviceType::cpu, setup), c);
      for (const std::int32_t chunk : {1, 3, 16, 64}) {
        SCOPED_TRACE("chunks of " + std::to_string(chunk));
        const auto backend = backend_with(c, DeviceType::cpu, setup);
        for (std::size_t i = 0; i < c.sequences.size(); ++i) {
          const Sequence& s = c.sequences[i];
          std::vector<float> got;
          for (std::int32_t at = 0; at < s.rows; at += chunk) {
            const auto rows =
                run(*backend, c, step_of(c, {i}, {s.cached + at}, {std::min(chunk, s.rows - at)}));
            got.insert(got.end(), rows.begin(), rows.end());
          }
          ASSERT_TRUE(same_bits(part_of(together, c, i), got)) << "sequence " << i;
        }
      }
    }
  }
}

/// The step's rows rotated and stored as a model asks for it, attended, then attended once more
/// with queries as they were: what stands in the pool.
std::vector<float> rotated_step(Backend& backend, const Case& c, const std::vector<float>& table,
                                bool for_next_attention) {
  auto [batch, q, k, v] = whole_step_of(c);
  const std::vector<float> plain = q;
  Output out(q.size()), again(q.size());
  backend.begin_step(batch);
  backend.rope_store({q.data(), k.data(), v.data(), q.data(), table.data(), batch.n_rows(),
                      c.shape.heads, c.shape.kv_heads, c.shape.size, c.shape.size / 4 * 4, 1,
                      for_next_attention});
  backend.attention({q.data(), out.data(), 1, c.shape.heads, kScale});
  backend.attention({plain.data(), again.data(), 1, c.shape.heads, kScale});
  backend.end_step();
  std::vector<float> both = out.take();
  const std::vector<float> second = again.take();
  both.insert(both.end(), second.begin(), second.end());
  return both;
}

TEST(PagedAttention, RotationMayBeLeftToIt) {
  const std::uint64_t seed = 45;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  const std::vector<std::pair<std::int32_t, std::int32_t>> single = {{0, 1},  {254, 1}, {255, 1},
                                                                     {31, 1}, {256, 1}, {599, 1}};
  auto mixed = single;
  mixed[3].second = 2;
  for (const auto& lengths : {single, mixed})
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(name_of(shape));
      const Case c = random_case(shape, lengths, random);
      const auto table = random.floats(static_cast<std::size_t>(600 * shape.size));
      const auto wanted = rotated_step(*backend_with(c, DeviceType::reference, {Isa::automatic, 1}),
                                       c, table, true);
      ASSERT_TRUE(all_finite(wanted));
      for (const CpuSetup& setup : setups())
        for (const bool left : {true, false}) {
          SCOPED_TRACE(name_of(setup) + (left ? ", left" : ""));
          const auto cpu = backend_with(c, DeviceType::cpu, setup);
          ASSERT_TRUE(same_bits(wanted, rotated_step(*cpu, c, table, left)));
        }
    }
}

/// Half of the threads would have one task more: its halves are two threads' (halves.h). Whoever is
/// first, the bits are the same.
TEST(PagedAttention, TasksOfOneRowMayBeHalved) {
  const std::uint64_t seed = 46;
  SCOPED_TRACE("seed " + std::to_string(seed));
  Random random(seed);
  for (const auto& [kv_heads, threads] :
       {std::pair{3, 2}, {5, 2}, {6, 4}, {9, 6}, {3, 4}, {2, 4}, {4, 2}})
    for (const KvType type : {KvType::f16, KvType::f32})
      for (const std::int32_t cached : {0, 40, 599}) {
        const Shape shape{3 * kv_heads, kv_heads, 64, 32, type};
        SCOPED_TRACE(name_of(shape) + " threads " + std::to_string(threads) + " cached " +
                     std::to_string(cached));
        const Case c = random_case(shape, {{cached, 1}}, random);
        const auto table = random.floats(600 * 64);
        const auto reference = backend_with(c, DeviceType::reference, {Isa::automatic, 1});
        const auto wanted = rotated_step(*reference, c, table, true);
        const auto cpu = backend_with(c, DeviceType::cpu, {Isa::automatic, threads});
        for (int round = 0; round < 20; ++round)
          ASSERT_TRUE(same_bits(wanted, rotated_step(*cpu, c, table, round % 2 == 0))) << round;
      }
}

/// A value too large for a half becomes infinity and a key that is not finite becomes NaN, in its
/// own sequence only.
TEST(PagedAttention, WhatIsNotFiniteIsSeenAndStaysAtHome) {
  Random random(44);
  Case c = random_case({2, 1, 32, 32, KvType::f16}, {{40, 3}, {40, 3}, {40, 3}, {40, 3}}, random);
  c.sequences[0].v[5 * 32 + 7] = 70000.0f;
  c.sequences[1].k[9 * 32 + 1] = std::numeric_limits<float>::infinity();
  c.sequences[2].k[9 * 32 + 1] = kPoison;
  const auto wanted = whole_step(*backend_with(c, DeviceType::reference, {Isa::automatic, 1}), c);
  const auto overflowed = part_of(wanted, c, 0);
  for (std::size_t row = 0; row < 6; ++row)
    for (std::size_t d = 0; d < 32; ++d)
      EXPECT_EQ(std::isfinite(overflowed[row * 32 + d]), d != 7) << row << " " << d;
  for (const std::size_t i : {1u, 2u})
    for (const float x : part_of(wanted, c, i)) EXPECT_TRUE(std::isnan(x));
  EXPECT_TRUE(all_finite(part_of(wanted, c, 3)));
  for (const CpuSetup& setup : setups()) {
    SCOPED_TRACE(name_of(setup));
    const auto got = whole_step(*backend_with(c, DeviceType::cpu, setup), c);
    ASSERT_TRUE(same_values(wanted, got));
  }
}

}  // namespace
}  // namespace herd::testing
