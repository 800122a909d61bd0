#!/usr/bin/env python3
"""lm-evaluation-harness against herd serve, batch 1 and 16: the same scores, the same bits. Run by
scripts/test-lm-eval."""

import glob
import json
import os
import subprocess
import sys
import tempfile

from http_server import Server

FACTS = [("The capital of France is", " Paris", (" London", " Rome", " a banana")),
         ("Two plus two equals", " four", (" nine", " purple", " the")),
         ("The sun rises in the", " east", (" soup", " of", " west")),
         ("Water freezes at zero degrees", " Celsius", (" apple", " Monday", " run")),
         ("The opposite of hot is", " cold", (" table", " hotter than hot", " nine")),
         ("A dog is an", " animal", (" idea of", " number", " ocean in the north"))]
TASK = """task: herd_facts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
QUESTIONS = 30  # each with a number in front from the seventh on, so that no two prompts are equal


def write_task(folder):
    data = os.path.join(folder, "facts.jsonl")
    with open(data, "w") as out:
        for i in range(QUESTIONS):
            question, right, wrong = FACTS[i % len(FACTS)]
            choices = list(wrong)
            choices.insert(i % 4, right)
            shown = question if i < len(FACTS) else f"({i}) {question}"
            out.write(json.dumps({"question": shown, "choices": choices, "answer": i % 4}) + "\n")
    with open(os.path.join(folder, "herd_facts.yaml"), "w") as out:
        out.write(TASK.format(data=data))


def evaluate(folder, server, model, batch):
    """(scores, log-likelihoods by question and choice)."""
    out = os.path.join(folder, f"batch-{batch}")
    arguments = f"model={model},base_url={server.url}/v1/completions,num_concurrent=4,tokenized_requests=False"
    subprocess.run([sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments,
                    "--tasks", "herd_facts", "--include_path", folder, "--batch_size", str(batch), "--log_samples",
                    "--output_path", out],
                   check=True, env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"})
    (results,) = glob.glob(f"{out}/**/results_*.json", recursive=True)
    (samples,) = glob.glob(f"{out}/**/samples_*.jsonl", recursive=True)
    with open(results) as f:
        scores = json.load(f)["results"]["herd_facts"]
    with open(samples) as f:
        lines = [json.loads(line) for line in f]
    return ({name: value for name, value in scores.items() if name.startswith("acc")},
            {line["doc_id"]: line["resps"] for line in lines})


def main():
    with tempfile.TemporaryDirectory() as folder, Server(sys.argv[1], "--context", "1024") as server:
        write_task(folder)
        model = json.loads(server.get("/v1/models")[2])["data"][0]["id"]
        runs = {batch: evaluate(folder, server, model, batch) for batch in (1, 16)}
    for batch, (scores, likelihoods) in runs.items():
        print(f"batch {batch}: {scores}, {len(likelihoods)} questions")
    assert len(runs[1][1]) == QUESTIONS
    assert runs[1][0]["acc,none"] > 0.5, "worse than a small model should be"
    assert runs[1] == runs[16], "the batch changes the scores"
    print("equal: scores and every log-likelihood")


if __name__ == "__main__":
    main()
