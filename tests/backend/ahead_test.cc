#include "backend/cpu/ahead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <utility>
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
const std::int64_t kKeyPage = 32 * (2 * 16 + 4), kValuePage = 32 * 2 * 16;  // of a head

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
    if (ahead.fetches() == nullptr) continue;
    const Fetch* f = &ahead.fetches()[t].fetch;
    EXPECT_EQ(f->at, f->end);
    stretches.insert(stretches.end(), f->next, f->last);
  }
  return stretches;
}

TEST(KvAhead, ThePagesOfTheNextLayerAreSharedOutInOrder) {
  auto* keys = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 30);
  auto* values = reinterpret_cast<std::byte*>(std::uintptr_t{1} << 31);
  const TwoSequences two;
  for (const int threads : {1, 2, 5}) {
    KvAhead ahead(threads, kCache);
    ahead.create({small_layout(7), keys, values});
    ahead.product_begins(1000);
    EXPECT_EQ(ahead.fetches(), nullptr);  // nothing is known yet
    ahead.attention_done(0, two.batch);
    ahead.product_begins(1000);
    const std::vector<Stretch> stretches = stretches_of(ahead, threads);
    // Layer 1 has pages 14 to 20 of head 0 and 21 to 27 of head 1, in the order of attention's
    // tasks.
    const int pages[] = {14 + 5, 14 + 2, 21 + 5, 21 + 2, 14, 21};
    ASSERT_EQ(stretches.size(), 2 * std::size(pages));
    for (std::size_t i = 0; i < std::size(pages); ++i) {
      const std::int64_t page = pages[i];
      EXPECT_EQ(stretches[2 * i].at, keys + page * kKeyPage);
      EXPECT_EQ(stretches[2 * i].end, keys + (page + 1) * kKeyPage);
      EXPECT_EQ(stretches[2 * i + 1].at, values + page * kValuePage);
      EXPECT_EQ(stretches[2 * i + 1].end, values + (page + 1) * kValuePage);
    }
    ahead.attention_done(2, two.batch);  // the last layer: none comes behind it
    ahead.product_begins(1000);
    EXPECT_EQ(ahead.fetches(), nullptr);
  }
}

