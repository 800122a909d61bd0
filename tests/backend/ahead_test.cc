#include "backend/cpu/ahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "backend/cpu/pack.h"

namespace herd::cpu {
namespace {

constexpr std::int64_t kCache = 1 << 20;

KvLayout small_layout(std::int32_t pages) {
  KvLayout layout;
  layout.layers = 3;
  layout.kv_heads = 2;
  layout.head_size = 16;
  layout.page_size = 32;
  layout.pages = pages;
  return layout;
}
const std::int64_t kKeyPage = 2 * 32 * (2 * 16 + 4), kValuePage = 2 * 32 * 2 * 16;

/// Two sequences: the first with 40 positions in pages 5 and 2, the second with 3 in page 0.
struct TwoSequences {
  Batch batch;
  TwoSequences() {
    batch.ids = {1, 2};
    batch.positions = {39, 2};
    batch.block_table = {5, 2, 0};
    batch.sequences.resize(2);
    batch.sequences[0].n_rows = batch.sequences[1].n_rows = 1;
    batch.sequences[0].kv_length = 40;
    batch.sequences[1].kv_length = 3;
    batch.sequences[1].first_row = 1;
    batch.sequences[1].first_page = 2;
  }
};

std::vector<Stretch> stretches_of(KvAhead& ahead, int threads) {
  std::vector<Stretch> stretches;
  for (int t = 0; t < threads; ++t) {
    const Fetch* f = ahead.fetch(t);
    if (f == nullptr) continue;
    EXPECT_EQ(f->at, f->end);
    stretches.insert(stretches.end(), f->next, f->last);
  }
  return stretches;
}

TEST(KvAhead, ThePagesOfTheNextLayerAreSharedOutInOrder) {
  const auto* keys = reinterpret_cast<const std::byte*>(std::uintptr_t{1} << 30);
  const auto* values = reinterpret_cast<const std::byte*>(std::uintptr_t{1} << 31);
  const TwoSequences two;
  for (const int threads : {1, 2, 5}) {
    KvAhead ahead(threads, kCache);
    ahead.create(small_layout(7), keys, values);
    ahead.product_begins(1000);
    EXPECT_EQ(ahead.fetch(0), nullptr);  // nothing is known yet
    ahead.attention_done(0, two.batch);
    ahead.product_begins(1000);
    const std::vector<Stretch> stretches = stretches_of(ahead, threads);
    ASSERT_EQ(stretches.size(), 6u);
    const int pages[] = {5, 2, 0};
    for (std::size_t i = 0; i < 3; ++i) {
      const std::int64_t page = 7 + pages[i];  // of layer 1
      EXPECT_EQ(stretches[2 * i].at, keys + page * kKeyPage);
      EXPECT_EQ(stretches[2 * i].end, keys + (page + 1) * kKeyPage);
      EXPECT_EQ(stretches[2 * i + 1].at, values + page * kValuePage);
      EXPECT_EQ(stretches[2 * i + 1].end, values + (page + 1) * kValuePage);
    }
    ahead.attention_done(2, two.batch);  // the last layer: none comes behind it
    ahead.product_begins(1000);
    EXPECT_EQ(ahead.fetch(0), nullptr);
  }
}

TEST(KvAhead, NothingIsAskedForThatTheCacheWouldNotKeepUntilItsUse) {
  const TwoSequences two;
  KvAhead ahead(1, kCache);
  ahead.create(small_layout(7), nullptr, nullptr);
  ahead.product_begins(kCache);  // between two attentions: four times what may lie between
  ahead.attention_done(0, two.batch);
  ahead.product_begins(kCache * 3 / 4 - 1);
  EXPECT_EQ(ahead.fetch(0), nullptr);
  ahead.product_begins(1);  // kCache / 4 + 1 left
  EXPECT_EQ(ahead.fetch(0), nullptr);
  ahead.product_begins(kCache / 4);  // kCache / 4 left
  EXPECT_NE(ahead.fetch(0), nullptr);
  ahead.create(small_layout(7), nullptr, nullptr);
  EXPECT_EQ(ahead.fetch(0), nullptr);

  // Half of the cache at most, however long the sequences are.
  TwoSequences longer;
  const std::int64_t page = kKeyPage + kValuePage;
  const auto pages = static_cast<std::int32_t>(kCache / page);
  longer.batch.positions[1] = 32 * pages - 1;
  longer.batch.sequences[1].kv_length = 32 * pages;
  longer.batch.block_table.resize(static_cast<std::size_t>(pages) + 2, 1);
  ahead.create(small_layout(pages), nullptr, nullptr);
  ahead.attention_done(0, longer.batch);
  ahead.attention_done(0, longer.batch);
  ahead.product_begins(0);
  const std::size_t asked = stretches_of(ahead, 1).size() / 2;
  EXPECT_EQ(asked, static_cast<std::size_t>((kCache / 2 + page - 1) / page));
}

struct FreeArray {
  void operator()(void* p) const { std::free(p); }
};
std::unique_ptr<std::byte, FreeArray> zeros(std::int64_t bytes) {
  const std::int64_t size = (bytes + 63) / 64 * 64;
  auto* p = static_cast<std::byte*>(std::aligned_alloc(64, static_cast<std::size_t>(size)));
  std::fill_n(p, size, std::byte{0});
  return std::unique_ptr<std::byte, FreeArray>(p);
}

std::vector<const KernelTable*> tables() {
  std::vector<const KernelTable*> all = {&scalar_table()};
  if (&widest_table() != all[0]) all.push_back(&widest_table());
#if defined(__x86_64__)
  if (avx512_table() != nullptr) all.push_back(avx2_table());
#endif
  return all;
}

/// How many stretches `f`, of `stretches` of 64 KiB, has begun when `call` has run once more.
template <class Call>
std::vector<std::ptrdiff_t> begun(const std::vector<Stretch>& stretches, Call&& call) {
  std::vector<std::ptrdiff_t> counts;
  Fetch f = {nullptr, nullptr, stretches.data(), stretches.data() + stretches.size()};
  for (int i = 0; i < 40; ++i) {
    call(&f);
    counts.push_back(f.next - stretches.data());
    if (f.next != stretches.data()) {
      const Stretch& last = f.next[-1];
      EXPECT_EQ(f.end, last.end);
      EXPECT_GT(f.at, last.at);
      EXPECT_LT(f.at, last.end + 64 * 64);  // no further than what is asked for at a time
    }
  }
  return counts;
}

TEST(Fetch, ProductsOfManyRowsGoThroughItsRunsAndEndWithThem) {
  constexpr std::int32_t kColumns = 512;
  const auto memory = zeros(4 << 16);
  std::vector<Stretch> stretches;
  for (int i = 0; i < 4; ++i)
    stretches.push_back({memory.get() + (i << 16), memory.get() + ((i + 1) << 16)});
  for (const KernelTable* table : tables())
    for (const quant::TypeInfo& info : quant::kTypes) {
      SCOPED_TRACE(std::string(to_string(table->isa)) + " " + std::string(info.name));
      const int type = type_index(info.type);
      const std::int64_t bytes = panel_bytes(info.type, kColumns);
      const auto panels = zeros(2 * bytes), x = zeros(kColumns * 16 * 4), out = zeros(16 * 32 * 4);
      for (int size = 0; size < kFusedKinds; ++size) {
        if (table->fused[type][size] == nullptr) continue;
        const auto counts = begun(stretches, [&](Fetch* f) {
          table->fused[type][size]({panels.get(), bytes, 0, 2, kColumns,
                                    reinterpret_cast<const float*>(x.get()),
                                    reinterpret_cast<const float*>(x.get()),
                                    reinterpret_cast<float*>(out.get()), 32, false, f});
        });
        if (kFusedSizes[size] < kPackedFused) {
          EXPECT_EQ(counts.back(), 0);
        } else {
          EXPECT_EQ(counts.front(), 1);
          EXPECT_EQ(counts.back(), 4);
        }
      }
      const std::int32_t group = info.group == 0 ? kChunk : info.group;
      const auto unpacked = zeros(2 * sizeof(UnpackedPanel));
      const auto counts = begun(stretches, [&](Fetch* f) {
        table->tile[table->tile_panels - 1][table->tile_rows - 1](
            {reinterpret_cast<const UnpackedPanel*>(unpacked.get()),
             reinterpret_cast<const float*>(x.get()), nullptr, kChunk, group,
             reinterpret_cast<float*>(out.get()), f});
      });
      const int lines = (table->tile_rows * table->tile_panels * 12 + 15) / 16;  // per 32 inputs
      const int each = (1024 + lines - 1) / lines;  // a stretch has 1024
      EXPECT_EQ(counts.front(), 1);
      EXPECT_EQ(counts.back(), std::min(4, (40 * kChunk / 32 - 1) / each + 1));
    }
}

}  // namespace
}  // namespace herd::cpu
