"""herd.ray on a local cluster of two actors, against one process; actors are killed on the way."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import herd
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = "the time of a story about how people and animals lived near one river before winter came".split()
LOADING = dict(context=512, batch_size=8)


def prompts(count, seed=1):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="Ray is not here; pip install 'herd[ray]'")
    pytest.importorskip("ray.data")
    if not DEMO.exists():
        pytest.skip("the demo model is not here; scripts/demo brings it")
    # Two actors run; a job that failed can keep its own for a while, and Ray's CPUs are only a count.
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model():
    return herd.Model(DEMO, threads=2, **LOADING)


def generate(dataset, **options):
    import herd.ray

    given = dict(model=str(DEMO), actors=2, block_rows=16, model_options=LOADING, max_tokens=12)
    return herd.ray.generate(dataset, **{**given, **options})


def as_rows(answers):
    return [
        dict(
            text=a.text,
            ids=a.ids,
            finish_reason=a.finish_reason,
            error=a.error,
            logprobs=[p.logprob for p in a.logprobs or []],
        )
        for a in answers
    ]


def test_without_ray_the_import_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; import herd.ray"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: herd.ray needs Ray Data") and last.endswith("pip install 'herd[ray]'")


def test_two_actors_give_what_one_process_gives(ray, model):
    rows = [dict(id=i, prompt=p, seed=1000 + i) for i, p in enumerate(prompts(70))]
    options = dict(max_tokens=12, temperature=0.8, top_p=0.95)
    answers = model.generate([r["prompt"] for r in rows], seed=[r["seed"] for r in rows], logprobs=2, **options)
    found = generate(ray.data.from_items(rows), seed_column="seed", logprobs=2, **options).take_all()
    tops = [row.pop("top_logprobs") for row in found]
    assert found == [{**r, **a} for r, a in zip(rows, as_rows(answers), strict=True)]
    assert tops == [[[dict(id=i, logprob=x) for i, x in p.top] for p in a.logprobs] for a in answers]
    assert len({tuple(r["ids"]) for r in found}) > 60


def test_bad_rows_fail_alone(ray, model):
    good = prompts(20)
    bad = {3: None, 8: "river " * 600, 17: None}
    rows = [bad.get(i, p) for i, p in enumerate(good)]
    found = generate(ray.data.from_items([dict(prompt=p) for p in rows])).take_all()
    expected = as_rows(model.generate(good, max_tokens=12, logprobs=0))
    for i, row in enumerate(found):
        if i not in bad:
            assert row == {"prompt": rows[i], **expected[i]}
            continue
        assert (row["finish_reason"], row["text"], row["ids"], row["logprobs"]) == ("error", "", [], [])
        assert "\n" not in row["error"]
    assert found[3]["error"] == found[17]["error"] == "must be text or a list of token ids, is NoneType"
    assert "512" in found[8]["error"]


def test_rows_of_other_types_and_bad_seeds_fail_alone(ray):
    numbers = generate(ray.data.from_items([dict(prompt=5), dict(prompt=6)])).take_all()
    assert [r["error"] for r in numbers] == ["must be text or a list of token ids, is int"] * 2
    rows = [dict(prompt=[19556, 28], seed=1), dict(prompt=[10**6], seed=2), dict(prompt=[19556], seed=-3)]
    ids = generate(ray.data.from_items(rows), seed_column="seed").take_all()
    assert ids[0]["error"] is None and len(ids[0]["ids"]) > 0
    assert "1000000" in ids[1]["error"]
    assert ids[2]["error"].startswith("column 'seed' -3: must be a whole number from 0 to ")


def test_what_is_wrong_for_all_rows_raises(ray, tmp_path):
    import herd.ray

    dataset = ray.data.from_items([dict(prompt="Hello", text="x")])
    with pytest.raises(TypeError, match="generate.. does not take max_token$"):
        generate(dataset, max_token=3)
    with pytest.raises(ValueError, match="no column 'question'; it has prompt, text"):
        generate(dataset, column="question")
    with pytest.raises(ValueError, match="block_rows 0"):
        generate(dataset, block_rows=0)
    with pytest.raises(TypeError, match="a seed or a seed_column"):
        generate(dataset, seed=1, seed_column="text")
    with pytest.raises(TypeError, match="max_tokens"):
        generate(dataset, max_tokens="many")
    with pytest.raises(Exception, match="a column 'text' already: choose a prefix"):
        generate(dataset).take_all()
    (row,) = generate(dataset, prefix="answer_").take_all()
    assert row["text"] == "x" and row["answer_error"] is None and row["answer_text"] != ""
    with pytest.raises(ValueError, match="format 'csv': must be parquet or jsonl"):
        herd.ray.write(dataset, "nowhere", "csv")
    with pytest.raises(ValueError, match="already exists"):
        herd.ray.write(dataset, str(tmp_path), "jsonl")
    with pytest.raises(Exception, match="absent.gguf"):
        generate(dataset, prefix="a_", model="absent.gguf").take_all()


def test_a_cluster_without_a_free_cpu_is_warned_of(ray):
    dataset = ray.data.from_items([dict(prompt="Hello")])
    with pytest.warns(RuntimeWarning, match="the actors take 8 CPUs of the cluster's 8"):
        generate(dataset, actors=8)


def test_nothing_to_do(ray):
    rows = generate(ray.data.from_items([dict(prompt="Hello")]).filter(lambda row: False)).take_all()
    assert rows == []


def test_scores(ray, model):
    import herd.ray

    cities = ["Paris", "London", "Rome", "Berlin"]
    pairs = [("The capital of France is", " " + c) for c in cities] + [("x", None), ("x", "")]
    dataset = ray.data.from_items([dict(context=a, continuation=b) for a, b in pairs])
    found = herd.ray.score(
        dataset, model=str(DEMO), actors=2, block_rows=3, model_options=LOADING, prefix="s_"
    ).take_all()
    for row, s in zip(found, model.score(pairs), strict=True):
        assert row["s_error"] == s.error
        assert row["s_logprob"] == (s.logprob if s.error is None else None)
        assert (row["s_logprobs"], row["s_ids"], row["s_greedy"]) == (s.logprobs, s.ids, s.greedy)
        assert row["s_all_greedy"] == s.all_greedy
    assert found[0]["s_logprob"] == max(r["s_logprob"] for r in found[:4])
    assert [r["s_error"] is None for r in found] == [True] * 4 + [False] * 2


# ---- actors die ----


def workers():
    """Processes of this program's cluster in which a block is being worked on."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended

    def is_ours(pid):
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = parents.get(pid, 0)
        return False

    busy = [p for p, name in names.items() if name.startswith("ray::") and "_Generator" in name and "submit" in name]
    return sorted(p for p in busy if is_ours(p))


