#!/usr/bin/env python3
"""What scripts/evidence and scripts/bench-peers make of what programs say. HERD_BINARY: the herd program."""

import argparse
import contextlib
import ctypes
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
sys.path.insert(0, str(ROOT / "scripts"))

import bench_peers  # noqa: E402
import cuda_stubs  # noqa: E402
import evidence  # noqa: E402
import evidence_tables as tables  # noqa: E402
import markdown  # noqa: E402


def bench_row(what, batch, rate, low, high, read, flops, name="f32"):
    return {
        "what": what, "batch": batch, "tokens_per_second": rate, "low": low, "high": high,
        "share_of_read": read, f"share_of_{name}": flops, "share_of_floor": max(read, flops),
        **({"share_of_integer": 0.75 * flops} if name == "f32" else {}),
    }


def bench_report(backend, prompt, rows, read=(52e9, 50e9, 53.5e9), flops=(533e9, 532e9, 534e9), name="f32"):
    """As `herd bench --json` has it."""
    report = {"model": "M", "backend": backend, "prompt": prompt, "max_tokens": 64, "repeats": 5}
    integers = [("integer_flops_per_second", (710e9, 700e9, 712e9))] if name == "f32" else []
    for key, values in [("read_bytes_per_second", read), (f"{name}_flops_per_second", flops), *integers]:
        report.update({key + end: value for end, value in zip(("", "_low", "_high"), values)})
    return {**report, "results": rows, "memory": []}


def cpu_report(speed=1.0):
    rows = [("prefill", 1, 1500, 0.05, 0.7), ("prefill", 4, 1600, 0.05, 0.72), ("decode", 1, 380, 0.79, 0.3),
            ("decode", 4, 700, 0.4, 0.42), ("decode", 16, 900, 0.3, 0.53)]
    return bench_report("cpu avx512, 2 threads", 512,
                        [bench_row(w, b, speed * r, 0.9 * speed * r, 1.1 * speed * r, x, f) for w, b, r, x, f in rows])


class Markdown(unittest.TestCase):
    PAGE = "# A\n<!-- evidence: one cpu -->\nold\n<!-- end -->\ntext\n<!-- evidence: two --><!-- end -->\ntail"

    def test_a_block_is_replaced_and_nothing_else(self):
        page = markdown.filled(self.PAGE, "one cpu", "\nnew | line\n\n")
        self.assertEqual(page, self.PAGE.replace("old", "new | line"))
        self.assertEqual(markdown.filled(page, "one cpu", "new | line"), page)
        self.assertEqual(markdown.filled(self.PAGE, "two", "x"),
                         self.PAGE.replace("two --><!-- end", "two -->\nx\n<!-- end"))
        self.assertEqual(markdown.names(page), ["one cpu", "two"])

    def test_a_page_without_exactly_one_such_block_is_refused(self):
        for name, page in [("three", self.PAGE), ("one cpu", self.PAGE + self.PAGE),
                           ("one cpu", self.PAGE.replace("<!-- end -->", "", 1)),
                           ("two", self.PAGE.removesuffix("<!-- end -->\ntail"))]:
            with self.assertRaisesRegex(ValueError, name):
                markdown.filled(page, name, "new")

    def test_the_pages_have_a_place_for_each_part(self):
        wanted = {(page, f"{part} {d}") for part, (page, devices, _) in evidence.PARTS.items() for d in devices}
        found = [(page, name) for page in (evidence.FIDELITY, evidence.PERFORMANCE)
                 for name in markdown.names((ROOT / page).read_text(encoding="utf-8"))]
        self.assertEqual(sorted(found), sorted(wanted))
        for page, name in found:
            markdown.filled((ROOT / page).read_text(encoding="utf-8"), name, "new")

    def test_paragraphs_are_wrapped_and_tables_are_not(self):
        words, row = "word " * 50, "| " + "cell " * 50 + "|"
        first, *rest = markdown.wrapped(f"{words}\n\n{row}\n- {words}").split("\n")
        self.assertEqual((first, rest), (("word " * 23).strip(), [("word " * 23).strip(), ("word " * 4).strip(), "", row, f"- {words}"]))

    def test_medians_and_spreads(self):
        self.assertEqual(markdown.spread([3000, 1482.4, 100]), "1,482 (100..3,000)")
        self.assertEqual(markdown.spread([12.34, 12.0, 14.96, 13.0]), "12.7 (12.0..15.0)")

    def test_rows_are_as_wide_as_their_head(self):
        self.assertEqual(markdown.table(["a"], [["x", "1"]]), "| | a |\n|---|---|\n| x | 1 |\n")
        self.assertEqual(markdown.table(["a", "b"], [["x", "1", ""]], "w"), "| w | a | b |\n|---|---|---|\n| x | 1 | |\n")
        with self.assertRaises(ValueError):
            markdown.table(["a"], [["x", "1", "2"]])


