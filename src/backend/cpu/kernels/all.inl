// Every kernel, in the order in which they build on one another. Included inside the namespace of
// each instruction set, after its vector type.

// clang-format off
#include "backend/cpu/kernels/formats.inl"
#include "backend/cpu/kernels/elementwise.inl"
#include "backend/cpu/kernels/matmul.inl"
#include "backend/cpu/kernels/coded.inl"
#include "backend/cpu/kernels/attention.inl"
#include "backend/cpu/kernels/table.inl"
// clang-format on
