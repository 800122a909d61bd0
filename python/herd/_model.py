"""Models as Python users see them: checks of what comes in, plain data classes for what goes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, Union

from . import _herd

if TYPE_CHECKING:
    from typing_extensions import Unpack

Prompt = Union[str, Sequence[int]]
"""Text, or token ids used as they are."""


@dataclass(frozen=True)
class Logprob:
    """A token's log-probability under the unmodified distribution."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # the likeliest at its place: (id, logprob)


@dataclass(frozen=True)
class Completion:
    """The answer to one prompt."""

    text: str
    ids: list[int]  # includes the end token if one was chosen
    finish_reason: str  # "stop", "length", or "error"
    prompt_ids: list[int]
    logprobs: list[Logprob] | None = None  # one per id, if asked
    error: str | None = None  # if finish_reason is "error": why


@dataclass(frozen=True)
class Event:
    """What happened to one prompt in one step. The texts of a prompt together are its answer's."""

    index: int  # of the prompt
    text: str  # what became certain: may be empty
    token: int | None = None
    finish_reason: str | None = None  # in the last event of a prompt, and only there
    error: str | None = None
    logprob: Logprob | None = None  # of token, if asked


@dataclass(frozen=True)
class Score:
    """How likely a continuation is after its context."""

    logprob: float  # sum of logprobs
    logprobs: list[float]  # of each token of the continuation
    ids: list[int]
    greedy: list[bool]  # whether it was the likeliest
    error: str | None = None  # if it could not be scored: why; then all else is empty

    @property
    def all_greedy(self) -> bool:
        """Whether every token was the likeliest; not so of one that could not be scored."""
        return self.error is None and all(self.greedy)


