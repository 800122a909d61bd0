"""Offline batches on a Ray cluster: herd over Ray Data's blocks, one model per actor.

    import herd.ray, ray.data
    prompts = ray.data.read_json("prompts.jsonl", lines=True)
    answers = herd.ray.generate(prompts, model="model.gguf", actors=4, num_cpus=8, max_tokens=64)
    herd.ray.write(answers, "answers", "parquet")

A row's answer is bitwise that of the row alone, so a block that is done again, after its actor died, gives
the same bytes. docs/ray.md has the whole story. Every node needs this package, and the model at one path.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

try:
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy, Dataset, SaveMode
    from ray.data.datasource import FilenameProvider
    from ray.experimental import tqdm_ray
except ImportError as error:
    raise ImportError(f"herd.ray needs Ray Data ({error}); pip install 'herd[ray]'") from error

from ._model import _DEFAULTS, Completion, Model, _request, _whole

__all__ = ["generate", "score", "write"]

_LOGPROBS = pa.list_(pa.float32())
_TOP = pa.list_(pa.list_(pa.struct([("id", pa.int32()), ("logprob", pa.float32())])))


def generate(
    dataset: Dataset,
    *,
    model: str,
    column: str = "prompt",
    seed_column: str | None = None,
    prefix: str = "",
    actors: int | tuple[int, int] = 1,
    num_cpus: int = 1,
    num_gpus: float = 0,
    block_rows: int | None = 256,
    in_order: bool = True,
    model_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """The dataset with an answer to each row's prompt (text, or token ids) in these new columns, lazily:

    text, ids, finish_reason ("stop", "length", "error"), logprobs (one per id), error (null, or why this row
    has no answer: then ids and logprobs are empty). With logprobs=n also top_logprobs, the n likeliest of
    each place; with logprobs=None neither.

    - `options`: as Model.generate's (max_tokens, temperature, stop, ...); logprobs is 0 by default.
    - `model_options`: as Model's (context, batch_size, ...). threads is num_cpus by default, and device
      "cuda" if there are num_gpus.
    - `seed_column`: a seed per row, for sampling. Without it `seed` is every row's: the same prompt twice has
      the same answer twice.
    - `prefix`: in front of the new columns' names, which must not be in the dataset.
    - `actors`: how many, or the fewest and the most; each reserves num_cpus and num_gpus of its node. Ray needs
      one CPU more, to read and write.
    - `block_rows`: blocks are cut and joined to this many rows; a block is one ragged batch, and what is done
      again when an actor dies. None: blocks as they come.
    - `in_order`: rows stay in the dataset's order, and files that are written hold the same rows each time.

    A bad row (null, not text, too long) fails alone. Options of a wrong name or type, and columns known not
    to be there, raise TypeError or ValueError here; what keeps a whole actor from working (no such model, a
    lost device) fails the job with herd.Error.
    """
    options = {"logprobs": 0, **options}
    unknown = set(options) - {*_DEFAULTS, "logprobs"}
    if unknown:
        raise TypeError(f"generate() does not take {', '.join(sorted(unknown))}")
    if seed_column is not None and "seed" in options:
        raise TypeError("give a seed or a seed_column, not both")
    if not isinstance(options.get("seed", 0), int):
        raise TypeError("seed must be one number; seeds of rows stand in a seed_column")
    _request({**_DEFAULTS, **options})  # for what it raises
    return _map(
        dataset,
        _Generator,
        dict(column=column, seed_column=seed_column, options=options),
        reads=[column] if seed_column is None else [column, seed_column],
        model=model,
        model_options=model_options,
        prefix=prefix,
        actors=actors,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        block_rows=block_rows,
        in_order=in_order,
    )


def score(
    dataset: Dataset,
    *,
    model: str,
    context: str = "context",
    continuation: str = "continuation",
    prefix: str = "",
    actors: int | tuple[int, int] = 1,
    num_cpus: int = 1,
    num_gpus: float = 0,
    block_rows: int | None = 256,
    in_order: bool = True,
    model_options: Mapping[str, Any] | None = None,
) -> Dataset:
    """The dataset with how likely each row's continuation is after its context (columns of text, or of token
    ids) in these new columns, lazily: logprob (the sum), logprobs, ids, greedy (whether each was the
    likeliest), all_greedy, error (null, or why this row has no score: then logprob is null).

    All else is as in generate(). Rows that begin alike should stand next to each other.
    """
    return _map(
        dataset,
        _Scorer,
        dict(context=context, continuation=continuation),
        reads=[context, continuation],
        model=model,
        model_options=model_options,
        prefix=prefix,
        actors=actors,
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        block_rows=block_rows,
        in_order=in_order,
    )


def write(dataset: Dataset, folder: str, format: str, *, overwrite: bool = False) -> None:
    """Runs the dataset and writes it into `folder` as "parquet" or "jsonl", a file for each block.

    Names and bytes depend on the rows alone: a job that runs again, or lost actors on its way, writes the same
    files (with generate's in_order). A folder that is there already is an error, or is emptied first. JSON
    has log-probabilities with 15 decimals; Parquet keeps every bit.
    """
    mode = SaveMode.OVERWRITE if overwrite else SaveMode.ERROR
    if format == "parquet":
        dataset.write_parquet(folder, filename_provider=_FileNames(file_format=format), mode=mode)
    elif format == "jsonl":
        dataset.write_json(folder, filename_provider=_FileNames(file_format=format), mode=mode, double_precision=15)
    else:
        raise ValueError(f"format '{format}': must be parquet or jsonl")


class _FileNames(FilenameProvider):
    """Names files by their place alone; Ray's own names are random."""

    def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
        return f"part-{task_index:06}.{self.file_format}"


def _map(
    dataset: Dataset,
    worker: type[_Worker],
    arguments: dict[str, Any],
    *,
    reads: list[str],
    model: str,
    model_options: Mapping[str, Any] | None,
    prefix: str,
    actors: int | tuple[int, int],
    num_cpus: int,
    num_gpus: float,
    block_rows: int | None,
    in_order: bool,
) -> Dataset:
    for name, value in {"num_cpus": num_cpus, "block_rows": 1 if block_rows is None else block_rows}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} {value!r}: must be a whole number of at least 1")
    known = dataset.columns(fetch_if_missing=False)
    for name in reads if known else []:
        _require(name, known)
    if block_rows is not None:
        dataset = dataset.repartition(target_num_rows_per_block=block_rows, strict=True)
    context = dataset.context
    context.execution_options.preserve_order = in_order
    least, most = (actors, actors) if isinstance(actors, int) else actors
    _warn_if_full(least * num_cpus)
    loading = {"threads": num_cpus, "device": "cuda" if num_gpus else "cpu", **(model_options or {})}
    arguments = dict(
        arguments, model=model, loading=loading, prefix=prefix, progress=context.enable_progress_bars
    )
    return dataset.map_batches(
        worker,
        batch_size=None,  # whole blocks
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=least, max_size=most),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        fn_constructor_kwargs=arguments,
        udf_modifying_row_count=False,
    )


