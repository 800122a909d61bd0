// herd metal-selftest: checks this machine's Metal against the reference, kernel by kernel and as a
// whole, and writes a report to attach to an issue.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>

#include "common.h"
#include "herd/ops.h"

namespace cli {
namespace {

constexpr double kHalf = 0x1.0p-11, kFloat = 0x1.0p-24;  // relative rounding

struct Flags {
  std::string device = "metal", model, report = "herd-metal-selftest.txt";
  int tokens = 64;
};

/// The same numbers on every machine.
class Numbers {
 public:
  std::uint32_t bits() { return state_ = state_ * 1664525u + 1013904223u; }
  float next(float size) { return size * (static_cast<float>(bits() >> 8) * 0x1.0p-23f - 1.0f); }
  std::vector<float> floats(int n, float size = 1) {
    std::vector<float> out;
    for (int i = 0; i < n; ++i) out.push_back(next(size));
    return out;
  }

 private:
  std::uint32_t state_ = 1;
};

class Report {
 public:
  void line(const std::string& text) {
    text_ += text + "\n";
    fmt::print(stderr, "{}\n", text);
  }
  void check(const std::string& name, const herd::Status& status, bool within) {
    failed_ += status.ok() && within ? 0 : 1;
    ++checks_;
    if (!status.ok())
      line(fmt::format("FAILED {}: {}", name, status.error().message));
    else if (!within)
      line(fmt::format("FAILED {}: outside of its tolerance", name));
  }
  int failed() const { return failed_; }
  int checks() const { return checks_; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  int failed_ = 0, checks_ = 0;
};

/// Every |a - b| within relative * |b| + absolute; NaN is not, equal infinities are.
bool close(const std::vector<float>& a, const std::vector<float>& b, double relative,
           double absolute) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double error = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(error <= relative * std::fabs(b[i]) + absolute)) return false;
  }
  return true;
}

// ---- ops ----

struct Both {
  herd::Ops device, reference;
  Report& report;
  Numbers numbers = {};
};

void check_norm_and_elements(Both& b) {
  for (const int n : {1, 31, 32, 33, 255, 257}) {
    const auto x = b.numbers.floats(3 * n, 50), y = b.numbers.floats(3 * n),
               w = b.numbers.floats(n);
    std::vector<float> got(x.size(), NAN), wanted = got;
    herd::Status s = b.device.rms_norm_batch_f32(x, w, got, 3, 1, n, 1e-5f);
    static_cast<void>(b.reference.rms_norm_batch_f32(x, w, wanted, 3, 1, n, 1e-5f));
    b.report.check(fmt::format("rms_norm_batch_f32 {}", n), s, close(got, wanted, 64 * kFloat, 0));
    s = b.device.element_wise_add(x, y, got);
    static_cast<void>(b.reference.element_wise_add(x, y, wanted));
    b.report.check(fmt::format("element_wise_add {}", n), s, close(got, wanted, 0, 0));
    s = b.device.swiglu_activation(x, y, got);
    static_cast<void>(b.reference.swiglu_activation(x, y, wanted));
    b.report.check(fmt::format("swiglu_activation {}", n), s,
                   close(got, wanted, 16 * kFloat, 2e-36));
  }
}

void check_attention(Both& b) {
  const int batch = 2, queries = 3, keys = 257, heads = 4, kv_heads = 2, size = 64;
  const std::vector<std::int32_t> start = {254, 5};
  auto q = b.numbers.floats(batch * queries * heads * size), rotated = q;
  const auto k = b.numbers.floats(batch * keys * kv_heads * size);
  herd::Status s = b.device.rope_batch_f32(rotated, start, batch, queries, heads, size, 10000.0f);
  static_cast<void>(b.reference.rope_batch_f32(q, start, batch, queries, heads, size, 10000.0f));
  b.report.check("rope_batch_f32", s, close(rotated, q, 0, 4 * kFloat));
  const int rows = batch * heads * queries;
  std::vector<float> got(static_cast<std::size_t>(rows * keys), NAN), wanted = got;
  s = b.device.attention_scores_batch_f32(q, k, got, start, batch, queries, keys, heads, kv_heads,
                                          size);
  static_cast<void>(b.reference.attention_scores_batch_f32(q, k, wanted, start, batch, queries,
                                                           keys, heads, kv_heads, size));
  b.report.check("attention_scores_batch_f32", s, close(got, wanted, 0, size * size * kFloat));
  std::vector<float> max(static_cast<std::size_t>(rows), NAN), sum = max, expected = max;
  s = b.device.softmax_max_batch_f32(wanted, max, rows, keys);
  static_cast<void>(b.reference.softmax_max_batch_f32(wanted, expected, rows, keys));
  b.report.check("softmax_max_batch_f32", s, close(max, expected, 0, 0));
  got = wanted;
  s = b.device.softmax_exp_sum_f32(got, expected, sum, rows, keys);
  std::vector<float> sums = sum;
  static_cast<void>(b.reference.softmax_exp_sum_f32(wanted, expected, sums, rows, keys));
  b.report.check("softmax_exp_sum_f32", s,
                 close(got, wanted, 8 * kFloat, 0) && close(sum, sums, 64 * kFloat, 0));
  got = wanted;
  s = b.device.softmax_normalize_f32(got, sums, rows, keys);
  static_cast<void>(b.reference.softmax_normalize_f32(wanted, sums, rows, keys));
  b.report.check("softmax_normalize_f32", s, close(got, wanted, 4 * kFloat, 0));
  std::vector<float> out(q.size(), NAN), out_wanted = out;
  s = b.device.apply_attention_batch_f32(wanted, k, out, batch, queries, keys, heads, kv_heads,
                                         size);
  static_cast<void>(b.reference.apply_attention_batch_f32(wanted, k, out_wanted, batch, queries,
                                                          keys, heads, kv_heads, size));
  b.report.check("apply_attention_batch_f32", s, close(out, out_wanted, 0, 300 * kFloat));
}

