"""`foryou state` and `foryou rebuild`: the stored state of users and posts, and its recovery from the log."""

import sys
from typing import Annotated

import typer

from infra.cli.options import AsJson, User, print_json, published_id

state_app = typer.Typer(help="Show the stored state of a user or a post.", no_args_is_help=True)
rebuild_app = typer.Typer(help="Rebuild lost state from the log.", no_args_is_help=True)


@state_app.command("user")
def state_user(
    user: User,
    limit: Annotated[int, typer.Option(help="Maximum entries of each kind, newest first where timed.", min=0)] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a user's history, graph, keywords, seen and served posts."""
    from infra.ops import state_user as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    document = command.read(load(), user, limit)
    if document is None:
        sys.stderr.write(
            f"foryou: no state of user {user}: no event of this user has arrived, or Redis was emptied since "
            "(`foryou rebuild users`)\n"
        )
        raise typer.Exit(1)
    if as_json:
        print_json(document)
    else:
        console().print(command.view(document))


@state_app.command("post")
def state_post(
    post: Annotated[str, typer.Argument(parser=published_id, metavar="POST", help="Post's id as published.")],
    as_json: AsJson = False,
) -> None:
    """Show a post's record, deletion, labels, counts and vector."""
    from infra.ops import state_post as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    document = command.read(load(), post, console(stderr=True))
    if document is None:
        sys.stderr.write(
            f"foryou: no state of post {post}: it was never published, was refused (`foryou dead-letters`), or "
            "became too old\n"
        )
        raise typer.Exit(1)
    if as_json:
        print_json(document)
    else:
        console().print(command.view(document))


@rebuild_app.command("users")
def rebuild_users(as_json: AsJson = False) -> None:
    """Rewrite the users' state in Redis from the log; safe while flows run."""
    from infra.ops import rebuild_users as command
    from infra.ports.settings import load
    from infra.terminal.tables import console

    rebuilt = command.run(load(), console(stderr=True))
    if as_json:
        print_json(rebuilt)
    else:
        console().print(command.told(rebuilt), highlight=False, markup=False)
