#include "backend/metal/metal.h"

namespace herd::metal {

void MetalBackend::rms_norm(const RmsNormArgs& a) {
  if (a.rows == 0 || a.columns == 0) return;
  ++norms_;
  const std::string kernel =
      std::string(a.add != nullptr ? "rms_norm_add_batch" : "rms_norm_batch") +
      (a.f32_out ? "_f32" : "_f16");
  const args::RmsNorm shape = {static_cast<std::uint32_t>(a.columns), a.epsilon,
                               a.of_logit_rows ? 1u : 0u, 0};
  run(kernel, {a.x, a.weight, a.out, step_part(room_.logit_rows()), a.add}, shape,
      {static_cast<std::uint32_t>(a.rows)}, threads_of(kernel, 256));
  done("rms_norm", a.out, a.rows, a.columns, !a.f32_out);
}

}  // namespace herd::metal
