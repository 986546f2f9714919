import threading

import pytest

from feed_worker.client import refresh
from feed_worker.client.refresh import PendingRequests, Wanted


def test_threads_that_forget_the_same_old_requests_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    pending, failures = PendingRequests(), list[BaseException]()

    class Interrupted(dict[Wanted, tuple[str, float]]):
        """Another thread adds a request, too, while the first one is about to delete an old request."""

        def __delitem__(self, key: Wanted) -> None:
            if not threads:
                threads.append(threading.Thread(target=add, args=("other",)))
                threads[0].start()
                threads[0].join(0.2)
            super().__delitem__(key)

    def add(user: str) -> None:
        try:
            pending.add(Wanted(user, ""), f"of {user}")
        except BaseException as error:
            failures.append(error)

    threads = list[threading.Thread]()
    monkeypatch.setattr(refresh, "PENDING_S", 1e9)
    pending._requests = Interrupted()
    pending.add(Wanted("old", ""), "of old")
    monkeypatch.setattr(refresh, "PENDING_S", 0.0)
    add("one")
    threads[0].join(30)
    monkeypatch.setattr(refresh, "PENDING_S", 1e9)
    assert failures == []
    assert pending.of(Wanted("other", "")) == "of other"
