// The options that say how tokens are chosen.
#pragma once

#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "herd/llama.h"

namespace cli {

struct SamplingFlags {
  herd::SamplingParams params;
  std::vector<std::string> biases;

  void add(CLI::App& app);
  /// Takes the ID=VALUE pairs into `params`. Error: names the argument.
  herd::Status parse_biases();
};

}  // namespace cli