/// A weight type's blocks and where the halves in them are that must be of sane size.
struct Blocks {
  const char* type;
  int values, bytes;
  std::vector<int> halves;
};
std::vector<Blocks> block_types() {
  return {{"Q4_0", 32, 18, {0}},     {"Q4_1", 32, 20, {0, 2}},   {"Q5_0", 32, 22, {0}},
          {"Q5_1", 32, 24, {0, 2}},  {"Q8_0", 32, 34, {0}},      {"Q2_K", 256, 84, {80, 82}},
          {"Q3_K", 256, 110, {108}}, {"Q4_K", 256, 144, {0, 2}}, {"Q5_K", 256, 176, {0, 2}},
          {"Q6_K", 256, 210, {208}}, {"IQ4_NL", 32, 18, {0}},    {"IQ4_XS", 256, 136, {0}},
          {"F16", 1, 2, {0}},        {"BF16", 1, 2, {}},         {"F32", 1, 4, {}}};
}

std::vector<std::byte> random_blocks(const Blocks& b, int count, Numbers& numbers) {
  std::vector<std::byte> out;
  for (int i = 0; i < count * b.bytes; ++i)
    out.push_back(static_cast<std::byte>(numbers.bits() >> 24));
  for (int i = 0; i < count; ++i) {
    std::byte* block = out.data() + i * b.bytes;
    for (const int at : b.halves) {  // 2^-6 to 2^-4
      const auto half = static_cast<std::uint16_t>(0x2400u + (numbers.bits() >> 16 & 0x87ffu));
      std::memcpy(block + at, &half, 2);
    }
    if (b.halves.empty()) {
      const std::uint32_t value = std::bit_cast<std::uint32_t>(numbers.next(1));
      std::memcpy(block, reinterpret_cast<const std::byte*>(&value) + 4 - b.bytes,
                  static_cast<std::size_t>(b.bytes));
    }
  }
  return out;
}

/// Weights as the reference reads them: its products with unit vectors.
std::vector<float> values_of(Both& b, const Blocks& blocks, const std::vector<std::byte>& w,
                             int inputs, int outputs) {
  std::vector<float> unit(static_cast<std::size_t>(inputs * inputs), 0.0f);
  for (int i = 0; i < inputs; ++i) unit[static_cast<std::size_t>(i * inputs + i)] = 1.0f;
  std::vector<float> values(static_cast<std::size_t>(inputs * outputs));
  static_cast<void>(
      b.reference.batch_matmul(unit, w, blocks.type, values, inputs, inputs, outputs));
  return values;  // [inputs][outputs]
}

void check_matmul(Both& b, const Blocks& blocks, int rows, int outputs) {
  const int inputs = 256;
  const auto w = random_blocks(blocks, outputs * inputs / blocks.values, b.numbers);
  const auto x = b.numbers.floats(rows * inputs), values = values_of(b, blocks, w, inputs, outputs);
  std::vector<float> got(static_cast<std::size_t>(rows * outputs), NAN);
  const herd::Status s = b.device.batch_matmul(x, w, blocks.type, got, rows, inputs, outputs);
  bool within = true;
  for (int r = 0; r < rows; ++r) {
    for (int n = 0; n < outputs; ++n) {
      double exact = 0, size = 0;
      for (int k = 0; k < inputs; ++k) {
        const double term = static_cast<double>(values[static_cast<std::size_t>(k * outputs + n)]) *
                            x[static_cast<std::size_t>(r * inputs + k)];
        exact += term, size += std::fabs(term);
      }
      const double error = std::fabs(got[static_cast<std::size_t>(r * outputs + n)] - exact);
      within = within && error <= size * (2 * kHalf + 512 * kFloat) + 1e-5;
    }
  }
  b.report.check(fmt::format("batch_matmul {} {} rows {} outputs", blocks.type, rows, outputs), s,
                 within);
}

