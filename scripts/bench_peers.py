#!/usr/bin/env python3
"""Runs herd and llama.cpp in turn, repeat by repeat, and prints one table: median (lowest..highest) tok/s.

Called by scripts/bench-peers, which builds both programs.
"""

import argparse
import json
import statistics
import subprocess
import sys

PROMPT = 512  # tokens in the cache when decoding starts, and the length of the measured prefill
GENERATE = 64
BATCHES = [1, 4, 16]
CASES = [f"prefill {PROMPT}"] + [f"decode batch {b}, context {PROMPT}" for b in BATCHES]


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.lstrip().startswith("{")]


def measure_herd(options):
    command = [options.herd, "bench", "-m", options.model, "-p", str(PROMPT), "-n", str(GENERATE), "--json"]
    command += ["-b", ",".join(map(str, BATCHES)), "--threads", str(options.threads), "--repeats", "1"]
    speeds = {}
    for row in json.loads(run(command))["results"]:
        if row["what"] == "decode":
            speeds[f"decode batch {row['batch']}, context {PROMPT}"] = row["tokens_per_second"]
        elif row["batch"] == 1:
            speeds[CASES[0]] = row["tokens_per_second"]
    return speeds


def measure_llama_cpp(options):
    threads = str(options.threads)
    command = [f"{options.llama_bin}/llama-bench", "-m", options.model, "-t", threads, "-r", "1"]
    rows = json_lines(run(command + ["-p", str(PROMPT), "-n", "0", "-o", "jsonl"]))
    speeds = {CASES[0]: next(row["avg_ts"] for row in rows if row["n_prompt"] == PROMPT)}

    context = str(max(BATCHES) * (PROMPT + GENERATE))
    command = [f"{options.llama_bin}/llama-batched-bench", "-m", options.model, "-c", context]
    command += ["-t", threads, "-tb", threads, "-npp", str(PROMPT), "-ntg", str(GENERATE)]
    command += ["-npl", ",".join(map(str, BATCHES)), "--output-format", "jsonl"]
    for row in json_lines(run(command)):
        speeds[f"decode batch {row['pl']}, context {PROMPT}"] = row["speed_tg"]
    return speeds


def cell(values, digits=1):
    low, high = (f"{x:.{digits}f}" for x in (min(values), max(values)))
    return f"{statistics.median(values):.{digits}f} ({low}..{high})"


def in_turn(repeats, names):
    """Each name once a repeat, and said on stderr."""
    for repeat in range(repeats):
        for name in names:
            print(f"repeat {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
            yield name


def arguments(description):
    """What scripts/bench-peers gives to either measurement."""
    parser = argparse.ArgumentParser(description=description)
    for name in ("herd", "llama-bin", "llama-name", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def print_table(options, samples):
    names = list(samples)
    print(f"{options.threads} threads, {options.repeats} repeats in turn, tok/s in all: median (lowest..highest)")
    print("| | " + " | ".join(names) + " | ratio of medians |")
    print("|---" * (len(names) + 2) + "|")
    for case in CASES:
        columns = [[sample[case] for sample in samples[name]] for name in names]
        ratio = statistics.median(columns[0]) / statistics.median(columns[1])
        print(f"| {case} | " + " | ".join(map(cell, columns)) + f" | {ratio:.2f} |")


def main():
    options = arguments(__doc__).parse_args()

    measures = {"herd": measure_herd, f"llama.cpp ({options.llama_name})": measure_llama_cpp}
    samples = {name: [] for name in measures}
    for name in in_turn(options.repeats, measures):
        samples[name].append(measures[name](options))
    print_table(options, samples)


if __name__ == "__main__":
    main()
