"""`foryou state` and `foryou rebuild`: the stored state of users and posts, and its recovery from the log."""

from typing import Annotated

import typer

from infra.cli.options import AsJson, User, fail, print_result, published_id

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
    from infra.terminal.state import user_view

    document = command.read(load(), user, limit)
    if document is None:
        fail(
            f"no state of user {user}: no event of this user has arrived, or Redis was emptied since "
            "(`foryou rebuild users`)"
        )
    print_result(document, user_view(document), as_json=as_json)


@state_app.command("post")
def state_post(
    post: Annotated[str, typer.Argument(parser=published_id, metavar="POST", help="Post's id as published.")],
    as_json: AsJson = False,
) -> None:
    """Show a post's record, deletion, labels, counts and vector."""
    from infra.ops import state_post as command
    from infra.ports.settings import load
    from infra.terminal.state import post_view
    from infra.terminal.tables import console

    document = command.read(load(), post, console(stderr=True))
    if document is None:
        fail(f"no state of post {post}: it was never published, was refused (`foryou dead-letters`), or became too old")
    print_result(document, post_view(document), as_json=as_json)


@rebuild_app.command("users")
def rebuild_users(as_json: AsJson = False) -> None:
    """Rewrite the users' state in Redis from the log; safe while flows run."""
    from infra.ops import rebuild_users as command
    from infra.ports.settings import load
    from infra.terminal.state import rebuild_summary
    from infra.terminal.tables import console

    result = command.run(load(), console(stderr=True))
    print_result(result, rebuild_summary(result), as_json=as_json)
