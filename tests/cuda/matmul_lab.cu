// Checks and times the CUDA matrix products on their own, without the rest of herd:
//   matmul_lab check            every type against f64, every path and row count bit for bit
//   matmul_lab time [CUBLAS]    Llama-3-8B shapes; CUBLAS: path of libcublas.so to time beside it
// Prints FAILED lines and exits 1 if anything is off.
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backend/cuda/matmul.h"
#include "quant/types.h"

namespace {

using herd::cuda::Epilogue;
using herd::cuda::MatmulCall;
using herd::cuda::PackedMatrix;
using herd::cuda::Path;
using herd::quant::Type;
using herd::quant::TypeInfo;

int failures = 0;
#define CUDA(call)                                                                             \
  do {                                                                                         \
    const cudaError_t e_ = (call);                                                             \
    if (e_ != cudaSuccess) {                                                                   \
      std::printf("FAILED %s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
      std::exit(1);                                                                            \
    }                                                                                          \
  } while (0)

template <class T>
struct Device {
  T* p = nullptr;
  std::size_t n = 0;
  explicit Device(std::size_t count) : n(count) {
    CUDA(cudaMalloc(&p, std::max<std::size_t>(1, n) * sizeof(T)));
  }
  Device(Device&& o) noexcept : p(o.p), n(o.n) { o.p = nullptr; }
  Device(const Device&) = delete;
  ~Device() { cudaFree(p); }
  std::vector<T> host() const {
    std::vector<T> v(n);
    CUDA(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
};

__device__ unsigned hash(unsigned long long x) {
  x ^= x >> 33, x *= 0xff51afd7ed558ccdull, x ^= x >> 33, x *= 0xc4ceb9fe1a85ec53ull;
  return static_cast<unsigned>((x ^ x >> 33) >> 16);
}
__device__ float normal(unsigned long long seed, unsigned long long i) {
  const float u = (hash(seed * 7919 + 2 * i) + 1.0f) * 2.3283064e-10f;
  const float v = hash(seed * 7919 + 2 * i + 1) * 2.3283064e-10f;
  return sqrtf(-2.0f * logf(fminf(u, 1.0f))) * cospif(2.0f * v);
}
__global__ void fill_x(__half* x, long long n, unsigned seed) {
  const long long i = blockIdx.x * 256ll + threadIdx.x;
  if (i < n) x[i] = __float2half_rn(normal(seed, i));
}
/// Random raw bytes; scales as trained models have them (weights of about 0.02).
__global__ void fill_blocks(std::uint8_t* raw, long long blocks, int bytes, Type type,
                            unsigned seed) {
  const long long b = blockIdx.x * 256ll + threadIdx.x;
  if (b >= blocks) return;
  std::uint8_t* at = raw + b * bytes;
  for (int i = 0; i < bytes; ++i) at[i] = static_cast<std::uint8_t>(hash(seed + b * 1024 + i));
  const float u = 0.3f + (hash(seed * 31 + b) % 1000) * 0.001f;
  const auto half = [&](int offset, float v) {
    const unsigned short h = __half_as_ushort(__float2half_rn(v));
    *reinterpret_cast<unsigned short*>(at + offset) = h;
  };
  switch (type) {
    case Type::F32: {
      const float v = 0.02f * normal(seed, b);
      memcpy(at, &v, 4);
      break;
    }
    case Type::F16: half(0, 0.02f * normal(seed, b)); break;
    case Type::BF16: {
      const unsigned v = __float_as_uint(0.02f * normal(seed, b));
      at[0] = v >> 16 & 255, at[1] = v >> 24;
      break;
    }
    case Type::Q4_0: half(0, 0.004f * u); break;
    case Type::Q4_1: half(0, 0.004f * u), half(2, -0.03f * u); break;
    case Type::Q5_0: half(0, 0.002f * u); break;
    case Type::Q5_1: half(0, 0.002f * u), half(2, -0.03f * u); break;
    case Type::Q8_0: half(0, 0.0003f * u); break;
    case Type::IQ4_NL: half(0, 0.0003f * u); break;
    case Type::IQ4_XS: half(0, 0.00001f * u); break;
    case Type::Q2_K: half(80, 0.003f * u), half(82, 0.004f * u); break;
    case Type::Q3_K: half(108, 0.0003f * u); break;
    case Type::Q4_K: half(0, 0.0001f * u), half(2, 0.0007f * u); break;
    case Type::Q5_K: half(0, 0.00005f * u), half(2, 0.0007f * u); break;
    case Type::Q6_K: half(208, 0.00002f * u); break;
  }
}
/// The same product in f64, from f16 weights [n][k].
__global__ void reference(const __half* w, const __half* x, double* y, double* size, int n, int k,
                          int rows) {
  const int o = blockIdx.x * 64 + threadIdx.x, r = blockIdx.y;
  if (o >= n || r >= rows) return;
  double sum = 0, squares = 0;
  for (int i = 0; i < k; ++i) {
    const double p = static_cast<double>(__half2float(w[static_cast<long long>(o) * k + i])) *
                     static_cast<double>(__half2float(x[static_cast<long long>(r) * k + i]));
    sum += p, squares += p * p;
  }
  y[static_cast<long long>(r) * n + o] = sum;
  size[static_cast<long long>(r) * n + o] = sqrt(squares);
}
__global__ void count_differences(const unsigned* a, const unsigned* b, long long n,
                                  unsigned long long* count) {
  const long long i = blockIdx.x * 256ll + threadIdx.x;
  if (i < n && a[i] != b[i]) atomicAdd(count, 1ull);
}
__global__ void sum_words(const uint4* p, long long n, unsigned* out) {
  unsigned s = 0;
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    const uint4 a = p[i], b = p[i + step], c = p[i + 2 * step], d = p[i + 3 * step];
    s += a.x ^ a.w ^ b.x ^ b.w ^ c.x ^ c.w ^ d.x ^ d.w ^ a.y ^ b.y ^ c.y ^ d.y ^ a.z ^ b.z;
  }
  if (s == 123456789u) *out = s;
}

struct Matrix {
  Device<std::uint8_t> raw, data;
  Device<unsigned> overflow;
  PackedMatrix packed;
};
Matrix make_matrix(Type type, int n, int k, unsigned seed, bool keep_raw = true) {
  const TypeInfo info = herd::quant::type_info(type);
  const long long blocks = static_cast<long long>(n) * (k / info.block);
  Matrix m{Device<std::uint8_t>(blocks * info.bytes),
           Device<std::uint8_t>(herd::cuda::packed_bytes(type, n, k)),
           Device<unsigned>(1),
           {}};
  fill_blocks<<<static_cast<unsigned>((blocks + 255) / 256), 256>>>(m.raw.p, blocks, info.bytes,
                                                                    type, seed);
  CUDA(cudaGetLastError());
  CUDA(cudaMemset(m.data.p, 0xFF, m.data.n));
  CUDA(cudaMemset(m.overflow.p, 0, 4));
  m.packed = {type, n, k, m.data.p, static_cast<long long>(m.data.n), m.overflow.p};
  const long long row_bytes = herd::quant::row_bytes(type, k);
  const int slab = std::max(64, n / 3 / 64 * 64);  // in slabs, as a loader does
  for (int first = 0; first < n; first += slab)
    CUDA(herd::cuda::pack(m.packed, m.raw.p + first * row_bytes, first, std::min(slab, n - first),
                          0));
  CUDA(cudaDeviceSynchronize());
  if (!keep_raw) {
    cudaFree(m.raw.p);
    m.raw.p = nullptr;
  }
  return m;
}
Device<__half> make_x(long long n, unsigned seed) {
  Device<__half> x(n);
  fill_x<<<static_cast<unsigned>((n + 255) / 256), 256>>>(x.p, n, seed);
  CUDA(cudaGetLastError());
  return x;
}
std::vector<float> exact_weights(const Matrix& m) {
  const auto raw = m.raw.host();
  std::vector<float> w(static_cast<std::size_t>(m.packed.rows) * m.packed.columns);
  herd::quant::dequantize(m.packed.type, std::as_bytes(std::span(raw)), w);
  return w;
}
/// One for all calls, which follow each other.
void give_workspace(MatmulCall& c) {
  static std::size_t size = 0;
  static void* p = nullptr;
  const std::size_t need = herd::cuda::workspace_bytes(c.rows, 16384);
  if (need > size) {
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(p));
    CUDA(cudaMalloc(&p, size = need));
    CUDA(cudaMemset(p, 0, size));
  }
  c.workspace = p, c.workspace_size = size;
}
MatmulCall call_of(const PackedMatrix& w, const __half* x, int rows, void* out) {
  MatmulCall c;
  c.weights[0] = &w, c.n_weights = 1, c.x = x, c.rows = rows, c.out[0] = out;
  give_workspace(c);
  return c;
}
const char* name(Path p) {
  return p == Path::mma ? "mma" : p == Path::wgmma ? "wgmma" : "auto";
}

// ---- the weights themselves: products with rows of the identity ----
void check_weights(Type type, Path path) {
  const int n = 200, k = herd::quant::type_info(type).block == 256 ? 512 : 608;
  const Matrix m = make_matrix(type, n, k, 77);
  const std::vector<float> w = exact_weights(m);
  std::vector<__half> eye(static_cast<std::size_t>(k) * k, __float2half(0.0f));
  for (int i = 0; i < k; ++i) eye[static_cast<std::size_t>(i) * k + i] = __float2half(1.0f);
  Device<__half> x(eye.size());
  CUDA(cudaMemcpy(x.p, eye.data(), eye.size() * 2, cudaMemcpyHostToDevice));
  Device<float> y(static_cast<std::size_t>(k) * n);
  CUDA(cudaMemset(y.p, 0xFF, y.n * 4));
  CUDA(herd::cuda::matmul_on(path, call_of(m.packed, x.p, k, y.p), 0));
  const auto got = y.host();
  double largest = 0, error2 = 0, best2 = 0;
  long long off = 0, wrong = 0;
  for (int i = 0; i < k; ++i) {
    for (int o = 0; o < n; ++o) {
      const float exact = w[static_cast<std::size_t>(o) * k + i];
      const float nearest = __half2float(__float2half_rn(exact));
      const float value = got[static_cast<std::size_t>(i) * n + o];
      if (value != nearest) ++off;
      largest = std::max<double>(largest, std::fabs(exact));
      error2 += (value - exact) * double(value - exact),
          best2 += (nearest - exact) * double(nearest - exact);
      if (!(std::fabs(value - exact) <= 2e-3f * std::fabs(exact) + 3e-5f)) ++wrong;
    }
  }
  std::printf("%s weights %-6s %-5s not the nearest half %.4f, rms error over the best %.3f%s\n",
              wrong ? "FAILED" : "ok", std::string(herd::quant::type_info(type).name).c_str(),
              name(path), double(off) / (double(n) * k), std::sqrt(error2 / std::max(best2, 1e-30)),
              type == Type::F32 || type == Type::BF16 ? " (overflow flag follows)" : "");
  if (wrong) {
    std::printf("  %lld wrong\n", wrong);
    ++failures;
  }
}

// ---- products against f64 ----
void check_product(Type type, int n, int k, int rows, Path path) {
  const Matrix m = make_matrix(type, n, k, 5 + rows);
  const std::vector<float> w = exact_weights(m);
  std::vector<__half> wh(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) wh[i] = __float2half_rn(w[i]);
  Device<__half> dw(wh.size());
  CUDA(cudaMemcpy(dw.p, wh.data(), wh.size() * 2, cudaMemcpyHostToDevice));
  const auto x = make_x(static_cast<long long>(rows) * k, 9 + n);
  const std::size_t outs = static_cast<std::size_t>(rows) * n;
  Device<double> ref(outs), size(outs);
  reference<<<dim3((n + 63) / 64, rows), 64>>>(dw.p, x.p, ref.p, size.p, n, k, rows);
  Device<float> y(outs + 64);
  CUDA(cudaMemset(y.p, 0xFF, y.n * 4));
  CUDA(herd::cuda::matmul_on(path, call_of(m.packed, x.p, rows, y.p), 0));
  const auto got = y.host();
  const auto want = ref.host(), sizes = size.host();
  double error2 = 0, norm2 = 0, worst = 0;
  bool bad = false;
  for (std::size_t i = 0; i < outs; ++i) {
    const double e = got[i] - want[i];
    error2 += e * e, norm2 += want[i] * want[i];
    worst = std::max(worst, std::fabs(e) / (sizes[i] + 1e-30));
    if (!(std::fabs(e) <= 2e-3 * sizes[i])) bad = true;
  }
  for (std::size_t i = outs; i < y.n; ++i) {  // nothing past the end
    unsigned bits;
    std::memcpy(&bits, &got[i], 4);
    if (bits != 0xFFFFFFFFu) bad = true;
  }
  const double relative = std::sqrt(error2 / norm2);
  if (!(relative < 3e-4)) bad = true;
  if (bad) ++failures;
  std::printf("%s product %-6s %-5s N %d K %d rows %d: relative %.2e, worst %.2e of its terms\n",
              bad ? "FAILED" : "ok", std::string(herd::quant::type_info(type).name).c_str(),
              name(path), n, k, rows, relative, worst);
}

// ---- epilogues and fused matrices against separate plain products ----
void check_epilogues(Type a, Type b, int n, int k, int rows, Path path) {
  const Matrix g = make_matrix(a, n, k, 1), u = make_matrix(b, n, k, 2),
               v = make_matrix(a, 72, k, 3);
  const auto x = make_x(static_cast<long long>(rows) * k, 4);
  const std::size_t outs = static_cast<std::size_t>(rows) * n;
  Device<float> yg(outs), yu(outs), yv(static_cast<std::size_t>(rows) * 72);
  CUDA(herd::cuda::matmul_on(path, call_of(g.packed, x.p, rows, yg.p), 0));
  CUDA(herd::cuda::matmul_on(path, call_of(u.packed, x.p, rows, yu.p), 0));
  CUDA(herd::cuda::matmul_on(path, call_of(v.packed, x.p, rows, yv.p), 0));
  const auto hg = yg.host(), hu = yu.host(), hv = yv.host();
  bool bad = false;

  const int stride = 2 * n + 72;  // one buffer for all three
  Device<float> fused(static_cast<std::size_t>(rows) * stride);
  CUDA(cudaMemset(fused.p, 0xFF, fused.n * 4));
  MatmulCall c = call_of(g.packed, x.p, rows, fused.p);
  c.weights[1] = &u.packed, c.weights[2] = &v.packed, c.n_weights = 3;
  c.out[1] = fused.p + n, c.out[2] = fused.p + 2 * n;
  c.out_stride[0] = c.out_stride[1] = c.out_stride[2] = stride;
  CUDA(herd::cuda::matmul_on(path, c, 0));
  const auto hf = fused.host();
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < stride; ++o) {
      const float want = o < n       ? hg[std::size_t(r) * n + o]
                         : o < 2 * n ? hu[std::size_t(r) * n + o - n]
                                     : hv[std::size_t(r) * 72 + o - 2 * n];
      if (!(hf[std::size_t(r) * stride + o] == want)) bad = true;
    }
  }
  if (bad) std::printf("FAILED fused\n");

