#include "kv/prefix_cache.h"

#include <gtest/gtest.h>

namespace herd {

// Reaches in to plant what only an accident or a bug would make.
struct PrefixCachePeer {
  static TokenId& token(PrefixCache& cache, PageId page, std::int32_t at) {
    return cache.tokens_[static_cast<std::size_t>(page * cache.pool_.page_size() + at)];
  }
  static PageId& before(PrefixCache& cache, PageId page) {
    return cache.entries_[static_cast<std::size_t>(page)].before;
  }
  static void lose(PrefixCache& cache, PageId page) { cache.remove(page); }
};

namespace {

using Ids = std::vector<TokenId>;
using Pages = std::vector<PageId>;

class Prefix : public testing::Test {
 protected:
  /// Computes and shares all of `ids`.
  BlockTable computed(const Ids& ids, CachePartition partition = 0) {
    BlockTable table(8);
    EXPECT_TRUE(table.extend(cache_.pool(), static_cast<std::int32_t>(ids.size())).ok());
    cache_.share(table, partition, ids);
    return table;
  }
  Pages adopted(const Ids& ids, CachePartition partition = 0) {
    BlockTable table(8);
    cache_.adopt(table, partition, ids);
    const Pages pages(table.pages().begin(), table.pages().end());
    table.clear(cache_.pool());
    return pages;
  }
  void expect_whole(const Pages& owned = {}) {
    const Status status = cache_.check_integrity(owned);
    EXPECT_TRUE(status.ok()) << status.error().message;
  }
  void expect_wrong(const std::string& words, const Pages& owned = {}) {
    const Status status = cache_.check_integrity(owned);
    ASSERT_FALSE(status.ok());
    EXPECT_NE(status.error().message.find(words), std::string::npos) << status.error().message;
  }
  PrefixCache cache_{6, 2};
};

TEST_F(Prefix, FullPagesAreFoundByTheirTokens) {
  BlockTable table = computed({1, 2, 3, 4, 5});
  EXPECT_EQ(adopted({1, 2, 3, 4, 5, 6}), (Pages{0, 1}));
  EXPECT_EQ(adopted({1, 2, 3}), (Pages{0}));
  EXPECT_EQ(adopted({1}), Pages{});
  EXPECT_EQ(adopted({1, 2, 3, 9}), (Pages{0}));
  EXPECT_EQ(adopted({3, 4}), Pages{});  // the same tokens after others are another page
  EXPECT_EQ(adopted({1, 2, 3, 4}, /*partition=*/1), Pages{});
  expect_whole({0, 1, 2});
  table.clear(cache_.pool());
  EXPECT_EQ(cache_.pool().free(), 4);
  EXPECT_EQ(cache_.pool().cached(), 2);
  EXPECT_EQ(cache_.available(), 6);
  EXPECT_EQ(adopted({1, 2, 3, 4}), (Pages{0, 1}));
  expect_whole();
}

TEST_F(Prefix, AHashAloneIsNotBelieved) {
  BlockTable table = computed({1, 2, 3, 4});
  PrefixCachePeer::token(cache_, 1, 0) = 9;  // as if other tokens had the same hash
  EXPECT_EQ(adopted({1, 2, 3, 4}), (Pages{0}));
  PrefixCachePeer::token(cache_, 1, 0) = 3;
  PrefixCachePeer::before(cache_, 1) = -1;  // as if the page followed another
  EXPECT_EQ(adopted({1, 2, 3, 4}), (Pages{0}));
}

TEST_F(Prefix, TheSamePageComputedTwiceIsKeptOnce) {
  BlockTable a = computed({1, 2, 3, 4}), b = computed({1, 2, 3, 4, 5, 6});
  EXPECT_EQ(Pages(b.pages().begin(), b.pages().end()), (Pages{0, 1, 4}));
  EXPECT_EQ(cache_.pool().free(), 3);
  expect_whole({0, 1, 0, 1, 4});
}

TEST_F(Prefix, WhoEndedFirstIsEvictedFirstAndLastPagesBeforeFirst) {
  BlockTable a = computed({1, 2, 3, 4}), b = computed({7, 8}), c = computed({1, 2, 5, 6});
  a.clear(cache_.pool());  // page 0 is still c's
  b.clear(cache_.pool());
  c.clear(cache_.pool());
  expect_whole();
  EXPECT_EQ(cache_.pool().cached(), 4);
  cache_.make_free(3);
  EXPECT_EQ(adopted({1, 2, 3, 4}), (Pages{0}));
  EXPECT_EQ(adopted({7, 8}), (Pages{2}));
  cache_.make_free(4);  // looking at page 0 made it the younger of these two, then {7, 8}
  EXPECT_EQ(adopted({7, 8}), (Pages{2}));
  expect_whole();
  cache_.make_free(6);
  EXPECT_EQ(adopted({1, 2}), Pages{});
  expect_whole();
}

TEST_F(Prefix, IntegrityFindsPlantedFaults) {
  BlockTable table = computed({1, 2, 3, 4});
  PrefixCachePeer::before(cache_, 1) = 3;
  expect_wrong("page 1 is shared and the page before it is not", {0, 1});
  PrefixCachePeer::before(cache_, 1) = 0;
  PrefixCachePeer::lose(cache_, 1);
  expect_wrong("page 1 is shared and cannot be found", {0, 1});
}

TEST_F(Prefix, IntegrityFindsAPageThatOutlivesItsPrefix) {
  BlockTable table = computed({1, 2, 3, 4});
  cache_.pool().release(0);  // the wrong way round
  expect_wrong("page 1 is shared and in use, the page before it is not", {1});
  cache_.pool().release(1);
  expect_wrong("page 1 is shared and outlives the page before it");
}

}  // namespace
}  // namespace herd
