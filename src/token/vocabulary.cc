#include "token/vocabulary.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "gguf/reader.h"
#include "token/end_tokens.h"
#include "token/word_table.h"

namespace herd {
namespace {

constexpr std::size_t kMaxTokenBytes = 65536;  // keeps hostile vocabularies from costing hours

std::string key_of(std::string_view name) {
  return fmt::format("tokenizer.ggml.{}", name);
}

Error corrupt(std::string message) {
  return {Code::corrupt, std::move(message)};
}

Status read_tokens(const gguf::File& file, Vocabulary& v) {
  const auto found = file.get_strings(key_of("tokens"));
  if (!found) return found.status();
  if (found->empty()) return corrupt("tokenizer.ggml.tokens has 0 tokens; at least 1 is needed");
  constexpr auto kMaxTokens = static_cast<std::size_t>(std::numeric_limits<TokenId>::max());
  if (found->size() > kMaxTokens)
    return corrupt(fmt::format("tokenizer.ggml.tokens has {} tokens; the limit is {}",
                               found->size(), kMaxTokens));
  WordTable seen(found->size());
  for (std::size_t i = 0; i < found->size(); ++i) {
    const std::string& token = (*found)[i];
    if (token.size() > kMaxTokenBytes)
      return corrupt(fmt::format("tokenizer.ggml.tokens[{}] is {} bytes long; the limit is {}", i,
                                 token.size(), kMaxTokenBytes));
    if (!token.empty() && !seen.insert(token, static_cast<std::uint32_t>(i)))
      return corrupt(
          fmt::format("tokenizer.ggml.tokens[{}] is {}, as is tokens[{}]; each token "
                      "may appear once",
                      i, gguf::quoted(token), seen.find(token)));
  }
  v.tokens.assign(found->begin(), found->end());
  return {};
}

Status check_length(std::string_view name, std::size_t length, std::size_t wanted) {
  if (length == wanted) return {};
  return corrupt(fmt::format("tokenizer.ggml.{} has {} values; tokenizer.ggml.tokens has {}", name,
                             length, wanted));
}

/// Old files have no types; SentencePiece's own tokens are known by their spelling.
void types_by_spelling(Vocabulary& v) {
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string& token = v.tokens[i];
    if (parse_byte_token(token) >= 0) v.types[i] = kTypeByte;
    if (token == "<unk>") v.types[i] = kTypeUnknown;
    if (token == "<s>" || token == "</s>") v.types[i] = kTypeControl;
  }
}

Status read_types(const gguf::File& file, Vocabulary& v) {
  v.types.assign(v.tokens.size(), kTypeUndefined);
  if (file.find(key_of("token_type")) == nullptr) {
    if (v.kind == VocabularyKind::spm) types_by_spelling(v);
    return {};
  }
  const auto types = file.get_ints(key_of("token_type"), kTypeUndefined, kTypeByte);
  if (!types) return types.status();
  if (Status s = check_length("token_type", types->size(), v.tokens.size()); !s) return s;
  for (std::size_t i = 0; i < v.types.size(); ++i) {
    v.types[i] = static_cast<std::int32_t>((*types)[i]);
    if (v.types[i] == kTypeByte && parse_byte_token(v.tokens[i]) < 0)
      return corrupt(
          fmt::format("tokenizer.ggml.tokens[{}] is {} and of type 6 (byte); byte "
                      "tokens are <0x00> to <0xFF>",
                      i, gguf::quoted(v.tokens[i])));
  }
  return {};
}

Status read_scores(const gguf::File& file, Vocabulary& v) {
  const auto scores = file.get_floats(key_of("scores"));
  if (!scores) return scores.status();
  if (Status s = check_length("scores", scores->size(), v.tokens.size()); !s) return s;
  for (std::size_t i = 0; i < scores->size(); ++i)
    if (std::isnan((*scores)[i]))
      return corrupt(fmt::format("tokenizer.ggml.scores[{}] is not a number", i));
  v.scores.assign(scores->begin(), scores->end());
  return {};
}

/// "left right"; a token may itself begin with a space, so the first character is never the
/// divider.
Status add_merge(std::string_view merge, std::size_t index, const WordTable& ids, Vocabulary& v) {
  const std::size_t space = merge.find(' ', 1);
  if (space == std::string_view::npos || space + 1 == merge.size())
    return corrupt(
        fmt::format("tokenizer.ggml.merges[{}] is {}; it must be two tokens with a "
                    "space between them",
                    index, gguf::quoted(merge)));
  const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
  const std::string joined = fmt::format("{}{}", left, right);
  for (const std::string_view part : {left, right, std::string_view(joined)})
    if (ids.find(part) == WordTable::kNone)
      return corrupt(
          fmt::format("tokenizer.ggml.merges[{}] is {}, but {} is none of the {} "
                      "tokens",
                      index, gguf::quoted(merge), gguf::quoted(part), v.tokens.size()));
  auto id = [&](std::string_view text) { return static_cast<TokenId>(ids.find(text)); };
  v.merges.emplace_back(id(left), id(right));
  v.merged.push_back(id(joined));
  return {};
}

Status read_merges(const gguf::File& file, Vocabulary& v) {
  const auto merges = file.get_strings(key_of("merges"));
  if (!merges) return merges.status();
  if (merges->size() >= std::numeric_limits<std::uint32_t>::max())
    return corrupt(fmt::format("tokenizer.ggml.merges has {} entries; the limit is {}",
                               merges->size(), std::numeric_limits<std::uint32_t>::max() - 1));
  WordTable ids(v.tokens.size());
  for (std::size_t i = 0; i < v.tokens.size(); ++i)
    ids.insert(v.tokens[i], static_cast<std::uint32_t>(i));
  v.merges.reserve(merges->size());
  v.merged.reserve(merges->size());
  for (std::size_t i = 0; i < merges->size(); ++i)
    if (Status s = add_merge((*merges)[i], i, ids, v); !s) return s;
  return {};
}

Status read_pretokenizer(const gguf::File& file, Vocabulary& v) {
  std::string_view name = "default";
  if (file.find(key_of("pre")) != nullptr) {
    const auto found = file.get_string(key_of("pre"));
    if (!found) return found.status();
    name = *found;
  }
  v.pre = find_pretokenizer(name);
  if (v.pre != nullptr) return {};
  return Error{Code::unsupported, fmt::format("tokenizer.ggml.pre is {}; known: {}",
                                              gguf::quoted(name), known_pretokenizers())};
}

/// Keeps `id` as it is where the key is absent.
Status read_id(const gguf::File& file, std::string_view name, const Vocabulary& v, TokenId& id) {
  const std::string key = key_of(name);
  if (file.find(key) == nullptr) return {};
  const auto last = static_cast<std::int64_t>(v.tokens.size()) - 1;
  const auto value = file.get_int(key, 0, last);
  if (!value) return value.status();
  id = static_cast<TokenId>(*value);
  return {};
}

Status read_flag(const gguf::File& file, std::string_view name, bool& flag) {
  const std::string key = key_of(name);
  if (file.find(key) == nullptr) return {};
  const auto value = file.get_bool(key);
  if (!value) return value.status();
  flag = *value;
  return {};
}

/// SentencePiece's customary ids, where the file says nothing and the tokens there look the part.
void default_ids(Vocabulary& v) {
  if (v.kind != VocabularyKind::spm) return;
  auto has_type = [&](std::size_t id, TokenType type) {
    return id < v.types.size() && v.types[id] == type;
  };
  if (has_type(0, kTypeUnknown)) v.unknown = 0;
  if (has_type(1, kTypeControl)) v.bos = 1;
  if (has_type(2, kTypeControl)) v.eos = 2;
}

Status read_special_ids(const gguf::File& file, Vocabulary& v) {
  default_ids(v);
  if (Status s = read_id(file, "bos_token_id", v, v.bos); !s) return s;
  if (Status s = read_id(file, "eos_token_id", v, v.eos); !s) return s;
  if (Status s = read_id(file, "unknown_token_id", v, v.unknown); !s) return s;
  const bool said = file.find(key_of("add_bos_token")) != nullptr;
  v.add_bos = v.kind == VocabularyKind::spm || v.pre->add_bos;
  if (Status s = read_flag(file, "add_bos_token", v.add_bos); !s) return s;
  if (v.add_bos && v.bos < 0) {
    if (said)
      return corrupt(
          "tokenizer.ggml.add_bos_token is true, but there is no "
          "tokenizer.ggml.bos_token_id");
    v.add_bos = false;
  }
  return {};
}

Status read_end_ids(const gguf::File& file, Vocabulary& v) {
  std::vector<TokenId> ids{v.eos};
  for (const std::string_view name : kEndIdKeys) {
    TokenId id = -1;
    if (Status s = read_id(file, name, v, id); !s) return s;
    ids.push_back(id);
  }
  v.end_ids = collect_end_tokens(v.tokens, file.find(key_of("token_type")) != nullptr,
                                 std::move(ids), v.types);
  return {};
}

Result<VocabularyKind> read_kind(const gguf::File& file) {
  const auto model = file.get_string(key_of("model"));
  if (!model) return model.error();
  if (*model == "llama") return VocabularyKind::spm;
  if (*model == "gpt2") return VocabularyKind::bpe;
  return Error{Code::unsupported,
               fmt::format("tokenizer.ggml.model is {}; known: llama, gpt2", gguf::quoted(*model))};
}

Status read_model_specific(const gguf::File& file, Vocabulary& v) {
  if (v.kind == VocabularyKind::spm) {
    v.add_space_prefix = true;
    if (Status s = read_flag(file, "add_space_prefix", v.add_space_prefix); !s) return s;
    return read_scores(file, v);
  }
  if (Status s = read_pretokenizer(file, v); !s) return s;
  return read_merges(file, v);
}

Status read_template(const gguf::File& file, Vocabulary& v) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  if (file.find(kKey) == nullptr) return {};
  const auto text = file.get_string(kKey);
  if (!text) return text.status();
  v.chat_template = std::string(*text);
  return {};
}

}  // namespace

Result<Vocabulary> read_vocabulary(const gguf::File& file) {
  const auto kind = read_kind(file);
  if (!kind) return kind.error();
  Vocabulary v;
  v.kind = *kind;
  using Step = Status (*)(const gguf::File&, Vocabulary&);
  for (const Step step : {Step{read_tokens}, Step{read_types}, Step{read_model_specific},
                          Step{read_special_ids}, Step{read_end_ids}, Step{read_template}})
    if (Status s = step(file, v); !s) return s.error();
  return v;
}

int parse_byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

}  // namespace herd
