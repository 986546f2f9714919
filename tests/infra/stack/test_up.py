"""`foryou up` on the servers of the settings."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from infra.ports.settings import load
from infra.stack import up


class ReadyStack:
    """A stack that is ready at once."""

    def __init__(self, settings: Any, directory: Path, **_: Any) -> None:
        self.settings, self.directory, self.is_embedded = settings, directory, False

    def __enter__(self) -> "ReadyStack":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait_ready(self) -> dict[str, str]:
        return {"model_version": "m", "clock": "wall"}

    def watch(self) -> None:
        pass


def test_addresses_of_other_servers_are_not_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "Stack", ReadyStack)
    settings = load(redis="redis://me:secret@host:1", kafka_options={"sasl.password": "secret"})
    console = Console(width=400)
    with console.capture() as printed:
        up.run_external(settings, tmp_path, console)
    assert "ready" in printed.get()
    assert "secret" not in printed.get()
