"""`python -m feed_worker`: one worker of the consumer group, until SIGTERM or Ctrl-C."""

import argparse
import logging
import signal
import sys
import textwrap
import threading
from collections.abc import Sequence
from typing import Final

from infra.ports.extras import extra_line, is_of_an_extra
from infra.ports.settings import Settings, load

log = logging.getLogger("feed_worker")

OTHERS_SETTINGS: Final = {"partitions", "replication_factor", "late_tolerance_ms", "swap_overlap_ms", "max_voices"}
"""Settings that the flows and `foryou topics` read; a worker does not."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a worker.

    Raises:
        SystemExit: 0 after `--help`; 1 for a server or data in the way; 2 for a wrong argument or setting.

    """
    parser = argparse.ArgumentParser(
        prog="python -m feed_worker",
        description="Serve feed requests until SIGTERM. Any number of workers share them.",
        epilog=_settings_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        _serve(stopping)
    except ModuleNotFoundError as error:
        if not is_of_an_extra(error):
            raise
        parser.exit(1, f"{extra_line(parser.prog, 'serve')}\n")


def _serve(stopping: threading.Event) -> None:
    # these imports take seconds, which `--help` does not wait for
    from feed_worker.experiments import experiments_of
    from feed_worker.serving.service import Service
    from infra.ports import logs
    from infra.ports.errors import ForYouError, StopRequested

    try:
        settings = load()
        logs.configure(settings.log_format)
        Service(settings, experiments_of(settings), stopping).run()
    except StopRequested as error:
        log.warning("%s", error)
    except ForYouError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None


def _settings_help() -> str:
    lines = ["settings: FORYOU_* variables, else keys of foryou.toml (FORYOU_CONFIG names another file), else defaults"]
    for name, field in Settings.model_fields.items():
        if name not in OTHERS_SETTINGS:
            text = f"{field.description} (default: {field.default if field.default != '' else 'none'})"
            lines.append(f"  FORYOU_{name.upper()}")
            lines += textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