class Tables(unittest.TestCase):
    def test_shares_of_a_cpu(self):
        avx2 = bench_report("cpu avx2, 2 threads", 128, [bench_row("decode", 16, 528.2, 500, 530.6, 0.2, 0.31)])
        self.assertEqual(tables.shares([cpu_report(), avx2]), """\
Ceilings, between the repeats of each run:
- cpu avx512, 2 threads, context 512: read 52.0 (50.0..53.5) GB/s, f32 533 (532..534) GFLOP/s, integers 710 (700..712) GFLOP/s
- cpu avx2, 2 threads, context 128: read 52.0 (50.0..53.5) GB/s, f32 533 (532..534) GFLOP/s, integers 710 (700..712) GFLOP/s

| | tok/s | of the floor | binds | of the integer rate |
|---|---|---|---|---|
| avx512: prefill 512 | 1,500 (1,350..1,650) | 70 % | f32 | 52 % |
| avx512: decode batch 1, context 512 | 380 (342..418) | 79 % | read | 22 % |
| avx512: decode batch 4, context 512 | 700 (630..770) | 42 % | f32 | 32 % |
| avx512: decode batch 16, context 512 | 900 (810..990) | 53 % | f32 | 40 % |
| avx2: decode batch 16, context 128 | 528 (500..531) | 31 % | f32 | 23 % |
""")

    def test_shares_of_a_gpu(self):
        """Figures of docs/performance.md, H200, 2026-11-28."""
        def report(prompt, rows):
            rows = [bench_row(*row, name="f16") for row in rows]
            return bench_report("cuda NVIDIA H200", prompt, rows, (4.6e12, 4.56e12, 4.63e12), (590e12, 579e12, 599e12), "f16")
        q4 = [report(512, [("prefill", 1, 30811, 30277, 31851, 0.1, 0.73), ("prefill", 4, 33000, 32000, 34000, 0.1, 0.8),
                           ("decode", 1, 412, 408, 413, 0.43, 0.01), ("decode", 4, 1482, 1478, 1491, 0.4, 0.02)]),
              report(512, [("prefill", 32, 33000, 32000, 34000, 0.1, 0.8), ("decode", 32, 8037, 8025, 8072, 0.39, 0.1)]),
              report(4096, [("prefill", 1, 33722, 33103, 33773, 0.1, 0.87), ("decode", 1, 352, 351, 353, 0.4, 0.01)])]
        f16 = [report(512, [("prefill", 1, 31883, 30851, 32151, 0.1, 0.77), ("decode", 1, 235, 235, 235, 0.77, 0.01),
                            ("decode", 4, 898, 898, 899, 0.75, 0.02)]),
               report(512, [("decode", 32, 5940, 5936, 5950, 0.7, 0.1)]),
               report(4096, [("prefill", 1, 32770, 32289, 33026, 0.1, 0.85), ("decode", 1, 218, 218, 218, 0.7, 0.01)])]
        self.assertEqual(tables.gpu_shares({"Q4_K_M": q4, "F16": f16}), """\
cuda NVIDIA H200, context 512, tok/s in all: median (lowest..highest). Ceilings, between the repeats of these runs: \
read 4.56 to 4.63 TB/s, f16 579 to 599 TFLOP/s.

| | b=1 | b=4 | b=32 | prefill 512 | prefill 4096 |
|---|---|---|---|---|---|
| Q4_K_M | 412 (408..413) | 1,482 (1,478..1,491) | 8,037 (8,025..8,072) | 30,811 (30,277..31,851) | 33,722 (33,103..33,773) |
| of the floor | 43 % | 40 % | 39 % | 73 % | 87 % |
| F16 | 235 (235..235) | 898 (898..899) | 5,940 (5,936..5,950) | 31,883 (30,851..32,151) | 32,770 (32,289..33,026) |
| of the floor | 77 % | 75 % | 70 % | 77 % | 85 % |
""")

    def test_a_broken_promise_is_seen_in_the_table(self):
        case = {"device": "cpu", "case": "batch of 5", "tokens": 7, "seconds": 1.4, "kept": False}
        devices = [{"backend": "cpu scalar", "sha256": "ab", "tokens": 9, "absent": ["neon"]}]
        text = tables.promise({"kept": False, "cases": [case], "devices": devices}, "herd verify")
        self.assertEqual(text, """\
`herd verify`: **BROKEN**; 1 s of cases.

- cpu scalar: sha256 of all logits, 9 tokens alone: `ab`; not here: neon

| device | case | tokens | bits |
|---|---|---|---|
| cpu | batch of 5 | 7 | **different** |
""")
        self.assertIn("**different bytes**", tables.scores(["a", "a", "b"], 4, [1, 7, 32]))
        self.assertIn("at batch sizes 1, 7, 32: the same bytes", tables.scores(["a", "a", "a"], 4, [1, 7, 32]))


class InFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class Peers(InFolder):
    """Programs that say what the peers' would."""

    def program(self, name, *answers):
        """One that notes that it ran, and gives each answer in turn."""
        for i, answer in enumerate(answers):
            (self.folder / f"{name}.{i}").write_text(answer)
        path, log = self.folder / name, self.folder / "log"
        path.write_text(f'#!/bin/sh\nn=$(grep -c "^{name} " {log})\necho "{name} $*" >> {log}\n'
                        f"cat {self.folder}/{name}.$((n % {len(answers)}))\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def options(self):
        transformers = {"prefill_tokens_per_second": 301.0, "decode_tokens_per_second": {1: 10.0, 4: 40.0, 16: 160.0}}
        self.program("llama-bench", "noise\n" + json.dumps({"n_prompt": 512, "avg_ts": 478.0}) + "\n")
        self.program("llama-batched-bench", "\n".join(json.dumps({"pl": b, "speed_tg": 100.0 + b}) for b in (1, 4, 16)))
        herd = self.program("herd", *(json.dumps(cpu_report(speed)) for speed in (1.0, 1.2, 0.9)))
        python = self.program("python", json.dumps(transformers))
        return argparse.Namespace(herd=herd, model="m.gguf", llama_bin=str(self.folder), llama_name="llama.cpp (pinned)",
                                  transformers=python, transformers_name="transformers (5)", threads=2, repeats=3)

    def test_all_run_in_turn_and_stand_in_one_table(self):
        with contextlib.redirect_stderr(io.StringIO()):
            samples, reports = bench_peers.collect(self.options())
        ran = [line.split()[0] for line in (self.folder / "log").read_text().splitlines()]
        self.assertEqual(ran, ["herd", "llama-bench", "llama-batched-bench", "python"] * 3)
        self.assertEqual(bench_peers.peers_table(samples, reports), """\
| | herd | of the floor | llama.cpp (pinned) | transformers (5) | herd / llama.cpp | herd / transformers |
|---|---|---|---|---|---|---|
| prefill 512 | 1,500 (1,350..1,800) | 70 % | 478 (478..478) | 301 (301..301) | 3.14 | 4.98 |
| decode batch 1, context 512 | 380 (342..456) | 79 % | 101 (101..101) | 10.0 (10.0..10.0) | 3.76 | 38.00 |
| decode batch 4, context 512 | 700 (630..840) | 42 % | 104 (104..104) | 40.0 (40.0..40.0) | 6.73 | 17.50 |
| decode batch 16, context 512 | 900 (810..1,080) | 53 % | 116 (116..116) | 160 (160..160) | 7.76 | 5.62 |
""")
        self.assertTrue(tables.peers(samples, reports).startswith(
            "herd: cpu avx512, 2 threads; 3 repeats in turn, tok/s in all: median (lowest..highest). Ceilings of herd's "
            "runs: read 52.0 (52.0..52.0) GB/s, f32 533 (533..533) GFLOP/s.\n\n| | herd"))

    def test_a_peer_that_fails_is_named(self):
        options = self.options()
        (self.folder / "llama-bench").write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaisesRegex(SystemExit, "llama-bench .*exit 3\nno such"):
            bench_peers.collect(options)


class Parts(InFolder):
    """The parts themselves, on a tiny model, with a peer that is herd itself."""

    def setUp(self):
        super().setUp()
        self.herd = evidence.HERD = os.environ["HERD_BINARY"]

    def options(self, **more):
        model = str(DATA / "tiny-mha-Q4_K_M.gguf")
        bench = argparse.Namespace(herd=self.herd, model=model, llama_bin=None, transformers=None,
                                   transformers_name="twin", threads=1, repeats=1)
        defaults = dict(model=model, device="cpu", threads=1, text=str(DATA / "prose.txt"), tokens=64, quick=True, bench=bench)
        return argparse.Namespace(**{**defaults, **more})

    def test_fidelity_of_herd_and_of_a_peer(self):
        options, twin = self.options(), self.folder / "twin"
        twin.write_text(f'#!/bin/sh\n[ "$3 $4 $6 $8" = "logits --model --threads --ids" ] || exit 9\n'
                        f'exec "{self.herd}" logits -m "$5" --threads "$7" --kv-type f32 --ids "$9" --out "${{11}}"\n')
        twin.chmod(0o755)
        options.bench.transformers = str(twin)
        text, kept = evidence.measure_fidelity(options, self.folder)
        ours, theirs = text.splitlines()[-2:]
        self.assertTrue(kept)
        self.assertIn("65 tokens of", text)
        self.assertTrue(ours.startswith("| herd, cpu "), ours)
        self.assertTrue(theirs.startswith("| twin | 0.0e+00 | 0.0e+00 | 0.0e+00 | 0.0e+00 | 100.00 % |"), theirs)
        evidence.KL_BOUND["cpu"], bound = -1.0, evidence.KL_BOUND["cpu"]
        self.addCleanup(evidence.KL_BOUND.update, cpu=bound)
        self.assertFalse(evidence.measure_fidelity(self.options(), self.folder)[1])

    def test_promise_scores_and_perplexity(self):
        text, kept = evidence.measure_promise(self.options(), self.folder)
        self.assertTrue(kept)
        self.assertRegex(text, r"^`herd verify --devices cpu,reference`: kept in every case;")
        self.assertIn("| reference | the bits of the cpu |", text)
        text, kept = evidence.measure_scores(self.options(), self.folder)
        self.assertTrue(kept)
        self.assertRegex(text, r"^`herd score`, 40 lines, at batch sizes 1, 7, 32: the same bytes, sha256 `[0-9a-f]{16}")
        self.assertRegex(evidence.measure_perplexity(self.options(), self.folder)[0], r"tokens in windows of \d+: [\d.]+ \(nll")

    def test_speeds(self):
        text = evidence.measure_cpu_shares(self.options(), self.folder)
        self.assertRegex(text, r"\| \w+: decode batch 16, context 128 \| [\d,.]+ \([\d,.]+\.\.[\d,.]+\) \| \d+ % \| (read|f32) \|")
        text = evidence.measure_peers(self.options(), self.folder)[0]
        self.assertRegex(text, r"\| prefill 512 \| [\d,.]+ \([\d,.]+\.\.[\d,.]+\) \| \d+ % \|\n")

    def test_wrong_use_is_one_line_and_status_2(self):
        for words, said in [(["fidelty"], "no part 'fidelty' for cpu; there are: fidelity, promise"),
                            (["peers"], "the part 'peers' needs --peers NAMES"),
                            (["scores", "--device", "cuda"], "no part 'scores' for cuda; there are: fidelity, promise, shares"),
                            (["--device", "cuda", "--peers", "llama.cpp"], "peers are measured on the CPU only"),
                            (["--peers", "vllm"], "'vllm' is unknown; known: llama.cpp, transformers")]:
            done = subprocess.run([ROOT / "scripts/evidence", *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, words)
            self.assertIn(said, done.stderr.splitlines()[-1])


class CudaStubs(unittest.TestCase):
    def test_a_library_finds_what_it_lacks_and_no_device(self):
        with tempfile.TemporaryDirectory() as name:
            lib = Path(name, "lib/python3.11/site-packages/torch/lib")
            lib.mkdir(parents=True)
            real = Path(name, "real")
            real.mkdir()
            (real / "a.map").write_text("libcudart.so.13 { cudaCount; };\n")
            (real / "a.c").write_text("long cudaCount(void) { return 1; }\n")
            (real / "b.c").write_text("long ncclCount(void) { return 1; }\n")
            (real / "c.c").write_text("long cudaCount(void); long ncclCount(void);\n"
                                      "long both(void) { return 1000 * cudaCount() + ncclCount(); }\n")
            link = ["gcc", "-shared", "-fPIC", f"-L{real}"]
            for words in (["a.c", "-Wl,--version-script=a.map", "-Wl,-soname,libcudart.so.13", "-o", "libcudart.so.13"],
                          ["b.c", "-Wl,-soname,libnccl.so.2", "-o", "libnccl.so.2"],
                          ["c.c", "-l:libcudart.so.13", "-l:libnccl.so.2", "-Wl,-rpath,$ORIGIN", "-o", lib / "libuser.so"]):
                subprocess.run([*link, *words], check=True, cwd=real)
            self.assertRaises(OSError, ctypes.CDLL, str(lib / "libuser.so"))
            cuda_stubs.main(name)
            self.assertEqual(sorted(path.name for path in lib.iterdir()), ["libcudart.so.13", "libnccl.so.2", "libuser.so"])
            self.assertEqual(ctypes.CDLL(str(lib / "libuser.so")).both(), 100 * 1001)


if __name__ == "__main__":
    unittest.main()
