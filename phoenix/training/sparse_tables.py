"""Compact tables: the rows of each hashed table that a batch uses, so that a step costs as much as its batch.

Shapes: see `phoenix.features.inputs`. In addition:

    u: rows of a compact table: the rows that a batch uses and row 0, padded to one of a few sizes

`compact` renumbers the rows of the batch, `gather` takes u rows of each table from the state, the step trains on both,
and `scatter` writes the result back. All other rows have no gradient, and row-wise AdaGrad leaves these unchanged.
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
UsedRows = tuple[Int32[Any, " u"] | None, ...]
"""For each of _TABLES the rows that a batch uses, ascending, then padding beyond its end; None: it stays whole."""
_SMALLEST: Final = 2 * FEW_ROWS
"""Rows of the smallest compact table."""
_GROWTH: Final = 4
"""Factor between the sizes of compact tables. A step is compiled for each size, which takes as long as dozens of steps;
unused rows cost little."""


class _Table(NamedTuple):
    """A kind of hashed table; its rows mean the same in both models."""

    module: str  # the module of the parameter, or a parent of it
    column: str  # the column of a batch with its rows
    size: str  # the attribute of `ModelConfig` with its number of rows


_TABLES: Final = (
    _Table("users", "user", "user_rows"),
    _Table("posts", "post", "post_rows"),
    _Table("authors", "author", "author_rows"),
    _Table("tokens", "tokens", "token_rows"),
)


def compact(model: ModelConfig, batch: Batch) -> tuple[Batch, UsedRows]:
    """Renumber the rows of a batch by their places in compact tables; returns also the rows of these tables."""
    parts: list[Any] = [batch.history, batch.candidates, batch.posts]
    used: list[Int32[Any, " u"] | None] = []
    for _, column, size in _TABLES:
        if (count := getattr(model, size)) <= FEW_ROWS:
            used.append(None)
            continue
        parts_with_it = [part for part in parts if column in part._fields]
        rows = _distinct((getattr(part, column) for part in parts_with_it), count)
        place = np.empty(count, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        parts = [
            part._replace(**{column: place[getattr(part, column)]}) if column in part._fields else part
            for part in parts
        ]
        used.append(_padded(rows, count))
    history, candidates, posts = parts
    return batch._replace(history=history, candidates=candidates, posts=posts), tuple(used)


def _distinct(columns: Iterable[Int32[np.ndarray, "..."]], count: int) -> Int32[np.ndarray, " r"]:
    """The distinct rows in some columns, and row 0, ascending; a mark per row is faster than sorting."""
    used = np.zeros(count, bool)
    used[0] = True
    for column in columns:
        used[column] = True
    return np.flatnonzero(used).astype(np.int32)


def _padded(rows: Int32[np.ndarray, " r"], count: int) -> Int32[np.ndarray, " u"]:
    """Pad to a size that depends on the batch alone, with rows beyond the table's end, which have no effect."""
    size = _SMALLEST
    while size < len(rows):
        size *= _GROWTH
    missing = min(size, count) - len(rows)
    return np.concatenate([rows, np.arange(count, count + missing, dtype=np.int32)])


def sized(model: ModelConfig, used: UsedRows) -> ModelConfig:
    """The configuration with the sizes of the compact tables."""
    sizes: dict[str, Any] = {
        table.size: len(rows) for table, rows in zip(_TABLES, used, strict=True) if rows is not None
    }
    return replace(model, **sizes)


def gather(tree: Tree, used: UsedRows) -> Tree:
    """Gather the compact tables of parameters, or of an optimiser's state."""

    def take(rows: Int32[Array, " u"], whole: Float32[Array, "R E"]) -> Float32[Array, "u E"]:
        return whole.at[rows].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)

    return _mapped(take, lambda leaf: leaf, used, tree)


def scatter(tree: Tree, used: UsedRows, moved: Tree) -> Tree:
    """Scatter compact tables into the whole ones, and take all other leaves from `moved`."""

    def put(
        rows: Int32[Array, " u"], whole: Float32[Array, "R E"], part: Float32[Array, "u E"]
    ) -> Float32[Array, "R E"]:
        return whole.at[rows].set(part, mode="drop", unique_indices=True, indices_are_sorted=True)

    return _mapped(put, lambda _, leaf: leaf, used, tree, moved)


def _mapped(
    of_tables: Callable[..., Array], of_rest: Callable[..., Array], used: UsedRows, tree: Tree, *rest: Tree
) -> Tree:
    def mapped(path: tuple[Any, ...], *leaves: Array) -> Array:
        rows = _rows_of(path, used)
        return of_rest(*leaves) if rows is None else of_tables(rows, *leaves)

    changed: Tree = jax.tree_util.tree_map_with_path(mapped, tree, *rest)
    return changed


def _rows_of(path: tuple[Any, ...], used: UsedRows) -> Int32[Any, " u"] | None:
    """The used rows of the table that a leaf belongs to; None for a leaf without a compact table."""
    *_, module, name = (None, None, *(key.key for key in path if isinstance(key, jax.tree_util.DictKey)))
    if name != TABLE:
        return None
    within = str(module).split("/")
    return next((rows for table, rows in zip(_TABLES, used, strict=True) if table.module in within), None)
