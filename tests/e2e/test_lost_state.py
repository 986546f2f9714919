"""A viewer whose state was lost never gets a feed that is made without it."""

from pathlib import Path

import pytest

from feed_worker.client import Client, NoFeed
from infra.ports.settings import Settings
from tests.e2e.conftest import LONG_S, eventually
from tests.e2e.processes import Process
from tests.e2e.test_feed import first_feed, follow, new_id, now, post, shown
from thunder_ingest.events.redis_keys import user_key
from thunder_ingest.users.redis_form import UserStates


def refused(client: Client, viewer: int) -> str:
    """The reason of a request that fails."""
    with pytest.raises(NoFeed) as ended:
        client.wait(viewer, client.request_feed(viewer), timeout_s=LONG_S)
    assert ended.value.status == "failed"
    return str(ended.value)


def test_a_lost_state_never_shows_a_blocked_author_and_a_rebuild_heals_it(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    viewer, author, blocked = new_id(), new_id(), new_id()
    users = UserStates(client.redis)
    client.publish([post(author), post(blocked)])
    client.publish([follow(viewer, author), follow(viewer, blocked)])
    client.publish({"type": "block", "user_id": viewer, "target_id": blocked, "at": now()})
    assert eventually(lambda: len(users.read([str(viewer)])[0].blocks) == 1)
    assert eventually(lambda: len(first_feed(client, author, blocked)) >= 2)  # of a new user, on the first day
    assert str(blocked) not in shown(client, viewer, size=200).values()

    def loses_one() -> None:
        client.redis.delete(user_key(str(viewer)))

    def loses_all() -> None:
        client.redis.flushall()

    for lose in (loses_one, loses_all):
        lose()
        assert "missing in Redis: run `foryou rebuild users`" in refused(client, viewer)
        client.publish(follow(viewer, author))  # the flow writes a part of the state
        assert eventually(lambda: users.read([str(viewer)])[0].is_known)
        assert "missing in Redis" in refused(client, viewer)
        if lose is loses_one:
            assert len(first_feed(client, author, blocked)) >= 2
        rebuild = Process(settings, tmp_path / "rebuild.log", "infra.cli", "rebuild", "users")
        assert rebuild.wait(LONG_S) == 0, rebuild.output()
        feed = client.wait(viewer, client.request_feed(viewer, size=200), timeout_s=LONG_S)
        assert feed.status in ("ok", "degraded", "empty")
        assert str(blocked) not in {item.author_id for item in feed.items}
        assert len(first_feed(client, author, blocked)) >= 2