class StreamOptions(TypedDict, total=False):
    """What Model.stream takes: what generate does, with its defaults."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int | Sequence[int]
    logit_bias: Mapping[int, float] | None
    stop: str | Sequence[str]
    stop_ids: Sequence[int]
    ignore_end: bool
    logprobs: int | None


class Stream:
    """Iterates over events of all prompts. Closing it, or leaving its `with`, stops the work."""

    def __init__(self, stream: _herd.Stream | None, early: list[Event], where: list[int]) -> None:
        self._stream, self._early, self._where = stream, early, where

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        if self._early:
            return self._early.pop(0)
        e = self._stream.next() if self._stream else None
        if e is None:
            self.close()
            raise StopIteration
        reason = e.finish_reason
        return Event(
            index=self._where[e.index],
            text=e.text,
            token=e.token if e.token >= 0 else None,
            finish_reason=None if reason == "none" else reason,
            error=e.error or None,
            logprob=_logprob(e.logprob) if e.logprob else None,
        )

    def close(self) -> None:
        """Stops what still runs, within a step. May be repeated."""
        self._early.clear()
        if self._stream:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Model:
    """A loaded model with room for `batch_size` sequences at once; more prompts than that wait.

    One call or stream at a time; a second one gets an Error. The GIL is free while the model works.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: str = "cpu",
        threads: int = 0,  # 0: as many as the machine has cores
        *,
        batch_size: int = 16,
        context: int = 0,  # longest sequence; 0: what the model was trained for
        kv_tokens: int = 0,  # room for tokens of all sequences; 0: batch_size * context, at most 1/4 of memory
        max_rows: int = 0,  # prompts are fed in chunks of at most this; 0: as the device likes
        kv_type: str = "f16",
        isa: str = "automatic",
    ) -> None:
        path = os.fspath(path)
        numbers = {"threads": threads, "batch_size": batch_size, "context": context, "max_rows": max_rows}
        for name, value in numbers.items():
            _whole(name, value, 31)
        _whole("kv_tokens", kv_tokens, 63)
        self._model = _herd.Model(
            path, device, threads, isa, batch_size, context, kv_tokens, max_rows, kv_type
        )

    @property
    def info(self) -> dict[str, Any]:
        """Architecture, name, backend, sizes."""
        return self._model.info()

    def tokenize(self, text: str, *, bos: bool = False, special: bool = True) -> list[int]:
        """Token ids; `special`: special tokens spelt in the text are parsed."""
        return self._model.encode(text, bos, special)

    def detokenize(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Text of ids; `special`: control tokens are spelt out. Bytes that are not UTF-8 become U+FFFD."""
        return self._model.decode(_ids(ids), special).decode("utf-8", errors="replace")

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,  # 0: greedy
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        seed: int | Sequence[int] = 0,  # one for all, or one per prompt
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        ignore_end: bool = False,
        logprobs: int | None = None,  # n: of the chosen token and of the n likeliest
        on_tokens: Callable[[int], object] | None = None,  # hears how many came since its last call
    ) -> list[Completion]:
        """Answers in the order of the prompts. A bad prompt fails alone: its `error` says why."""
        options = {k: v for k, v in locals().items() if k not in ("self", "prompts", "on_tokens")}
        requests, errors = _requests(prompts, options)
        answers = iter(self._model.generate(requests, on_tokens) if requests else [])
        failed = {i: Completion("", [], "error", [], None, why) for i, why in errors.items()}
        return [
            failed[i] if i in failed else _completion(next(answers), logprobs is not None)
            for i in range(len(prompts))
        ]

    def stream(self, prompts: Sequence[Prompt], **options: Unpack[StreamOptions]) -> Stream:
        """The same as it happens: events of all prompts. Takes the options of generate but on_tokens."""
        unknown = set(options) - set(_DEFAULTS)
        if unknown:
            raise TypeError(f"stream() does not take {', '.join(sorted(unknown))}")
        requests, errors = _requests(prompts, {**_DEFAULTS, **options})
        early = [Event(i, "", finish_reason="error", error=why) for i, why in errors.items()]
        where = [i for i in range(len(prompts)) if i not in errors]
        return Stream(self._model.stream(requests) if requests else None, early, where)

    def score(
        self,
        pairs: Sequence[tuple[Prompt, Prompt]],
        *,
        on_tokens: Callable[[int], object] | None = None,  # hears how many were computed since its last call
    ) -> list[Score]:
        """Log-likelihoods of (context, continuation) pairs, in their order.

        Texts are encoded as one: a continuation usually begins with a space. Contexts that begin
        alike are computed once: keep them together. A bad pair fails alone: its `error` says why.
        """
        requests: list[_herd.ScoreRequest] = []
        errors: dict[int, str] = {}
        for i, pair in enumerate(pairs):
            try:
                requests.append(self._score_request(pair))
            except (TypeError, ValueError) as error:
                errors[i] = str(error)
        scores = iter(zip(requests, self._model.score(requests, on_tokens) if requests else []))
        return [
            _unscored(errors[i]) if i in errors else _score(*next(scores)) for i in range(len(pairs))
        ]

    def _score_request(self, pair: tuple[Prompt, Prompt]) -> _herd.ScoreRequest:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError("a pair must be (context, continuation)")
        context, continuation = pair
        if isinstance(context, str) and isinstance(continuation, str):
            request = self._model.score_request(_text(context), _text(continuation))
        elif isinstance(context, str) or isinstance(continuation, str):
            raise TypeError("context and continuation must both be text or both be token ids")
        else:
            request = _herd.ScoreRequest()
            before = _ids(context)
            request.ids = before + _ids(continuation)
            request.first = len(before)
        if request.first == 0:
            raise ValueError("the context has no tokens: nothing to score the continuation after")
        if request.first == len(request.ids):
            raise ValueError("the continuation has no tokens")
        return request


_DEFAULTS = {k: v for k, v in (Model.generate.__kwdefaults__ or {}).items() if k != "on_tokens"}


def _logprob(p: _herd.TokenLogprob) -> Logprob:
    return Logprob(p.id, p.logprob, tuple(p.top))


def _whole(name: str, value: Any, bits: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**bits:
        raise ValueError(f"{name} {value!r}: must be a whole number from 0 to {2**bits - 1}")


def _text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"text is not Unicode: a lone surrogate at character {error.start}") from None
    return text


def _ids(ids: Sequence[int]) -> list[int]:
    try:
        found = [i.__index__() for i in ids]
    except (TypeError, AttributeError):
        raise TypeError(f"must be text or a list of token ids, is {type(ids).__name__}") from None
    for i in found:
        if not -(2**31) <= i < 2**31:
            raise ValueError(f"token id {i} is not a 32-bit number")
    return found


def _set(target: Any, name: str, value: Any) -> None:
    """Sets an attribute of the extension's, with one line when the type or the size is wrong."""
    try:
        setattr(target, name, value)
    except (TypeError, OverflowError):
        raise TypeError(f"{name}: {value!r} is of the wrong type or too large") from None


def _requests(
    prompts: Sequence[Prompt], options: Mapping[str, Any]
) -> tuple[list[_herd.Request], dict[int, str]]:
    """A request per good prompt in order, and why each bad one is bad."""
    if isinstance(prompts, (str, bytes)):
        raise TypeError("prompts must be a list of prompts, not one text")
    seeds = options["seed"]
    seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(seeds)} seeds for {len(prompts)} prompts")
    requests: list[_herd.Request] = []
    errors: dict[int, str] = {}
    for i, (prompt, seed) in enumerate(zip(prompts, seeds)):
        request = _request({**options, "seed": seed})
        try:
            if isinstance(prompt, str):
                request.prompt = _text(prompt)
            else:
                request.ids = _ids(prompt)
                if not request.ids:
                    raise ValueError("the prompt has no token ids")
        except (TypeError, ValueError) as error:
            errors[i] = f"prompt {i}: {error}"
            continue
        requests.append(request)
    return requests, errors


def _request(options: Mapping[str, Any]) -> _herd.Request:
    request = _herd.Request()
    sampling = _herd.Sampling()
    for name, value in options.items():
        if name == "logit_bias":
            _set(sampling, name, list((value or {}).items()))
        elif name == "logprobs":
            if value is not None:
                _whole(name, value, 31)
            _set(request, name, -1 if value is None else value)
        elif name == "stop":
            _set(request, name, [value] if isinstance(value, str) else list(value))
        elif name == "stop_ids":
            _set(request, name, list(value))
        else:
            _set(sampling if hasattr(sampling, name) else request, name, value)
    request.sampling = sampling
    return request


def _completion(r: _herd.Result, with_logprobs: bool) -> Completion:
    logprobs = [_logprob(p) for p in r.logprobs] if with_logprobs else None
    return Completion(r.text, r.ids, r.finish_reason, r.prompt_ids, logprobs, r.error or None)


def _unscored(why: str) -> Score:
    return Score(0.0, [], [], [], why)


def _score(request: _herd.ScoreRequest, s: _herd.Score) -> Score:
    if s.error:
        return _unscored(s.error)
    return Score(s.sum, s.logprobs, request.ids[request.first :], [g != 0 for g in s.greedy])
