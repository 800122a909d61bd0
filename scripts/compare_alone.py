#!/usr/bin/env python3
"""Runs prompts in one batch, then each alone, and compares the answers id by id.

usage: compare_alone.py HERD MODEL PROMPTS.jsonl TOKENS     exit 0: all the same, 1: not
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def generate(herd, model, prompts, tokens, batch_size, quiet):
    """The answers of one run, in order. Progress and talk go to this terminal unless quiet."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")
        command = [herd, "generate", "-m", model, "--prompts", str(file), "-n", str(tokens)]
        command += ["--batch-size", str(batch_size), "--json"]
        talk = subprocess.PIPE if quiet else None
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=talk, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr or ''}")
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    if len(answers) != len(prompts):
        sys.exit(f"{len(prompts)} prompts gave {len(answers)} answers")
    return answers


def short(text, width):
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def print_answers(answers, prompts):
    for prompt, answer in zip(prompts, answers):
        print(f"\n> {short(prompt['prompt'], 96)}\n{answer['text'].strip()}")


def first_difference(together, alone):
    """None, or the step where two lists of ids part."""
    if together == alone:
        return None
    pairs = zip(together, alone)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(together), len(alone)))


def main(arguments):
    if len(arguments) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    herd, model, prompts_path, tokens = arguments
    lines = Path(prompts_path).read_text(encoding="utf-8").splitlines()
    prompts = [json.loads(line) for line in lines if line.strip()]

    started = time.monotonic()
    together = generate(herd, model, prompts, tokens, len(prompts), quiet=False)
    seconds = time.monotonic() - started
    print_answers(together, prompts)

    print(f"\neach prompt alone:\n{'':>3} {'prompt tokens':>13} {'answer tokens':>13}  result     prompt")
    different, alone_seconds = 0, 0.0
    for index, (prompt, answer) in enumerate(zip(prompts, together)):
        started = time.monotonic()
        (alone,) = generate(herd, model, [prompt], tokens, 1, quiet=True)
        alone_seconds += time.monotonic() - started
        step = first_difference(answer["ids"], alone["ids"])
        if step is None and answer["prompt_ids"] != alone["prompt_ids"]:
            sys.exit(f"prompt {index} was tokenised in two ways")
        result = "same" if step is None else f"DIFFERENT at step {step}"
        different += step is not None
        counts = f"{len(answer['prompt_ids']):>13} {len(answer['ids']):>13}"
        print(f"{index:>3} {counts}  {result:<9}  {short(prompt['prompt'], 40)}", flush=True)

    generated = sum(len(answer["ids"]) for answer in together)
    print(f"\nin one batch: {generated} tokens in {seconds:.1f} s, {generated / seconds:.1f} tok/s, loading included")
    print(f"one by one:   {generated} tokens in {alone_seconds:.1f} s, {generated / alone_seconds:.1f} tok/s")
    print(f"{len(prompts) - different} of {len(prompts)} answers equal the same prompt run alone")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
