#include "kv/pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace herd {

// Reaches into a pool to plant the faults that its public calls cannot make.
struct PagePoolPeer {
  static std::vector<PageId>& free_list(PagePool& pool) { return pool.free_; }
  static std::vector<std::int32_t>& references(PagePool& pool) { return pool.references_; }
  static std::vector<bool>& kept(PagePool& pool) { return pool.kept_; }
};

namespace {

constexpr std::uint32_t kSeed = 20240611;

TEST(PagePool, HandsOutEveryPageOnceThenRefuses) {
  PagePool pool(3, 4);
  std::vector<PageId> pages;
  for (int i = 0; i < 3; ++i) pages.push_back(*pool.allocate());
  EXPECT_EQ(pages, (std::vector<PageId>{0, 1, 2}));
  const Result<PageId> none = pool.allocate();
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code, Code::resource_exhausted);
  EXPECT_EQ(pool.used(), 3);
  pool.retain(1);
  pool.release(1);
  EXPECT_EQ(pool.free(), 0);
  pool.release(1);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(*pool.allocate(), 1);
  EXPECT_TRUE(pool.check_integrity(pages).ok());
}

TEST(PagePool, KeptPagesAreCachedInTheOrderTheirOwnersLeft) {
  PagePool pool(4, 4);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pool.allocate().ok());
  for (const PageId page : {0, 1, 2}) pool.keep(page);
  for (const PageId page : {2, 3, 0, 1}) pool.release(page);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.cached(), 3);
  EXPECT_EQ(pool.used(), 0);
  pool.retain(0);  // in the middle of the queue
  EXPECT_EQ(pool.used(), 1);
  EXPECT_EQ(pool.evict(), 2);
  pool.release(0);
  EXPECT_EQ(pool.evict(), 1);
  EXPECT_EQ(pool.evict(), 0);
  EXPECT_EQ(pool.free(), 4);
  EXPECT_TRUE(pool.check_integrity({}).ok());
}

TEST(BlockTable, ExtendsAllOrNothing) {
  PagePool pool(4, 8);
  BlockTable table(4);
  ASSERT_TRUE(table.extend(pool, 9).ok());
  const std::vector<PageId> before(table.pages().begin(), table.pages().end());
  const Status refused = table.extend(pool, 24);  // 33 positions: 5 pages
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::resource_exhausted);
  EXPECT_NE(refused.error().message.find("3 pages needed, 2 of 4 free"), std::string::npos)
      << refused.error().message;
  EXPECT_EQ(table.length(), 9);
  EXPECT_EQ(pool.free(), 2);
  EXPECT_TRUE(std::equal(before.begin(), before.end(), table.pages().begin(), table.pages().end()));
  EXPECT_TRUE(table.extend(pool, 23).ok());  // 32 positions: all 4 pages
  EXPECT_EQ(pool.free(), 0);
  EXPECT_EQ(table.extend(pool, -1).error().code, Code::invalid_argument);
  EXPECT_EQ(table.extend(pool, 2147483647).error().code, Code::invalid_argument);
  EXPECT_EQ(table.length(), 32);
}

TEST(BlockTable, TruncateKeepsTheBoundaryPage) {
  PagePool pool(4, 8);
  BlockTable table(4);
  ASSERT_TRUE(table.extend(pool, 25).ok());
  const std::int32_t slot = table.slot(pool, 8);
  table.truncate(pool, 24);
  EXPECT_EQ(pool.free(), 1);
  table.truncate(pool, 9);
  EXPECT_EQ(pool.free(), 2);
  EXPECT_EQ(table.slot(pool, 8), slot);
  table.clear(pool);
  EXPECT_EQ(pool.free(), 4);
  EXPECT_EQ(table.length(), 0);
}

class PlantedFault : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(table_.extend(pool_, 6).ok()); }  // pages 0, 1 and 2 of 5
  void expect_found(const std::string& words) {
    const Status status = pool_.check_integrity(owned_);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, Code::internal);
    EXPECT_NE(status.error().message.find(words), std::string::npos) << status.error().message;
  }
  PagePool pool_{5, 2};
  BlockTable table_{5};
  std::vector<PageId> owned_{0, 1, 2};
};

TEST_F(PlantedFault, NoneIsFine) {
  EXPECT_TRUE(pool_.check_integrity(owned_).ok());
}
TEST_F(PlantedFault, OwnerWithoutReference) {
  owned_.push_back(1);
  expect_found("page 1 has 1 references and 2 owners");
}
TEST_F(PlantedFault, ReferenceWithoutOwner) {
  owned_.pop_back();
  expect_found("page 2 has 1 references and 0 owners");
}
TEST_F(PlantedFault, OwnedButFree) {
  owned_.push_back(4);
  expect_found("page 4 has 0 references and 1 owners");
}
TEST_F(PlantedFault, OwnedOutside) {
  owned_[0] = 5;
  expect_found("page 5 is owned but outside");
  owned_[0] = -1;
  expect_found("page -1 is owned but outside");
}
TEST_F(PlantedFault, FreeTwice) {
  PagePoolPeer::free_list(pool_).push_back(3);
  expect_found("page 3 is free twice");
}
TEST_F(PlantedFault, FreeAndReferenced) {
  PagePoolPeer::free_list(pool_).push_back(1);
  expect_found("page 1 is free and has 1 references");
}
TEST_F(PlantedFault, Lost) {
  PagePoolPeer::free_list(pool_).pop_back();
  expect_found("page 3 is lost");
}
TEST_F(PlantedFault, FreeButKept) {
  pool_.keep(0);
  table_.clear(pool_);
  PagePoolPeer::free_list(pool_).push_back(0);
  owned_.clear();
  expect_found("page 0 is free but kept");
}
TEST_F(PlantedFault, CachedAndReferenced) {
  pool_.keep(2);
  pool_.release(2);
  PagePoolPeer::references(pool_)[2] = 1;
  expect_found("page 2 is cached and has 1 references");
}
TEST_F(PlantedFault, CachedButNotKept) {
  pool_.keep(2);
  pool_.release(2);
  PagePoolPeer::kept(pool_)[2] = false;
  expect_found("page 2 is cached but not kept");
}
TEST_F(PlantedFault, FreeOutside) {
  PagePoolPeer::free_list(pool_)[0] = 9;
  expect_found("page 9 is free but outside");
}
TEST_F(PlantedFault, WrongCount) {
  PagePoolPeer::references(pool_)[2] = 2;
  expect_found("page 2 has 2 references and 1 owners");
}