// ---- a whole model ----

herd::Result<std::vector<herd::GenerateResult>> greedy(const std::string& path,
                                                       const std::string& device, int tokens) {
  ModelFlags flags;
  flags.device = device;
  herd::ModelOptions options = flags.options();
  options.batch_size = 3, options.context = 512;
  auto model = load(path, options);
  if (!model.ok()) return model.error();
  std::vector<herd::GenerateRequest> requests;
  for (const char* prompt : {"The capital of France is", "Once upon a time", "Water boils at"}) {
    herd::GenerateRequest request;
    request.prompt = prompt;
    request.max_tokens = tokens;
    request.logprobs = 2;
    requests.push_back(request);
  }
  return generate(*model, requests);
}

void check_model(const Flags& flags, Report& report) {
  const double before = seconds_now();
  const auto got = greedy(flags.model, flags.device, flags.tokens);
  const double seconds = seconds_now() - before;
  const auto wanted = greedy(flags.model, "cpu", flags.tokens);
  if (!got.ok() || !wanted.ok())
    return report.check("greedy tokens", got.ok() ? wanted.status() : got.status(), false);
  std::size_t n = 0;
  for (std::size_t i = 0; i < got->size(); ++i) {
    const auto &a = (*got)[i], &b = (*wanted)[i];
    bool same = true;
    std::size_t t = 0;
    for (; t < b.ids.size() && t < a.ids.size() && a.ids[t] == b.ids[t]; ++t) ++n;
    if (t < b.ids.size()) {  // they part: only where the two likeliest are nearly level
      const auto& top = b.logprobs[t].top;
      same = top.size() > 1 && std::fabs(top[0].second - top[1].second) < 0.02f;
      report.line(fmt::format("prompt {}: parts from the cpu at token {}{}", i, t,
                              same ? ", a near-tie" : ""));
    }
    report.check(fmt::format("greedy tokens of prompt {}", i), {}, same);
  }
  report.line(fmt::format("{} tokens as on the cpu; {:.1f} s with loading", n, seconds));
}

int run(const Flags& flags) {
  Report report;
  ModelFlags device;
  device.device = flags.device;
  auto ops = herd::Ops::create(device.options().device);
  if (!ops.ok()) return fail(ops.error());
  auto reference = herd::Ops::create(herd::DeviceType::reference);
  if (!reference.ok()) return fail(reference.error());
  report.line(fmt::format("herd {} metal-selftest, device {}, {:%Y-%m-%d %H:%M} UTC", HERD_VERSION,
                          flags.device, fmt::gmtime(std::time(nullptr))));
  Both both{std::move(*ops), std::move(*reference), report};
  check_norm_and_elements(both);
  check_attention(both);
  for (const Blocks& blocks : block_types())
    for (const auto& [rows, outputs] : {std::pair{1, 33}, {8, 31}, {33, 32}})
      check_matmul(both, blocks, rows, outputs);
  if (flags.model.empty())
    report.line("no model given (-m): whole forward passes were not checked");
  else
    check_model(flags, report);
  report.line(
      fmt::format("{} of {} checks passed", report.checks() - report.failed(), report.checks()));
  std::ofstream file(flags.report);
  file << report.text();
  file.close();
  if (!file) return fail(fmt::format("{}: cannot be written", flags.report));
  fmt::print("{}\n", flags.report);
  return report.failed() == 0 ? kOk : kFailed;
}

}  // namespace

void add_metal_selftest(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "metal-selftest", "check this machine's Metal against the reference; writes a report");
  command->add_option("--device", flags->device, "metal, or metal-emulated where there is no GPU")
      ->check(CLI::IsMember({"metal", "metal-emulated"}))
      ->capture_default_str();
  command->add_option("-m,--model", flags->model, "a model whose greedy tokens are compared too");
  command->add_option("-n,--tokens", flags->tokens, "tokens per prompt")
      ->check(CLI::Range(1, 448))
      ->capture_default_str();
  command->add_option("--report", flags->report, "where the report goes")->capture_default_str();
  command->footer("Example: herd metal-selftest -m model.gguf");
  command->callback([flags, &exit_code] { exit_code = run(*flags); });
}

}  // namespace cli
