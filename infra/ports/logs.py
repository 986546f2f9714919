"""Set up the log of a process: one line an event on stderr, as text or as JSON."""

import logging
from typing import Final

from pythonjsonlogger.json import JsonFormatter

_FIELDS: Final = {"asctime": "at", "levelname": "level", "name": "logger", "threadName": "thread", "process": "pid"}
"""Python's names of the fields of a JSON line, and ours; `message` and `exc_info` keep their names."""


def configure(form: str = "text") -> None:
    """Set up logging for a process.

    Args:
        form: `text`, or `json` for one object a line; the setting `log_format`.

    """
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("jax").setLevel(logging.WARNING)  # logs each accelerator that is missing
    logging.getLogger("absl").setLevel(logging.WARNING)  # logs each step of reading a checkpoint


def _formatter(form: str) -> logging.Formatter:
    if form == "json":
        return JsonFormatter([*_FIELDS, "message"], rename_fields=_FIELDS, json_ensure_ascii=False)
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
