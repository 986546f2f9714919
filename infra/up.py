"""`foryou up`: the whole system on this machine until Ctrl-C."""

from rich.console import Console

from infra.progress import Report
from infra.settings import Settings
from infra.stack import Stack, scratch_directory


def run(settings: Settings, kafka_port: int, redis_port: int, err: Console) -> None:
    """Run until a signal comes or a process dies; says where everything is."""
    with (
        scratch_directory() as directory,
        Report(err) as report,
        Stack(settings, directory, kafka_port=kafka_port, redis_port=redis_port, say=report.say) as stack,
    ):
        with report.step("the worker compiles its model and joins"):
            ready = stack.wait_ready()
        report.say(f"model {ready['model_version']}, clock {settings.clock}, logs in {directory / 'logs'}")
        report.say("ready; Ctrl-C stops it. Other terminals and programs reach it with:")
        report.say(f"export FORYOU_KAFKA={stack.settings.kafka} FORYOU_REDIS={stack.settings.redis}")
        stack.watch()