// What the pool should say, kept the slow way: every table's pages and nothing else.
struct Model {
  struct Table {
    BlockTable real;
    std::vector<PageId> pages;
    std::int32_t length = 0;
  };
  PagePool pool{48, 4};  // small: full often, and cheap to check at every step
  std::vector<Table> tables = std::vector<Table>(12);
  std::vector<PageId> loose;  // references held outside tables

  std::vector<PageId> owned() const {
    std::vector<PageId> all = loose;
    for (const Table& t : tables) all.insert(all.end(), t.pages.begin(), t.pages.end());
    return all;
  }
  std::int32_t free_pages() const {
    std::vector<bool> used(48, false);
    for (const PageId page : owned()) used[static_cast<std::size_t>(page)] = true;
    return static_cast<std::int32_t>(std::count(used.begin(), used.end(), false));
  }
};

void step_extend(Model& m, Model::Table& t, std::int32_t count) {
  const std::int32_t needed =
      (t.length + count + 3) / 4 - static_cast<std::int32_t>(t.pages.size());
  const bool fits = needed <= m.free_pages();
  const std::vector<PageId> before = m.owned();
  ASSERT_EQ(t.real.extend(m.pool, count).ok(), fits);
  if (!fits) return;
  for (std::size_t i = t.pages.size(); i < t.real.pages().size(); ++i) {
    const PageId page = t.real.pages()[i];
    ASSERT_EQ(std::count(before.begin(), before.end(), page), 0) << "page in use handed out";
    t.pages.push_back(page);
  }
  t.length += count;
}

void step_truncate(Model& m, Model::Table& t, std::int32_t length) {
  t.real.truncate(m.pool, length);
  t.pages.resize(static_cast<std::size_t>((length + 3) / 4));
  t.length = length;
}

// `to` becomes a second owner of all that `from` has.
void step_share(Model& m, const Model::Table& from, Model::Table& to) {
  if (&from == &to) return;
  to.real.clear(m.pool);
  to = from;
  for (const PageId page : to.pages) m.pool.retain(page);
}

void step_loose(Model& m, std::mt19937& random) {
  if (!m.loose.empty() && random() % 2 == 0) {
    const std::size_t i = random() % m.loose.size();
    m.pool.release(m.loose[i]);
    m.loose.erase(m.loose.begin() + static_cast<std::ptrdiff_t>(i));
  } else if (!m.loose.empty() && m.loose.size() < 20 && random() % 2 == 0) {
    m.loose.push_back(m.loose[random() % m.loose.size()]);
    m.pool.retain(m.loose.back());
  } else if (m.loose.size() < 20) {
    const bool fits = m.free_pages() > 0;
    const Result<PageId> page = m.pool.allocate();
    ASSERT_EQ(page.ok(), fits);
    if (fits) m.loose.push_back(*page);
  }
}

void step(Model& m, std::mt19937& random) {
  Model::Table& t = m.tables[random() % m.tables.size()];
  const std::uint32_t kind = random() % 16;
  if (kind < 7) return step_extend(m, t, static_cast<std::int32_t>(random() % 24));
  if (kind < 10)
    return step_truncate(
        m, t, static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(t.length + 1)));
  if (kind < 11) return step_truncate(m, t, 0);
  if (kind < 12) return step_share(m, m.tables[random() % m.tables.size()], t);
  step_loose(m, random);
}

void compare(const Model& m) {
  const std::vector<PageId> owned = m.owned();
  const Status status = m.pool.check_integrity(owned);
  ASSERT_TRUE(status.ok()) << status.error().message;
  ASSERT_EQ(m.pool.free(), m.free_pages());
  for (const Model::Table& t : m.tables) {
    ASSERT_EQ(t.real.length(), t.length);
    ASSERT_TRUE(
        std::equal(t.pages.begin(), t.pages.end(), t.real.pages().begin(), t.real.pages().end()));
    if (t.length == 0) continue;
    ASSERT_EQ(t.real.slot(m.pool, t.length - 1), t.pages.back() * 4 + (t.length - 1) % 4);
  }
}

TEST(PagePool, RandomOperationsMatchTheModel) {
  std::mt19937 random(kSeed);
  Model m;
  int exhausted = 0, shared = 0;
  for (int i = 0; i < 100000; ++i) {
    step(m, random);
    if (!testing::Test::HasFatalFailure()) compare(m);
    if (testing::Test::HasFatalFailure()) FAIL() << "seed " << kSeed << ", step " << i;
    exhausted += m.pool.free() == 0;
    for (PageId page = 0; page < m.pool.total(); ++page) shared += m.pool.references(page) > 1;
  }
  EXPECT_GT(exhausted, 1000);
  EXPECT_GT(shared, 1000);
  for (Model::Table& t : m.tables) t.real.clear(m.pool);
  for (const PageId page : m.loose) m.pool.release(page);
  EXPECT_EQ(m.pool.free(), 48);
  EXPECT_TRUE(m.pool.check_integrity({}).ok());
}

}  // namespace
}  // namespace herd
