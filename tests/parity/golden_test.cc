// Tiny models of every weight type against logits that other programs computed in f32 or f64 from
// the dequantised weights.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "sample/sampler.h"
#include "tiny_model.h"

namespace herd {
namespace {

struct Golden {
  std::vector<std::vector<TokenId>> sequences;
  std::size_t vocab = 0;
  std::vector<float> logits;  // [sequence][token][vocab]
};

Golden read_golden(const std::string& name) {
  Golden golden;
  std::ifstream text(test::data_file(name + ".json"));
  const auto json = nlohmann::json::parse(text);
  golden.sequences = json.at("sequences").get<std::vector<std::vector<TokenId>>>();
  golden.vocab = json.at("vocab").get<std::size_t>();
  std::size_t tokens = 0;
  for (const auto& ids : golden.sequences) tokens += ids.size();
  golden.logits.resize(tokens * golden.vocab);
  std::ifstream raw(test::data_file(name + ".logits.f32"), std::ios::binary);
  raw.read(reinterpret_cast<char*>(golden.logits.data()),
           static_cast<std::streamsize>(golden.logits.size() * sizeof(float)));
  EXPECT_EQ(raw.gcount(), static_cast<std::streamsize>(golden.logits.size() * sizeof(float)));
  return golden;
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(HERD_TEST_DATA)) {
    const std::string file = entry.path().filename().string();
    const std::string suffix = ".logits.f32";
    if (file.ends_with(suffix)) names.push_back(file.substr(0, file.size() - suffix.size()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Logits of every token of every sequence, in the layout of the golden file.
std::vector<float> all_logits(LlamaModel& model, const Golden& golden) {
  std::vector<float> logits(golden.logits.size(), std::nanf(""));
  std::vector<std::size_t> first = {0};
  for (const auto& ids : golden.sequences) first.push_back(first.back() + ids.size());
  const Status status = model.forward_all(
      golden.sequences, [&](std::size_t sequence, std::size_t token, std::span<const float> row) {
        EXPECT_EQ(row.size(), golden.vocab);
        std::copy(
            row.begin(), row.end(),
            logits.begin() + static_cast<std::ptrdiff_t>((first[sequence] + token) * golden.vocab));
      });
  EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().message);
  return logits;
}

double standard_deviation(std::span<const float> x) {
  double sum = 0, squares = 0;
  for (const float v : x) sum += v, squares += static_cast<double>(v) * v;
  const auto n = static_cast<double>(x.size());
  return std::sqrt(squares / n - (sum / n) * (sum / n));
}

double worst_error(std::span<const float> a, std::span<const float> b) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double error = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= worst)) worst = error;  // NaN stays
  }
  return worst;
}

/// Mean over rows of KL(softmax(p) || softmax(q)).
double mean_kl(std::span<const float> p, std::span<const float> q, std::size_t vocab) {
  double total = 0;
  for (std::size_t row = 0; row < p.size(); row += vocab) {
    const double log_p = log_sum_exp(p.subspan(row, vocab));
    const double log_q = log_sum_exp(q.subspan(row, vocab));
    for (std::size_t i = row; i < row + vocab; ++i)
      total += std::exp(p[i] - log_p) * ((p[i] - log_p) - (q[i] - log_q));
  }
  return total / static_cast<double>(p.size() / vocab);
}

bool is_gpu(DeviceType device) {
  return device != DeviceType::reference && device != DeviceType::cpu;
}

class GoldenLogits : public testing::TestWithParam<std::tuple<std::string, DeviceType>> {
 protected:
  std::vector<float> run(const Golden& golden, KvType kv_type) {
    const auto& [name, device] = GetParam();
    ModelOptions options;
    options.device = device;
    options.batch_size = 4;  // fewer than the sequences
    options.context = 128;
    options.max_rows = 48;  // fewer than the longest
    options.kv_type = kv_type;
    LlamaModel model = test::load(test::data_file(name + ".gguf"), options);
    return all_logits(model, golden);
  }
};

TEST_P(GoldenLogits, LogitsWithF32Keys) {
  if (is_gpu(std::get<1>(GetParam()))) GTEST_SKIP() << "GPUs keep keys as f16";
  const Golden golden = read_golden(std::get<0>(GetParam()));
  const double error =
      worst_error(run(golden, KvType::f32), golden.logits) / standard_deviation(golden.logits);
  printf("worst logit error %.1e standard deviations\n", error);
  EXPECT_FALSE(!(error <= 5e-4)) << error;
}

TEST_P(GoldenLogits, DivergenceWithF16Keys) {
  if (const auto missing = test::missing(std::get<1>(GetParam()))) GTEST_SKIP() << *missing;
  const Golden golden = read_golden(std::get<0>(GetParam()));
  const double kl = mean_kl(golden.logits, run(golden, KvType::f16), golden.vocab);
  const double bound = is_gpu(std::get<1>(GetParam())) ? 2e-5 : 1e-5;
  printf("mean KL %.2e\n", kl);
  EXPECT_FALSE(!(kl <= bound)) << kl;
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLogits,
                         testing::Combine(testing::ValuesIn(golden_names()),
                                          testing::Values(DeviceType::reference, DeviceType::cpu,
                                                          DeviceType::cuda,
                                                          DeviceType::metal_emulated)),
                         [](const auto& param) {
                           std::string name = std::get<0>(param.param) + "_" +
                                              std::string(to_string(std::get<1>(param.param)));
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace herd