def _warn_if_full(cpus: int) -> None:
    """Ray's reading, cutting and writing want a CPU too; without one the job would wait for ever."""
    there = ray.cluster_resources().get("CPU", 0) if ray.is_initialized() else cpus + 1
    if there <= cpus:
        warnings.warn(
            f"the actors take {cpus} CPUs of the cluster's {there:g}: none is left to read and write blocks, the "
            "job will wait until there is one (a local cluster: ray.init(num_cpus=...) with one more)",
            RuntimeWarning,
            stacklevel=4,
        )


def _require(column: str, columns: list[str]) -> None:
    if column not in columns:
        raise ValueError(f"the dataset has no column '{column}'; it has {', '.join(columns) or 'none'}")


class _Worker:
    """An actor's: loads the model once, then turns blocks into blocks with more columns."""

    def __init__(self, model: str, loading: dict[str, Any], prefix: str, progress: bool) -> None:
        self._model = Model(model, **loading)
        self._prefix, self._progress = prefix, progress

    @contextmanager
    def _tokens_shown(self) -> Iterator[Callable[[int], object] | None]:
        """What hears of tokens, and shows their sum and rate beside Ray's progress bars."""
        if not self._progress:
            yield None
            return
        bar = tqdm_ray.tqdm(desc="herd", unit=" tokens")
        try:
            yield bar.update
        finally:
            bar.close()

    @staticmethod
    def _column(block: pa.Table, name: str) -> list[Any]:
        _require(name, block.column_names)
        return block.column(name).to_pylist()

    def _with(self, block: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
        for name, values in columns.items():
            name = self._prefix + name
            if name in block.column_names:
                raise ValueError(f"the dataset has a column '{name}' already: choose a prefix for the new ones")
            block = block.append_column(name, values)
        return block


class _Generator(_Worker):
    def __init__(self, column: str, seed_column: str | None, options: dict[str, Any], **rest: Any) -> None:
        super().__init__(**rest)
        self._prompts, self._seeds, self._options = column, seed_column, options

    def __call__(self, block: pa.Table) -> pa.Table:
        answers = self._answers(block)
        columns = {
            "text": pa.array([a.text for a in answers], pa.string()),
            "ids": pa.array([a.ids for a in answers], pa.list_(pa.int32())),
            "finish_reason": pa.array([a.finish_reason for a in answers], pa.string()),
            "error": pa.array([a.error for a in answers], pa.string()),
        }
        top = self._options["logprobs"]
        if top is not None:
            places = [a.logprobs or [] for a in answers]
            columns["logprobs"] = pa.array([[p.logprob for p in each] for each in places], _LOGPROBS)
            if top > 0:
                likeliest = [[[dict(id=i, logprob=x) for i, x in p.top] for p in each] for each in places]
                columns["top_logprobs"] = pa.array(likeliest, _TOP)
        return self._with(block, columns)

    def _answers(self, block: pa.Table) -> list[Completion]:
        prompts = self._column(block, self._prompts)
        if self._seeds is None:
            return self._generate(prompts, self._options)
        seeds = self._column(block, self._seeds)
        bad = {i: why for i, seed in enumerate(seeds) if (why := self._why_bad(seed))}
        good = [i for i in range(len(prompts)) if i not in bad]
        options = {**self._options, "seed": [seeds[i] for i in good]}
        answers = iter(self._generate([prompts[i] for i in good], options))
        return [
            Completion("", [], "error", [], None, bad[i]) if i in bad else next(answers)
            for i in range(len(prompts))
        ]

    def _why_bad(self, seed: Any) -> str | None:
        try:
            _whole(f"column '{self._seeds}'", seed, 64)
        except ValueError as error:
            return str(error)
        return None

    def _generate(self, prompts: list[Any], options: dict[str, Any]) -> list[Completion]:
        with self._tokens_shown() as on_tokens:
            answers = self._model.generate(prompts, on_tokens=on_tokens, **options)
        # A row's error must not say where in its block it stood.
        return [
            a if a.error is None else replace(a, error=a.error.removeprefix(f"prompt {i}: "))
            for i, a in enumerate(answers)
        ]


class _Scorer(_Worker):
    def __init__(self, context: str, continuation: str, **rest: Any) -> None:
        super().__init__(**rest)
        self._context, self._continuation = context, continuation

    def __call__(self, block: pa.Table) -> pa.Table:
        pairs = zip(self._column(block, self._context), self._column(block, self._continuation))
        with self._tokens_shown() as on_tokens:
            scores = self._model.score(list(pairs), on_tokens=on_tokens)
        columns = {
            # Not 0 where there is no score: that would be the best of all.
            "logprob": pa.array([s.logprob if s.error is None else None for s in scores], pa.float64()),
            "logprobs": pa.array([s.logprobs for s in scores], _LOGPROBS),
            "ids": pa.array([s.ids for s in scores], pa.list_(pa.int32())),
            "greedy": pa.array([s.greedy for s in scores], pa.list_(pa.bool_())),
            "all_greedy": pa.array([s.all_greedy for s in scores], pa.bool_()),
            "error": pa.array([s.error for s in scores], pa.string()),
        }
        return self._with(block, columns)