class Killer(threading.Thread):
    """Kills a working actor `count` times, at random moments."""

    def __init__(self, rng, count):
        super().__init__(daemon=True)
        self.rng, self.count, self.killed, self.stopped = rng, count, [], threading.Event()

    def run(self):
        while len(self.killed) < self.count and not self.stopped.wait(self.rng.uniform(0.2, 1.5)):
            busy = [p for p in workers() if p not in self.killed]
            if busy:
                pid = self.rng.choice(busy)
                os.kill(pid, signal.SIGKILL)
                self.killed.append(pid)


def write(dataset, folder, kind):
    import herd.ray

    herd.ray.write(dataset, str(folder), kind)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_killed_actors_leave_no_trace_in_the_files(ray, tmp_path, kind):
    seed = int(os.environ.get("HERD_TEST_SEED", time.time_ns() % 2**32))
    print(f"HERD_TEST_SEED={seed}")
    rows = [dict(id=i, prompt=p) for i, p in enumerate(prompts(320, seed))]
    answers = generate(ray.data.from_items(rows), max_tokens=24, temperature=0.7, ignore_end=True)
    calm = write(answers, tmp_path / "calm", kind)
    killer = Killer(random.Random(seed), 5)
    killer.start()
    stormy = write(answers, tmp_path / "stormy", kind)
    killer.stopped.set()
    killer.join()
    assert len(killer.killed) == 5, f"seed {seed}: the job ended before 5 actors were killed"
    assert list(calm) == list(stormy) and len(calm) == 20
    assert calm == stormy, f"seed {seed}: files differ"
    read = ray.data.read_parquet if kind == "parquet" else lambda f: ray.data.read_json(f, lines=True)
    back = sorted(read(str(tmp_path / "stormy")).take_all(), key=lambda row: row["id"])
    assert [(r["id"], r["prompt"]) for r in back] == [(r["id"], r["prompt"]) for r in rows]
    assert all(len(r["ids"]) == 24 and r["error"] is None for r in back)


def test_the_example_shows_tokens_a_second(tmp_path):
    pytest.importorskip("ray")
    if not DEMO.exists():
        pytest.skip("the demo model is not here; scripts/demo brings it")
    source = tmp_path / "prompts.jsonl"
    source.write_text("".join(json.dumps(dict(prompt=p)) + "\n" for p in prompts(64)))
    command = [sys.executable, str(ROOT / "examples/ray_batch.py"), "-m", str(DEMO), "-n", "32"]
    done = subprocess.run(
        [*command, "--actors", "2", str(source), str(tmp_path / "out")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "out").iterdir())
    assert [f.suffix for f in files] == [".jsonl"] * len(files)
    rows = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    assert [r["prompt"] for r in rows] == prompts(64) and all(r["text"] for r in rows)
    assert " tokens/s" in done.stderr
