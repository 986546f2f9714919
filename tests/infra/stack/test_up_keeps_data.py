"""`foryou up`, killed and started again on the same data directory, from the view of its clients."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from rich.console import Console

from feed_worker.client import Client
from infra.ops import state_post, state_user
from infra.ports.settings import Settings, load
from infra.stack.embedded import _free_port
from tests.infra.waiting import eventually, is_gone
from thunder_ingest.events import Engagement, Follow, PostCreated

pytestmark = pytest.mark.embedded

POSTS = range(1, 21)
T = TypeVar("T")


@contextmanager
def up(directory: Path, settings: Settings) -> Iterator["subprocess.Popen[str]"]:
    """A running `foryou up` whose worker is ready."""
    ports = ["--kafka-port", settings.kafka.rpartition(":")[2], "--redis-port", settings.redis[:-2].rpartition(":")[2]]
    program = [sys.executable, "-m", "infra.cli", "up", "--data", str(directory), *ports]
    with subprocess.Popen(program, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        try:
            for line in process.stderr:
                lines.append(line)
                if "ready;" in line:
                    break
            else:
                raise AssertionError("".join(lines))
            yield process
            process.terminate()
            process.communicate(timeout=120)
        finally:
            process.kill()


def post_state(settings: Settings, post: int) -> state_post.PostDocument:
    state = state_post.read(settings, str(post), Console(file=io.StringIO()))
    assert state is not None
    return state


def favorites(settings: Settings, post: int) -> int:
    """The count of likes, 0 until a flow has written it."""
    state = state_post.read(settings, str(post), Console(file=io.StringIO()))
    return state.counts.totals["favorite"] if state is not None and state.counts else 0


def of_each_post(read: Callable[[Settings, int], T], settings: Settings) -> list[T]:
    """Read all posts at once: each read waits for the ends of topics."""
    with ThreadPoolExecutor(len(POSTS)) as pool:
        return list(pool.map(lambda post: read(settings, post), POSTS))


def test_a_system_that_was_killed_continues_with_its_posts_users_counts_and_feeds(tmp_path: Path) -> None:
    settings = load(kafka=f"127.0.0.1:{_free_port()}", redis=f"redis://127.0.0.1:{_free_port()}/0")
    now_ms = time.time_ns() // 1_000_000

    def favorite(user: int, post: int) -> Engagement:
        return Engagement(user_id=user, post_id=post, author_id=2, action="favorite", at=now_ms)

    with up(tmp_path, settings) as process:
        with Client(settings) as client:
            client.publish(Follow(user_id=1, target_id=2, at=now_ms))
            for post in POSTS:
                at = now_ms - 1_000 * post
                client.publish(PostCreated(post_id=post, author_id=2, at=at, kind="original", text=f"number {post}"))
                client.publish(favorite(3, post))
            client.flush()
            eventually(lambda: of_each_post(favorites, settings) == [1] * len(POSTS), 120.0)
            eventually(lambda: all(state.embedding for state in of_each_post(post_state, settings)), 120.0)
            feed = client.wait(1, client.request_feed(1, size=5), 60.0)
            assert {int(item.post_id) for item in feed.items} <= set(POSTS)
            assert len(feed.items) == 5
        before = of_each_post(post_state, settings)
        users = [state_user.read(settings, str(user), 100) for user in (1, 3)]
        process.send_signal(signal.SIGKILL)
        process.wait(60)

    with up(tmp_path, settings), Client(settings) as client:
        # the worker that was killed is not waited for
        client.publish_and_wait(
            PostCreated(post_id=98, author_id=5, at=now_ms, kind="original", text="first after the kill"), 60.0
        )
        assert client.feed(1) == feed
        assert of_each_post(post_state, settings) == before  # with the offsets and times of the records
        assert [state_user.read(settings, str(user), 100) for user in (1, 3)] == users
        again = client.wait(1, client.request_feed(1, size=5), 60.0)
        assert {int(item.post_id) for item in again.items} <= {98, *POSTS} - {int(item.post_id) for item in feed.items}
        assert len(again.items) == 5
        client.publish(favorite(4, 7))
        client.publish(PostCreated(post_id=99, author_id=2, at=now_ms, kind="original", text="after the kill"))
        client.flush()
        eventually(lambda: favorites(settings, 7) == 2, 120.0)
        eventually(lambda: post_state_exists(settings, 99), 120.0)
        assert of_each_post(favorites, settings) == [2 if post == 7 else 1 for post in POSTS]
    lock = tmp_path / "lock"
    eventually(lambda: is_gone(int(lock.read_text())))
    assert os.path.exists(tmp_path / "kafka" / "clean")


def post_state_exists(settings: Settings, post: int) -> bool:
    return state_post.read(settings, str(post), Console(file=io.StringIO())) is not None
