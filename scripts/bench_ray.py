#!/usr/bin/env python3
"""One process against Ray actors on the same cores and prompts: equal answers, and what Ray costs.

usage: bench_ray.py -m MODEL [--prompts N] [--actors N] [-n TOKENS] [--rounds N]

One process with a thread per actor answers all prompts; then as many actors with one thread each do, in a local
cluster. In turn, `rounds` times. Both times hold loading the model and, for Ray, starting the actors; the cluster
itself (ray.init) is up before. CPU seconds are those of all processes, Ray's own too: on a machine that is shared
with other work they say more than the clock. Exit status 1 if an answer differs.
"""

import argparse
import os
import random
import sys
import threading
import time
from pathlib import Path

import herd
import herd.ray
import ray

WORDS = "the time of a story about how people and animals lived near one river before winter came".split()


def make_prompts(count, seed):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.choice((2, 4, 8, 16, 32)))) for _ in range(count)]


class Meter:
    """Time on the clock, and CPU seconds of this process and all below it, within its `with`."""

    def __enter__(self):
        self.before, self.seen, self.ended = self.times(), {}, threading.Event()
        self.start = time.monotonic()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.start
        self.ended.set()
        self.thread.join()
        self.cpu = sum(t - self.before.get(pid, 0.0) for pid, t in self.seen.items())

    def watch(self):
        """Again and again, for those that end on the way."""
        while not self.ended.wait(0.5):
            self.seen.update(self.times())
        self.seen.update(self.times())

    @staticmethod
    def times():
        """CPU seconds of each process by its id."""
        parents, times = {}, {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            pid = int(folder.name)
            parents[pid] = int(fields[1])
            times[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        def is_ours(pid):
            while pid > 1 and pid != os.getpid():
                pid = parents.get(pid, 0)
            return pid == os.getpid()

        return {pid: t for pid, t in times.items() if is_ours(pid)}


def one_process(options, prompts, loading):
    with Meter() as meter:
        model = herd.Model(options.model, threads=options.actors, **loading)
        answers = model.generate(prompts, max_tokens=options.max_tokens, logprobs=0)
    return [(a.text, a.ids, a.finish_reason, [p.logprob for p in a.logprobs]) for a in answers], meter


def on_ray(options, prompts, loading):
    dataset = ray.data.from_items([{"prompt": p} for p in prompts])
    with Meter() as meter:
        rows = herd.ray.generate(
            dataset,
            model=options.model,
            actors=options.actors,
            block_rows=options.block_rows,
            model_options=loading,
            max_tokens=options.max_tokens,
        ).take_all()
    assert [r["prompt"] for r in rows] == prompts and all(r["error"] is None for r in rows)
    return [(r["text"], r["ids"], r["finish_reason"], r["logprobs"]) for r in rows], meter


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
    clock, cpu = [], []
    for _ in range(options.rounds):
        alone, one = one_process(options, prompts, loading)
        spread, many = on_ray(options, prompts, loading)
        different = sum(a != b for a, b in zip(alone, spread, strict=True))
        if different:
            print(f"{different} of {len(prompts)} answers differ")
            return 1
        tokens = sum(len(ids) for _, ids, _, _ in alone)
        clock.append(100 * one.seconds / many.seconds)
        cpu.append(100 * one.cpu / many.cpu)
        print(
            f"{len(prompts)} prompts, {tokens} answer tokens, all equal: one process {one.seconds:.1f} s, "
            f"{one.cpu:.1f} CPU s; {options.actors} actors {many.seconds:.1f} s, {many.cpu:.1f} CPU s; throughput "
            f"{clock[-1]:.0f} % by the clock, {cpu[-1]:.0f} % by CPU seconds",
            flush=True,
        )
    middle = options.rounds // 2
    print(f"median {sorted(clock)[middle]:.0f} % by the clock, {sorted(cpu)[middle]:.0f} % by CPU seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