  std::vector<float> base(outs);
  for (std::size_t i = 0; i < outs; ++i) base[i] = float(i % 97) * 0.25f;
  Device<float> add(outs);
  CUDA(cudaMemcpy(add.p, base.data(), outs * 4, cudaMemcpyHostToDevice));
  c = call_of(g.packed, x.p, rows, add.p);
  c.epilogue = Epilogue::F32_ADD;
  CUDA(herd::cuda::matmul_on(path, c, 0));
  const auto ha = add.host();
  for (std::size_t i = 0; i < outs; ++i)
    if (!(ha[i] == base[i] + hg[i])) bad = true;
  if (bad) std::printf("FAILED by add\n");

  Device<__half> h(outs);
  CUDA(cudaMemset(h.p, 0xFF, outs * 2));
  c = call_of(g.packed, x.p, rows, h.p);
  c.epilogue = Epilogue::F16;
  CUDA(herd::cuda::matmul_on(path, c, 0));
  auto hh = h.host();
  for (std::size_t i = 0; i < outs; ++i)
    if (!(__half2float(hh[i]) == __half2float(__float2half_rn(hg[i])))) bad = true;
  if (bad) std::printf("FAILED by f16\n");

  CUDA(cudaMemset(h.p, 0xFF, outs * 2));
  c.epilogue = Epilogue::SWIGLU_F16, c.n_weights = 2, c.weights[1] = &u.packed;
  CUDA(herd::cuda::matmul_on(path, c, 0));
  hh = h.host();
  for (std::size_t i = 0; i < outs; ++i) {
    const float want = hg[i] / (1.0f + std::exp(-hg[i])) * hu[i];
    if (!(std::fabs(__half2float(hh[i]) - want) <= 1e-3f * std::fabs(want) + 1e-6f)) bad = true;
  }
  if (bad) ++failures;
  std::printf("%s epilogues %s/%s %s N %d K %d rows %d\n", bad ? "FAILED" : "ok",
              std::string(herd::quant::type_info(a).name).c_str(),
              std::string(herd::quant::type_info(b).name).c_str(), name(path), n, k, rows);
}

