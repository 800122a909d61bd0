#!/usr/bin/env python3
"""Load on an OpenAI-compatible server: what it gives, and what it may not do under load.

usage: load_server.py [--herd PROGRAM] [--url URL] [--quick] [--json] -m MODEL [TEST]...

Tests (all of them if none is named):
  throughput   tokens a second, time to the first token and between tokens at 1, 4, 16, 32 clients
  longprompt   a prompt of 2,000 tokens arrives while 8 streams run: their p99 between tokens
  overload     ten times what it can do, for 60 s: only 200, 429, 503; goodput; memory
  disconnect   5,000 requests, half of the clients leave: no page is kept a second later
  sigterm      SIGTERM under load, 20 times: exit 0, no stream cut short
With --url an already running server (any) is measured; only throughput and longprompt then.
Exit status 1 if a test's condition does not hold. Standard library only.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from urllib.parse import urlparse

WORDS = "the time of a story about how people and animals lived near one river before winter came".split()


@dataclass
class Outcome:
    status: int = 0  # 0: the connection ended without a reply
    sent: float = 0.0
    times: list = field(default_factory=list)  # of each event with text
    tokens: int = 0
    whole: bool = False  # [DONE] came
    error: bool = False  # an error event came


class Target:
    """Where requests go, and with which names."""

    def __init__(self, url, model):
        parts = urlparse(url)
        self.host, self.port, self.model = parts.hostname, parts.port, model

    async def open(self, body):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        data = json.dumps({"model": self.model, **body}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        return reader, writer

    async def get(self, path):
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        text = (await reader.read()).decode()
        writer.close()
        return text.partition("\r\n\r\n")[2]

    async def stats(self):
        return json.loads(await self.get("/stats"))


async def read_chunks(reader):
    """The parts of a chunked body."""
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield part[:-2]


def take_event(outcome, text, now):
    if text == "[DONE]":
        outcome.whole = True
        return
    event = json.loads(text)
    if "error" in event:
        outcome.error = True
    elif event.get("choices"):
        outcome.times.append(now)
        outcome.tokens += 1


async def stream(target, body, leave_after=None):
    """One streamed completion; with leave_after the client goes after so many events."""
    outcome = Outcome(sent=time.monotonic())
    writer = None
    try:
        reader, writer = await target.open({**body, "stream": True})
        status = (await reader.readline()).split()
        outcome.status = int(status[1]) if len(status) > 1 else 0
        while (await reader.readline()).strip():
            pass
        if outcome.status == 200:
            if leave_after == 0:
                return outcome
            held = b""
            async for part in read_chunks(reader):
                held += part
                *blocks, held = held.split(b"\n\n")
                for block in blocks:
                    if block.startswith(b"data: "):
                        take_event(outcome, block[6:].decode(), time.monotonic())
                if leave_after is not None and len(outcome.times) >= leave_after:
                    return outcome
    except (OSError, ValueError, asyncio.IncompleteReadError):
        pass
    finally:
        if writer is not None:
            writer.close()
    return outcome


def prompt(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def request(rng, tokens, words=24):
    return {"prompt": prompt(rng, words), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def gaps(outcome):
    return [b - a for a, b in zip(outcome.times, outcome.times[1:])]


# ---- the server ----


class Server:
    """herd serve, on the processor's `cores` alone where they are given."""

    def __init__(self, options, *flags, cores=None):
        self.options, self.flags, self.cores = options, flags, cores

    async def __aenter__(self):
        o = self.options
        command = [o.herd, "serve", "-m", o.model, "--port", "0", "--kv-tokens", str(o.kv_tokens), *self.flags]
        if self.cores:
            command += ["--threads", str(len(self.cores))]
            command = ["taskset", "--cpu-list", ",".join(map(str, self.cores)), *command]
        self.process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        said = b""
        while True:
            line = await self.process.stderr.readline()
            said += line
            match = re.search(rb"herd: (\S+) at http://\S+:(\d+)\s*$", line)
            if match:
                break
            if not line:
                raise RuntimeError(f"the server ended: {said.decode()}")
        self.target = Target(f"http://127.0.0.1:{match.group(2).decode()}", match.group(1).decode())
        return self

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def rss(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def end(self):
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 60)


# ---- the tests: each returns figures and whether its condition holds ----


