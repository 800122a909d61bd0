// The ways in which `herd verify` runs one piece of work. Each must give the bits of the baseline.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "verify_work.h"

namespace cli {

/// Loads the model under test. A test plants faults here.
using OpenModel = std::function<herd::Result<herd::LlamaModel>(const herd::ModelOptions&)>;

struct VerifyOptions {
  std::vector<herd::DeviceType> devices;
  bool skip_missing = false;  // a device that is not here is passed over, not an error
  bool full = false;
  herd::KvType kv_type = herd::KvType::f16;
  int threads = 0;             // of the baseline
  std::int32_t context = 0;    // the model's
  std::vector<Sequence> work;  // with empty answers; empty: default_work
};

struct CaseResult {
  std::string device, name;
  std::int64_t tokens = 0;          // compared
  std::optional<Difference> first;  // none: equal
  std::string error;                // why it could not be run or did not do what it is for
  double seconds = 0;
  bool kept() const { return !first && error.empty(); }
};
struct DeviceResult {
  std::string device, backend, sha256;  // sha256: of all logits of the baseline
  std::int64_t tokens = 0;
  std::vector<std::string> absent;  // variants that this machine does not have
};
struct VerifyReport {
  std::vector<DeviceResult> devices;
  std::vector<CaseResult> cases;
  bool kept() const;
};

/// Called before each case; false stops.
using OnCase = std::function<bool(const std::string& device, const std::string& name)>;

/// Runs all cases on all devices. A broken promise is a case in the report. Errors: a device that
/// is not there (unless skip_missing), or cannot run the work alone; cancelled.
herd::Result<VerifyReport> verify(const OpenModel& open, const VerifyOptions& options,
                                  const OnCase& on_case);

}  // namespace cli
