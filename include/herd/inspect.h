// What is in a GGUF file, as plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "herd/status.h"

namespace herd {

struct FileSummary {
  struct Pair {
    std::string key, type;
    std::string value;  // one line for people, long arrays and strings cut
    std::string json;   // the whole value as JSON; bytes that are not UTF-8 become U+FFFD
  };
  struct Tensor {
    std::string name, type;
    std::vector<std::int64_t> shape;  // the row length first, as in the file
    std::uint64_t bytes = 0, offset = 0;
    int part = 0;  // of a split file
  };
  std::uint32_t version = 0;
  std::uint64_t file_bytes = 0;
  std::vector<Pair> metadata;
  std::vector<Tensor> tensors;
};

/// Reads the header only; any architecture. Errors: those of opening the file.
Result<FileSummary> inspect_file(const std::string& path);

}  // namespace herd