TEST(KvAhead, NothingIsAskedForThatTheCacheWouldNotKeepUntilItsUse) {
  const TwoSequences two;
  KvAhead ahead(1, kCache);
  ahead.create({small_layout(7)});
  ahead.product_begins(kCache);  // between two attentions: four times what may lie between
  ahead.attention_done(0, two.batch);
  ahead.product_begins(kCache * 3 / 4 - 1);
  EXPECT_EQ(ahead.fetches(), nullptr);
  ahead.product_begins(1);  // kCache / 4 + 1 left
  EXPECT_EQ(ahead.fetches(), nullptr);
  ahead.product_begins(kCache / 4);  // kCache / 4 left
  EXPECT_NE(ahead.fetches(), nullptr);
  ahead.create({small_layout(7)});
  EXPECT_EQ(ahead.fetches(), nullptr);

  // Half of the cache at most, however long the sequences are.
  TwoSequences longer;
  const std::int64_t page = kKeyPage + kValuePage;
  const auto pages = static_cast<std::int32_t>(kCache / page);
  longer.batch.positions[1] = 32 * pages - 1;
  longer.batch.sequences[1].kv_length = 32 * pages;
  longer.batch.block_table.resize(static_cast<std::size_t>(pages) + 2, 1);
  ahead.create({small_layout(pages)});
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

/// Every kernel of few rows for matrices of `panels` panels of one type, all zeros.
struct FewRows {
  static constexpr std::int32_t kColumns = 512, kMostRows = 64;

  const KernelTable& table;
  const quant::TypeInfo& info;
  std::int32_t panels;
  std::int64_t panel_bytes = cpu::panel_bytes(info.type, kColumns);
  std::unique_ptr<std::byte, FreeArray> weights = zeros(panels * panel_bytes),
                                        x = zeros(kMostRows * kColumns * 4),
                                        out = zeros(kMostRows * 16 * panels * 4);

  /// Numbers of rows that there is a kernel for.
  std::vector<std::int32_t> rows() const {
    if (info.group != 0) return {1, 2, 3, 16, kMostRows};
    std::vector<std::int32_t> sizes;
    for (int size = 0; size < kFusedKinds; ++size)
      if (table.fused[type_index(info.type)][size] != nullptr) sizes.push_back(kFusedSizes[size]);
    return sizes;
  }
  void run(std::int32_t n, Fetch* ahead, Fetch* fetch) const {
    const int type = type_index(info.type);
    auto* floats = reinterpret_cast<float*>(x.get());
    auto* to = reinterpret_cast<float*>(out.get());
    if (info.group == 0) {
      const int size = static_cast<int>(
          std::find(std::begin(kFusedSizes), std::end(kFusedSizes), n) - std::begin(kFusedSizes));
      table.fused[type][size]({weights.get(), panel_bytes, 0, panels, kColumns, floats, to,
                               16 * panels, false, ahead, fetch});
      return;
    }
    auto* integers = reinterpret_cast<std::int32_t*>(x.get());
    const RoundedRun zero = {
        reinterpret_cast<std::int8_t*>(x.get()), floats, {floats, floats}, {integers, integers}};
    (n == 1 ? table.coded_row
            : table.coded_rows)[type]({weights.get(), panel_bytes, 0, panels, kColumns, zero, n, to,
                                       16 * panels, false, ahead, fetch});
  }
};

TEST(Fetch, ProductsOfManyRowsGoThroughItsRunsAndEndWithThem) {
  constexpr std::int32_t kColumns = FewRows::kColumns;
  const auto memory = zeros(4 << 16);
  std::vector<Stretch> stretches;
  for (int i = 0; i < 4; ++i)
    stretches.push_back({memory.get() + (i << 16), memory.get() + ((i + 1) << 16)});
  for (const KernelTable* table : present_tables()) {
    for (const quant::TypeInfo& info : quant::kTypes) {
      SCOPED_TRACE(std::string(to_string(table->isa)) + " " + std::string(info.name));
      const FewRows few{*table, info, 2};
      for (const std::int32_t rows : few.rows()) {
        const auto counts = begun(stretches, [&](Fetch* f) { few.run(rows, nullptr, f); });
        if (rows < kFetchRows) {
          EXPECT_EQ(counts.back(), 0);
          continue;
        }
        const int lines = rows * 2 * 12 / 16;  // per 32 inputs of two panels, or more
        EXPECT_GE(counts.front(), 1);
        EXPECT_GE(counts.back(), std::min(4, 40 * kColumns / 32 * lines / 1024));
      }
    }
    SCOPED_TRACE(to_string(table->isa));
    const auto unpacked = zeros(2 * sizeof(UnpackedPanel)), x = zeros(kChunk * 16 * 4),
               out = zeros(16 * 32 * 4);
    const auto counts = begun(stretches, [&](Fetch* f) {
      table->tile[table->tile_panels - 1][table->tile_rows - 1](
          {reinterpret_cast<const UnpackedPanel*>(unpacked.get()),
           reinterpret_cast<const float*>(x.get()), kChunk, reinterpret_cast<float*>(out.get()),
           f});
    });
    const int lines = (table->tile_rows * table->tile_panels * 12 + 15) / 16;  // per 32 inputs
    const int each = (1024 + lines - 1) / lines;                               // a stretch has 1024
    EXPECT_EQ(counts.front(), 1);
    EXPECT_EQ(counts.back(), std::min(4, (40 * kChunk / 32 - 1) / each + 1));
  }
}

TEST(Fetch, ProductsOfAnyNumberOfRowsAskForAsMuchOfTheWeightsAheadAsTheyRead) {
  const auto memory = zeros(1 << 20);
  for (const KernelTable* table : present_tables())
    for (const quant::TypeInfo& info : quant::kTypes) {
      SCOPED_TRACE(std::string(to_string(table->isa)) + " " + std::string(info.name));
      const FewRows few{*table, info, 4};
      const Stretch all = {memory.get(), memory.get() + (1 << 20)};
      for (const std::int32_t rows : few.rows()) {
        Fetch f = {nullptr, nullptr, &all, &all + 1};
        few.run(rows, &f, nullptr);
        EXPECT_EQ(f.at - memory.get(), few.panels * few.panel_bytes) << rows;
      }
    }
}

/// Matrices far from one another: of 6 panels (1 KiB each), of 10 (2 KiB), and two of 8 (1 KiB).
struct FourMatrices {
  const std::unique_ptr<std::byte, FreeArray> memory = zeros(1 << 20);
  std::vector<Matrix> matrices = {{quant::Type::Q8_0, 96, 32, 6, 1024, memory.get()},
                                  {quant::Type::Q8_0, 160, 32, 10, 2048, memory.get() + (1 << 18)},
                                  {quant::Type::Q8_0, 128, 32, 8, 1024, memory.get() + (1 << 19)},
                                  {quant::Type::Q8_0, 128, 32, 8, 1024, memory.get() + (3 << 18)}};
  Product product(std::initializer_list<int> indices, bool paired = false) const {
    Product p;
    for (int i : indices) p.weights[p.n++] = {i};
    p.paired = paired;
    return p;
  }
  std::vector<std::pair<std::int64_t, std::int64_t>> offsets(const Division& d, int first, int end,
                                                             std::int64_t skip = 0,
                                                             std::int64_t most = 1 << 30) const {
    std::vector<Stretch> stretches;
    d.stretches(first, end, skip, most, stretches);
    std::vector<std::pair<std::int64_t, std::int64_t>> to;
    for (const Stretch& s : stretches) to.emplace_back(s.at - memory.get(), s.end - memory.get());
    return to;
  }
};
using Offsets = std::vector<std::pair<std::int64_t, std::int64_t>>;
constexpr std::int64_t kSecond = 1 << 18, kThird = 1 << 19, kFourth = 3 << 18;

TEST(Division, ChunksOfOneMatrixAfterTheOtherOrOfAllAtOnce) {
  const FourMatrices four;
  const Division one(four.product({0, 1}), four.matrices.data(), 1, 4);  // 16 panels: by two
  EXPECT_EQ(one.chunks, 8);
  EXPECT_EQ(one.run(2, 8).weight, 0);
  EXPECT_EQ(one.run(2, 8).first, 4);
  EXPECT_EQ(one.run(0, 8).count, 6);  // no further than its matrix
  EXPECT_EQ(one.run(3, 5).weight, 1);
  EXPECT_EQ(one.run(3, 5).weights, 1);
  EXPECT_EQ(one.run(3, 5).first, 0);
  EXPECT_EQ(one.run(3, 5).count, 4);
  EXPECT_EQ(one.run(7, 8).first, 8);
  EXPECT_EQ(one.run(7, 8).count, 2);
  EXPECT_EQ(one.begin(4), four.memory.get() + kSecond + 2 * 2048);
  EXPECT_EQ(four.offsets(one, 1, 5), (Offsets{{2048, 6144}, {kSecond, kSecond + 8192}}));
  EXPECT_EQ(four.offsets(one, 1, 5, 5000, 100), (Offsets{{kSecond + 904, kSecond + 1004}}));
  EXPECT_EQ(four.offsets(one, 1, 5, 4000), (Offsets{{6048, 6144}, {kSecond, kSecond + 8192}}));
  EXPECT_EQ(four.offsets(one, 5, 5), Offsets{});

  const Division both(four.product({2, 3}, true), four.matrices.data(), 1, 4);
  EXPECT_EQ(both.chunks, 4);
  EXPECT_EQ(both.run(3, 4).weights, 2);
  EXPECT_EQ(both.run(3, 4).first, 6);
  EXPECT_EQ(four.offsets(both, 1, 3),
            (Offsets{{kThird + 2048, kThird + 6144},  // a grain of two chunks
                     {kFourth + 2048, kFourth + 6144}}));
  EXPECT_EQ(four.offsets(both, 1, 4), (Offsets{{kThird + 2048, kThird + 6144},
                                               {kFourth + 2048, kFourth + 6144},
                                               {kThird + 6144, kThird + 8192},
                                               {kFourth + 6144, kFourth + 8192}}));
  const Division none({}, four.matrices.data(), 2, 4);  // of a product not known yet
  EXPECT_EQ(none.chunks, 0);
  EXPECT_EQ(four.offsets(none, 0, 0), Offsets{});
}

TEST(WeightsAhead, AThreadReadsItsSharesAsOneRunOfMemory) {
  constexpr std::int64_t kKiB = 1 << 10, kOne = 1 << 20, kTwo = 2 << 20;
  static_assert(WeightsAhead::kAheadBytes == 8 * kKiB && WeightsAhead::kNextBytes == 64 * kKiB);
  const auto memory = zeros(3 << 20);
  const std::vector<Matrix> matrices = {
      {quant::Type::Q8_0, 96, 512, 6, 16 * kKiB, memory.get()},
      {quant::Type::Q8_0, 160, 1024, 10, 32 * kKiB, memory.get() + kOne},
      {quant::Type::Q8_0, 128, 512, 8, 16 * kKiB, memory.get() + kTwo}};
  const Division now({2, {{0}, {1}}}, matrices.data(), 2, 4);
  const Division next({1, {{2}}}, matrices.data(), 2, 4);
  const auto left = [&](WeightsAhead& ahead) {
    Offsets to;
    const Fetch& f = *ahead.fetch(1);
    if (f.at < f.end) to.emplace_back(f.at - memory.get(), f.end - memory.get());
    for (const Stretch* s = f.next; s < f.last; ++s)
      to.emplace_back(s->at - memory.get(), s->end - memory.get());
    return to;
  };
  // The second thread's: of `now` [kOne + 64, kOne + 320) KiB, of `next` [kTwo + 64, kTwo + 128).
  const std::pair of_next = {kTwo + 64 * kKiB, kTwo + 128 * kKiB};
  WeightsAhead ahead(2);
  for (int i = 0; i < 10; ++i) ahead.ask(1);  // before the first product: there is nothing
  EXPECT_EQ(ahead.fetch(1)->next, ahead.fetch(1)->last);
  EXPECT_TRUE(ahead.is_new(1, 7));
  EXPECT_FALSE(ahead.is_new(1, 7));
  EXPECT_TRUE(ahead.is_new(0, 7));
  // Nothing was asked for before: it is at once, as far as kernels are to stay ahead.
  ahead.begin(1, {now, 4, 8}, {next, 2, 4}, true);
  const Offsets from_the_start = {{kOne + 72 * kKiB, kOne + 320 * kKiB}, of_next};
  EXPECT_EQ(left(ahead), from_the_start);
  // While it waits its share has been read: what comes next is asked for, eight lines at a time.
  ahead.ask(1);
  ahead.ask(1);
  EXPECT_EQ(left(ahead), (Offsets{{of_next.first + kKiB, of_next.second}}));
  // What is asked for is not asked for again, if it is still kept and the product the one expected.
  ahead.begin(1, {next, 2, 4}, {now, 4, 8}, true);
  EXPECT_EQ(left(ahead), (Offsets{{of_next.first + 8 * kKiB, of_next.second},
                                  {kOne + 64 * kKiB, kOne + 128 * kKiB}}));
  for (int i = 0; i < 5; ++i) ahead.ask(1);
  EXPECT_EQ(left(ahead), (Offsets{{kOne + 64 * kKiB + 2560, kOne + 128 * kKiB}}));
  ahead.begin(1, {now, 4, 8}, {next, 2, 4}, false);
  EXPECT_EQ(left(ahead), from_the_start);
  ahead.ask(1);
  ahead.begin(1, {now, 4, 8}, {next, 2, 4}, true);
  EXPECT_EQ(left(ahead), from_the_start);
  // Of what comes next no more than a part of the cache.
  ahead.begin(1, {next, 2, 4}, {now, 4, 8}, true);
  for (int i = 0; i < 300; ++i) ahead.ask(1);
  EXPECT_EQ(left(ahead), Offsets{});
  // However much that was, kernels begin as far ahead as ever; nothing is known of what follows.
  ahead.begin(1, {now, 4, 8}, {next, 0, 0}, true);
  EXPECT_EQ(left(ahead), (Offsets{{kOne + 72 * kKiB, kOne + 320 * kKiB}}));
  ahead.ask(1);
  EXPECT_EQ(left(ahead), Offsets{});
  EXPECT_EQ(ahead.fetch(0)->next, ahead.fetch(0)->last);  // the other thread's are its own
}

TEST(WeightsAhead, AShareSmallerThanWhatIsAskedForAtOnceLeadsOnToTheNext) {
  const FourMatrices four;
  const Division now(four.product({0}), four.matrices.data(), 2, 4);  // 6 KiB
  const Division next(four.product({1}), four.matrices.data(), 2, 4);
  WeightsAhead ahead(2);
  ahead.begin(0, {now, 0, 3}, {next, 0, 5}, true);
  const Fetch& f = *ahead.fetch(0);
  EXPECT_EQ(f.at, four.memory.get() + kSecond + (8 - 6) * 1024);
  EXPECT_EQ(f.end, four.memory.get() + kSecond + 10 * 2048);
  ahead.begin(0, {next, 0, 5}, {now, 0, 0}, true);
  EXPECT_EQ(f.at, four.memory.get() + kSecond + 8 * 1024);
}

}  // namespace
}  // namespace herd::cpu
