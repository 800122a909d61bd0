#include "backend/cpu/division.h"

#include <algorithm>

namespace herd::cpu {

Division::Division(const Product& product, const Matrix* all, int threads, std::int32_t most)
    : n(product.n), paired(product.paired) {
  std::int32_t panels = 0;
  for (std::int32_t i = 0; i < n; ++i) {
    matrices[i] = all + product.weights[i].index;
    panels += matrices[i]->panels;
  }
  grain = std::clamp(panels / (4 * threads), kChunkPanels, most) / kChunkPanels;
  for (std::int32_t i = 0; i < n; ++i) {
    const std::int32_t count = matrices[i]->panels / kChunkPanels;
    ends[i] = chunks = paired ? count : chunks + count;
  }
}

Division::Run Division::run(int chunk, int end) const {
  std::int32_t w = 0;
  while (w + 1 < n && chunk >= ends[w]) ++w;
  const std::int32_t before = w == 0 ? 0 : ends[w - 1];
  return {w, paired ? n : 1, (chunk - before) * kChunkPanels,
          (std::min(end, ends[w]) - chunk) * kChunkPanels};
}

const std::byte* Division::begin(int chunk) const {
  const Run r = run(chunk, chunk + 1);
  return matrices[r.weight]->panel(r.first);
}

void Division::stretches(int first, int end, std::int64_t skip, std::int64_t most,
                         std::vector<Stretch>& to) const {
  const std::size_t before = to.size();
  for (int chunk = first, step; chunk < end && most > 0; chunk += step) {
    const Run r = run(chunk, paired ? std::min(end, chunk + grain) : end);
    step = r.count / kChunkPanels;
    for (std::int32_t w = r.weight; w < r.weight + r.weights && most > 0; ++w) {
      const Matrix& m = *matrices[w];
      const std::byte* at = m.panel(r.first);
      const std::int64_t skipped = std::min(skip, r.count * m.panel_bytes);
      const std::int64_t bytes = std::min(most, r.count * m.panel_bytes - skipped);
      skip -= skipped;
      most -= bytes;
      if (bytes == 0) continue;
      if (to.size() > before && to.back().end == at + skipped)
        to.back().end += bytes;
      else
        to.push_back({at + skipped, at + skipped + bytes});
    }
  }
}

}  // namespace herd::cpu
