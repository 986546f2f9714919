"""Texts of posts [p] and handles of accounts [n] of the generated world."""

from collections import Counter
from typing import Final

import numpy as np

from infra.world.people import Accounts
from infra.world.posts import SPAM as SPAM_LABEL
from infra.world.posts import Posts
from infra.world.topics import ENGLISH, FIRST_NAMES, ORIGINALS, QUOTES, REPLIES, SPAM, TOPICS
from thunder_ingest.events import ORIGINAL, QUOTE, REPLY, REPOST

SENTENCES: Final = {ORIGINAL: ORIGINALS, REPLY: REPLIES, QUOTE: QUOTES}
WORDS: Final = 4


def write_handles(rng: np.random.Generator, accounts: Accounts) -> list[str]:
    """Return a unique handle for each account [n]: a first name and a word of the favourite topic."""
    first = rng.integers(len(FIRST_NAMES), size=len(accounts)).tolist()
    drawn = rng.random(len(accounts)).tolist()
    topics = accounts.early.argmax(axis=1).tolist()
    taken: Counter[str] = Counter()
    handles = []
    for name, share, topic in zip(first, drawn, topics, strict=True):
        words = TOPICS[topic].words[ENGLISH]
        handle = f"{FIRST_NAMES[name]}_{words[int(share * len(words))]}".casefold().replace("-", "")
        taken[handle] += 1
        handles.append(handle if taken[handle] == 1 else f"{handle}{taken[handle]}")
    return handles


def write_texts(rng: np.random.Generator, posts: Posts, handles: list[str]) -> list[str]:
    """Return the text [p] of each post, in its language and on its topic; a repost has the text of its source."""
    texts: list[str] = []
    drawn = rng.random((len(posts), 1 + WORDS)).tolist()
    for row, content in enumerate(posts.content.tolist()):
        texts.append(texts[content] if content < row else _text(posts, row, handles, *drawn[row]))
    return texts


def _text(posts: Posts, row: int, handles: list[str], sentence: float, *shares: float) -> str:
    language, kind = int(posts.language[row]), int(posts.kind[row])
    assert kind != REPOST
    topic, aside = TOPICS[int(posts.topic[row])], TOPICS[int(posts.aside[row])]
    a, b, c = _distinct(topic.words[language], shares[:3])
    d = aside.words[language][int(shares[3] * len(aside.words[language]))]
    if posts.label[row] == SPAM_LABEL:
        return SPAM.format(a=a, b=b, c=c)
    forms = SENTENCES[kind][language]
    to = handles[int(posts.author[posts.parent[row]])]
    text = forms[int(sentence * len(forms))].format(a=a, b=b, c=c, d=d, tag=topic.name, to=to)
    return text[:1].upper() + text[1:]


def _distinct(words: tuple[str, ...], shares: tuple[float, ...]) -> list[str]:
    """Choose distinct words, one for each number in [0, 1)."""
    left = list(words)
    return [left.pop(int(share * len(left))) for share in shares]
