// `herd verify` finds what breaks the promise: faults planted into the cpu backend, each of a kind
// that a real kernel could have.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "apps/cli/verify_cases.h"
#include "engine/impl.h"
#include "engine/limits.h"
#include "engine/sampling_backend.h"
#include "tiny_model.h"

namespace cli {
namespace {

using herd::Batch;

/// One ulp on one value of what the output is made of, in some steps.
enum class Fault {
  none,
  large_batches,  // more than 4 sequences
  long_pieces,    // a sequence with more than 6 new rows in one step
  late_pages,     // a sequence whose keys are not in the pool's first pages
};

class FaultyBackend : public herd::test::SamplingBackend {
 public:
  FaultyBackend(std::unique_ptr<herd::Backend> cpu, Fault fault)
      : SamplingBackend(std::move(cpu)), fault_(fault) {}
  bool samples_on_device() const override { return false; }
  herd::StepRows begin_step(const Batch& batch) override {
    active_ = false;
    if (fault_ == Fault::large_batches) active_ = batch.sequences.size() > 4;
    for (const auto& sequence : batch.sequences) {
      if (fault_ == Fault::long_pieces) active_ = active_ || sequence.n_rows > 6;
      const auto first = static_cast<std::size_t>(sequence.first_page);
      if (fault_ == Fault::late_pages) active_ = active_ || batch.block_table[first] > 8;
    }
    return SamplingBackend::begin_step(batch);
  }
  void rms_norm(const herd::RmsNormArgs& call) override {
    herd::RmsNormArgs args = call;
    args.for_next_matmul = false;  // out is read, and written, here
    SamplingBackend::rms_norm(args);
    if (!active_ || !args.of_logit_rows) return;
    auto* out = static_cast<float*>(args.out);
    for (std::int32_t r = 0; r < args.rows; ++r) {
      float& x = out[std::ptrdiff_t{r} * args.columns];
      x = std::nextafter(x, INFINITY);
    }
  }

 private:
  Fault fault_;
  bool active_ = false;
};

/// Loads as LlamaModel does, then puts the faulty backend under it.
OpenModel opener(const std::string& path, Fault fault) {
  return [path, fault](const herd::ModelOptions& options) -> herd::Result<herd::LlamaModel> {
    auto model = herd::LlamaModel::from_gguf(path, options);
    if (!model.ok() || fault == Fault::none) return model;
    auto file = herd::gguf::open(path);
    auto cpu = herd::make_backend({options.device, options.threads, options.isa});
    const auto limits = herd::choose_limits(options, *herd::read_config(*file), **cpu);
    auto faulty = std::make_unique<FaultyBackend>(std::move(*cpu), fault);
    model->impl().model = std::move(*herd::Model::load(*file, std::move(faulty), *limits, {}));
    return model;
  };
}

VerifyReport run(Fault fault, bool full = false) {
  const std::string path = herd::test::data_file("tiny-gqa-Q4_K_M.gguf");
  VerifyOptions options;
  options.devices = {herd::DeviceType::cpu, herd::DeviceType::reference};
  options.full = full;
  options.context = 2048;
  auto report = verify(opener(path, fault), options, [](auto&, auto&) { return true; });
  EXPECT_TRUE(report.ok()) << report.error().message;
  return report.ok() ? std::move(*report) : VerifyReport{};
}

const CaseResult& find(const VerifyReport& report, const std::string& name) {
  for (const CaseResult& c : report.cases)
    if (c.name == name) return c;
  ADD_FAILURE() << "no case " << name;
  return report.cases.front();
}

TEST(Verify, ASoundBackendKeepsThePromiseInEveryCase) {
  for (const bool full : {false, true}) {
    const VerifyReport report = run(Fault::none, full);
    for (const CaseResult& c : report.cases) {
      EXPECT_TRUE(c.kept()) << c.device << " " << c.name << ": " << c.error;
      EXPECT_GT(c.tokens, 0) << c.name;
    }
    EXPECT_TRUE(report.kept());
    EXPECT_GE(report.cases.size(), full ? 20u : 14u);
    ASSERT_EQ(report.devices.size(), 2u);
    EXPECT_EQ(report.devices[0].sha256.size(), 64u);
    EXPECT_EQ(find(report, "batch of 5").tokens, 2 * report.devices[0].tokens);
    find(report, "engine, preempted");
    find(report, "the bits of the cpu");
  }
}

TEST(Verify, OneUlpInBatchesOfMoreThanFourIsFound) {
  const VerifyReport report = run(Fault::large_batches);
  EXPECT_FALSE(report.kept());
  EXPECT_TRUE(find(report, "batch of 2").kept());
  for (const char* name : {"batch of 5", "batch of 16", "pieces of 2", "engine, together"}) {
    const CaseResult& c = find(report, name);
    ASSERT_TRUE(c.first) << name;
    EXPECT_NE(c.first->got, c.first->want);
    EXPECT_FALSE(!(std::abs(c.first->got - c.first->want) <= 1e-4f));  // it was one ulp
    EXPECT_GE(c.first->margin, 0.0f);
  }
}

TEST(Verify, OneUlpInLongPiecesIsFound) {
  // The work alone comes in long pieces; short ones then differ.
  const VerifyReport report = run(Fault::long_pieces);
  EXPECT_FALSE(report.kept());
  EXPECT_TRUE(find(report, "pieces of 2").first);
  EXPECT_FALSE(find(report, "pieces of 2").error.empty() && find(report, "pieces of 2").kept());
}

TEST(Verify, AFaultInLatePagesIsFound) {
  const VerifyReport report = run(Fault::late_pages);
  EXPECT_FALSE(report.kept());
  EXPECT_TRUE(find(report, "batch of 16").first);
}

TEST(Verify, TheSameWorkGivesTheSameHashAndAnotherModelAnother) {
  const auto hash = [](const std::string& file) {
    VerifyOptions options;
    options.devices = {herd::DeviceType::cpu};
    options.context = 256;
    const auto report = verify(opener(herd::test::data_file(file), Fault::none), options,
                               [](auto&, auto&) { return true; });
    return report.ok() ? report->devices[0].sha256 : report.error().message;
  };
  const std::string one = hash("tiny-gqa-Q4_K_M.gguf");
  EXPECT_EQ(hash("tiny-gqa-Q4_K_M.gguf"), one);
  EXPECT_NE(hash("tiny-mha-Q4_K_M.gguf"), one);
}

TEST(Verify, AMissingDeviceIsAnErrorOnlyIfItWasNamed) {
  const std::string path = herd::test::data_file("tiny-gqa-Q4_K_M.gguf");
  VerifyOptions options;
  options.devices = {herd::DeviceType::metal};
  options.context = 256;
  if (!herd::test::missing(herd::DeviceType::metal)) GTEST_SKIP() << "metal is here";
  const auto on_case = [](auto&, auto&) { return true; };
  EXPECT_FALSE(verify(opener(path, Fault::none), options, on_case).ok());
  options.skip_missing = true;
  const auto report = verify(opener(path, Fault::none), options, on_case);
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->kept());  // nothing was checked
}

TEST(Verify, StopsWhenToldTo) {
  VerifyOptions options;
  options.devices = {herd::DeviceType::cpu};
  options.context = 256;
  int cases = 0;
  const auto report = verify(opener(herd::test::data_file("tiny-gqa-Q4_K_M.gguf"), Fault::none),
                             options, [&](auto&, auto&) { return ++cases < 3; });
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, herd::Code::cancelled);
  EXPECT_EQ(cases, 3);
}

}  // namespace
}  // namespace cli
