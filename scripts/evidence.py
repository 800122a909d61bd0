#!/usr/bin/env python3
"""Measures what herd's documents state, on this machine, and writes it into them: between the lines
<!-- evidence: PART DEVICE --> and <!-- end --> of docs/fidelity.md and docs/performance.md; the rest of those pages
is written by hand. Builds herd, and brings the demo model and the peers where they are missing.
"""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_peers
import evidence_tables as tables
import markdown

FIDELITY, PERFORMANCE = Path("docs/fidelity.md"), Path("docs/performance.md")
PARTS = {  # name: (page, devices, what it is)
    "fidelity": (FIDELITY, ("cpu", "cuda"), "how far herd, and each peer, is from f32"),
    "promise": (FIDELITY, ("cpu", "cuda"), "herd verify: no answer depends on its company"),
    "scores": (FIDELITY, ("cpu",), "herd score at three batch sizes: the same bytes"),
    "perplexity": (FIDELITY, ("cpu",), "herd perplexity of the text"),
    "peers": (PERFORMANCE, ("cpu",), "tokens a second of herd and the peers, in turn"),
    "shares": (PERFORMANCE, ("cpu", "cuda"), "tokens a second as shares of what the machine can do"),
}
HERD = "build/release/herd"
KL_BOUND = {"cpu": 1e-5, "cuda": 2e-5}
SCORE_BATCHES = [1, 7, 32]
SHAPE, SHAPE_TYPES = "llama-3-8b", ["Q4_K_M", "Q8_0", "F16"]  # what a GPU is measured with
GPU_RUNS = [  # prompt, tokens decoded, batches, repeats
    (512, 64, [1, 4, 8], 5), (512, 64, [32, 64, 128, 256], 3), (4096, 16, [1], 5)]

EPILOG = f"""parts, all of them if none is named:
{chr(10).join(f'  {name:<11} {page}: {what} ({", ".join(devices)})' for name, (page, devices, what) in PARTS.items())}

peers, none unless named:
  llama.cpp     built from the source in PyPI's {{llama}}: 77 MB to download, minutes to build
  transformers  with PyTorch, from PyPI: 620 MB to download, 1.6 GB on disk

Nothing else should run on the machine while it measures. Exit status 1 if a promise is broken: a bound exceeded,
other bits, other scores.
Examples:
  scripts/evidence --peers llama.cpp,transformers    # what the documents hold: about 20 minutes on two cores
  scripts/evidence fidelity -m model.gguf --print    # your own model, on the terminal
  scripts/evidence shares promise --device cuda      # on a machine with an NVIDIA GPU: also 30 GB of disk
"""


def wrong_use(message):
    print(f"evidence: {message}", file=sys.stderr)
    sys.exit(2)