// ---- bits: every row count on every path gives each row the bits it has alone ----
void check_bits(Type type, int n, int k, const std::vector<int>& counts, bool hopper) {
  const Matrix m = make_matrix(type, n, k, 21, false);
  const int most = *std::max_element(counts.begin(), counts.end());
  const auto x = make_x(static_cast<long long>(most) * k, 8);
  Device<float> alone(static_cast<std::size_t>(most) * n), y(static_cast<std::size_t>(most) * n);
  Device<unsigned long long> count(1);
  CUDA(cudaMemset(alone.p, 0xFF, alone.n * 4));
  for (int r = 0; r < most; ++r) {
    if (r >= 320 && r % 37 != 0 && r < most - 3) {  // enough of the rows, then a block of them
      continue;
    }
    CUDA(herd::cuda::matmul_on(Path::mma,
                               call_of(m.packed, x.p + static_cast<long long>(r) * k, 1,
                                       alone.p + static_cast<long long>(r) * n),
                               0));
  }
  std::vector<Path> paths = {Path::mma, Path::automatic};
  if (hopper) paths.push_back(Path::wgmma);
  unsigned long long total = 0;
  for (const int rows : counts) {
    for (const Path path : paths) {
      if (path == Path::mma && rows > 600) continue;
      CUDA(cudaMemset(y.p, 0xFE, y.n * 4));
      CUDA(herd::cuda::matmul_on(path, call_of(m.packed, x.p, rows, y.p), 0));
      CUDA(cudaMemset(count.p, 0, 8));
      const auto compare = [&](int first, int n_rows) {
        const long long size = static_cast<long long>(n_rows) * n;
        count_differences<<<static_cast<unsigned>((size + 255) / 256), 256>>>(
            reinterpret_cast<unsigned*>(alone.p) + static_cast<long long>(first) * n,
            reinterpret_cast<unsigned*>(y.p) + static_cast<long long>(first) * n, size, count.p);
      };
      compare(0, std::min(rows, 320));
      for (int r = 320; r < rows; ++r)
        if (r % 37 == 0 || r >= most - 3) compare(r, 1);
      const unsigned long long differ = count.host()[0];
      total += differ;
      if (differ != 0)
        std::printf("FAILED bits %s %s N %d K %d rows %d: %llu differ\n",
                    std::string(herd::quant::type_info(type).name).c_str(), name(path), n, k, rows,
                    differ);
    }
  }
  if (total != 0) ++failures;
  std::printf("%s bits %-6s N %d K %d, %zu row counts\n", total ? "FAILED" : "ok",
              std::string(herd::quant::type_info(type).name).c_str(), n, k, counts.size());
}

