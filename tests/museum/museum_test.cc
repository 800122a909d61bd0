// The museum of malformed models: one file maker for each way in which readers of GGUF were broken,
// with the exact error it gets at the public door. Each exhibit names the rule it stands for (G1:
// counts and lengths, G2: nothing half built, G3: sizes in one checked type, G4: typed arrays and
// ids, G5: a range for every number, G6: tensors inside the file and apart, G7: templates are
// foreign code); `anchor` is the record of what went wrong elsewhere. The rooms have larger museums
// of their own (tests/gguf, tests/model, tests/token, tests/chat).
#include <gtest/gtest.h>

#include <limits>

#include "gguf/craft.h"
#include "herd/chat.h"
#include "herd/inspect.h"
#include "herd/vocabulary.h"
#include "tiny_model.h"
#include "token/token_fixtures.h"

namespace herd {
namespace {

using gguf::craft::Build;
using gguf::craft::Bytes;
using VT = gguf::ValueType;
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

/// Which public function is asked to read the file.
enum class Door { inspect, load, vocabulary, chat };

struct Exhibit {
  const char* rule;
  const char* anchor;
  const char* name;
  Door door;
  std::function<Bytes()> make;
  Code code;
  std::string message;  // after "PATH: "
};

Status open(Door door, const std::string& path) {
  switch (door) {
    case Door::inspect: return inspect_file(path).status();
    case Door::load: return LlamaModel::from_gguf_with_backend(path, DeviceType::cpu).status();
    case Door::vocabulary: return Vocabulary::from_gguf(path).status();
    case Door::chat: break;
  }
  const auto file = read_chat_file(path);
  if (!file.ok()) return file.status();
  const auto parsed = ChatTemplate::parse(file->chat_template);
  if (!parsed.ok()) return parsed.status();
  return parsed->render(R"({"messages": [{"role": "user", "content": "hello"}]})").status();
}

// ---- makers: a sound file with one thing wrong ----

std::function<Bytes()> raw(const Build& build) {
  return [bytes = build.bytes] { return bytes; };
}
std::function<Bytes()> model_with(std::string key, gguf::Value value) {
  return [=] {
    test::TinyModel model = test::tiny_model();
    model.keys[key] = value;
    return model.bytes();
  };
}
std::function<Bytes()> model_cut_short() {
  return [] {
    Bytes bytes = test::tiny_model().bytes();
    bytes.resize(bytes.size() - 64);
    return bytes;
  };
}
std::function<Bytes()> model_without(std::string tensor) {
  return [=] {
    test::TinyModel model = test::tiny_model();
    model.tensors.erase(tensor);
    return model.bytes();
  };
}
std::function<Bytes()> vocabulary(std::function<void(token_test::HandVocabulary&)> spoil,
                                  bool spm = false) {
  return [=] {
    auto v = spm ? token_test::spm_vocabulary() : token_test::byte_vocabulary();
    spoil(v);
    return *v.writer().to_bytes();
  };
}
std::function<Bytes()> vocabulary_key(std::string key, std::vector<std::int32_t> values) {
  return [=] {
    auto v = token_test::spm_vocabulary();
    v.with_scores = false;
    gguf::Writer writer = v.writer();
    writer.add(key, std::span<const std::int32_t>(values));
    return *writer.to_bytes();
  };
}
std::function<Bytes()> chat_template(std::string text) {
  return [=] {
    gguf::Writer writer;
    writer.add("tokenizer.chat_template", text);
    return *writer.to_bytes();
  };
}
Build tensors(std::uint64_t second_offset) {
  return Build().header(2, 0).tensor("a", {16}, 0, 0).tensor("b", {16}, 0, second_offset).data(128);
}
Build array_of(VT element, std::uint64_t count) {
  return Build().header(0, 1).key("k", VT::array).array(element, count).zeros(8);
}
Build nested_arrays(int depth) {
  Build b = Build().header(0, 1).key("k", VT::array);
  for (int i = 1; i < depth; ++i) b.array(VT::array, 1);
  return b.array(VT::u8, 1).u8(7);
}
std::string repeated(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) out += text;
  return out;
}

// ---- the exhibits ----

std::vector<Exhibit> counts_and_lengths() {
  const char* talos = "CVE-2024-23605, 21825, 21836, 23496, 21802";
  return {
      {"G1", talos, "n_kv", Door::inspect, raw(Build().header(0, kHuge).zeros(8)), Code::corrupt,
       "18446744073709551615 metadata keys need at least 14 bytes each, the file has 8 left"},
      {"G1", talos, "n_tensors", Door::inspect, raw(Build().header(1ull << 60, 0).zeros(8)),
       Code::corrupt,
       "1152921504606846976 tensors need at least 33 bytes each, the file has 8 left"},
      {"G1", talos, "array length", Door::inspect, raw(array_of(VT::u64, 1ull << 61)),
       Code::corrupt,
       "key \"k\": 2305843009213693952 array elements of type uint64 need at least 8 bytes each, "
       "the "
       "file has 8 left"},
      {"G1", talos, "string length", Door::inspect,
       raw(Build().header(0, 1).key("k", VT::string).u64(kHuge).zeros(4)), Code::corrupt,
       "key \"k\": its string of 18446744073709551615 bytes is longer than the 4 bytes left in the "
       "file"},
      {"G1", talos, "tensor dimensions", Door::inspect,
       raw(Build().header(1, 0).tensor("w", {1ull << 32, 1ull << 32}, 0, 0).data(128)),
       Code::corrupt, "tensor \"w\": dimensions [4294967296, 4294967296] of F32 overflow 64 bits"},
      {"G1", "CVE-2024-12055, CVE-2025-66959, 66960", "a string past the end of its array",
       Door::inspect,
       raw(Build().header(0, 1).key("k", VT::array).array(VT::string, 2).text("ab").u64(1)),
       Code::corrupt,
       "key \"k\": an array's string of 1 bytes is longer than the 0 bytes left in the file"},
      {"G1", "arrays in arrays, one call a level", "arrays 100,000 deep", Door::inspect,
       raw(nested_arrays(100000)), Code::corrupt,
       "key \"k\": arrays nested 5 deep; the limit is 4"},
      {"G2", "CVE-2024-32878, 41130", "ends after its version", Door::inspect,
       raw(Build().u32(0x46554747).u32(3)), Code::corrupt,
       "the file ends inside the tensor count (at byte 8 of 8)"},
      {"G2", "CVE-2024-32878, 41130", "no architecture", Door::load, raw(Build().header(0, 0)),
       Code::not_found, "key \"general.architecture\" is absent"},
  };
}

std::vector<Exhibit> sizes_and_offsets() {
  const char* sums = "CVE-2025-53630, CVE-2026-27940, 33298";
  const char* bleeding = "CVE-2026-7482";
  return {
      {"G3", sums, "bytes of a tensor wrap", Door::inspect,
       raw(Build().header(1, 0).tensor("w", {1ull << 62}, 0, 0).data(128)), Code::corrupt,
       "tensor \"w\": dimensions [4611686018427387904] of F32 overflow 64 bits"},
      {"G3", sums, "offset and bytes wrap", Door::inspect, raw(tensors(kHuge - 31)), Code::corrupt,
       "tensor \"b\": 64 bytes at offset 18446744073709551584 of the data (which starts at byte "
       "96) "
       "reach beyond the file's 224 bytes"},
      {"G3", sums, "half a block", Door::inspect,
       raw(Build().header(1, 0).tensor("w", {48}, 8, 0).data(128)), Code::corrupt,
       "tensor \"w\": row length 48 is not a multiple of Q8_0's block of 32"},
      {"G5", "CVE-2024-8063", "alignment 0", Door::inspect,
       raw(Build().header(0, 1).key("general.alignment", VT::u32).u32(0)), Code::corrupt,
       "key \"general.alignment\": 0 is not a power of two from 1 to 65536"},
      {"G5", "alignment of 2^31: abort", "alignment 2^31", Door::inspect,
       raw(Build().header(0, 1).key("general.alignment", VT::u32).u32(1u << 31)), Code::corrupt,
       "key \"general.alignment\": 2147483648 is not a power of two from 1 to 65536"},
      {"G6", bleeding, "a tensor beyond the file", Door::inspect, raw(tensors(96)), Code::corrupt,
       "tensor \"b\": 64 bytes at offset 96 of the data (which starts at byte 96) reach beyond the "
       "file's 224 bytes"},
      {"G6", bleeding, "tensors that overlap", Door::inspect, raw(tensors(32)), Code::corrupt,
       "tensors \"a\" and \"b\" overlap: the first ends at byte 160, the second starts at 128"},
      {"G6", bleeding, "a model cut short", Door::load, model_cut_short(), Code::corrupt, ""},
      {"G6", "a tensor that is not there: null pointer", "no output norm", Door::load,
       model_without("output_norm.weight"), Code::corrupt,
       "output_norm.weight: the file has no such tensor"},
  };
}

std::vector<Exhibit> hyper_parameters() {
  const char* anchor = "metadata integers that reach arithmetic";
  const auto zero = test::value(0u);
  return {
      {"G5", anchor, "no layers", Door::load, model_with("llama.block_count", zero), Code::corrupt,
       "key \"llama.block_count\": 0 is outside [1, 512]"},
      {"G5", anchor, "2^32 - 1 layers", Door::load,
       model_with("llama.block_count", test::value(~0u)), Code::corrupt,
       "key \"llama.block_count\": 4294967295 is outside [1, 512]"},
      {"G5", "division by zero", "no heads", Door::load,
       model_with("llama.attention.head_count", zero), Code::corrupt,
       "key \"llama.attention.head_count\": 0 is outside [1, 1024]"},
      {"G5", "division by zero", "no key heads", Door::load,
       model_with("llama.attention.head_count_kv", zero), Code::corrupt,
       "key \"llama.attention.head_count_kv\": 0 is outside [1, 1024]"},
      {"G5", anchor, "key heads that do not divide", Door::load,
       model_with("llama.attention.head_count_kv", test::value(3u)), Code::out_of_range,
       "llama.attention.head_count_kv = 3: must divide llama.attention.head_count = 4"},
      {"G5", anchor, "text for a number", Door::load,
       model_with("llama.embedding_length", test::value("64")), Code::corrupt,
       "key \"llama.embedding_length\": found string, wanted an integer"},
      {"G5", anchor, "rotation wider than a head", Door::load,
       model_with("llama.rope.dimension_count", test::value(32u)), Code::out_of_range,
       "llama.rope.dimension_count = 32: must be even and at most the head size, 16"},
      {"G5", anchor, "a base that is not a number", Door::load,
       model_with("llama.rope.freq_base", test::value(std::numeric_limits<float>::quiet_NaN())),
       Code::out_of_range, "llama.rope.freq_base = nan: must be above 0 and at most 1000000000000"},
      {"G5", anchor, "a vocabulary larger than its table", Door::load,
       model_with("llama.vocab_size", test::value(102u)), Code::corrupt,
       "llama.vocab_size = 102: token_embd.weight has 101 rows"},
  };
}

std::vector<Exhibit> vocabularies() {
  const auto ids = [](std::uint32_t id) {
    return vocabulary([id](auto& v) { v.ids = {{"eos_token_id", id}}; });
  };
  return {
      {"G4", "CVE-2025-49847", "a token of 65,537 bytes", Door::vocabulary,
       vocabulary([](auto& v) { v.add(std::string(65537, 'x')); }), Code::corrupt,
       "tokenizer.ggml.tokens[262] is 65537 bytes long; the limit is 65536"},
      {"G4", "CVE-2025-52566", "an id beyond the vocabulary", Door::vocabulary, ids(262),
       Code::corrupt, "key \"tokenizer.ggml.eos_token_id\": 262 is outside [0, 261]"},
      {"G4", "CVE-2025-52566", "an id of 2^32 - 1", Door::vocabulary, ids(~0u), Code::corrupt,
       "key \"tokenizer.ggml.eos_token_id\": 4294967295 is outside [0, 261]"},
      {"G4", "PLaMo-2: <0x-1>", "a byte token that is none", Door::vocabulary,
       vocabulary([](auto& v) { v.add("<0x-1>", 6); }, true), Code::corrupt,
       "tokenizer.ggml.tokens[265] is \"<0x-1>\" and of type 6 (byte); byte tokens are <0x00> to "
       "<0xFF>"},
      {"G4", "scores of int8 read as float32", "scores that are integers", Door::vocabulary,
       vocabulary_key("tokenizer.ggml.scores", std::vector<std::int32_t>(265, 1)), Code::corrupt,
       "key \"tokenizer.ggml.scores\": found array of int32, wanted array of float32"},
      {"G4", "arrays of another length", "fewer types than tokens", Door::vocabulary,
       vocabulary([](auto& v) { v.types.pop_back(); }), Code::corrupt,
       "tokenizer.ggml.token_type has 261 values; tokenizer.ggml.tokens has 262"},
      {"G4", "merges trusted", "a merge of unknown tokens", Door::vocabulary,
       vocabulary([](auto& v) { v.merges.push_back("he xyzzy"); }), Code::corrupt,
       "tokenizer.ggml.merges[4] is \"he xyzzy\", but \"xyzzy\" is none of the 262 tokens"},
      {"G4", "merges trusted", "a merge without a divider", Door::vocabulary,
       vocabulary([](auto& v) { v.merges.push_back("hello"); }), Code::corrupt,
       "tokenizer.ggml.merges[4] is \"hello\"; it must be two tokens with a space between them"},
      {"G4", "an empty vocabulary", "no tokens", Door::vocabulary,
       vocabulary([](auto& v) { v = token_test::HandVocabulary(); }), Code::corrupt,
       "tokenizer.ggml.tokens has 0 tokens; at least 1 is needed"},
  };
}

std::vector<Exhibit> chat_templates() {
  const char* ssti = "CVE-2024-34359, CVE-2026-5760";
  return {
      {"G7", ssti, "the way to Python's classes", Door::chat,
       chat_template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), Code::invalid_argument, ""},
      {"G7", ssti, "an import", Door::chat, chat_template("{% import 'os' as os %}"),
       Code::unsupported, ""},
      {"G7", "CVE-2026-115911", "a loop over 10^12", Door::chat,
       chat_template("{% for i in range(1000000000000) %}{% endfor %}"), Code::resource_exhausted,
       ""},
      {"G7", "CVE-2026-115911", "loops in loops", Door::chat,
       chat_template(repeated("{% for i in range(1000) %}", 5) + repeated("{% endfor %}", 5)),
       Code::resource_exhausted, ""},
      {"G7", "parser stack overflow", "parentheses 100,000 deep", Door::chat,
       chat_template("{{ " + repeated("(", 100000) + "1" + repeated(")", 100000) + " }}"),
       Code::resource_exhausted, ""},
      {"G7", "range() out of memory", "a text that doubles", Door::chat,
       chat_template("{% set ns = namespace(s='ab') %}{% for i in range(64) %}{% set ns.s = ns.s + "
                     "ns.s %}{% endfor %}"),
       Code::resource_exhausted, ""},
  };
}

