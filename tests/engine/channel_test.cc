// The queue between the engine and the owner of an Answer.
#include "engine/channel.h"

#include <gtest/gtest.h>

namespace herd {
namespace {

Event token(TokenId id, FinishReason end = FinishReason::none) {
  Event event;
  event.id = id;
  event.text = "a piece of text that is longer than a string holds by itself";
  event.logprob = TokenLogprob{id, -1.0f, {{id, -1.0f}, {0, -2.0f}}};
  event.finish_reason = end;
  return event;
}

TEST(Channel, EventsComeInOrderAndEndOnce) {
  Answer::Channel channel({});
  EXPECT_TRUE(channel.pop_all().empty());
  channel.push(token(1));
  channel.push(token(2));
  EXPECT_EQ(channel.pop()->id, 1);
  channel.push(token(3, FinishReason::stop));
  EXPECT_FALSE(channel.done());
  const auto rest = channel.pop_all();
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].id, 2);
  EXPECT_EQ(rest[1].finish_reason, FinishReason::stop);
  EXPECT_TRUE(channel.done());
  EXPECT_FALSE(channel.pop());  // and does not wait
}

TEST(Channel, CallsBackForEachEventThatFindsItEmpty) {
  int calls = 0;
  Answer::Channel channel([&] { ++calls; });
  channel.push(token(1));
  channel.push(token(2));
  EXPECT_EQ(calls, 1);
  channel.pop_all();
  channel.push(token(3));
  EXPECT_EQ(calls, 2);
  channel.pop();
  channel.push(token(4, FinishReason::length));
  EXPECT_EQ(calls, 3);
}

TEST(Channel, CountsTheBytesThatNobodyTook) {
  Answer::Channel channel({});
  EXPECT_EQ(channel.unread_bytes(), 0u);
  channel.push(token(1));
  const std::size_t one = channel.unread_bytes();
  EXPECT_GT(one, sizeof(Event) + 60 + 2 * sizeof(std::pair<TokenId, float>));
  channel.push(token(2));
  EXPECT_EQ(channel.unread_bytes(), 2 * one);
  channel.pop();
  EXPECT_EQ(channel.unread_bytes(), one);
  channel.pop_all();
  EXPECT_EQ(channel.unread_bytes(), 0u);
}

}  // namespace
}  // namespace herd