async def clients(target, count, seconds, tokens, seed=1):
    """So many clients ask again and again; the outcomes that ended in time, and the time."""
    end, outcomes = time.monotonic() + seconds, []

    async def one(number):
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < end:
            outcomes.append(await stream(target, request(rng, tokens)))

    start = time.monotonic()
    await asyncio.gather(*(one(i) for i in range(count)))
    return outcomes, time.monotonic() - start


async def throughput(target, options):
    rows, ok = [], True
    for count in (1, 4) if options.quick else (1, 4, 16, 32):
        outcomes, seconds = await clients(target, count, options.seconds, options.tokens)
        first = [o.times[0] - o.sent for o in outcomes if o.times]
        between = [gap for o in outcomes for gap in gaps(o)]
        ok = ok and all(o.whole for o in outcomes)
        rows.append({
            "clients": count,
            "requests": len(outcomes),
            "tokens_per_second": round(sum(o.tokens for o in outcomes) / seconds, 1),
            "ttft_ms_p50": round(percentile(first, 0.5) * 1e3, 1),
            "ttft_ms_p99": round(percentile(first, 0.99) * 1e3, 1),
            "between_ms_p50": round(percentile(between, 0.5) * 1e3, 1),
            "between_ms_p99": round(percentile(between, 0.99) * 1e3, 1),
        })
        print(json.dumps(rows[-1]), file=sys.stderr)
    return {"throughput": rows}, ok


async def longprompt(target, options):
    rng = random.Random(3)
    tokens = 1500 if options.quick else 400
    running = [asyncio.create_task(stream(target, request(rng, tokens))) for _ in range(8)]
    await asyncio.sleep(0.05 if options.quick else 4)
    sent = time.monotonic()
    long = await stream(target, request(rng, 1, words=300 if options.quick else 1900))
    first = long.times[0] if long.times else time.monotonic()
    outcomes = await asyncio.gather(*running)
    quiet, loud = [], []
    for outcome in outcomes:
        steady = outcome.times[2:]
        for a, b in zip(steady, steady[1:]):
            (loud if b > sent and a < first else quiet).append(b - a)
    ratio = percentile(loud, 0.99) / max(1e-9, percentile(quiet, 0.99))
    figures = {
        "between_ms_p99_quiet": round(percentile(quiet, 0.99) * 1e3, 1),
        "between_ms_p50_quiet": round(percentile(quiet, 0.5) * 1e3, 1),
        "between_ms_p99_beside": round(percentile(loud, 0.99) * 1e3, 1),
        "ratio": round(ratio, 2),
        "long_ttft_ms": round((first - sent) * 1e3, 1),
        "samples_beside": len(loud),
    }
    return {"longprompt": figures}, options.quick or (min(len(loud), len(quiet)) >= 100 and ratio <= 3)


