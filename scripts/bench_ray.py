#!/usr/bin/env python3
"""One process against Ray actors on the same cores and prompts: equal answers, and what Ray costs.

usage: bench_ray.py -m MODEL [--prompts N] [--actors N] [-n TOKENS] [--rounds N]

One process with a thread per actor answers all prompts; then as many actors with one thread each do, in a local
cluster. In turn, `rounds` times. Both times hold loading the model and, for Ray, starting the actors; the cluster
itself (ray.init) is up before. Exit status 1 if an answer differs.
"""

import argparse
import random
import sys
import time

import herd
import herd.ray
import ray

WORDS = "the time of a story about how people and animals lived near one river before winter came".split()


def make_prompts(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice((4, 8, 16, 32, 64)))) for _ in range(count)]


def one_process(options, prompts, loading):
    start = time.monotonic()
    model = herd.Model(options.model, threads=options.actors, **loading)
    answers = model.generate(prompts, max_tokens=options.max_tokens, logprobs=0)
    seconds = time.monotonic() - start
    return [(a.text, a.ids, a.finish_reason, [p.logprob for p in a.logprobs]) for a in answers], seconds


def on_ray(options, prompts, loading):
    dataset = ray.data.from_items([{"prompt": p} for p in prompts])
    start = time.monotonic()
    rows = herd.ray.generate(
        dataset,
        model=options.model,
        actors=options.actors,
        block_rows=options.block_rows,
        model_options=loading,
        max_tokens=options.max_tokens,
    ).take_all()
    seconds = time.monotonic() - start
    assert [r["prompt"] for r in rows] == prompts and all(r["error"] is None for r in rows)
    return [(r["text"], r["ids"], r["finish_reason"], r["logprobs"]) for r in rows], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--block-rows", type=int, default=256)
    parser.add_argument("-n", "--max-tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    prompts = make_prompts(options.prompts, seed=1)
    loading = dict(context=512, batch_size=16)
    ray.init(num_cpus=options.actors + 1, include_dashboard=False, object_store_memory=500_000_000)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ratios = []
    for _ in range(options.rounds):
        alone, alone_seconds = one_process(options, prompts, loading)
        spread, ray_seconds = on_ray(options, prompts, loading)
        different = sum(a != b for a, b in zip(alone, spread, strict=True))
        if different:
            print(f"{different} of {len(prompts)} answers differ")
            return 1
        tokens = sum(len(ids) for _, ids, _, _ in alone)
        ratios.append(alone_seconds / ray_seconds)
        print(
            f"{len(prompts)} prompts, {tokens} answer tokens, all equal: one process {alone_seconds:.1f} s "
            f"({tokens / alone_seconds:.0f} tok/s), {options.actors} actors {ray_seconds:.1f} s "
            f"({tokens / ray_seconds:.0f} tok/s), {100 * ratios[-1]:.0f} %",
            flush=True,
        )
    print(f"median {100 * sorted(ratios)[len(ratios) // 2]:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