int check(bool hopper) {
  if (std::getenv("LAB_BITS") != nullptr) {
    for (int i = 0; i < 3; ++i)
      check_bits(Type::F16, 4096, 4096, {129, 160, 256, 257, 300, 512, 1000}, hopper);
    return failures != 0;
  }
  std::vector<Path> paths = {Path::mma};
  if (hopper) paths.push_back(Path::wgmma);
  for (const TypeInfo& info : herd::quant::kTypes)
    for (const Path path : paths) check_weights(info.type, path);
  for (const TypeInfo& info : herd::quant::kTypes) {
    for (const Path path : paths) {
      if (info.block == 256) {
        check_product(info.type, 192, 1536, 5, path);
        check_product(info.type, 4096, 2048, 33, path);
      } else {
        check_product(info.type, 576, 1536, 3, path);
        check_product(info.type, 1536, 576, 40, path);
        check_product(info.type, 100, 96, 17, path);
        check_product(info.type, 1, 32, 1, path);
      }
    }
  }
  for (const Path path : paths) {
    check_product(Type::Q4_K, 4096, 14336, 8, path);
    check_product(Type::F16, 4096, 14336, 16, path);
    check_product(Type::Q5_0, 49152, 576, 9, path);
    check_product(Type::Q4_K, 33000, 512, 70, path);
    for (const int rows : {1, 13, 70, 300}) {
      check_epilogues(Type::Q4_K, Type::Q4_K, 1000, 1024, rows, path);
      check_epilogues(Type::Q4_0, Type::Q8_0, 192, 576, rows, path);
      check_epilogues(Type::F16, Type::F16, 10240, 512, rows, path);
    }
  }
  std::vector<int> counts;
  for (int i = 1; i <= 72; ++i) counts.push_back(i);
  for (const int i :
       {96, 100, 127, 128, 129, 160, 191, 200, 255, 256, 257, 300, 384, 511, 512, 513, 1000, 4096})
    counts.push_back(i);
  check_bits(Type::Q4_K, 4096, 4096, counts, hopper);
  check_bits(Type::Q6_K, 1024, 4096, counts, hopper);
  check_bits(Type::F16, 4096, 4096, counts, hopper);
  check_bits(Type::Q8_0, 1024, 2048, counts, hopper);
  check_bits(Type::Q4_0, 576, 1536, counts, hopper);
  check_bits(Type::Q5_K, 14336, 1024, counts, hopper);
  check_bits(Type::Q5_0, 192, 576, counts, hopper);
  check_bits(Type::Q4_K, 40000, 512, {1, 2, 9, 17, 64, 128, 256, 300}, hopper);
  check_bits(Type::Q4_K, 4096, 14336, {1, 2, 8, 16, 17, 64, 100, 128, 256, 300, 512}, hopper);
  std::printf("%s: %d failures\n", failures ? "FAILED" : "all ok", failures);
  return failures != 0;
}

