"""The page `docs/settings.md`, made from the fields of `Settings`. Run as a module, it writes the page."""

from infra.ports.settings import Settings, describe_settings
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/settings.md"
INTRODUCTION = """# Settings

Every command and process reads its settings in this order: command line options, `FORYOU_*` environment variables, a
TOML file (`foryou.toml` in the current folder, or the file that `FORYOU_CONFIG` names), the defaults. `foryou settings`
prints each setting with its value and its origin. A wrong or unknown setting ends a process with one line.

In the TOML file a setting has its name in lower case: `max_wait_ms = 5000`. In the environment that is
`FORYOU_MAX_WAIT_MS=5000`. Lists and tables are JSON in the environment.

| variable | default | valid values | meaning |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The Markdown text of the page."""
    rows = [
        " | ".join(("", f"`{row.variable}`", f"`{row.default}`" if row.default else "", row.limits, row.meaning, ""))
        for row in describe_settings(Settings())
    ]
    return INTRODUCTION + "\n".join(row.strip() for row in rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
