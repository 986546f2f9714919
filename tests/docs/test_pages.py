"""The documentation agrees with the program, and builds."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from infra.ports.topics import TOPICS
from tests.docs.blocks import ROOT, blocks
from tests.docs.settings_page import PAGE, page
from thunder_ingest.events import ACTIONS, Engagement, Event, decode, decode_any, topic_of

EVENTS = [line for block in blocks("docs/events.md") for line in block.text.splitlines()]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("line", EVENTS)
def test_each_line_of_the_event_catalogue_is_a_valid_message(line: str) -> None:
    decode(topic_of(decode_any(line)), line.encode())


def test_the_event_catalogue_has_every_type_and_every_action() -> None:
    events = [decode_any(line) for line in EVENTS]
    assert {type(event) for event in events} == set(get_args(Event))
    assert {event.action for event in events if isinstance(event, Engagement)} == set(ACTIONS)


def test_no_line_of_the_event_catalogue_has_an_unknown_field() -> None:
    for line in EVENTS:
        raw = msgspec.json.decode(line)
        assert set(raw) <= {"type", *(field.name for field in msgspec.structs.fields(decode_any(line)))}, line


def test_the_contract_has_every_topic() -> None:
    contract = (ROOT / "docs/contract.md").read_text()
    assert [topic for topic in TOPICS if f"| `{topic}` |" not in contract] == []


def test_the_readme_fits_on_a_few_screens_and_each_page_is_read_in_ten_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170
    words = {page: len((ROOT / "docs" / page).read_text().split()) for page in PAGES}
    assert {page: count for page, count in words.items() if count > 2_200} == {}


def test_the_page_of_settings_agrees_with_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("FORYOU_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # without a foryou.toml
    assert PAGE.read_text() == page(), "run `make docs`"


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "site/quickstart/index.html").is_file()