// ---- times ----
double microseconds(int launches, const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  CUDA(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < launches; ++i) launch(i, stream);
  CUDA(cudaStreamEndCapture(stream, &graph));
  CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t a, b;
  CUDA(cudaEventCreate(&a));
  CUDA(cudaEventCreate(&b));
  CUDA(cudaGraphLaunch(exec, stream));
  std::vector<float> times;
  for (int i = 0; i < 5; ++i) {
    CUDA(cudaEventRecord(a, stream));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaEventRecord(b, stream));
    CUDA(cudaEventSynchronize(b));
    float ms;
    CUDA(cudaEventElapsedTime(&ms, a, b));
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  cudaEventDestroy(a), cudaEventDestroy(b), cudaStreamDestroy(stream);
  return times[2] * 1000.0 / launches;
}

using CublasCreate = int (*)(void**);
using CublasSetStream = int (*)(void*, cudaStream_t);
using CublasSetWorkspace = int (*)(void*, void*, std::size_t);
using CublasGemmEx = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int,
                             const void*, int, int, const void*, void*, int, int, int, int);
struct Cublas {
  void* handle = nullptr;
  CublasSetStream set_stream = nullptr;
  CublasGemmEx gemm = nullptr;
  explicit Cublas(const char* path) {
    void* lib = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : nullptr;
    if (path && !lib) std::printf("no cublas: %s\n", dlerror());
    if (!lib) return;
    const auto create = reinterpret_cast<CublasCreate>(dlsym(lib, "cublasCreate_v2"));
    set_stream = reinterpret_cast<CublasSetStream>(dlsym(lib, "cublasSetStream_v2"));
    gemm = reinterpret_cast<CublasGemmEx>(dlsym(lib, "cublasGemmEx"));
    const auto space = reinterpret_cast<CublasSetWorkspace>(dlsym(lib, "cublasSetWorkspace_v2"));
    if (!create || create(&handle) != 0) handle = nullptr;
    if (handle && space) {
      void* p;
      CUDA(cudaMalloc(&p, 64 << 20));
      space(handle, p, 64 << 20);
    }
  }
  void run(const __half* w, const __half* x, __half* y, int n, int k, int rows, cudaStream_t s) {
    const float one = 1, zero = 0;
    set_stream(handle, s);
    const int e = gemm(handle, 1, 0, n, rows, k, &one, w, 2, k, x, 2, k, &zero, y, 2, n, 68, -1);
    if (e != 0) std::printf("FAILED cublas %d\n", e);
  }
};

