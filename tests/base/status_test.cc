#include "herd/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace herd {
namespace {

Status fail() {
  return {Code::corrupt, "tensor x"};
}
Status convert() {
  return Error{Code::io, "read"};
}
Result<int> number(bool good) {
  if (good) return 7;
  return {Code::not_found, "no number"};
}

TEST(Status, DefaultIsSuccess) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_TRUE(static_cast<bool>(status));
}

TEST(Status, CarriesCodeAndMessage) {
  const Status status = fail();
  ASSERT_FALSE(status.ok());
  EXPECT_FALSE(static_cast<bool>(status));
  EXPECT_EQ(status.error().code, Code::corrupt);
  EXPECT_EQ(status.error().message, "tensor x");
  EXPECT_EQ(convert().error().code, Code::io);
}

TEST(Result, HoldsAValueOrAnError) {
  Result<int> good = number(true);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 7);
  *good = 8;
  EXPECT_EQ(good.value(), 8);
  EXPECT_TRUE(good.status().ok());

  const Result<int> bad = number(false);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, Code::not_found);
  EXPECT_EQ(bad.status().error().message, "no number");
}

TEST(Result, MovesWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(3));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(**result, 3);
  const std::unique_ptr<int> taken = *std::move(result);
  EXPECT_EQ(*taken, 3);
}

TEST(Result, OfAStringKeepsValueAndErrorApart) {
  const Result<std::string> value(std::string("text"));
  const Result<std::string> error(Code::internal, "text");
  EXPECT_TRUE(value.ok());
  EXPECT_EQ(value->size(), 4u);
  EXPECT_FALSE(error.ok());
}

TEST(Code, EveryOneHasItsOwnName) {
  std::vector<std::string_view> names;
  for (int code = 0; code <= static_cast<int>(Code::internal); ++code)
    names.push_back(to_string(static_cast<Code>(code)));
  EXPECT_EQ(names, (std::vector<std::string_view>{"invalid argument", "not found", "out of range",
                                                  "unsupported", "corrupt", "resource exhausted",
                                                  "input/output", "cancelled", "internal"}));
}

}  // namespace
}  // namespace herd
