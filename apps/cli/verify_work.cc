#include "verify_work.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "divergence.h"
#include "sha256.h"

namespace cli {
namespace {

constexpr const char* kText =
    "The ferry left the north shore at half past six with forty people, nine bicycles and a crate "
    "of "
    "hens. Nobody had counted the hens. The harbour master, who counted everything else, wrote in "
    "her "
    "book: wind south-west, 14 knots; water 11 degrees; fares 212.50. Halfway across the fog came "
    "down "
    "so quickly that the bow could not be seen from the wheel, and the mate went forward with a "
    "bell. "
    "\"How far?\" asked the pilot. \"Two cables,\" said the mate, \"or three.\" They stopped the "
    "engine and "
    "listened. A dog barked on the left, then a second one answered from the right, which told "
    "them "
    "that they lay between the two farms, about where the old channel turns. for (int i = 0; i < "
    "n; ++i) "
    "total += depth[i]; is how the surveyor's program adds the soundings, and it has never been "
    "wrong "
    "by more than a metre. By seven the sun was through. Passengers who had gone quiet began to "
    "talk: "
    "about the price of eggs, about a wedding, about the bridge that has been promised since 1987 "
    "and "
    "that would make the ferry needless. The hens said nothing. When the ramp came down on the "
    "south "
    "shore one of them walked off before the bicycles, looked at the rain that was beginning "
    "again, "
    "and walked back on. It is in the book as a passenger who paid no fare and went nowhere.";

/// Tokens of a prompt, from where in the text they begin, and how long the answer gets.
struct Piece {
  int start, prompt, answer;
};
// Four with long answers: a pool too small for those preempts.
constexpr Piece kQuick[] = {{0, 40, 8}, {3, 1, 72},  {20, 9, 72},
                            {0, 33, 6}, {60, 4, 72}, {0, 70, 6}};
constexpr Piece kFull[] = {{0, 290, 12},  {0, 1, 100},  {5, 2, 100},  {0, 5, 100},
                           {40, 8, 100},  {0, 13, 12},  {9, 21, 12},  {0, 32, 12},
                           {0, 33, 12},   {7, 48, 12},  {0, 64, 12},  {0, 65, 12},
                           {100, 20, 12}, {77, 20, 12}, {50, 40, 12}, {1, 16, 12}};

std::vector<herd::TokenId> text_or_random(const herd::LlamaModel& model) {
  auto ids = model.encode(kText, false);
  if (ids.ok() && ids->size() >= 100) return std::move(*ids);
  std::vector<herd::TokenId> random;
  std::uint64_t state = 88172645463325252ull;  // xorshift64
  for (int i = 0; i < 300; ++i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    random.push_back(
        static_cast<herd::TokenId>(state % static_cast<std::uint64_t>(model.info().vocab)));
  }
  return random;
}

}  // namespace

std::vector<Sequence> default_work(const herd::LlamaModel& model, bool full, std::int32_t context) {
  const std::vector<herd::TokenId> text = text_or_random(model);
  const std::span<const Piece> pieces = full ? std::span<const Piece>(kFull) : kQuick;
  std::vector<Sequence> work;
  for (const Piece& piece : pieces) {
    const auto size = static_cast<int>(text.size());
    const int start = piece.start % size;
    const int answer = std::clamp(piece.answer, 1, std::max(1, context / 2));
    const int prompt = std::clamp(std::min(piece.prompt, context - answer), 1, size - start);
    Sequence& sequence = work.emplace_back();
    sequence.ids.assign(text.begin() + start, text.begin() + start + prompt);
    sequence.prompt = prompt;
    sequence.answer = answer;
  }
  return work;
}

std::int64_t Baseline::tokens() const {
  std::int64_t count = 0;
  for (const Sequence& sequence : sequences) count += std::ssize(sequence.ids);
  return count;
}

std::span<const float> Baseline::row(std::size_t sequence, std::size_t token) const {
  return std::span(rows[sequence]).subspan(token * vocab, vocab);
}

namespace {

/// The model's own greedy answer, appended.
herd::Status answer_alone(herd::LlamaModel& model, Sequence& sequence) {
  model.clear_batch();
  const auto logits = model.forward_batch(std::vector<std::vector<herd::TokenId>>{sequence.ids});
  if (!logits.ok()) return logits.status();
  const std::vector<herd::TokenId> first = {likeliest((*logits)[0])};
  sequence.ids.push_back(first[0]);
  if (sequence.answer == 1) return {};
  const auto more = model.continue_greedy(first, sequence.answer - 1);
  if (!more.ok()) return more.status();
  sequence.ids.insert(sequence.ids.end(), (*more)[0].begin(), (*more)[0].end());
  return {};
}

}  // namespace

herd::Result<Baseline> make_baseline(herd::LlamaModel& model, std::vector<Sequence> work) {
  Baseline baseline;
  baseline.vocab = static_cast<std::size_t>(model.info().vocab);
  if (const auto status = model.set_batch_size(1); !status.ok()) return status.error();
  Sha256 sha;
  for (Sequence& sequence : work) {
    if (const auto status = answer_alone(model, sequence); !status.ok()) return status.error();
    std::vector<float>& rows = baseline.rows.emplace_back();
    rows.reserve(sequence.ids.size() * baseline.vocab);
    const auto status =
        model.forward_all(std::vector<std::vector<herd::TokenId>>{sequence.ids},
                          [&](std::size_t, std::size_t, std::span<const float> logits) {
                            rows.insert(rows.end(), logits.begin(), logits.end());
                          });
    if (!status.ok()) return status.error();
    if (!all_finite(rows))
      return herd::Error{
          herd::Code::internal,
          fmt::format("sequence {}: logits that are not finite", baseline.rows.size() - 1)};
    sha.update(std::as_bytes(std::span(rows)));
  }
  baseline.sequences = std::move(work);
  baseline.sha256 = sha.finish();
  return baseline;
}

void Comparison::add(std::size_t sequence, std::size_t token, std::span<const float> logits) {
  ++tokens_;
  const auto want = baseline_.row(sequence, token);
  if (logits.size() == want.size() &&
      std::memcmp(logits.data(), want.data(), want.size_bytes()) == 0)
    return;
  std::size_t i = 0;
  while (i + 1 < std::min(want.size(), logits.size()) &&
         std::bit_cast<std::uint32_t>(logits[i]) == std::bit_cast<std::uint32_t>(want[i]))
    ++i;
  note({sequence, token, static_cast<herd::TokenId>(i), logits[i], want[i], margin(want)});
}

void Comparison::add_choice(std::size_t sequence, std::size_t token, herd::TokenId chosen) {
  ++tokens_;
  const auto want = baseline_.row(sequence, token);
  const herd::TokenId top = likeliest(want);
  if (chosen == top) return;
  const bool known = chosen >= 0 && static_cast<std::size_t>(chosen) < want.size();
  note({sequence, token, chosen, known ? want[static_cast<std::size_t>(chosen)] : 0.0f,
        want[static_cast<std::size_t>(top)], margin(want)});
}

void Comparison::add_likeliest(std::size_t sequence, std::size_t token,
                               std::span<const float> logits, float bound) {
  if (margin(baseline_.row(sequence, token)) <= bound)
    ++tokens_;
  else
    add_choice(sequence, token, likeliest(logits));
}

void Comparison::note(const Difference& difference) {
  const auto place = [](const Difference& d) { return std::pair(d.sequence, d.token); };
  if (!first_ || place(difference) < place(*first_)) first_ = difference;
}

}  // namespace cli
