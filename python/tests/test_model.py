"""The package against the golden data of tests/data and against itself alone."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import herd
import pytest
from herd._model import StreamOptions

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GOLDEN = json.loads((ROOT / "tests/data/smollm2-q4_1-greedy.json").read_text())


@pytest.fixture(scope="module")
def model():
    if not DEMO.exists():
        pytest.skip("the demo model is not here; scripts/demo brings it")
    return herd.Model(DEMO, threads=2, context=512, batch_size=8)


def test_greedy_tokens_are_the_golden_ones(model):
    prompts = [case["prompt_ids"] for case in GOLDEN]
    most = max(len(case["ids"]) for case in GOLDEN)
    for answer, case in zip(model.generate(prompts, max_tokens=most, ignore_end=True), GOLDEN, strict=True):
        assert answer.ids[: len(case["ids"])] == case["ids"]


def test_an_answer_is_the_same_alone_and_in_a_batch(model):
    prompts = [case["prompt"] for case in GOLDEN]
    options = dict(max_tokens=12, temperature=0.9, top_p=0.95, logprobs=2)
    together = model.generate(prompts, seed=list(range(len(prompts))), **options)
    for i, prompt in enumerate(prompts):
        (alone,) = model.generate([prompt], seed=i, **options)
        assert alone == together[i]  # log-probabilities with every bit
    assert len({tuple(a.ids) for a in together}) > 1


def test_a_bad_prompt_fails_alone(model):
    answers = model.generate(["Hello", None, [], [10**6], "Hello", "\ud800"], max_tokens=4)
    assert [a.finish_reason == "error" for a in answers] == [False, True, True, True, False, True]
    assert answers[0] == answers[4]
    assert answers[1].error == "prompt 1: must be text or a list of token ids, is NoneType"
    assert answers[5].error == "prompt 5: text is not Unicode: a lone surrogate at character 0"
    assert answers[2].error == "prompt 2: the prompt has no token ids"
    assert "1000000" in answers[3].error and "\n" not in answers[3].error


def test_log_probabilities_have_the_likeliest_beside_them(model):
    (answer,) = model.generate(["The capital of France is"], max_tokens=4, logprobs=3)
    assert [p.id for p in answer.logprobs] == answer.ids
    for p in answer.logprobs:
        assert len(p.top) == 3 and p.top[0] == (p.id, p.logprob)  # greedy: the chosen is the likeliest
        assert p.top[0][1] > p.top[1][1] > p.top[2][1]
    (bare,) = model.generate(["The capital of France is"], max_tokens=4)
    assert bare.logprobs is None and bare.ids == answer.ids


def test_stop_texts_and_ids_end_an_answer(model):
    (answer,) = model.generate(["The capital of France is"], max_tokens=12, stop=["."])
    assert (answer.text, answer.finish_reason) == (" Paris", "stop")
    (paris,) = model.tokenize(" Paris")
    (answer,) = model.generate(["The capital of France is"], max_tokens=12, stop_ids=[paris])
    assert answer.finish_reason == "stop" and answer.ids == [paris]


def test_a_stream_says_what_generate_says(model):
    prompts = ["Once upon a time", None, "The capital of France is"]
    answers = model.generate(prompts, max_tokens=10)
    texts, ids, ends = [""] * 3, [[], [], []], [None] * 3
    for event in model.stream(prompts, max_tokens=10):
        texts[event.index] += event.text
        ids[event.index] += [] if event.token is None else [event.token]
        ends[event.index] = event.finish_reason or ends[event.index]
    assert texts == [a.text for a in answers]
    assert ids == [a.ids for a in answers]
    assert ends == [a.finish_reason for a in answers]


def test_a_stream_has_the_log_probabilities_of_generate(model):
    prompts = ["Once upon a time", [], "The capital of France is"]
    for options in (dict(logprobs=0), dict(logprobs=3, temperature=0.9, seed=[4, 5, 6])):
        answers = model.generate(prompts, max_tokens=10, **options)
        found = [[], [], []]
        for event in model.stream(prompts, max_tokens=10, **options):
            assert (event.logprob is None) == (event.token is None)
            if event.logprob:
                assert event.logprob.id == event.token
                found[event.index].append(event.logprob)
        assert found == [a.logprobs or [] for a in answers]  # every bit, and the likeliest beside them
        assert len(found[0]) == 10 and all(len(p.top) == options["logprobs"] for p in found[0])
        assert all(type(p) is herd.Logprob and p.logprob < 0 for p in found[0] + found[2])
    assert all(event.logprob is None for event in model.stream(prompts, max_tokens=3))
    with pytest.raises(ValueError, match="logprobs -1"):
        model.stream(prompts, logprobs=-1)


def test_a_stream_takes_the_options_of_generate():
    wanted = set(herd.Model.generate.__kwdefaults__) - {"on_tokens"}
    assert set(StreamOptions.__annotations__) == wanted


def test_an_open_stream_holds_the_model_until_it_is_closed(model):
    with model.stream(["Hello"], max_tokens=300, ignore_end=True) as stream:
        next(stream)
        with pytest.raises(herd.Error, match="busy"):
            model.generate(["Hello"], max_tokens=1)
    assert model.generate(["Hello"], max_tokens=1)[0].error is None


def test_scores(model):
    pairs = [("The capital of France is", " Paris"), ("x", ""), (None, "y"), ("The capital of France is", " London")]
    paris, empty, none, london = model.score(pairs)
    assert paris == model.score(pairs[:1])[0]
    assert paris.logprob > london.logprob
    assert paris.logprob == pytest.approx(sum(paris.logprobs)) and paris.logprob < 0
    assert paris.ids == model.tokenize(" Paris")
    assert empty.error == "the continuation has no tokens" and not empty.all_greedy
    assert none.error is not None
    (answer,) = model.generate(["The capital of France is"], max_tokens=3, logprobs=0)
    (greedy,) = model.score([(answer.prompt_ids, answer.ids)])
    assert greedy.all_greedy
    assert greedy.logprobs == [p.logprob for p in answer.logprobs]


def test_text_and_back(model):
    ids = model.tokenize("Grüße, world")
    assert model.detokenize(ids) == "Grüße, world"
    special = model.tokenize("<|im_start|>The")
    assert len(special) == 2
    assert model.detokenize(special) == "The" and model.detokenize(special, special=True) == "<|im_start|>The"
    with pytest.raises(herd.Error, match="1000000"):
        model.detokenize([10**6])


def test_the_interpreter_goes_on_while_the_model_works(model):
    ticks = 0
    worker = threading.Thread(
        target=model.generate, args=(["Hello"],), kwargs=dict(max_tokens=100, ignore_end=True)
    )
    worker.start()
    while worker.is_alive():
        time.sleep(0.002)
        ticks += 1
    assert ticks >= 10


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_ctrl_c_stops(model, way):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(100):
            list(getattr(model, way)(["Hello"] * 8, max_tokens=400, ignore_end=True))
    assert model.generate(["Hello"], max_tokens=1)[0].error is None


def test_errors_of_loading():
    with pytest.raises(herd.Error, match="absent.gguf") as error:
        herd.Model("absent.gguf")
    assert error.value.code == "not found" and "\n" not in str(error.value)
    with pytest.raises(herd.Error, match="device 'abacus' is unknown; known: cpu"):
        herd.Model("absent.gguf", device="abacus")
    with pytest.raises(ValueError, match="threads -1"):
        herd.Model("absent.gguf", threads=-1)
