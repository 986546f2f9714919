"""Compact tables: of each hashed table the rows that a batch asks for, so that a step costs what its batch does.

Glossary of shapes:

    R: rows of a table
    u: rows of it that a batch asks for, and row 0, filled up to one of few sizes
    E: width of a table

A step learns from a state whose tables have u rows, with a batch that asks for places among these, and puts back what
became of them. All other rows have no gradient, and by row-wise AdaGrad stay as they are.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32

from phoenix.data.batches import Batch
from phoenix.models.configs import ModelConfig
from phoenix.training.optimisers import FEW_ROWS, TABLE

Tree = TypeVar("Tree")
Asked = tuple[Int32[Any, " u"] | None, ...]
"""For each of _TABLES the rows that a batch asks for, ascending, then some beyond the end; None: it stays whole."""
_LEAST: Final = 8 * FEW_ROWS
"""Rows of the smallest compact table."""
_GROWTH: Final = 4
"""How many times larger the next one is: a step is compiled for each size that comes up, which takes as long as dozens
of steps, where rows that nobody asks for cost little."""


class _Table(NamedTuple):
    """Hashed rows that mean the same in both models."""

    module: str  # whose parameter it is, or that of a module in it
    column: str  # of a batch, which asks for its rows
    size: str  # the attribute of a model's configuration


_TABLES: Final = (
    _Table("users", "user", "user_rows"),
    _Table("posts", "post", "post_rows"),
    _Table("authors", "author", "author_rows"),
    _Table("tokens", "tokens", "token_rows"),
)


def compact(model: ModelConfig, batch: Batch) -> tuple[Batch, Asked]:
    """A batch that asks for places among the rows that it asks for, and which these are."""
    parts: list[Any] = [batch.history, batch.candidates, batch.posts]
    asked: list[Int32[Any, " u"] | None] = []
    for _, column, size in _TABLES:
        if (count := getattr(model, size)) <= FEW_ROWS:
            asked.append(None)
            continue
        asking = [part for part in parts if column in part._fields]
        rows = _distinct((getattr(part, column) for part in asking), count)
        place = np.empty(count, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        parts = [
            part._replace(**{column: place[getattr(part, column)]}) if column in part._fields else part
            for part in parts
        ]
        asked.append(_filled_up(rows, count))
    history, candidates, posts = parts
    return batch._replace(history=history, candidates=candidates, posts=posts), tuple(asked)


def _distinct(columns: Iterable[Int32[np.ndarray, "..."]], count: int) -> Int32[np.ndarray, " r"]:
    """The rows in some columns, and row 0, ascending: marked and read off, which is quicker than sorting them."""
    asked = np.zeros(count, bool)
    asked[0] = True
    for column in columns:
        asked[column] = True
    return np.flatnonzero(asked).astype(np.int32)


def _filled_up(rows: Int32[np.ndarray, " r"], count: int) -> Int32[np.ndarray, " u"]:
    """Which is a matter of the batch alone. What is beyond the table's end is neither read nor written."""
    size = _LEAST
    while size < len(rows):
        size *= _GROWTH
    missing = min(size, count) - len(rows)
    return np.concatenate([rows, np.arange(count, count + missing, dtype=np.int32)])


def sized(model: ModelConfig, asked: Asked) -> ModelConfig:
    """The model whose tables are compact."""
    sizes: dict[str, Any] = {
        table.size: len(rows) for table, rows in zip(_TABLES, asked, strict=True) if rows is not None
    }
    return replace(model, **sizes)


def taken(tree: Tree, asked: Asked) -> Tree:
    """Parameters, or what an optimiser keeps for them, with compact tables."""

    def take(rows: Int32[Array, " u"], whole: Float32[Array, "R E"]) -> Float32[Array, "u E"]:
        return whole.at[rows].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)

    return _mapped(take, lambda leaf: leaf, asked, tree)


def put_back(tree: Tree, asked: Asked, moved: Tree) -> Tree:
    """What becomes of a tree when its compact tables, and all else, are moved."""

    def put(
        rows: Int32[Array, " u"], whole: Float32[Array, "R E"], part: Float32[Array, "u E"]
    ) -> Float32[Array, "R E"]:
        return whole.at[rows].set(part, mode="drop", unique_indices=True, indices_are_sorted=True)

    return _mapped(put, lambda _, leaf: leaf, asked, tree, moved)


def _mapped(
    of_tables: Callable[..., Array], of_rest: Callable[..., Array], asked: Asked, tree: Tree, *rest: Tree
) -> Tree:
    def mapped(path: tuple[Any, ...], *leaves: Array) -> Array:
        rows = _rows_of(path, asked)
        return of_rest(*leaves) if rows is None else of_tables(rows, *leaves)

    changed: Tree = jax.tree_util.tree_map_with_path(mapped, tree, *rest)
    return changed


def _rows_of(path: tuple[Any, ...], asked: Asked) -> Int32[Any, " u"] | None:
    """The rows asked for of the table that a leaf belongs to; None where it belongs to none, or stays whole."""
    *_, module, name = (None, None, *(key.key for key in path if isinstance(key, jax.tree_util.DictKey)))
    if name != TABLE:
        return None
    within = str(module).split("/")
    return next((rows for table, rows in zip(_TABLES, asked, strict=True) if table.module in within), None)