void visit(const std::vector<Exhibit>& exhibits) {
  const std::string path =
      ::testing::TempDir() + "herd_museum_" + std::to_string(getpid()) + ".gguf";
  for (const Exhibit& exhibit : exhibits) {
    SCOPED_TRACE(std::string(exhibit.rule) + ", " + exhibit.name + " (" + exhibit.anchor + ")");
    gguf::craft::save(path, exhibit.make());
    const Status status = open(exhibit.door, path);
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(to_string(status.error().code), to_string(exhibit.code)) << status.error().message;
    const std::string wanted =
        exhibit.door == Door::chat ? exhibit.message : path + ": " + exhibit.message;
    EXPECT_EQ(status.error().message, wanted);
  }
  std::remove(path.c_str());
}

TEST(ModelMuseum, CountsAndLengths) {
  visit(counts_and_lengths());
}
TEST(ModelMuseum, SizesAndOffsets) {
  visit(sizes_and_offsets());
}
TEST(ModelMuseum, HyperParameters) {
  visit(hyper_parameters());
}
TEST(ModelMuseum, Vocabularies) {
  visit(vocabularies());
}
TEST(ModelMuseum, ChatTemplates) {
  visit(chat_templates());
}

/// What the exhibits were before they were spoilt is read without complaint.
TEST(ModelMuseum, TheSoundTwinsOpen) {
  const std::string path =
      ::testing::TempDir() + "herd_museum_" + std::to_string(getpid()) + ".gguf";
  const std::pair<Door, Bytes> twins[] = {
      {Door::inspect, tensors(64).bytes},
      {Door::load, test::tiny_model().bytes()},
      {Door::vocabulary, vocabulary([](auto&) {})()},
      {Door::vocabulary, vocabulary([](auto&) {}, true)()},
      {Door::chat, chat_template("{{ messages[0].content }}")()}};
  for (const auto& [door, bytes] : twins) {
    gguf::craft::save(path, bytes);
    const Status status = open(door, path);
    EXPECT_TRUE(status.ok()) << status.error().message;
  }
  std::remove(path.c_str());
}

// G8: herd reads no state from disk but models and prompts: there is no door to try.

}  // namespace
}  // namespace herd