double read_bandwidth() {
  const long long bytes = 2ll << 30;
  Device<std::uint8_t> p(bytes);
  Device<unsigned> out(1);
  CUDA(cudaMemset(p.p, 1, bytes));
  const double us = microseconds(5, [&](int, cudaStream_t s) {
    sum_words<<<132 * 8, 512, 0, s>>>(reinterpret_cast<const uint4*>(p.p), bytes / 16, out.p);
  });
  return bytes / us * 1e-6;  // TB/s
}

struct Shape {
  const char* name;
  int n[3], k;
  bool swiglu;
};
void time_shape(const Shape& s, Type type, const std::vector<int>& row_counts, double bandwidth,
                Cublas* cublas) {
  long long weights = 0;
  for (const int n : s.n) weights += static_cast<long long>(n) * s.k;
  const TypeInfo info = herd::quant::type_info(type);
  const double raw_bytes = double(weights) / info.block * info.bytes;
  const char* rotate = std::getenv("LAB_BYTES");  // of all the copies that launches rotate through
  const int copies =
      std::max(2, int((rotate != nullptr ? std::atof(rotate) : 260e6) / raw_bytes) + 1);
  std::vector<Matrix> matrices;
  for (int c = 0; c < copies; ++c)
    for (const int n : s.n)
      if (n) matrices.push_back(make_matrix(type, n, s.k, 3 + c, false));
  const int each = static_cast<int>(matrices.size()) / copies;
  const int most = *std::max_element(row_counts.begin(), row_counts.end());
  const auto x = make_x(static_cast<long long>(most) * s.k, 2);
  int outputs = 0;
  for (const int n : s.n) outputs += n;
  Device<float> y(static_cast<std::size_t>(most) * outputs);
  Device<__half> dense(cublas && cublas->handle ? std::size_t(weights) * 2 : 1);
  if (cublas && cublas->handle)
    fill_x<<<unsigned((dense.n + 255) / 256), 256>>>(dense.p, (long long)dense.n, 3);
  const char* limit = std::getenv("LAB_MAX_ROWS");
  MatmulCall space;
  space.rows = most;
  give_workspace(space);
  for (const int rows : row_counts) {
    if (limit != nullptr && rows > std::atoi(limit)) continue;
    const double us =
        microseconds(std::max(copies, rows > 256 ? 4 : 20), [&](int i, cudaStream_t st) {
          MatmulCall c;
          c.n_weights = each, c.x = x.p, c.rows = rows;
          c.workspace = space.workspace, c.workspace_size = space.workspace_size;
          long long at = 0;
          for (int j = 0; j < each; ++j) {
            c.weights[j] = &matrices[i % copies * each + j].packed;
            c.out[j] = y.p + at, at += static_cast<long long>(rows) * s.n[j];
          }
          c.epilogue = s.swiglu ? Epilogue::SWIGLU_F16 : Epilogue::F32;
          CUDA(herd::cuda::matmul(c, st));
        });
    double cu = 0;
    if (cublas && cublas->handle)
      cu = microseconds(rows > 256 ? 4 : 10, [&](int i, cudaStream_t st) {
        cublas->run(dense.p + (i % 2) * weights, x.p, reinterpret_cast<__half*>(y.p), outputs, s.k,
                    rows, st);
      });
    const double floor =
        std::max(raw_bytes / bandwidth * 1e-6, 2.0 * weights * rows / 700e12 * 1e6);
    std::printf(
        "%-7s %-5s rows %4d: %8.1f us  %5.2f TB/s %3.0f %% of read  %6.1f TFLOP/s  floor %6.1f us "
        "(%3.0f %%)",
        s.name, std::string(info.name).c_str(), rows, us, raw_bytes / us * 1e-6,
        100 * raw_bytes / us * 1e-6 / bandwidth, 2e-6 * weights * rows / us, floor,
        100 * floor / us);
    if (cu > 0) std::printf("  cublas f16 %7.1f us", cu);
    std::printf("\n");
    std::fflush(stdout);
  }
}

