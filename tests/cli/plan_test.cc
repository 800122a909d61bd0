// `herd plan` against what a process really takes: work that fills every sequence to its end, and
// the most memory the process ever had.
#include <gtest/gtest.h>

#include <cmath>

#include "cli/run_herd.h"

namespace herd::test {
namespace {

using nlohmann::json;

struct Config {
  std::string shape, type;
  int batch, context;
  std::vector<std::string> more;
};

/// One prompt for each place, all different, each as long as the context allows.
std::string full_prompts(const Config& config) {
  std::string out;
  std::uint64_t state = 88172645463325252ull;  // xorshift64
  for (int b = 0; b < config.batch; ++b) {
    std::vector<int> ids;
    for (int i = 0; i + 1 < config.context; ++i) {
      state ^= state << 13, state ^= state >> 7, state ^= state << 17;
      ids.push_back(static_cast<int>(state % 500));
    }
    out += json{{"ids", ids}}.dump() + "\n";
  }
  return out;
}

TEST(PlanMemory, IsWithinFivePercentOfTheMeasuredPeak) {
  const std::vector<Config> configs = {
      {"15m", "F32", 1, 256, {}},
      {"15m", "Q8_0", 16, 512, {}},
      {"15m", "Q4_0", 8, 768, {"--kv-type", "f32"}},
      {"15m", "Q4_K_M", 4, 1024, {"--threads", "1"}},
      {"smollm2-135m", "Q4_0", 2, 256, {}},
      {"smollm2-135m", "Q4_0", 8, 160, {"--kv-type", "f32", "--isa", "scalar"}},
      {"tiny", "F16", 16, 2048, {"--kv-type", "f32"}},
  };
  Folder folder;
  for (const Config& config : configs) {
    SCOPED_TRACE(config.shape + " " + config.type + " batch " + std::to_string(config.batch));
    const std::string model = folder / (config.shape + config.type);
    if (!std::filesystem::exists(model)) {
      const Outcome made =
          herd({"make-model", "--shape", config.shape, "--type", config.type, model});
      ASSERT_EQ(made.status, 0) << made.err;
    }
    std::vector<std::string> sizes = {"--batch-size", std::to_string(config.batch), "--context",
                                      std::to_string(config.context)};
    sizes.insert(sizes.end(), config.more.begin(), config.more.end());
    std::vector<std::string> plan = {"plan", model, "--json"};
    plan.insert(plan.end(), sizes.begin(), sizes.end());
    const Outcome planned = herd(plan);
    ASSERT_EQ(planned.status, 0) << planned.err;
    const json need = json::parse(planned.out);

    std::vector<std::string> run = {"generate",
                                    "-m",
                                    model,
                                    "--prompts",
                                    folder.write("p.jsonl", full_prompts(config)),
                                    "-n",
                                    "1",
                                    "--ignore-eos",
                                    "--json"};
    run.insert(run.end(), sizes.begin(), sizes.end());
    const Outcome ran = herd(run);
    ASSERT_EQ(ran.status, 0) << ran.err;
    const auto total = need["total"].get<double>(), peak = static_cast<double>(ran.peak_bytes);
    printf("%-14s %-7s batch %2d context %4d: planned %7.1f MiB, peak %7.1f MiB (%+.1f %%)\n",
           config.shape.c_str(), config.type.c_str(), config.batch, config.context, total / 1048576,
           peak / 1048576, 100 * (peak - total) / total);
    EXPECT_FALSE(!(std::abs(peak - total) <= 0.05 * total));
    // What people decide by is consistent.
    EXPECT_EQ(need["kv"].get<std::int64_t>(),
              need["kv_tokens"].get<std::int64_t>() * need["kv_per_token"].get<std::int64_t>());
    EXPECT_GT(need["most_sequences"].get<std::int64_t>(), config.batch);
  }
}

TEST(PlanMemory, LoadsNoWeight) {
  Folder folder;
  const std::string model = folder / "m.gguf";
  ASSERT_EQ(herd({"make-model", "--shape", "smollm2-135m", "--type", "F16", model}).status, 0);
  const Outcome plan = herd({"plan", model, "--json"});
  ASSERT_EQ(plan.status, 0) << plan.err;
  EXPECT_GT(json::parse(plan.out)["weights"].get<std::int64_t>(), 200 << 20);
  EXPECT_LT(plan.peak_bytes, 64 << 20);
}

}  // namespace
}  // namespace herd::test
