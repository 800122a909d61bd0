#!/usr/bin/env python3
"""Measures fidelity, keeps of the promise and scores with the herd program, and writes docs/fidelity.md.

Called by scripts/evidence, which builds the programs.
"""

import argparse
import datetime
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

DEVICES = ["cpu", "cuda", "metal"]  # an emulator's figures are not stated
SCORE_BATCHES = [1, 7, 32]
KL_BOUND = {"cpu": 1e-5, "cuda": 2e-5, "metal": 2e-5}

INTRO = """# Fidelity: measured

Written by `scripts/evidence`; change that, not this page. Everything here can be repeated on any model:
`herd fidelity`, `herd verify`, `herd score`, `herd perplexity` (`--help` has the details).

"""

TABLE_NOTE = """
KL is that of the next-token distribution from the reference's, per token, in nats. "same top": how often both
like the same token best. "NLL": how much worse (above 0) or better the text is foretold, per token. The
reference has the exact values of the file's weights, f32 activations and f32 keys and values: `--device cpu
--kv-type f32`, which equals the plain loops of `--device reference` bit for bit (tests/parity, tests/cli).
herd promises a mean KL of at most 1e-5 on the CPU and 2e-5 on GPUs; across devices the same greedy token
wherever the reference's two likeliest are more than 0.05 apart.
"""


def run(command, check=True):
    print("running: " + " ".join(map(str, command)), file=sys.stderr, flush=True)
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    if check and done.returncode != 0:
        sys.exit(f"evidence: exit status {done.returncode}")
    return done


def has_device(options, device):
    command = [options.herd, "plan", options.model, "--device", device]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def fidelity(options, device, *more):
    command = [options.herd, "fidelity", "-m", options.model, "-f", options.text, "--tokens", options.tokens]
    return json.loads(run(command + ["--device", device, "--json", *more]).stdout)


def fidelity_table(options, folder):
    """(markdown, whether all bounds hold)"""
    ids, rows, sound = folder / "ids.json", [], True
    for device in filter(lambda d: has_device(options, d), DEVICES):
        report = fidelity(options, device, "--ids-out", ids)
        (result,) = report["results"]
        sound = sound and result["mean_kl"] <= KL_BOUND[device]
        rows.append((f"herd, {result['name']}", result))
    if options.peer:
        lines = [" ".join(map(str, window)) for window in json.loads(ids.read_text())]
        (folder / "ids.txt").write_text("\n".join(lines) + "\n")
        other = folder / "peer.f32"
        run([options.peer, options.model, folder / "ids.txt", other, 2])
        rows.append((options.peer_name + ", CPU", fidelity(options, "cpu", "--against", other)["results"][1]))
    text = f"## Against f32\n{report['model']}, `{Path(options.model).name}`; {rows[0][1]['tokens']} tokens of "
    text += f"`{options.text}` in windows of {report['context']}.\n\n"
    text += "| | mean KL | median | p99 | largest | same top | NLL | largest logit difference |\n|---" + "|---" * 7 + "|\n"
    for name, r in rows:
        text += f"| {name} | {r['mean_kl']:.1e} | {r['median_kl']:.1e} | {r['p99_kl']:.1e} | {r['max_kl']:.1e} "
        text += f"| {100 * r['same_top']:.2f} % | {r['nll_difference']:+.1e} | {r['max_logit_difference']:.1e} |\n"
    return text + TABLE_NOTE, sound


def verify_table(options):
    command = [options.herd, "verify", "-m", options.model, "--json"] + ([] if options.quick else ["--full"])
    report = json.loads(run(command, check=False).stdout)
    seconds = sum(case["seconds"] for case in report["cases"])
    text = f"\n## The promise\n`herd verify{'' if options.quick else ' --full'}`: "
    text += "kept in every case" if report["kept"] else "**BROKEN**"
    text += f"; {seconds:.0f} s of cases.\n\n"
    for device in report["devices"]:
        text += f"- {device['backend']}"
        if device["sha256"]:
            text += f": sha256 of all logits, {device['tokens']} tokens alone: `{device['sha256']}`"
        text += f"; not here: {', '.join(device['absent'])}\n" if device["absent"] else "\n"
    text += "\n| device | case | tokens | bits |\n|---|---|---|---|\n"
    for case in report["cases"]:
        bits = "equal" if case["kept"] else "**different**"
        if case["kept"] and case["case"] == "the choices of the cpu":
            bits = "same choices"
        text += f"| {case['device']} | {case['case']} | {case['tokens']} | {bits} |\n"
    return text, report["kept"]


def score_lines(text):
    """Continuations of a few contexts out of a text."""
    words = text.split()
    for start in range(0, min(len(words) - 60, 400), 40):
        context = " ".join(words[start : start + 40])
        for skip in (0, 7, 13, 20):
            continuation = " " + " ".join(words[start + 40 + skip : start + 46 + skip])
            yield json.dumps({"context": context, "continuation": continuation})


def scores(options, folder):
    source = folder / "score.jsonl"
    source.write_text("\n".join(score_lines(Path(options.text).read_text(encoding="utf-8"))) + "\n")
    hashes = []
    for batch in SCORE_BATCHES:
        command = [options.herd, "score", "-m", options.model, "--input", source, "--batch-size", batch]
        hashes.append(hashlib.sha256(run(command).stdout.encode()).hexdigest())
    same = len(set(hashes)) == 1
    batches = ", ".join(map(str, SCORE_BATCHES))
    text = f"\n## Scores\n`herd score`, {len(source.read_text().splitlines())} lines, at batch sizes {batches}: "
    text += "the same bytes" if same else "**different bytes**"
    return text + f", sha256 `{hashes[0][:16]}...`.\n", same


def perplexity(options):
    command = [options.herd, "perplexity", "-m", options.model, "-f", options.text, "--json"]
    report = json.loads(run(command).stdout)
    return (
        f"\n## Perplexity\n`herd perplexity` of the whole of `{options.text}`, {report['tokens']} tokens in windows of "
        f"{report['context']}: {report['perplexity']:.4f} (nll {report['nll']:.5f}, standard error "
        f"{report['nll_standard_error']:.5f}).\n"
    )


def machine():
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--herd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", default="tests/data/prose.txt")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer")
    parser.add_argument("--peer-name", default="peer")
    parser.add_argument("--out", default="docs/fidelity.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table, faithful = fidelity_table(options, folder)
        promise, kept = verify_table(options)
        scored, same = scores(options, folder)
        page = INTRO + f"{datetime.date.today()}, {machine()}.\n\n" + table + promise + scored + perplexity(options)
    Path(options.out).write_text(page, encoding="utf-8")
    print(f"written: {options.out}", file=sys.stderr)
    sys.exit(0 if faithful and kept and same else 1)


if __name__ == "__main__":
    main()
