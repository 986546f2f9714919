"""The result of one check of `foryou doctor`."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """The subject of a check, its state, and the remedy unless the state is ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""