def listed(known):
    def parse(text):
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is unknown; known: {', '.join(known)}")
        return text
    return parse


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/evidence", description=__doc__, epilog=EPILOG.replace("{llama}", "llama-cpp-python"),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure")
    parser.add_argument("-m", "--model", help="GGUF file; if not given the demo model, and for the shares of a GPU "
                        f"random weights in the shape of {SHAPE}, types {', '.join(SHAPE_TYPES)}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what is measured (default: cpu)")
    parser.add_argument("--peers", type=listed(["llama.cpp", "transformers"]), metavar="NAMES",
                        help="measure these beside herd: llama.cpp,transformers")
    parser.add_argument("--text", default="tests/data/prose.txt", help="what is foretold (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=2048, help="of it, for fidelity (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="of each speed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="herd verify without --full")
    parser.add_argument("--print", action="store_true", help="print the blocks; leave the documents as they are")
    options = parser.parse_args()
    possible = [name for name, (_, devices, _) in PARTS.items() if options.device in devices]
    for part in options.parts:
        if part not in possible:
            wrong_use(f"there is no part '{part}' for {options.device}; there are: {', '.join(possible)}")
    if options.device != "cpu" and options.peers:
        wrong_use("peers are measured on the CPU only")
    if "peers" in options.parts and not options.peers:
        wrong_use("the part 'peers' needs --peers NAMES")
    options.parts = options.parts or [part for part in possible if part != "peers" or options.peers]
    return options


def run(command, check=True):
    command = [str(word) for word in command]
    print("running: " + " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if check and done.returncode != 0:
        sys.exit(f"evidence: exit status {done.returncode} of: {' '.join(command)}")
    return done.stdout


def shell(script, *values):
    """Runs bash with scripts/lib.sh and scripts/peers.sh; what it prints."""
    command = ["bash", "-euo", "pipefail", "-c", f"source scripts/lib.sh; source scripts/peers.sh; {script}"]
    done = subprocess.run([*command, "evidence", *values], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(1)  # it has said why
    return done.stdout


def prepare(options):
    """Brings programs, model and peers; adds to `options` what the measurements need to know."""
    shell('need_packages "${BUILD_PACKAGES[@]}" "${MODEL_PACKAGES[@]}"\n'
          "[[ -f build/release/CMakeCache.txt ]] || configure release -DHERD_TESTS=OFF\n"
          "build release --target herd_cli >&2")
    options.herd, options.own_model = HERD, options.model is not None
    if not options.own_model:
        options.model = shell('fetch_demo_model; printf %s "$DEMO_MODEL"')
    peers = []
    if options.peers:
        peers = shell('fetch_peers "$1"; printf "%s\\n" "${PEER_OPTIONS[@]}"', options.peers).splitlines()
    shared = ["--herd", HERD, "--model", options.model, "--threads", options.threads, "--repeats", options.repeats]
    options.bench = bench_peers.arguments("").parse_args([*map(str, shared), *peers])


def machine(device):
    """Date and machine, as the blocks state them."""
    facts = dict(line.partition(":")[::2] for line in Path("/proc/cpuinfo").read_text().splitlines())
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    name = facts.get("model name", os.uname().machine)
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    text = f"{datetime.date.today()}, {name}, {os.cpu_count()} cores"
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        text += ", " + run(query).splitlines()[0].replace(", ", ", driver ")
    return text


def common(options):
    return ["-m", options.model, "--device", options.device, "--threads", options.threads]


def measure_fidelity(options, folder):
    ids = folder / "ids.json"
    command = [HERD, "fidelity", *common(options), "-f", options.text, "--tokens", options.tokens, "--json"]
    report = json.loads(run(command + ["--ids-out", ids]))
    (result,) = report["results"]
    rows = [(f"herd, {result['name']}", result)]
    for name, write_logits in peer_logits(options, folder, ids):
        other = folder / "peer.f32"
        run(write_logits(other))
        rows.append((name, json.loads(run(command + ["--against", other]))["results"][1]))
    text = f"{report['model']}, `{Path(options.model).name}`; {result['tokens']} tokens of `{options.text}` "
    text += f"in windows of {report['context']}.\n\n" + tables.fidelity(rows)
    return text, result["mean_kl"] <= KL_BOUND[options.device]


def peer_logits(options, folder, ids):
    """(name, command that writes its logits to a file) of each peer."""
    bench = options.bench
    if bench.llama_bin:
        program = shell('build_llama_logits >&2; printf %s "$LLAMA_LOGITS"')
        lines = folder / "ids.txt"
        lines.write_text("".join(" ".join(map(str, window)) + "\n" for window in json.loads(ids.read_text())))
        yield bench.llama_name, lambda out: [program, options.model, lines, out, options.threads]
    if bench.transformers:
        command = [bench.transformers, "-B", bench_peers.TRANSFORMERS, "logits", "--model", options.model]
        command += ["--threads", options.threads, "--ids", ids, "--out"]
        yield bench.transformers_name, lambda out: [*command, out]


def measure_promise(options, _):
    devices = {"cpu": "cpu,reference", "cuda": "cpu,cuda"}[options.device]
    words = ["verify", "--devices", devices] + ([] if options.quick else ["--full"])
    report = json.loads(run([HERD, *words, "-m", options.model, "--json"], check=False))
    return tables.promise(report, " ".join(["herd", *words])), report["kept"]


def score_lines(text):
    """Continuations of a few contexts out of a text."""
    words = text.split()
    for start in range(0, min(len(words) - 60, 400), 40):
        context = " ".join(words[start : start + 40])
        for skip in (0, 7, 13, 20):
            continuation = " " + " ".join(words[start + 40 + skip : start + 46 + skip])
            yield json.dumps({"context": context, "continuation": continuation})


def measure_scores(options, folder):
    source, lines = folder / "score.jsonl", list(score_lines(Path(options.text).read_text(encoding="utf-8")))
    source.write_text("\n".join(lines) + "\n")
    command = [HERD, "score", *common(options), "--input", source, "--batch-size"]
    hashes = [hashlib.sha256(run([*command, batch]).encode()).hexdigest() for batch in SCORE_BATCHES]
    return tables.scores(hashes, len(lines), SCORE_BATCHES), len(set(hashes)) == 1


def measure_perplexity(options, _):
    report = json.loads(run([HERD, "perplexity", *common(options), "-f", options.text, "--json"]))
    return tables.perplexity(report, options.text), True


def measure_peers(options, _):
    return f"`{Path(options.model).name}`; " + tables.peers(*bench_peers.collect(options.bench)), True


def measure_shares(options, folder):
    return (measure_cpu_shares if options.device == "cpu" else measure_gpu_shares)(options, folder), True


def measure_cpu_shares(options, _):
    """Of the widest instruction set, at two contexts; and of AVX2 where that is not the widest."""
    def report(prompt, *more):
        print(f"running: herd bench, context {prompt} {' '.join(more)}", file=sys.stderr, flush=True)
        return bench_peers.herd_report(options.bench, *more, prompt=prompt, repeats=options.bench.repeats)
    reports = [report(512), report(128)]
    if " avx512" in reports[0]["backend"]:
        reports.append(report(512, "--isa", "avx2"))
    return f"`{Path(options.model).name}`. " + tables.shares(reports)


def measure_gpu_shares(options, _):
    models = {Path(options.model).name: options.model}
    if not options.own_model:
        models = {kind: Path(f".cache/{SHAPE}-{kind}.gguf") for kind in SHAPE_TYPES}
    reports = {}
    for name, model in models.items():
        if not Path(model).exists():
            run([HERD, "make-model", "--shape", SHAPE, "--type", name, model])
        reports[name] = [gpu_report(options, model, *cells) for cells in GPU_RUNS]
    return ("" if options.own_model else f"Random weights in the shape of {SHAPE}. ") + tables.gpu_shares(reports)


def gpu_report(options, model, prompt, generate, batches, repeats):
    command = [HERD, "bench", "-m", model, "--device", options.device, "-p", prompt, "-n", generate, "--json"]
    return json.loads(run(command + ["-b", ",".join(map(str, batches)), "--repeats", repeats]))


MEASURES = {
    "fidelity": measure_fidelity, "promise": measure_promise, "scores": measure_scores,
    "perplexity": measure_perplexity, "peers": measure_peers, "shares": measure_shares,
}


def put(path, name, body):
    path.write_text(markdown.filled(path.read_text(encoding="utf-8"), name, body), encoding="utf-8")
    print(f"written: {path}, {name}", file=sys.stderr)


def main():
    options = arguments()
    blocks = {part: f"{part} {options.device}" for part in options.parts}
    if not options.print:  # a page without the place is found before the work, not after it
        for part, name in blocks.items():
            markdown.filled(PARTS[part][0].read_text(encoding="utf-8"), name, "")
    prepare(options)
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        for part, name in blocks.items():
            text, kept = MEASURES[part](options, Path(folder))
            text = markdown.wrapped(f"{machine(options.device)}. {text}")
            if options.print:
                print(f"\n## {name}\n{text}", flush=True)
            else:
                put(PARTS[part][0], name, text)
            broken += [] if kept else [name]
    if broken:
        sys.exit(f"evidence: broken: {', '.join(broken)}")


if __name__ == "__main__":
    main()
