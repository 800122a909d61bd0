#!/usr/bin/env python3
"""Each rule catches a planted violation, and a tree that keeps all of them passes."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from check_isa_symbols import foreign_weak_symbols, namespace_of
from check_rules import check_tree
from source_text import functions, without_comments_and_strings

CMAKE = "herd_room(base NEEDS fmt::fmt)\nherd_room(quant NEEDS herd_base)\nherd_room(gguf NEEDS herd_quant)\n"
CMAKE += "herd_room(backend FOLDERS backend backend/cpu NEEDS herd_quant)\n"
GOOD = {
    "src/CMakeLists.txt": CMAKE,
    "src/base/env.cc": '#include "base/env.h"\nconst char* home() { return getenv("HOME"); }\n',
    "src/base/env.h": '#include "herd/status.h"\n',
    "src/core/batch.h": '#include "herd/types.h"\n',
    "src/gguf/file.cc": '#include "base/env.h"\n#include "core/batch.h"\n#include "quant/types.h"\n'
    "// getenv( printf( abort( in a comment is fine\nint f() { return snprintf(b, 3, s); }\n",
    "src/backend/cpu/ops.cc": '#include "backend/backend.h"\n#include "backend/cpu/cpu.h"\n',
    "apps/cli/main.cc": '#include "herd/llama.h"\n#include "options.h"\nint main() { printf("x"); exit(1); }\n',
    "apps/cli/options.h": "#pragma once\n",
    "examples/x.cc": '#include "herd/llama.h"\n',
    "python/src/module.cc": '#include "herd/llama.h"\n',
}


def body(lines):
    return "int f(int x) {\n" + "  x += 1;\n" * (lines - 2) + "}\n"


PLANTED = [
    ("include-dag", "src/base/env.h", '#include "quant/types.h"\n'),
    ("include-dag", "src/base/env.h", '#include "core/batch.h"\n'),
    ("include-dag", "src/core/batch.h", '#include "gguf/gguf.h"\n'),
    ("include-dag", "src/quant/types.h", '  #  include "gguf/gguf.h"\n'),
    ("include-dag", "src/gguf/file.cc", '#include "backend/backend.h"\n'),
    ("include-dag", "src/backend/cpu/ops.cc", '#include "backend/reference/reference.h"\n'),
    ("include-dag", "include/herd/llama.h", '#include "base/half.h"\n'),
    ("include-dag", "apps/cli/main.cc", '#include "base/half.h"\n'),
    ("include-dag", "python/src/module.cc", '#include "engine/engine.h"\n'),
    ("include-dag", "examples/x.cc", '#include "token/tokenizer.h"\n'),
    ("include-dag", "src/CMakeLists.txt", CMAKE.replace("base NEEDS fmt::fmt", "base NEEDS herd_gguf")),
    ("include-dag", "src/CMakeLists.txt", CMAKE + "herd_room(misc NEEDS herd_base)\n"),
    ("file-size", "src/gguf/file.cc", "int x;\n" * 800),
    ("file-size", "tests/gguf/file_test.cc", "int x;\n" * 801),
    ("function-size", "src/gguf/file.cc", body(101)),
    ("function-size", "src/backend/cpu/ops.cc", body(151)),
    ("function-size", "src/gguf/file.cc", "namespace herd {\nclass A {\n  A() : a{1} {\n" + "f();\n" * 101 + "}\n};\n}\n"),
    ("getenv", "src/gguf/file.cc", 'auto x = std::getenv("X");\n'),
    ("getenv", "python/src/module.cc", 'auto x = getenv("X");\n'),
    ("getenv", "apps/cli/main.cc", 'auto x = getenv("X");\n'),
    ("printing", "src/gguf/file.cc", 'void f() { printf("x"); }\n'),
    ("printing", "src/gguf/file.cc", "void f() { std::cerr << 1; }\n"),
    ("printing", "src/gguf/file.cc", 'void f() { fmt::print("x"); }\n'),
    ("printing", "src/gguf/file.cc", "#include <iostream>\n"),
    ("ending", "src/gguf/file.cc", "void f() { std::abort(); }\n"),
    ("ending", "src/base/env.cc", "void f() { exit(1); }\n"),
    ("assert-on-input", "src/gguf/file.cc", "void f() { assert(x); }\n"),
    ("device-ifdef", "src/gguf/file.cc", "#ifdef __CUDA_ARCH__\n#endif\n"),
    ("device-ifdef", "src/backend/backend.cc", "#if defined(HERD_CUDA)\n#endif\n"),
    ("device-ifdef", "apps/cli/main.cc", "#if 1 && defined(__APPLE__)\n#endif\n"),
    ("device-ifdef", "python/src/module.cc", "#ifdef __CUDACC__\n#endif\n"),
    ("device-ifdef", "src/backend/cpu/ops.cc", "#ifdef __AVX2__\n#endif\n"),
    ("raw-size", "src/gguf/file.cc", "auto n = count * sizeof(int);\n"),
    ("raw-size", "src/gguf/file.cc", "auto n = info.rows() * row_bytes;\n"),
    ("build-path", "src/gguf/file.cc", 'auto p = "/home/me/model";\n'),
    ("build-path", "docs/x.md", "see /root/model\n"),
    ("build-path", "src/gguf/file.cc", 'auto p = "/tmp/x";\n'),
]


def write_tree(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


class Rules(unittest.TestCase):
    def violations(self, files):
        with tempfile.TemporaryDirectory() as folder:
            write_tree(Path(folder), files)
            return check_tree(Path(folder))

    def test_good_tree_passes(self):
        self.assertEqual(self.violations(GOOD), [])

    def test_every_planted_violation_is_found(self):
        for rule, path, text in PLANTED:
            with self.subTest(rule=rule, path=path, text=text[:40]):
                found = self.violations({**GOOD, path: text})
                self.assertEqual({v.rule for v in found}, {rule}, found)
                self.assertEqual({v.path for v in found}, {path})

    def test_sizes_at_the_limit_pass(self):
        files = {"src/gguf/file.cc": body(100), "src/backend/cpu/ops.cc": body(150)}
        files["src/gguf/long.cc"] = "int x;\n" * 799
        self.assertEqual(self.violations({**GOOD, **files}), [])

    def test_line_numbers(self):
        (found,) = self.violations({**GOOD, "src/gguf/file.cc": "\n/* x\n*/ int y;\nvoid f() { abort(); }\n"})
        self.assertEqual(found.line, 4)

    def test_what_is_not_a_violation(self):
        fine = [
            'const char* s = "printf( abort( getenv(";\n',
            "// exit(1)\n/* std::cout */\n",
            "auto n = ByteSize(count) * size;\n",
            "auto n = count * 4;  // checked: count <= 4\n",
            "void f(Value* x, const Count* count);\n",
            "void f() { pool.exit(1); static_assert(true); }\n",
        ]
        for text in fine:
            with self.subTest(text=text):
                self.assertEqual(self.violations({**GOOD, "src/gguf/file.cc": text}), [])

    def test_the_git_file_of_a_worktree_is_no_violation(self):
        self.assertEqual(self.violations({**GOOD, ".git": "gitdir: /home/me/herd/.git/worktrees/x\n"}), [])

    def test_command_exit_codes(self):
        script = Path(__file__).parent / "check_rules.py"
        with tempfile.TemporaryDirectory() as folder:
            write_tree(Path(folder), GOOD)
            run = lambda *a: subprocess.run([sys.executable, script, *a], capture_output=True).returncode
            self.assertEqual(run(folder), 0)
            write_tree(Path(folder), {"src/base/bad.cc": "void f() { abort(); }\n"})
            self.assertEqual(run(folder), 1)
            self.assertEqual(run(folder, "more"), 2)
            self.assertEqual(run(folder + "/src"), 2)


class SourceText(unittest.TestCase):
    def test_comments_and_strings_are_blanked_in_place(self):
        text = 'a /* b\n c */ d "e//f" // g\nR"(h)" 1\'000 \'{\' i'
        code = without_comments_and_strings(text)
        self.assertEqual(len(code), len(text))
        self.assertEqual(code.count("\n"), text.count("\n"))
        self.assertEqual("".join(code.split()), "ad\"\"\"\"1'000\"\"i")

    def test_functions_are_found_with_their_length(self):
        text = """namespace a {
class B : public C {
 public:
  B() : x_{1}, y_(2) {
    go();
  }
  int get() const { return x_; }
  enum class E { one, two };
};
static const int kTable[] = {1, 2,
  3};
template <class T>
Result<T> make(T t,
               int n = f({1})) {
  auto l = [&](int i) {
    return i;
  };
  return l(n);
}
TEST(Suite, Case) {
  if (x) {
  }
}
}
"""
        found = [(f.name, f.first_line, f.lines) for f in functions(text)]
        self.assertEqual(
            found, [("B", 3, 4), ("get", 7, 1), ("make", 12, 8), ("TEST", 20, 4)]
        )


class IsaSymbols(unittest.TestCase):
    NM = """0000000000000000 W float herd::half_to_float(unsigned short)
0000000000000010 T herd::cpu::avx512_table()
0000000000000020 t herd::cpu::avx512::(anonymous namespace)::dot(float const*)
0000000000000030 W void herd::cpu::avx512::tile<1, 2>(float*)
0000000000000040 u herd::quant::kTable
0000000000000048 V std::min<int>(int const&)::guard
0000000000000050 W void std::sort<herd::cpu::avx512::F*>(herd::cpu::avx512::F*)
"""

    def test_foreign_weak_symbols_are_found(self):
        foreign = foreign_weak_symbols(self.NM, "herd::cpu::avx512")
        self.assertEqual(foreign, ["float herd::half_to_float(unsigned short)"])
        self.assertIn("void herd::cpu::avx512::tile<1, 2>(float*)", foreign_weak_symbols(self.NM, "herd::cpu::avx2"))

    def test_namespace_comes_from_the_file(self):
        self.assertEqual(namespace_of("build/x/isa/avx512.cc.o"), "herd::cpu::avx512")


if __name__ == "__main__":
    unittest.main()
