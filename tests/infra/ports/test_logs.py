import json
import subprocess
import sys

LOGS = """
import logging
from infra.ports import logs
logs.configure({form!r})
log = logging.getLogger("feed_worker")
log.warning("%s is unreachable", "Redis \\u2014 ours")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("failure", exc_info=error)
"""


def logged(form: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", LOGS.format(form=form)], capture_output=True, text=True, check=True
    ).stderr


def test_a_text_line_has_level_logger_and_message() -> None:
    first = logged("text").splitlines()[0]
    assert first.endswith("WARNING feed_worker: Redis \u2014 ours is unreachable")


def test_a_json_line_is_one_object_with_its_exception() -> None:
    warning, error = map(json.loads, logged("json").splitlines())
    assert (warning["level"], warning["logger"], warning["message"]) == (
        "WARNING",
        "feed_worker",
        "Redis \u2014 ours is unreachable",
    )
    assert warning.keys() >= {"at", "thread", "pid"}
    assert "ZeroDivisionError" in error["exc_info"]
