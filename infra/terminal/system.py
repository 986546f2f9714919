"""Tables of topics, of settings and of the doctor's checks."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table

from infra.ops.check import Check
from infra.ports.kafka_admin import TopicState
from infra.ports.settings import SettingRow
from infra.ports.topics import TOPICS
from infra.terminal.tables import plain

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def topics_table(states: Iterable[TopicState]) -> Table:
    """The topics, with their partitions or their problem."""
    table = Table()
    table.add_column("topic", no_wrap=True)
    for column in ("key", "retention", "content"):
        table.add_column(column)
    table.add_column("partitions", justify="right")
    for state in states:
        topic = TOPICS[state.name]
        partitions = f"[red]{plain(state.problem)}[/red]" if state.problem else str(state.partitions)
        table.add_row(topic.name, topic.key, topic.policy, topic.content, partitions)
    return table


def checks_table(checks: Iterable[Check]) -> Table:
    """The doctor's checks, one a row."""
    table = Table()
    for column in ("", "check", "result", "remedy"):
        table.add_column(column)
    for check in checks:
        state = f"[{COLOURS[check.state]}]{check.state}[/]"
        table.add_row(state, check.name, plain(check.detail), plain(check.remedy))
    return table


def settings_view(rows: Iterable[SettingRow]) -> Group:
    """Settings, two lines each: the variable, its value and its source; then meaning, limits and default."""
    lines: list[RenderableType] = []
    for row in rows:
        limits = f" ({row.limits})" if row.limits else ""
        default = "" if row.value == row.default else f"; default: {row.default or 'empty'}"
        value = f"[bold]{row.variable}[/bold] = {plain(row.value)}  [dim]({plain(row.origin)})[/dim]"
        lines += [value, Padding(plain(f"{row.meaning}{limits}{default}"), (0, 0, 0, 4), expand=False)]
    return Group(*lines)