def two_halves():
    """(the server's cores, the clients'): ten times the load is work for the clients too, which on shared cores would
    be taken from the server and counted as its loss. (None, None) on a single core."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return (cores[:half], cores[half:]) if half else (None, None)


async def overload(server, options):
    target, tokens = server.target, 32
    seconds = 3 if options.quick else 60
    warm = 2 if options.quick else 20
    await clients(target, 32, warm / 2, tokens, seed=9)
    seed = 10  # until every page has been used: what memory does from there on is growth
    while not options.quick and (await target.stats())["pages"]["free"] > 32:
        await clients(target, 32, 2, tokens, seed=seed)
        seed += 1
    done, took = await clients(target, 32, warm, tokens)
    saturation = sum(o.whole for o in done) / took
    rng, tasks, rss = random.Random(5), [], [server.rss()]
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        tasks.append(asyncio.create_task(stream(target, request(rng, tokens))))
        if len(tasks) % max(1, int(10 * saturation)) == 0:
            rss.append(server.rss())
        await asyncio.sleep(max(0.0, start + len(tasks) / (10 * saturation) - time.monotonic()))
    good = sum(task.done() and task.result().whole for task in tasks)
    goodput = good / (time.monotonic() - start)
    outcomes = await asyncio.gather(*tasks)
    statuses = {}
    for outcome in outcomes:
        statuses[outcome.status] = statuses.get(outcome.status, 0) + 1
    half, end = rss[len(rss) // 2], server.rss()
    figures = {
        "saturation_rps": round(saturation, 2),
        "offered_rps": round(len(tasks) / seconds, 1),
        "goodput_rps": round(goodput, 2),
        "goodput_share": round(goodput / saturation, 3),
        "statuses": statuses,
        "rss_mib_start_half_end": [round(x / 2**20, 1) for x in (rss[0], half, end)],
    }
    ok = set(statuses) <= {200, 429, 503} and all(o.whole for o in outcomes if o.status == 200)
    return {"overload": figures}, ok and (options.quick or goodput >= 0.9 * saturation and end <= 1.02 * rss[0])


async def disconnect(server, options):
    target, total = server.target, 200 if options.quick else 5000
    rng, gate, outcomes = random.Random(7), asyncio.Semaphore(64), []

    async def one(number):
        async with gate:
            leaves = rng.randint(0, 12) if number % 2 else None
            outcomes.append((leaves, await stream(target, request(rng, rng.randint(1, 24)), leaves)))

    await asyncio.gather(*(one(i) for i in range(total)))
    await asyncio.sleep(1)
    stats = await target.stats()
    pages = stats["pages"]
    stayed = [o for leaves, o in outcomes if leaves is None]
    figures = {"requests": total, "stayed_and_whole": sum(o.whole for o in stayed), "stayed": len(stayed),
               "pages": pages, "running": stats["running"], "waiting": stats["waiting"]}
    ok = (pages["used"] == 0 and pages["free"] + pages["cached"] == pages["total"] and stats["running"] == 0
          and stats["waiting"] == 0 and all(o.whole for o in stayed))
    return {"disconnect": figures}, ok


async def sigterm_once(options, rng):
    """(exit status, outcomes): a server under load is told to end."""
    async with Server(options) as server:
        stop, outcomes = asyncio.Event(), []

        async def one(number):
            mine = random.Random(number)
            while not stop.is_set():
                outcome = await stream(server.target, request(mine, 24))
                outcomes.append(outcome)
                if outcome.status != 200:
                    return

        tasks = [asyncio.create_task(one(i)) for i in range(16)]
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        status = await server.end()
        stop.set()
        await asyncio.gather(*tasks)
        return status, outcomes


async def sigterm(options):
    rng, times = random.Random(11), 2 if options.quick else 20
    figures = {"times": times, "exit_0": 0, "streams_whole": 0, "streams_cut": 0, "refused_503": 0, "no_reply": 0}
    for _ in range(times):
        status, outcomes = await sigterm_once(options, rng)
        figures["exit_0"] += status == 0
        for o in outcomes:
            key = {503: "refused_503", 0: "no_reply"}.get(o.status, "streams_whole" if o.whole else "streams_cut")
            figures[key] += 1
    return {"sigterm": figures}, figures["exit_0"] == times and figures["streams_cut"] == 0


async def run(options):
    figures, failed = {}, []

    def note(name, result):
        figures.update(result[0])
        print(json.dumps(result[0]), file=sys.stderr)
        if not result[1]:
            failed.append(name)

    if options.url:
        target = Target(options.url, options.alias)
        for name in options.tests or ["throughput", "longprompt"]:
            note(name, await {"throughput": throughput, "longprompt": longprompt}[name](target, options))
    else:
        tests = options.tests or ["throughput", "longprompt", "overload", "disconnect", "sigterm"]
        for name in tests:
            if name == "sigterm":
                note(name, await sigterm(options))
                continue
            ours, theirs = two_halves() if name == "overload" else (None, None)
            everywhere = os.sched_getaffinity(0)
            async with Server(options, cores=ours) as server:
                os.sched_setaffinity(0, theirs or everywhere)
                test = {"throughput": throughput, "longprompt": longprompt}.get(name)
                test = test(server.target, options) if test else {
                    "overload": overload, "disconnect": disconnect}[name](server, options)
                note(name, await test)
                os.sched_setaffinity(0, everywhere)
                status = await server.end()
                if status != 0:
                    failed.append(f"{name}: exit status {status}")
    print(json.dumps(figures, indent=None if options.json else 2))
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", choices=["throughput", "longprompt", "overload", "disconnect", "sigterm", []])
    parser.add_argument("--herd", default="build/release/herd")
    parser.add_argument("--url", help="a server that already runs")
    parser.add_argument("--alias", default="model", help="the model's name there")
    parser.add_argument("-m", "--model")
    parser.add_argument("--kv-tokens", type=int, default=32768)
    parser.add_argument("--seconds", type=float, help="for each number of clients")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; no bounds on speed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.seconds = options.seconds or (1 if options.quick else 20)
    if not options.url and not options.model:
        parser.error("-m MODEL or --url URL is needed")
    failed = asyncio.run(run(options))
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
