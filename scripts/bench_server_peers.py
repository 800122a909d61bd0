#!/usr/bin/env python3
"""herd serve and llama.cpp's server under the same load, in turn; prints one table: median (lowest..highest).

Called by scripts/bench-peers --server, which builds both programs. Each server is started anew for each repeat, and
the clients (scripts/load_server.py) run on the same cores. Exit status 1 if a stream was cut short.
"""

import asyncio
import socket
import statistics
import sys
import time

from bench_peers import arguments, in_turn
from load_server import Server, Target, throughput
from markdown import spread, table

SLOTS = 32  # llama.cpp's, as many as there are clients at most
FIGURES = {
    "tokens_per_second": "tok/s",
    "ttft_ms_p50": "first token p50 ms",
    "ttft_ms_p99": "first token p99 ms",
    "between_ms_p50": "between tokens p50 ms",
    "between_ms_p99": "between tokens p99 ms",
}


class LlamaServer:
    """llama.cpp's server with one slot a client and the context of herd's KV pool in all."""

    def __init__(self, options):
        self.options = options

    async def __aenter__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        o = self.options
        command = [f"{o.llama_bin}/llama-server", "-m", o.model, "--port", str(port), "-t", str(o.threads)]
        command += ["-tb", str(o.threads), "-np", str(SLOTS), "-c", str(o.kv_tokens), "--alias", "model"]
        null = asyncio.subprocess.DEVNULL
        self.process = await asyncio.create_subprocess_exec(*command, stdout=null, stderr=null)
        self.target = Target(f"http://127.0.0.1:{port}", "model")
        end = time.monotonic() + 120
        while True:
            try:
                if '"ok"' in await self.target.get("/health"):
                    return self
            except OSError:
                pass
            if self.process.returncode is not None or time.monotonic() > end:
                sys.exit(f"{' '.join(command)}: did not start (exit status {self.process.returncode})")
            await asyncio.sleep(0.2)

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()


async def measure(options):
    names = ["herd", options.llama_name]
    samples, sound = {name: [] for name in names}, True
    for name in in_turn(options.repeats, names):
        threads = ["--threads", str(options.threads)]
        async with Server(options, *threads) if name == "herd" else LlamaServer(options) as server:
            figures, whole = await throughput(server.target, options)
        samples[name].append({row["clients"]: row for row in figures["throughput"]})
        sound = sound and whole
    return samples, sound


def print_table(options, samples):
    (ours, theirs), counts = samples.values(), list(next(iter(samples.values()))[0])
    print(f"{options.threads} threads, {options.repeats} repeats in turn of {options.seconds:g} s for each number of "
          f"clients, {options.tokens} tokens an answer: median (lowest..highest)")
    rows = []
    for count in counts:
        for key, title in FIGURES.items():
            a, b = ([sample[count][key] for sample in side] for side in (ours, theirs))
            ratio = statistics.median(a) / max(1e-9, statistics.median(b))
            rows.append([f"{count} clients: {title}", spread(a), spread(b), f"{ratio:.2f}"])
    print(table([*samples, "ratio of medians"], rows), end="")


def main():
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=8)
    parser.set_defaults(quick=False, tokens=64, kv_tokens=32768)
    options = parser.parse_args()
    samples, sound = asyncio.run(measure(options))
    print_table(options, samples)
    sys.exit(0 if sound else "a stream was cut short")


if __name__ == "__main__":
    main()
