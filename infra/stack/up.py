"""`foryou up`: the whole system on this machine until Ctrl-C."""

from pathlib import Path

from rich.console import Console

from infra.ports.settings import Settings
from infra.stack.stack import Stack, scratch_directory
from infra.terminal.progress import ProgressReport


def run(settings: Settings, directory: Path, kafka_port: int, redis_port: int, err: Console) -> None:
    """Run on embedded servers that keep their data in `directory`, until a signal or until a process ends."""
    with ProgressReport(err) as report:
        path = directory.absolute()
        report.print_line(f"data in {path}; `foryou up --fresh` starts without any, and keeps none")
        _serve(
            Stack(
                settings, path, is_kept=True, kafka_port=kafka_port, redis_port=redis_port, print_line=report.print_line
            ),
            report,
        )


def run_fresh(settings: Settings, kafka_port: int, redis_port: int, err: Console) -> None:
    """Run on embedded servers in a scratch directory."""
    with scratch_directory() as path, ProgressReport(err) as report:
        _serve(
            Stack(settings, path, kafka_port=kafka_port, redis_port=redis_port, print_line=report.print_line), report
        )


def run_external(settings: Settings, directory: Path, err: Console) -> None:
    """Run on the servers of the settings; `directory` keeps the flows' recovery stores and the logs."""
    with ProgressReport(err) as report:
        _serve(Stack(settings, directory.absolute(), embedded=False, print_line=report.print_line), report)


def _serve(stack: Stack, report: ProgressReport) -> None:
    with stack:
        with report.step("load the models"):
            ready = stack.wait_ready()
        report.print_line(f"model {ready['model_version']}, clock {ready['clock']}, logs in {stack.directory / 'logs'}")
        report.print_line("ready; Ctrl-C stops it")
        if stack.is_embedded:  # the addresses of other servers may have passwords
            report.print_line("other terminals and programs reach it with:")
            report.print_line(f"export FORYOU_KAFKA={stack.settings.kafka} FORYOU_REDIS={stack.settings.redis}")
        stack.watch()
