#!/usr/bin/env python3
"""Hugging Face transformers on a GGUF file, as scripts/evidence and scripts/bench-peers ask it: its logits after every
token of given sequences, or its speed. Run by the Python that fetch_transformers installs; not part of herd.

The file's weights are dequantised to f32, nothing else is rounded; attention is PyTorch's own (sdpa), keys and
values are cached. Ids come from herd, so that the tokeniser is not compared.
"""

import argparse
import copy
import json
import os
import random
import sys
import time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")

import torch  # noqa: E402
import transformers  # noqa: E402


def load(options):
    torch.set_num_threads(options.threads)
    folder, name = os.path.split(os.path.abspath(options.model))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()


def write_logits(options):
    """float32 [token][vocab], sequence after sequence, as `herd logits` writes them."""
    model = load(options)
    with open(options.ids, encoding="utf-8") as source, open(options.out, "wb") as target:
        for ids in json.load(source):
            target.write(model(torch.tensor([ids])).logits[0].numpy().tobytes())


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(model, batches, prompt, generate):
    """Seconds of a prompt's pass, and {batch: seconds of `generate` greedy steps of so many sequences behind it}."""
    rng = random.Random(1)
    ids = torch.tensor([[rng.randrange(model.config.vocab_size) for _ in range(prompt)]])

    def step(ids, cache):
        out = model(ids, cache=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(-1), out.cache

    def decode(chosen, cache):
        for _ in range(generate):
            chosen, cache = step(chosen, cache)

    prefill, (chosen, cache) = timed(lambda: step(ids, None))
    seconds = {}
    for batch in batches:
        copies = copy.deepcopy(cache)
        copies.batch_repeat_interleave(batch)
        seconds[batch] = timed(lambda: decode(chosen.repeat(batch, 1), copies))[0]
    return prefill, seconds


def bench(options):
    model = load(options)
    measure(model, options.batch, options.prompt, 2)  # what is made at the first use
    prefill, decode = measure(model, options.batch, options.prompt, options.generate)
    report = {
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__},
        "prefill_tokens_per_second": options.prompt / prefill,
        "decode_tokens_per_second": {batch: batch * options.generate / seconds for batch, seconds in decode.items()},
    }
    json.dump(report, sys.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    logits = commands.add_parser("logits", help="float32 [token][vocab], sequence after sequence, to a file")
    logits.add_argument("--ids", required=True, help="JSON: [[ids], ...]")
    logits.add_argument("--out", required=True)
    logits.set_defaults(work=write_logits)
    speed = commands.add_parser("bench", help="JSON: tokens a second of each batch size")
    speed.add_argument("--prompt", type=int, default=512)
    speed.add_argument("--generate", type=int, default=64)
    speed.add_argument("--batch", type=lambda text: [int(x) for x in text.split(",")], default=[1, 4, 16])
    speed.set_defaults(work=bench)
    for command in (logits, speed):
        command.add_argument("--model", required=True)
        command.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with torch.inference_mode():
        options.work(options)


if __name__ == "__main__":
    main()
