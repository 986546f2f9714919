"""Serving: the two models behind one face, compiled ahead of time for a few sizes and never again.

A request of any size is padded to a bucket, or cut into several where it is larger than the largest. A viewer's history
is encoded once; candidates are scored against it a chunk at a time. While the device works on a chunk the host hashes
the next one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple, Self

import haiku as hk
import jax
import numpy as np
import xxhash
from jax import Array
from jaxtyping import Float32

from phoenix.actions import ACTION_COUNT
from phoenix.configs import ModelConfig, config_named
from phoenix.inputs import (
    CandidateInputs,
    History,
    PostInputs,
    blank_candidates,
    blank_history,
    blank_posts,
    candidate_rows,
    filled_up,
    history_rows,
    post_rows,
)
from phoenix.ranker import Ranker
from phoenix.retrieval import TwoTower
from phoenix.seeding import drawn

__all__ = ["PARTS", "CandidateInputs", "History", "Params", "Part", "Phoenix", "PostInputs"]

Part = Literal["rank", "retrieve", "embed"]
PARTS: Final[tuple[Part, ...]] = ("rank", "retrieve", "embed")
"""What a process may need compiled: scoring candidates, embedding viewers, embedding posts."""

_MEANING: Final = 1
"""To be raised when the same parameters come to mean something else, so that versions tell it."""


class Params(NamedTuple):
    """The parameters of both models."""

    ranker: hk.Params
    two_tower: hk.Params


class Phoenix:
    """Both models of one version. To be called from one thread at a time.

    Args:
        config: their sizes.
        params: their parameters.
        origin: where the parameters come from, such as a seed or a checkpoint; part of the version.

    Attributes:
        config: their sizes.
        version: names configuration, origin and a digest of all parameters; equal versions compute alike.
        traces: how many functions have been traced so far; does not grow any more after `warm_up`.

    """

    def __init__(self, config: ModelConfig, params: Params, origin: str) -> None:
        self.config = config
        self.version = f"{config.name}-{origin}-{digest(params)}"
        self.traces = 0
        self._params: Params = jax.device_put(params)
        self._functions = _functions(config)
        self._compiled: dict[tuple[str, tuple[int, ...]], Callable[..., Any]] = {}

    @classmethod
    def seeded(cls, config: ModelConfig | str, seed: int) -> Self:
        """An untrained model, the same on every machine; raises ValueError for an unknown configuration's name."""
        sizes = config_named(config) if isinstance(config, str) else config
        return cls(sizes, initial_params(sizes, seed), f"seed{seed}")

    def warm_up(self, progress: Callable[[str], None] | None = None, parts: Sequence[Part] = PARTS) -> None:
        """Compile every bucket of these parts, telling `progress` which one is next."""
        tell = progress or (lambda _: None)
        for batch in self.config.batch_buckets if "retrieve" in parts else ():
            tell(f"retrieval, {batch} viewers")
            self.embed_users(blank_history(self.config, batch))
        for count in self.config.post_buckets if "embed" in parts else ():
            tell(f"embeddings, {count} posts")
            self.embed_posts(blank_posts(self.config, count))
        for batch in self.config.batch_buckets if "rank" in parts else ():
            for count in self.config.candidate_buckets:
                tell(f"ranking, {batch} viewers with {count} candidates")
                self.score(blank_history(self.config, batch), blank_candidates(self.config, batch, count))

    def embed_posts(self, posts: PostInputs) -> Float32[np.ndarray, "n E"]:
        """The candidate tower's unit vectors."""
        vectors = np.zeros((len(posts.author_id), self.config.embed_dim), np.float32)
        for start, stop, bucket in chunks(len(vectors), self.config.post_buckets):
            rows = post_rows(self.config, PostInputs(*(column[start:stop] for column in posts)))
            embedded = self._run("posts", (bucket,), filled_up(rows, bucket))
            vectors[start:stop] = np.asarray(embedded)[: stop - start]
        return vectors

    def embed_users(self, history: History) -> Float32[np.ndarray, "B E"]:
        """The user tower's unit vectors; zeros for a viewer without a history."""
        vectors = np.zeros((len(history.user_id), self.config.embed_dim), np.float32)
        for start, stop, bucket in chunks(len(vectors), self.config.batch_buckets):
            rows = history_rows(self.config, History(*(column[start:stop] for column in history)))
            embedded = self._run("users", (bucket,), filled_up(rows, bucket))
            vectors[start:stop] = np.asarray(embedded)[: stop - start]
        return vectors

    def score(self, history: History, candidates: CandidateInputs) -> Float32[np.ndarray, "B C 19"]:
        """18 probabilities, then the dwell time in ms, for each candidate; zeros where the mask says there is none."""
        scores = np.zeros((*candidates.mask.shape, ACTION_COUNT), np.float32)
        under_way = []
        for start, stop, bucket in chunks(len(scores), self.config.batch_buckets):
            viewers = History(*(column[start:stop] for column in history))
            asked = CandidateInputs(*(column[start:stop] for column in candidates))
            under_way += [(scores[start:stop], *piece) for piece in self._begin_scoring(viewers, asked, bucket)]
        for of_batch, start, stop, predictions in under_way:
            of_batch[:, start:stop] = np.asarray(predictions)[: len(of_batch), : stop - start]
        return np.where(candidates.mask[..., None], scores, np.float32(0))

    def _begin_scoring(
        self, history: History, candidates: CandidateInputs, batch: int
    ) -> Iterator[tuple[int, int, Float32[Array, "batch bucket 19"]]]:
        """Encode a batch of histories once, and set off each chunk of candidates, without waiting for results."""
        prefix = self._run("encode", (batch,), filled_up(history_rows(self.config, history), batch))
        columns = np.flatnonzero(candidates.mask.any(axis=0))
        count = int(columns[-1]) + 1 if len(columns) else 0
        for start, stop, bucket in chunks(count, self.config.candidate_buckets):
            rows = filled_up(candidate_rows(self.config, candidates, start, bucket), batch)
            yield start, stop, self._run("score", (batch, bucket), prefix, rows)

    def _run(self, name: str, bucket: tuple[int, ...], *inputs: Any) -> Any:
        """Call a function compiled for a bucket, compiling it first where `warm_up` has not.

        What comes back stays on the device. Callers turn it into NumPy's before they cut it to size, since JAX would
        compile a slice for each size.
        """
        function, model = self._functions[name]
        params = self._params[model]
        if (name, bucket) not in self._compiled:

            def traced(*arguments: Any) -> Any:
                self.traces += 1
                return function(*arguments)

            self._compiled[name, bucket] = jax.jit(traced).lower(params, *inputs).compile()
        return self._compiled[name, bucket](params, *inputs)


