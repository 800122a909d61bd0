// What the plan says a model takes of the device is what it takes.
#include <gtest/gtest.h>

#include "tiny_model.h"

namespace herd {
namespace {

TEST(CudaPlan, IsWithinFivePercentOfUse) {
  auto watcher = make_backend({DeviceType::cuda, 1, Isa::automatic});  // the context is made once
  if (!watcher.ok()) GTEST_SKIP() << watcher.error().message;
  ModelOptions options;
  options.device = DeviceType::cuda;
  options.batch_size = 32, options.context = 256, options.kv_tokens = 1 << 20;
  const std::string path = test::data_file("tiny-gqa-Q4_K_M.gguf");
  const auto need = LlamaModel::plan(path, options);
  ASSERT_TRUE(need.ok());
  const std::int64_t before = (*watcher)->memory().available;
  LlamaModel model = test::load(path, options);
  const std::vector<TokenId> next(32, 1);
  ASSERT_TRUE(model.continue_greedy(next, 8).ok());
  const std::int64_t used = before - (*watcher)->memory().available;
  printf("planned %lld, used %lld\n", static_cast<long long>(need->total),
         static_cast<long long>(used));
  EXPECT_LE(used, need->total + need->total / 20);
  EXPECT_GE(used, need->total - need->total / 20);
}

TEST(CudaPlan, TooMuchIsRefusedBeforeAnythingIsTaken) {
  auto watcher = make_backend({DeviceType::cuda, 1, Isa::automatic});
  if (!watcher.ok()) GTEST_SKIP() << watcher.error().message;
  ModelOptions options;
  options.device = DeviceType::cuda;
  options.context = 256, options.kv_tokens = 1 << 30;
  const std::int64_t before = (*watcher)->memory().available;
  const auto model = LlamaModel::from_gguf(test::data_file("tiny-gqa-Q4_K_M.gguf"), options);
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code, Code::resource_exhausted) << model.error().message;
  EXPECT_NE(model.error().message.find("KV"), std::string::npos) << model.error().message;
  EXPECT_EQ((*watcher)->memory().available, before);
}

}  // namespace
}  // namespace herd
