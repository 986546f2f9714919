import json
import subprocess
import sys

SAYS = """
import logging
from infra.ports import logs
logs.configure({form!r})
log = logging.getLogger("feed_worker")
log.warning("%s is away", "Redis \\u2014 ours")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("no luck", exc_info=error)
"""


def said(form: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", SAYS.format(form=form)], capture_output=True, text=True, check=True
    ).stderr


def test_text_is_a_line_for_people() -> None:
    first = said("text").splitlines()[0]
    assert first.endswith("WARNING feed_worker: Redis \u2014 ours is away")


def test_json_is_an_object_a_line_exceptions_included() -> None:
    away, luck = map(json.loads, said("json").splitlines())
    assert (away["level"], away["logger"], away["message"]) == ("WARNING", "feed_worker", "Redis \u2014 ours is away")
    assert away.keys() >= {"at", "thread", "pid"}
    assert "ZeroDivisionError" in luck["exc_info"]
