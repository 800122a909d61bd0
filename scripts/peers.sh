# shellcheck shell=bash
# Brings the programs herd is compared with to .cache: llama.cpp and Hugging Face transformers. Sourced after lib.sh
# by scripts/bench-peers and scripts/evidence. Each function here fails, having said why, where a peer cannot be had.

PEER_PACKAGES=(python3-venv python3-pip ca-certificates binutils)
PEERS=$HERD_CACHE/peers
LLAMA_PACKAGE=llama-cpp-python==0.3.36
LLAMA_BIN=$PEERS/build/bin
LLAMA_LOGITS=$PEERS/peer_logits

# pip prepares the sdist's metadata before it keeps the file, for about a minute.
unpack_llama_cpp() {
  [[ -f $PEERS/llama.cpp/CMakeLists.txt ]] && return 0
  local download
  mkdir -p "$PEERS"
  download=$(mktemp -d "$PEERS/download.XXXXXX")
  say "downloading $LLAMA_PACKAGE (source, 77 MB)"
  if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary llama-cpp-python --dest "$download" "$LLAMA_PACKAGE" >&2; then
    say "llama.cpp: the download of $LLAMA_PACKAGE failed"
    rm -rf "$download"
    return 1
  fi
  tar -xzf "$download"/llama_cpp_python-*.tar.gz -C "$download"
  # The sdist carries dates that a build tool may take for the future.
  find "$download" -type f -exec touch {} +
  mv "$download"/llama_cpp_python-*/vendor/llama.cpp "$PEERS/llama.cpp"
  rm -rf "$download"
}

# What llama.cpp may use of this processor, option by option: GGML_NATIVE=ON lets the compiler decide, which takes
# AMX for granted on virtual machines whose kernel does not grant it, and the program ends with SIGILL.
instruction_sets() {
  if [[ $(uname -m) != x86_64 ]]; then
    printf '%s\n' -DGGML_NATIVE=ON
    return
  fi
  printf '%s\n' -DGGML_NATIVE=OFF
  local flag option
  while read -r flag option; do
    if grep -qw "$flag" /proc/cpuinfo; then printf '%s\n' "-DGGML_$option=ON"; else printf '%s\n' "-DGGML_$option=OFF"; fi
  done <<'END'
sse4_2 SSE42
avx AVX
avx2 AVX2
fma FMA
f16c F16C
bmi2 BMI2
avx_vnni AVX_VNNI
avx512f AVX512
avx512vbmi AVX512_VBMI
avx512_vnni AVX512_VNNI
avx512_bf16 AVX512_BF16
END
}

# fetch_llama_cpp PROGRAM...: builds these of llama.cpp's programs into $LLAMA_BIN.
fetch_llama_cpp() {
  local program ready=true launcher=() sets
  for program in "$@"; do [[ -x $LLAMA_BIN/$program ]] || ready=false; done
  [[ $ready == false ]] || return 0
  unpack_llama_cpp || return 1
  command -v ccache >/dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_C_COMPILER_LAUNCHER=ccache)
  mapfile -t sets < <(instruction_sets)
  say "building llama.cpp in $PEERS/build ($*)"
  if ! {
    cmake -S "$PEERS/llama.cpp" -B "$PEERS/build" -G Ninja --log-level=WARNING "${launcher[@]}" \
      -DCMAKE_BUILD_TYPE=Release "${sets[@]}" -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
      -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=ON \
      -DLLAMA_BUILD_TOOLS=ON >/dev/null &&
      nice -n 19 ninja -C "$PEERS/build" -j "$HERD_JOBS" "$@" >&2
  }; then
    say "llama.cpp: its build failed"
    return 1
  fi
}

# A small program that writes llama.cpp's logits, linked with the libraries of fetch_llama_cpp.
build_llama_logits() {
  local libraries
  [[ ! $LLAMA_LOGITS -nt $HERD_ROOT/scripts/peer_logits.cc ]] || return 0
  mapfile -t libraries < <(find "$PEERS/build" -name 'libllama.a' -o -name 'libggml*.a' | sort -r)
  g++ -std=c++20 -O2 -I"$PEERS/llama.cpp/include" -I"$PEERS/llama.cpp/ggml/include" \
    "$HERD_ROOT/scripts/peer_logits.cc" -Wl,--start-group "${libraries[@]}" -Wl,--end-group \
    -fopenmp -ldl -lpthread -o "$LLAMA_LOGITS"
}

# Brings PyTorch and transformers to $TRANSFORMERS_VENV. PyPI's PyTorch for x86-64 Linux is built with CUDA and asks for
# NVIDIA's libraries, 2.5 GB in all; only the CPU is measured, so they are left out, and cuda_stubs.py makes libraries
# in their place that say there is no GPU.
TRANSFORMERS_VENV=$HERD_CACHE/transformers
TORCH_PACKAGE=torch==2.15.0
TRANSFORMERS_PACKAGES=(transformers==5.24.0 gguf==0.19.0)
TRANSFORMERS_BARE=(accelerate==1.15.0)  # what transformers loads GGUF with; would ask for all of PyTorch again
TORCH_NEEDS=(filelock typing_extensions 'setuptools>=77' sympy networkx jinja2 fsspec numpy psutil)
fetch_transformers() {
  local venv=$TRANSFORMERS_VENV python=$TRANSFORMERS_VENV/bin/python
  local pip=("$python" -m pip --quiet --disable-pip-version-check install)
  "$python" -c 'import torch, transformers, gguf, accelerate' 2>/dev/null && return 0
  say "installing $TORCH_PACKAGE and ${TRANSFORMERS_PACKAGES[0]} from PyPI into $venv: 620 MB to download, 1.6 GB on disk"
  mkdir -p "$HERD_CACHE"
  python3 -m venv --clear "$venv" &&
    "${pip[@]}" "${TORCH_NEEDS[@]}" "${TRANSFORMERS_PACKAGES[@]}" >&2 &&
    "${pip[@]}" --no-deps "$TORCH_PACKAGE" "${TRANSFORMERS_BARE[@]}" >&2 &&
    "$python" -B "$HERD_ROOT/scripts/cuda_stubs.py" "$venv" &&
    "$python" -c 'import torch, transformers, gguf, accelerate' && return 0
  say "transformers: $TORCH_PACKAGE or ${TRANSFORMERS_PACKAGES[0]} could not be installed from PyPI"
  rm -rf "$venv"
  return 1
}

# fetch_peers NAMES [PROGRAM]...: those of "llama.cpp,transformers" that are named; PROGRAM: more of llama.cpp's. Sets
# PEER_OPTIONS to what tells bench_peers.py of them.
PEER_OPTIONS=()
fetch_peers() {
  local names name
  IFS=, read -ra names <<<"$1"
  shift
  need_packages "${PEER_PACKAGES[@]}"
  for name in "${names[@]}"; do
    case $name in
      llama.cpp)
        fetch_llama_cpp llama-bench llama-batched-bench ${1:+"$@"} || return 1
        PEER_OPTIONS+=(--llama-bin "$LLAMA_BIN" --llama-name "llama.cpp ($LLAMA_PACKAGE)")
        ;;
      transformers)
        fetch_transformers || return 1
        PEER_OPTIONS+=(--transformers "$TRANSFORMERS_VENV/bin/python"
          --transformers-name "transformers (${TRANSFORMERS_PACKAGES[0]}, $TORCH_PACKAGE)")
        ;;
      *)
        say "there is no peer '$name'; known: llama.cpp, transformers"
        return 1
        ;;
    esac
  done
}