def chunks(count: int, buckets: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut `count` things into (start, stop, bucket): the largest bucket while it fills, then the smallest that fits."""
    start = 0
    while start < count:
        bucket = next((size for size in buckets if size >= count - start), buckets[-1])
        stop = min(start + bucket, count)
        yield start, stop, bucket
        start = stop


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Parameters drawn from a seed: the same bits on every machine."""
    return Params(*(drawn(model, seed, *rows) for model, *rows in _models(config)))


def abstract_params(config: ModelConfig) -> Params:
    """The shapes and types of the parameters, as `jax.ShapeDtypeStruct`."""
    key = jax.random.key(0)
    return Params(*(jax.eval_shape(hk.transform(model).init, key, *rows) for model, *rows in _models(config)))


def _models(config: ModelConfig) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Each model as a function that uses all its parameters, and inputs for it."""
    history = history_rows(config, blank_history(config, 1))
    candidates = candidate_rows(config, blank_candidates(config, 1, 1), 0, 1)
    posts = post_rows(config, blank_posts(config, 1))
    return (lambda *rows: Ranker(config)(*rows), history, candidates), (
        lambda *rows: TwoTower(config)(*rows),
        history,
        posts,
    )


def _functions(config: ModelConfig) -> dict[str, tuple[Callable[..., Any], int]]:
    """What serving calls, as pure functions of parameters and rows, and which of `Params` each needs."""

    def pure(method: Callable[..., Any]) -> Callable[..., Any]:
        transformed: hk.Transformed = hk.without_apply_rng(hk.transform(method))
        return transformed.apply

    return {
        "encode": (pure(lambda rows: Ranker(config).encode(rows)), 0),
        "score": (pure(lambda prefix, rows: Ranker(config).score(prefix, rows)), 0),
        "users": (pure(lambda rows: TwoTower(config).embed_users(rows)), 1),
        "posts": (pure(lambda rows: TwoTower(config).embed_posts(rows)), 1),
    }


def digest(tree: Any) -> str:
    """Eight hexadecimal digits that change with any parameter's name, shape, type or value."""
    hashed = xxhash.xxh3_64(b"%d" % _MEANING)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        values = np.ascontiguousarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)} {values.dtype}".encode())
        hashed.update(values.data)
    return hashed.hexdigest()[:8]
