"""The extension: the public C++ headers, one to one. Use the package herd."""

from collections.abc import Callable, Sequence

version: str

class Sampling:
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: list[tuple[int, float]]
    def __init__(self) -> None: ...

class Request:
    prompt: str
    ids: list[int]
    max_tokens: int
    sampling: Sampling
    stop: list[str]
    stop_ids: list[int]
    ignore_end: bool
    logprobs: int
    def __init__(self) -> None: ...

class ScoreRequest:
    ids: list[int]
    first: int
    def __init__(self) -> None: ...

class TokenLogprob:
    @property
    def id(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> list[tuple[int, float]]: ...

class Result:
    @property
    def prompt_ids(self) -> list[int]: ...
    @property
    def ids(self) -> list[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def logprobs(self) -> list[TokenLogprob]: ...

class Score:
    @property
    def logprobs(self) -> list[float]: ...
    @property
    def greedy(self) -> list[int]: ...
    @property
    def sum(self) -> float: ...
    @property
    def error(self) -> str: ...

class Event:
    @property
    def index(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def logprob(self) -> TokenLogprob | None: ...

class Stream:
    def next(self) -> Event | None: ...
    def close(self) -> None: ...

class Model:
    def __init__(
        self,
        path: str,
        device: str,
        threads: int,
        isa: str,
        batch_size: int,
        context: int,
        kv_tokens: int,
        max_rows: int,
        kv_type: str,
    ) -> None: ...
    def generate(
        self, requests: Sequence[Request], on_tokens: Callable[[int], object] | None = None
    ) -> list[Result]: ...
    def score(
        self, requests: Sequence[ScoreRequest], on_tokens: Callable[[int], object] | None = None
    ) -> list[Score]: ...
    def stream(self, requests: Sequence[Request]) -> Stream: ...
    def encode(self, text: str, bos: bool, special: bool) -> list[int]: ...
    def decode(self, ids: Sequence[int], special: bool) -> bytes: ...
    def score_request(self, context: str, continuation: str) -> ScoreRequest: ...
    def info(self) -> dict[str, str | int]: ...
