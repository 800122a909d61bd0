#!/usr/bin/env python3
"""Runs herd and its peers in turn, repeat by repeat, and prints one table: median (lowest..highest) tok/s.

Called by scripts/bench-peers, which brings the peers; scripts/evidence uses the same functions.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from markdown import percent, spread, table

PROMPT = 512  # tokens in the cache when decoding starts, and the length of the measured prefill
GENERATE = 64
GENERATE_SLOW = 24  # by transformers, of which each takes as long as four or more of the others'
BATCHES = [1, 4, 16]
PREFILL = f"prefill {PROMPT}"
TRANSFORMERS = Path(__file__).with_name("peer_transformers.py")


def decode(batch):
    return f"decode batch {batch}, context {PROMPT}"


CASES = [PREFILL] + [decode(batch) for batch in BATCHES]


def run(command):
    command = [str(word) for word in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.lstrip().startswith("{")]


def herd_report(options, *more, prompt=PROMPT, batches=BATCHES, generate=GENERATE, repeats=1):
    """What `herd bench --json` says."""
    command = [options.herd, "bench", "-m", options.model, "-p", prompt, "-n", generate, "--repeats", repeats, "--json"]
    return json.loads(run(command + ["-b", ",".join(map(str, batches)), "--threads", options.threads, *more]))


def by_case(report, key):
    """{case: row[key]} of herd's report; prompts of several sequences at once are no case."""
    rows = {decode(row["batch"]): row for row in report["results"] if row["what"] == "decode"}
    rows[PREFILL] = next(row for row in report["results"] if row["what"] == "prefill" and row["batch"] == 1)
    return {case: rows[case][key] for case in CASES}


def measure_herd(options):
    report = herd_report(options)
    return by_case(report, "tokens_per_second"), report


def measure_llama_cpp(options):
    threads = options.threads
    command = [f"{options.llama_bin}/llama-bench", "-m", options.model, "-t", threads, "-r", 1]
    rows = json_lines(run(command + ["-p", PROMPT, "-n", 0, "-o", "jsonl"]))
    speeds = {PREFILL: next(row["avg_ts"] for row in rows if row["n_prompt"] == PROMPT)}

    command = [f"{options.llama_bin}/llama-batched-bench", "-m", options.model, "-t", threads, "-tb", threads]
    command += ["-c", max(BATCHES) * (PROMPT + GENERATE), "-npp", PROMPT, "-ntg", GENERATE]
    command += ["-npl", ",".join(map(str, BATCHES)), "--output-format", "jsonl"]
    for row in json_lines(run(command)):
        speeds[decode(row["pl"])] = row["speed_tg"]
    return speeds, None


def measure_transformers(options):
    command = [options.transformers, "-B", TRANSFORMERS, "bench", "--model", options.model, "--prompt", PROMPT]
    command += ["--threads", options.threads, "--generate", GENERATE_SLOW, "--batch", ",".join(map(str, BATCHES))]
    report = json.loads(run(command))
    speeds = {decode(batch): report["decode_tokens_per_second"][str(batch)] for batch in BATCHES}
    return {PREFILL: report["prefill_tokens_per_second"], **speeds}, None


def in_turn(repeats, names):
    """Each name once a repeat, and said on stderr."""
    for repeat in range(repeats):
        for name in names:
            print(f"repeat {repeat + 1} of {repeats}: {name}", file=sys.stderr, flush=True)
            yield name


def arguments(description):
    """What scripts/bench-peers gives to either measurement."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--herd", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama-bin", help="folder of llama.cpp's programs")
    parser.add_argument("--llama-name", default="llama.cpp")
    parser.add_argument("--transformers", help="the Python that has transformers")
    parser.add_argument("--transformers-name", default="transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    return parser


def collect(options):
    """({name: {case: [tok/s]}} with herd first, herd's reports, each with the ceilings of its time), all in turn."""
    measures = {"herd": measure_herd}
    if options.llama_bin:
        measures[options.llama_name] = measure_llama_cpp
    if options.transformers:
        measures[options.transformers_name] = measure_transformers
    samples, reports = {name: defaultdict(list) for name in measures}, []
    for name in in_turn(options.repeats, measures):
        speeds, report = measures[name](options)
        for case, speed in speeds.items():
            samples[name][case].append(speed)
        reports += [report] if report else []
    return samples, reports


def peers_table(samples, reports):
    ours, *peers = samples
    shares, rows = [by_case(report, "share_of_floor") for report in reports], []
    for case in CASES:
        medians = {name: statistics.median(samples[name][case]) for name in samples}
        ratios = [f"{medians[ours] / medians[peer]:.2f}" for peer in peers]
        speeds = [spread(samples[name][case]) for name in samples]
        share = percent(statistics.median(of_floor[case] for of_floor in shares))
        rows.append([case, speeds[0], share, *speeds[1:], *ratios])
    return table([ours, "of the floor", *peers, *(f"{ours} / {peer.split()[0]}" for peer in peers)], rows)


def main():
    options = arguments(__doc__).parse_args()
    samples, reports = collect(options)
    print(f"{options.threads} threads, {options.repeats} repeats in turn, tok/s in all: median (lowest..highest)")
    print(peers_table(samples, reports), end="")


if __name__ == "__main__":
    main()
