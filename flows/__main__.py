"""`python -m flows NAME`: one process of a flow, until SIGTERM or Ctrl-C."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Final

from infra.ports.errors import ForYouError
from infra.ports.extras import extra_line, is_of_an_extra
from infra.ports.settings import load

NAMES: Final = ("posts", "engagements", "embeddings")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a flow.

    Raises:
        SystemExit: 0 after `--help`; 1 for a server or data that is in the way; 2 for wrong usage or settings.

    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name not in NAMES:
        parser.exit(2, f"unknown flow {options.name!r}; known flows: {', '.join(NAMES)}\n")
    if (options.process_id is None) != (options.addresses is None):
        parser.exit(2, "--process-id and --addresses need each other\n")
    try:
        _run(options)
    except ModuleNotFoundError as error:
        if not is_of_an_extra(error):
            raise
        parser.exit(1, f"{extra_line(parser.prog, 'serve')}\n")
    except Exception as error:
        known = next((each for each in _chain(error) if isinstance(each, ForYouError)), None)
        if known is None:
            raise
        sys.stderr.write(f"{known}\n")
        raise SystemExit(known.exit_code) from None


def create_recovery_store(directory: Path) -> None:
    """Create a recovery store of one partition, unless it exists; several processes may call at once."""
    from bytewax.recovery import init_db_dir

    if _is_recovery_store(directory):
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    created = Path(tempfile.mkdtemp(prefix=f"{directory.name}.", dir=directory.parent))
    init_db_dir(created, 1)
    try:
        os.rename(created, directory)
    except OSError:  # another process was faster
        shutil.rmtree(created)
        if not _is_recovery_store(directory):
            raise


def _is_recovery_store(directory: Path) -> bool:
    return any(directory.glob("*.sqlite3"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows",
        description="Run one process of a flow, configured by FORYOU_* and foryou.toml.",
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "-r", "--recovery", type=Path, metavar="DIR", help="recovery store; created if missing (default: none)"
    )
    parser.add_argument(
        "-s", "--snapshot-interval", type=int, default=1, metavar="S", help="seconds between snapshots (default: 1)"
    )
    parser.add_argument(
        "-p",
        "--http-port",
        type=int,
        default=0,
        metavar="PORT",
        help="port of metrics and health (default: none)",
    )
    parser.add_argument("-i", "--process-id", type=int, metavar="N", help="number of this process, from 0")
    parser.add_argument("-a", "--addresses", metavar="LIST", help='all processes: "host:2021;host:2022"')
    return parser


def _run(options: argparse.Namespace) -> None:
    from bytewax._bytewax import cli_main
    from bytewax.recovery import RecoveryConfig
    from prometheus_client import CollectorRegistry

    from flows.process import bind_recovery_store, problem
    from infra.ports.endpoints import Endpoints
    from infra.ports.outage import open_outage

    settings = load(http_port=options.http_port)
    addresses = options.addresses.split(";") if options.addresses else None
    cluster = {"processes": len(addresses)} if addresses and options.name == "posts" else {}
    with Endpoints(settings, CollectorRegistry(), problem, open_outage):
        flow = import_module(f"flows.{options.name}").flow(**cluster)
        recovery = None
        if options.recovery is not None:
            create_recovery_store(options.recovery)
            bind_recovery_store(settings, options.recovery)
            # nothing is backed up, so no older snapshots are kept
            recovery = RecoveryConfig(options.recovery, timedelta(0))
        cli_main(
            flow,
            workers_per_process=1,
            process_id=options.process_id,
            addresses=addresses,
            epoch_interval=timedelta(seconds=options.snapshot_interval),
            recovery_config=recovery,
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if __name__ == "__main__":
    main()
