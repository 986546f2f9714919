"""`foryou settings`: the settings with value, source, default and meaning."""

from typing import Annotated

import typer

from infra.cli.options import AsJson, print_result


def settings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Settings to show (default: all).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show settings: value, source, default and meaning; hides passwords."""
    from infra.ports.settings import describe_settings, load, variable
    from infra.terminal.system import settings_view

    rows = {row.name: row for row in describe_settings(load())}
    wanted = [name.lower().removeprefix("foryou_") for name in names or rows]
    if unknown := [name for name in wanted if name not in rows]:
        raise typer.BadParameter(f"no setting {unknown[0]!r}; choose one of {', '.join(map(variable, rows))}")
    shown = [rows[name] for name in wanted]
    print_result([row._asdict() for row in shown], settings_view(shown), as_json=as_json)
