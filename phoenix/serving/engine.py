"""The engine: both models behind one interface, compiled ahead of time for a few sizes.

A request of any size is padded to a bucket, or cut into several buckets. The engine encodes a viewer's history once and
scores candidates against it one chunk at a time (prefix caching). Chunks are independent, so each runs on its own
thread: the host hashes one chunk while the device computes another. On CPUs, one chunk per core uses the cores better
than parallel operations within one chunk.

Shapes: see `phoenix.features.inputs`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import haiku as hk
import jax
import numpy as np
from jaxtyping import Float32, Shaped

from phoenix.features.actions import ACTION_COUNT
from phoenix.features.inputs import (
    CandidateInputs,
    History,
    PostInputs,
    blank_candidates,
    blank_history,
    blank_posts,
    candidate_rows,
    history_rows,
    padded,
    post_rows,
)
from phoenix.models.configs import ModelConfig, config_named
from phoenix.models.flops import matmul_flops
from phoenix.models.parameters import Params, digest, initial_params, not_finite, pure
from phoenix.models.ranker import Ranker, word_table
from phoenix.models.two_tower import TwoTower

if TYPE_CHECKING:
    from phoenix.serving.text_cache import Texts

__all__ = ["PARTS", "CandidateInputs", "History", "Part", "Phoenix", "PostInputs"]

Part = Literal["rank", "retrieve", "embed"]
PARTS: Final[tuple[Part, ...]] = ("rank", "retrieve", "embed")
"""The parts that a process can compile: scoring candidates, embedding viewers, embedding posts."""

_ALIGNMENT_BYTES: Final = 64
_COMPILER_OPTIONS: Final[dict[str, dict[str, str | bool]]] = {"cpu": {"xla_cpu_prefer_vector_width": "512"}}
"""By default XLA uses half of the width of AVX-512. Processors without AVX-512 ignore the option."""


class Phoenix:
    """Both models of one version. Any thread may call all methods, at the same time.

    Args:
        config: sizes of the models.
        params: parameters of the models.
        origin: source of the parameters, such as a seed or a checkpoint; part of the version.

    Raises:
        ValueError: a parameter is not finite.

    Attributes:
        config: sizes of the models.
        version: configuration, origin and digest of all parameters; equal versions compute the same.
        traces: functions traced so far; constant after `warm_up`.

    """

    def __init__(self, config: ModelConfig, params: Params, origin: str) -> None:
        if (name := not_finite(params)) is not None:
            raise ValueError(f"{config.name}-{origin} cannot be served: {name} has values that are not finite")
        self.config = config
        self.version = f"{config.name}-{origin}-{digest(params)}"
        self.traces = 0
        self._params: Params = jax.device_put(jax.tree.map(aligned, params))
        self._functions = _functions(config)
        self._compiled: dict[tuple[str, tuple[int, ...]], Callable[..., Any]] = {}
        self._compiling = Lock()
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="phoenix")

    @classmethod
    def seeded(cls, config: ModelConfig | str, seed: int) -> Self:
        """Untrained models, the same on every machine; raises ValueError for an unknown name of a configuration."""
        sizes = config_named(config) if isinstance(config, str) else config
        return cls(sizes, initial_params(sizes, seed), f"seed{seed}")

    def compiled_with(self, other: "Phoenix") -> Self:
        """Share the compiled functions of another engine with the same configuration, and return this engine.

        A compiled function depends on the configuration alone; parameters are arguments of each call.
        """
        if other.config == self.config:
            self._compiled, self._compiling, self._threads = other._compiled, other._compiling, other._threads
        return self

    @cached_property
    def texts(self) -> "Texts":
        """The cache of the mean embeddings of texts."""
        # it imports Numba, which takes a second and 100 MB; a process that embeds posts alone needs none
        from phoenix.serving.text_cache import Texts

        return Texts(np.asarray(word_table(self._params.ranker)))

    def warm_up(self, progress: Callable[[str], None] | None = None, parts: Sequence[Part] = PARTS) -> None:
        """Compile every bucket of these parts; `progress` receives a line before each."""
        announce = progress or (lambda _: None)
        for batch in self.config.batch_buckets if "retrieve" in parts else ():
            announce(f"retrieval, {batch} viewers")
            self.embed_users(blank_history(self.config, batch))
        for count in self.config.post_buckets if "embed" in parts else ():
            announce(f"embeddings, {count} posts")
            self.embed_posts(blank_posts(self.config, count))
        if "rank" in parts:
            announce("reading of texts")
            self.texts.means(np.ones((1, self.config.tokens), np.uint32))
        for batch in self.config.batch_buckets if "rank" in parts else ():
            for count in self.config.candidate_buckets:
                announce(f"ranking, {batch} viewers with {count} candidates")
                self.score(blank_history(self.config, batch), blank_candidates(self.config, batch, count))

    def embed_posts(self, posts: PostInputs) -> Float32[np.ndarray, "n E"]:
        """Unit vectors of posts, from the candidate tower."""
        vectors = np.zeros((len(posts.author_id), self.config.embed_dim), np.float32)
        for start, stop, bucket in chunks(len(vectors), self.config.post_buckets):
            rows = post_rows(self.config, PostInputs(*(column[start:stop] for column in posts)))
            embedded = self._run("posts", (bucket,), padded(rows, bucket))
            vectors[start:stop] = np.asarray(embedded)[: stop - start]
        return vectors

    def embed_users(self, history: History) -> Float32[np.ndarray, "B E"]:
        """Unit vectors of viewers, from the user tower; zeros for a viewer without a history."""
        vectors = np.zeros((len(history.user_id), self.config.embed_dim), np.float32)
        for start, stop, bucket in chunks(len(vectors), self.config.batch_buckets):
            rows = history_rows(self.config, History(*(column[start:stop] for column in history)))
            embedded = self._run("users", (bucket,), padded(rows, bucket))
            vectors[start:stop] = np.asarray(embedded)[: stop - start]
        return vectors

    def score(self, history: History, candidates: CandidateInputs) -> Float32[np.ndarray, "B C 19"]:
        """18 probabilities, then the dwell time in ms, of each candidate; zeros for masked candidates."""
        scores = np.zeros((*candidates.mask.shape, ACTION_COUNT), np.float32)
        under_way: list[Future[None]] = []
        for start, stop, bucket in chunks(len(scores), self.config.batch_buckets):
            viewers = History(*(column[start:stop] for column in history))
            asked = CandidateInputs(*(column[start:stop] for column in candidates))
            under_way += self._begin_scoring(viewers, asked, bucket, scores[start:stop])
        for chunk in under_way:
            chunk.result()
        return np.where(candidates.mask[..., None], scores, np.float32(0))

    def scoring_flops(self, viewers: int, count: int) -> int:
        """Floating-point operations of the matrix products in `score`, for full histories and without padding.

        Divided by the time of a call and the machine's peak rate, they give the utilisation.
        """
        history = history_rows(self.config, blank_history(self.config, viewers))
        candidates = candidate_rows(self.config, blank_candidates(self.config, viewers, count), 0, count)

        def score(params: hk.Params) -> Any:
            encode, embed, attend = (self._functions[name][0] for name in ("encode", "candidates", "score"))
            return attend(params, encode(params, history), embed(params, candidates))

        return matmul_flops(score, self._params.ranker)

    def _begin_scoring(
        self, history: History, candidates: CandidateInputs, batch: int, scores: Float32[np.ndarray, "B C 19"]
    ) -> Iterator[Future[None]]:
        """Start the encoding of a batch of histories and the scoring of each chunk of candidates into `scores`.

        The encoding enters the queue first, so it gets a thread before the chunks that wait for it.
        """
        columns = np.flatnonzero(candidates.mask.any(axis=0))
        if not len(columns):
            return
        means = self.texts.means
        prefix = self._threads.submit(
            lambda: self._run("encode", (batch,), padded(history_rows(self.config, history, means), batch))
        )

        def score(start: int, stop: int, bucket: int) -> None:
            rows = padded(candidate_rows(self.config, candidates, start, bucket, means), batch)
            embedded = self._run("candidates", (batch, bucket), rows)
            predictions = self._run("score", (batch, bucket), prefix.result(), embedded)
            scores[:, start:stop] = np.asarray(predictions)[: len(scores), : stop - start]

        for chunk in chunks(int(columns[-1]) + 1, self.config.candidate_buckets):
            yield self._threads.submit(score, *chunk)

    def _run(self, name: str, bucket: tuple[int, ...], *inputs: Any) -> Any:
        """Call a function compiled for a bucket; compile it first if `warm_up` has not.

        The result stays on the device. Callers convert it to NumPy before they slice it, since JAX would compile a
        slice for each size.
        """
        function, model = self._functions[name]
        params = self._params[model]
        with self._compiling:
            if (name, bucket) not in self._compiled:

                def traced(*arguments: Any) -> Any:
                    self.traces += 1
                    return function(*arguments)

                options = _COMPILER_OPTIONS.get(jax.default_backend())
                self._compiled[name, bucket] = jax.jit(traced).lower(params, *inputs).compile(options)
        return self._compiled[name, bucket](params, *inputs)


def chunks(count: int, buckets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut `count` items into (start, stop, bucket): full buckets, then one half full or of the smallest size."""
    start = 0
    while start < count:
        rest = count - start
        fitting = next((size for size in buckets if size >= rest), buckets[-1])
        bucket = fitting if fitting <= 2 * rest else max((size for size in buckets if size <= rest), default=fitting)
        stop = min(start + bucket, count)
        yield start, stop, bucket
        start = stop


def aligned(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """A copy at an address that JAX on CPUs uses without copying again.

    NumPy requests huge pages from the system, JAX does not. With huge pages, lookups of random rows in a large table
    cause fewer TLB misses. And the table is in memory once.
    """
    memory = np.empty(values.nbytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def _functions(config: ModelConfig) -> dict[str, tuple[Callable[..., Any], int]]:
    """The functions that serving compiles: pure functions of parameters and rows, each with its index in `Params`."""
    return {
        "encode": (pure(lambda rows: Ranker(config).encode(rows)), 0),
        "candidates": (pure(lambda rows: Ranker(config).embed(rows)), 0),
        "score": (pure(lambda prefix, embedded: Ranker(config).score(prefix, embedded)), 0),
        "users": (pure(lambda rows: TwoTower(config).embed_users(rows)), 1),
        "posts": (pure(lambda rows: TwoTower(config).embed_posts(rows)), 1),
    }
