"""The blocks that scripts/evidence writes, from what the programs said: each function takes parsed JSON and gives
Markdown. Nothing is measured here."""

import itertools

from bench_peers import peers_table
from markdown import percent, spread, table

def fidelity(rows):
    """[(name, a result of `herd fidelity --json`)]"""
    head = ["mean KL", "median", "p99", "largest", "same top", "NLL", "largest logit difference"]
    lines = []
    for name, r in rows:
        kl = [f"{r[key]:.1e}" for key in ("mean_kl", "median_kl", "p99_kl", "max_kl")]
        top = f"{100 * r['same_top']:.2f} %"
        lines.append([name, *kl, top, f"{r['nll_difference']:+.1e}", f"{r['max_logit_difference']:.1e}"])
    return table(head, lines)


def promise(report, command):
    """Of `herd verify --json`."""
    seconds = sum(case["seconds"] for case in report["cases"])
    text = f"`{command}`: {'kept in every case' if report['kept'] else '**BROKEN**'}; {seconds:.0f} s of cases.\n\n"
    for device in report["devices"]:
        text += f"- {device['backend']}"
        if device["sha256"]:
            text += f": sha256 of all logits, {device['tokens']} tokens alone: `{device['sha256']}`"
        text += f"; not here: {', '.join(device['absent'])}\n" if device["absent"] else "\n"
    rows = []
    for case in report["cases"]:
        kept = "same choices" if case["case"] == "the choices of the cpu" else "equal"
        bits = kept if case["kept"] else "**different**"
        rows.append([case["device"], case["case"], str(case["tokens"]), bits])
    return text + "\n" + table(["case", "tokens", "bits"], rows, "device")


def scores(hashes, lines, batches):
    """`hashes`: of the output at each batch size."""
    what = "the same bytes" if len(set(hashes)) == 1 else "**different bytes**"
    sizes = ", ".join(map(str, batches))
    return f"`herd score`, {lines} lines, at batch sizes {sizes}: {what}, sha256 `{hashes[0][:16]}...`.\n"


def perplexity(report, text):
    return (
        f"`herd perplexity` of the whole of `{text}`, {report['tokens']} tokens in windows of {report['context']}: "
        f"{report['perplexity']:.4f} (nll {report['nll']:.5f}, standard error {report['nll_standard_error']:.5f}).\n"
    )


def ceiling(report, name):
    """median (lowest..highest) of a ceiling of one `herd bench --json`, in 1e9 a second."""
    return spread([report[f"{name}_per_second{end}"] / 1e9 for end in ("", "_low", "_high")])


def flops_name(report):
    """What the ceiling of arithmetic counts: f32 or f16."""
    return next(key.partition("_")[0] for key in report if key.endswith("_flops_per_second"))


def ceilings(report):
    what = flops_name(report)
    text = f"read {ceiling(report, 'read_bytes')} GB/s, {what} {ceiling(report, what + '_flops')} GFLOP/s"
    if "integer_flops_per_second" in report:
        text += f", integers {ceiling(report, 'integer_flops')} GFLOP/s"
    return text


def peers(samples, reports):
    """Of bench_peers.collect()."""
    reads, flops = ([report[f"{key}_per_second"] / 1e9 for report in reports] for key in ("read_bytes", "f32_flops"))
    return (
        f"herd: {reports[0]['backend']}; {len(reports)} repeats in turn, tok/s in all: median (lowest..highest). "
        f"Ceilings of herd's runs: read {spread(reads)} GB/s, f32 {spread(flops)} GFLOP/s.\n\n"
    ) + peers_table(samples, reports)


def rate(row):
    return spread([row["tokens_per_second"], row["low"], row["high"]])


def shares(reports):
    """Of several `herd bench --json`: each with its own ceilings."""
    text, rows = "Ceilings, between the repeats of each run:\n", []
    for report in reports:
        isa = report["backend"].split()[1].rstrip(",")
        text += f"- {report['backend']}, context {report['prompt']}: {ceilings(report)}\n"
        for row in report["results"]:
            if row["what"] == "prefill" and row["batch"] != 1:
                continue
            what = "prefill" if row["what"] == "prefill" else f"decode batch {row['batch']}, context"
            binds = max(("read", flops_name(report)), key=lambda name: row[f"share_of_{name}"])
            rows.append([f"{isa}: {what} {report['prompt']}", rate(row), percent(row["share_of_floor"]), binds,
                         percent(row["share_of_integer"])])
    return text + "\n" + table(["tok/s", "of the floor", "binds", "of the integer rate"], rows)


def gpu_shares(models):
    """{name: reports of `herd bench --json`}: decode of the first prompt length's batches, then one prompt of each
    length; every report with ceilings of its own. REQUIRES: the same batches and lengths for each."""
    rows, head = [], []
    for name, reports in models.items():
        decode = [r for report in reports for r in report["results"]
                  if r["what"] == "decode" and report["prompt"] == reports[0]["prompt"]]
        prefill = {report["prompt"]: r for report in reports for r in report["results"]
                   if r["what"] == "prefill" and r["batch"] == 1}
        cells = [*decode, *prefill.values()]
        head = [f"b={r['batch']}" for r in decode] + [f"prefill {length}" for length in prefill]
        rows.append([name, *map(rate, cells)])
        rows.append(["of the floor", *(percent(r["share_of_floor"]) for r in cells)])
    everything = list(itertools.chain(*models.values()))
    what = flops_name(everything[0])
    read, flops = (tera(everything, key) for key in ("read_bytes_per_second", f"{what}_flops_per_second"))
    text = f"{everything[0]['backend']}, context {everything[0]['prompt']}, tok/s in all: median (lowest..highest). "
    text += f"Ceilings, between the repeats of these runs: read {read} TB/s, {what} {flops} TFLOP/s.\n\n"
    return text + table(head, rows)


def tera(reports, name):
    """The lowest and highest ceiling of many reports."""
    low, high = (x / 1e12 for x in (min(r[name + "_low"] for r in reports), max(r[name + "_high"] for r in reports)))
    return f"{low:.3g} to {high:.3g}"
