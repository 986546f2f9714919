"""Background load of `benchmarks.freshness`: posts and engagements at a fixed rate.

`python -m benchmarks.background POSTS ENGAGEMENTS` publishes this number of both a second until it is stopped. Author
and text of a post are a function of its number, so other processes can compute them. Messages are formatted from
templates, which takes little CPU time.
"""

import sys
import time
from functools import lru_cache
from typing import Any, Final

import numpy as np

from infra.ports.clock import now_ms
from infra.ports.producer import KafkaProducer, Record
from infra.ports.settings import load

FIRST_POST: Final = 10**12
AUTHORS: Final = 20_000
FIRST_USER: Final = 100_000
USERS: Final = 20_000
TEXTS: Final = 5_000
WORDS: Final = 12
VOCABULARY: Final = 5_000
RECENT: Final = 10_000
"""An engagement is on one of this number of newest posts."""
_TICK_S: Final = 0.02
_POST: Final = b'{"type":"post_created","post_id":%d,"author_id":%d,"at":%d,"text":"%s"}'
_FAVORITE: Final = b'{"type":"engagement","user_id":%d,"post_id":%d,"author_id":%d,"action":"favorite","at":%d}'
_IMPRESSION: Final = b'{"type":"impression","user_id":%d,"post_id":%d,"author_id":%d,"at":%d}'


@lru_cache(maxsize=1)
def _texts() -> list[str]:
    words = np.random.default_rng(3).zipf(1.2, (TEXTS, WORDS)) % VOCABULARY
    return [" ".join(f"word{word}" for word in each) for each in words.tolist()]


def post_fields(post_id: int) -> dict[str, Any]:
    """Return author and text of a background post."""
    number = post_id - FIRST_POST
    return {"author_id": 1 + number * 7_919 % AUTHORS, "text": _texts()[number % TEXTS]}


def _post(post_id: int, at_ms: int) -> Record:
    post = post_fields(post_id)
    author: int = post["author_id"]
    return Record("posts", b"%d" % author, _POST % (post_id, author, at_ms, post["text"].encode()))


def _engagement(number: int, post_id: int, at_ms: int) -> Record:
    user, author = FIRST_USER + number * 104_729 % USERS, post_fields(post_id)["author_id"]
    event = _FAVORITE if number % 2 else _IMPRESSION
    return Record("engagements", b"%d" % user, event % (user, post_id, author, at_ms))


def main() -> None:
    """Publish until the process is stopped. A late tick publishes the missed messages, too."""
    posts_a_second, engagements_a_second = map(float, sys.argv[1:])
    publisher = KafkaProducer(load(), options={"linger.ms": 5})
    random, begin, posts, engagements = np.random.default_rng(4), time.perf_counter(), 0, 0
    while True:
        elapsed, at_ms = time.perf_counter() - begin, now_ms()
        until = int(elapsed * posts_a_second) + 1
        records = [_post(FIRST_POST + number, at_ms) for number in range(posts, until)]
        posts = until
        until = int(elapsed * engagements_a_second)
        back = random.integers(1, RECENT, until - engagements)
        which = FIRST_POST + np.maximum(posts - back, 0)
        numbers = range(engagements, until)
        records += [_engagement(number, post, at_ms) for number, post in zip(numbers, which.tolist(), strict=True)]
        engagements = until
        publisher.publish(records)
        time.sleep(max(0.0, begin + elapsed + _TICK_S - time.perf_counter()))


if __name__ == "__main__":
    main()
