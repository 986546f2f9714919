"""How the processes of the system log: one line an event, on stderr, to be read by people or by programs."""

import logging
from typing import Final

from pythonjsonlogger.json import JsonFormatter

_FIELDS: Final = {"asctime": "at", "levelname": "level", "name": "logger", "threadName": "thread", "process": "pid"}
"""What an object has besides `message`, and `exc_info` where there was an exception: Python's name, and ours."""


def configure(form: str = "text") -> None:
    """Set up logging for a process.

    Args:
        form: `text`, or `json` for one object a line; the setting `log_format`.

    """
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("jax").setLevel(logging.WARNING)  # tells at length which accelerators there are not
    logging.getLogger("absl").setLevel(logging.WARNING)  # and how a checkpoint is read


def _formatter(form: str) -> logging.Formatter:
    if form == "json":
        return JsonFormatter([*_FIELDS, "message"], rename_fields=_FIELDS, json_ensure_ascii=False)
    return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
