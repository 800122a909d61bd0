#include "token/pretokenizer.h"

#include <algorithm>
#include <iterator>

#include "token/splitters.h"

namespace herd {
namespace {

using split::WordRules;

constexpr WordRules kLlama3{.digits = 3, .contractions = true};
constexpr WordRules kQwen2{.digits = 1, .contractions = true};
constexpr WordRules kQwen35{.digits = 1, .contractions = true, .marks = true};
constexpr WordRules kSeedCoder{.digits = 1, .contractions = true, .newline_tail = false};
constexpr WordRules kGpt4o{.digits = 3, .slash_tail = true, .cased = true, .suffix = true};
constexpr WordRules kTekken{.digits = 1, .slash_tail = true, .cased = true};

using Stages = std::array<Splitter, 5>;
constexpr Stages kDefaultStages{split::punctuation, split::gpt2, split::numbers,
                                split::ascii_triples};
constexpr Stages kFalconStages{split::falcon_punctuation, split::gpt2, split::ascii_triples};
constexpr Stages kGpt2Stages{split::gpt2};
constexpr Stages kDigitStages{split::each_number, split::gpt2};
constexpr Stages kLlama3Stages{split::words<kLlama3>};
constexpr Stages kQwen2Stages{split::words<kQwen2>};
constexpr Stages kGpt4oStages{split::words<kGpt4o>};
constexpr Stages kDeepseekV3Stages{split::three_numbers, split::cjk_kana, split::deepseek_words};
constexpr Stages kDeepseekCoderStages{split::each_newline, split::spaced_letters,
                                      split::spaced_punctuation, split::cjk_hangul,
                                      split::each_number};

constexpr PreTokenizer kPreTokenizers[] = {
    {"default", kDefaultStages},
    {"gpt-2", kGpt2Stages},
    {"phi-2", kGpt2Stages},
    {"mpt", kGpt2Stages},
    {"olmo", kGpt2Stages},
    {"jais", kGpt2Stages},
    {"trillion", kGpt2Stages},
    {"exaone4", kGpt2Stages},
    {"gigachat", kGpt2Stages},
    {"smollm", kDigitStages},
    {"starcoder", kDigitStages},
    {"refact", kDigitStages},
    {"command-r", kDigitStages},
    {"codeshell", kDigitStages},
    {"exaone", kDigitStages},
    {"minerva-7b", kDigitStages},
    {"falcon", kFalconStages},
    {"llama-bpe", kLlama3Stages, true, true},
    {"llama3", kLlama3Stages, true, true},
    {"llama-v3", kLlama3Stages, true, true},
    {"falcon3", kLlama3Stages, true, true},
    {"falcon-h1", kLlama3Stages, true, true},
    {"pixtral", kLlama3Stages, true, true},
    {"lfm2", kLlama3Stages, true, true},
    {"dbrx", kLlama3Stages},
    {"smaug-bpe", kLlama3Stages},
    {"chatglm-bpe", kLlama3Stages},
    {"glm4", kLlama3Stages},
    {"minicpm5", {split::three_numbers, split::words<kLlama3>}, true},
    {"qwen2", kQwen2Stages},
    {"deepseek-r1-qwen", kQwen2Stages},
    {"megrez", kQwen2Stages},
    {"stablelm2", kQwen2Stages},
    {"hunyuan", kQwen2Stages},
    {"grok-2", kQwen2Stages},
    {"bailingmoe", kQwen2Stages},
    {"qwen35", {split::words<kQwen35>}},
    {"seed-coder", {split::words<kSeedCoder>}},
    {"gpt-4o", kGpt4oStages},
    {"llama4", kGpt4oStages},
    {"tekken", {split::words<kTekken>}, true, true},
    {"deepseek-coder", kDeepseekCoderStages},
    {"deepseek-v3", kDeepseekV3Stages},
    {"hunyuan-dense", kDeepseekV3Stages},
};

}  // namespace

const PreTokenizer* find_pretokenizer(std::string_view name) {
  const auto* const end = std::end(kPreTokenizers);
  const auto* const found = std::find_if(std::begin(kPreTokenizers), end,
                                         [&](const PreTokenizer& p) { return p.name == name; });
  return found == end ? nullptr : found;
}

std::string known_pretokenizers() {
  std::string names;
  for (const PreTokenizer& p : kPreTokenizers) {
    if (!names.empty()) names += ", ";
    names += p.name;
  }
  return names;
}

}  // namespace herd
