// Loading: small steps that remember the first error, so that the code above reads as a list.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace herd {

/// Every tensor of the table is there with its shape, and no other. Errors name the tensor.
Status check_tensors(const gguf::File& file, std::span<const TensorSpec> table);

/// Positions [first, context): [rope_size / 2][cos, sin] each; `factors` is rope_freqs.weight or
/// empty. docs/numerics.md.
Result<std::vector<float>> make_rope_table(const ModelConfig& config, std::int32_t context,
                                           std::span<const float> factors, std::int32_t first = 0);

class Loader {
 public:
  Loader(const gguf::File& file, Backend& backend, const ProgressFn& progress);

  // Each does nothing once something failed. REQUIRES: check_tensors passed for the name.
  MatrixId matrix(const std::string& name, MatrixUse use = MatrixUse::product);
  float* vector(const std::string& name);
  float* rope_table(const ModelConfig& config, std::int32_t context);
  float* buffer(std::int64_t floats);
  void* activations(std::int64_t values);
  bool norms_add() const { return backend_.norm_adds(); }
  bool activations_are_floats() const { return backend_.activation_bytes() == 4; }

  const Status& status() const { return status_; }
  void fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  void* take(std::int64_t bytes);
  std::shared_ptr<const FileMapping> mapping(std::int32_t part);
  float* floats(std::span<const float> values);
  void advance(std::int64_t bytes);

  const gguf::File& file_;
  Backend& backend_;
  const ProgressFn& progress_;
  std::vector<std::shared_ptr<const FileMapping>> mappings_;  // [part], once asked for
  std::int64_t done_ = 0, total_ = 0;
  Status status_;
};

}  // namespace herd