int time_all(const char* cublas_path, const char* only) {
  const double bandwidth = read_bandwidth();
  std::printf("read bandwidth %.2f TB/s\n", bandwidth);
  Cublas cublas(cublas_path);
  const Shape shapes[] = {{"gate+up", {14336, 14336, 0}, 4096, true},
                          {"down", {4096, 0, 0}, 14336, false},
                          {"qkv", {4096, 1024, 1024}, 4096, false},
                          {"o", {4096, 0, 0}, 4096, false},
                          {"head", {128256, 0, 0}, 4096, false}};
  const std::string pick = only ? only : "";
  const char* one_shape = std::getenv("LAB_SHAPE");  // for a profiler: just one product
  if (one_shape != nullptr) {
    for (const Shape& s : shapes) {
      for (const TypeInfo& info : herd::quant::kTypes) {
        if (one_shape == std::string(s.name) && std::getenv("LAB_TYPE") == std::string(info.name))
          time_shape(s, info.type, {std::atoi(std::getenv("LAB_ROWS"))}, bandwidth, nullptr);
      }
    }
    return 0;
  }
  for (const Shape& s : shapes) {
    const bool head = std::string(s.name) == "head";
    const std::vector<int> many = head ? std::vector<int>{1, 8, 32, 128, 256}
                                       : std::vector<int>{1, 4, 8, 16, 32, 64, 128, 256, 512, 4096};
    const std::vector<int> few =
        head ? std::vector<int>{1, 8, 32, 128} : std::vector<int>{1, 8, 16, 32, 128, 512};
    time_shape(s, Type::F16, many, bandwidth, &cublas);
    time_shape(s, Type::Q4_K, many, bandwidth, nullptr);
    time_shape(s, Type::Q8_0, many, bandwidth, nullptr);
    time_shape(s, Type::Q6_K, many, bandwidth, nullptr);
    if (pick == "all") {
      time_shape(s, Type::Q5_K, few, bandwidth, nullptr);
      time_shape(s, Type::Q4_0, few, bandwidth, nullptr);
    }
  }
  std::printf("read bandwidth %.2f TB/s\n", read_bandwidth());
  return failures != 0;
}

}  // namespace

int main(int argc, char** argv) {
  int major = 0, minor = 0;
  CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CUDA(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  cudaDeviceProp properties;
  CUDA(cudaGetDeviceProperties(&properties, 0));
  std::printf("%s, %d.%d\n", properties.name, major, minor);
  const std::string mode = argc > 1 ? argv[1] : "check";
  const bool hopper = major == 9 && minor == 0 && std::getenv("MATMUL_LAB_NO_WGMMA") == nullptr;
  if (mode == "time") return time_all(argc > 2 ? argv[2] : nullptr, argc > 3 ? argv[3] : nullptr);
  return check(hopper);
}
