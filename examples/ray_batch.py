#!/usr/bin/env python3
"""Answers every prompt of a file, or a folder of files, on a Ray cluster. docs/ray.md

usage: ray_batch.py -m MODEL [--format jsonl|parquet] [--actors N] [--cpus N] [--gpus N] [-n TOKENS] INPUT OUTPUT

INPUT: JSON lines or Parquet with a column "prompt", anything Ray reads (a file, a folder, s3://...).
OUTPUT: a new folder of the same format: the same columns, and text, ids, logprobs, finish_reason, error.
Runs on the cluster that RAY_ADDRESS names, or one that it starts on this machine.
"""

import argparse
import os

import herd.ray
import ray
import ray.data


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True, help="at this path on every machine")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl")
    parser.add_argument("--actors", type=int, default=1, help="copies of the model")
    parser.add_argument("--cpus", type=int, default=1, help="threads of each")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=16, help="sequences that an actor runs at once")
    parser.add_argument("-n", "--max-tokens", type=int, default=128)
    parser.add_argument("input")
    parser.add_argument("output")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if "RAY_ADDRESS" not in os.environ:  # Ray's CPUs are a count, not cores: one for reading and writing
        ray.init(num_cpus=options.actors * options.cpus + 1)
    if options.format == "parquet":
        dataset = ray.data.read_parquet(options.input)
    else:
        dataset = ray.data.read_json(options.input, lines=True)
    answers = herd.ray.generate(
        dataset,
        model=options.model,
        actors=options.actors,
        num_cpus=options.cpus,
        num_gpus=options.gpus,
        max_tokens=options.max_tokens,
        model_options={"context": options.context, "batch_size": options.batch_size},
    )
    herd.ray.write(answers, options.output, options.format)


if __name__ == "__main__":
    main()
