"""The accounts of the generated world: preferences, quality, popularity, activity and follows.

Glossary of shapes:

    n: accounts, viewers first, then authors; an account is an index
    t: topics
    l: languages
    e: pairs of accounts
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from infra.world.config import WorldConfig
from infra.world.topics import ENGLISH, LANGUAGES

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

LANGUAGE_SHARES: Final = (0.8, 0.12, 0.08)
DRIFTING: Final = 0.3  # share of accounts that replace an interest during the world's span (concept drift)
FOLLOWS: Final = 14  # median number of accounts that an account follows
UNSEEN_TASTE: Final = 0.02  # smallest likeness of two accounts, so that any account can be followed


@dataclass(frozen=True, slots=True)
class Accounts:
    """Columns over accounts."""

    early: Floats  # [n, t] preference for each topic at the start of the world; each row sums to 1
    late: Floats  # [n, t] the same at its end
    quality: Floats  # [n] quality of the account's posts, 0 … 1
    popularity: Floats  # [n] weight as a target of follows; Zipf-distributed
    productivity: Floats  # [n] weight in the draws of posts and sessions; log-normal, so heavy-tailed
    is_author: Bools  # [n]
    language: Ints  # [n] language of the posts, an index of LANGUAGES
    reads: Bools  # [n, l] True for languages that the account reads

    def __len__(self) -> int:
        return len(self.quality)

    def tastes(self, accounts: Ints, moment: Floats | float) -> Floats:
        """Return preferences [..., t] of `accounts` at a moment from 0 (start of the world) to 1 (its end)."""
        share = np.asarray(moment, np.float32)[..., None]
        mixed: Floats = self.early[accounts] * (1 - share) + self.late[accounts] * share
        return mixed


def draw_accounts(rng: np.random.Generator, config: WorldConfig) -> Accounts:
    """Draw viewers with two to four interests and authors with one or two; popularity is Zipf-distributed."""
    n = config.users + config.authors
    is_author = np.arange(n) >= config.users
    wanted = np.where(is_author, rng.integers(1, 3, n), rng.integers(2, 5, n))
    early = _interests(rng, wanted, config.topics)
    language = rng.choice(len(LANGUAGES), n, p=LANGUAGE_SHARES)
    reads = (np.arange(len(LANGUAGES)) == language[:, None]) | (rng.random((n, len(LANGUAGES))) < 0.1)
    reads[:, ENGLISH] |= rng.random(n) < 0.7
    # Zipf's law with exponent 0.85: the most popular author has about 50 times the weight of the hundredth
    rank = rng.permutation(n) + 1.0
    return Accounts(
        early=early,
        late=_drifted(rng, early),
        quality=rng.beta(2, 2, n).astype(np.float32),
        popularity=np.where(is_author, rank**-0.85, 0.02 * rank**-0.85).astype(np.float32),
        productivity=rng.lognormal(0, 0.9, n).astype(np.float32),
        is_author=is_author,
        language=language,
        reads=reads,
    )


def _interests(rng: np.random.Generator, wanted: Ints, topics: int) -> Floats:
    """Draw gamma-distributed weights for `wanted` random topics of each account, [n, t]."""
    place = rng.random((len(wanted), topics)).argsort(axis=1).argsort(axis=1)
    weights = np.where(place < wanted[:, None], rng.gamma(1.5, 1.0, place.shape) + 0.2, 0)
    normalised: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


def _drifted(rng: np.random.Generator, early: Floats) -> Floats:
    """Move the weight of the smallest interest to another topic, for a random share of the accounts."""
    late = early.copy()
    movers = np.flatnonzero(rng.random(len(early)) < DRIFTING)
    smallest = np.where(early[movers] > 0, early[movers], np.inf).argmin(axis=1)
    new = rng.integers(0, early.shape[1], len(movers))
    late[movers, smallest], late[movers, new] = early[movers, new], early[movers, smallest]
    return late


def draw_follows(rng: np.random.Generator, accounts: Accounts) -> tuple[Ints, Ints]:
    """Draw follows; popular accounts and those with similar preferences are followed most.

    Returns:
        users [e] ascending, and targets [e]; no duplicates, and no account follows itself.

    """
    n = len(accounts)
    # at most a third of all accounts, because a viewer who follows all accounts gets no out-of-network posts
    counts = np.minimum(np.rint(FOLLOWS * rng.lognormal(0, 0.6, n)), max(1, n // 3)).astype(np.int64)
    rows = [_followed(rng, accounts, user, count) for user, count in enumerate(counts.tolist())]
    targets = np.concatenate(rows)
    return np.repeat(np.arange(n), [len(row) for row in rows]), targets


def _followed(rng: np.random.Generator, accounts: Accounts, user: int, count: int) -> Ints:
    """Sample accounts without replacement, by weight: the largest log-weights plus Gumbel noise (Gumbel top-k)."""
    likeness = accounts.early @ accounts.early[user] + UNSEEN_TASTE
    understood = np.where(accounts.reads[user, accounts.language], 1.0, 0.05)
    keys = np.log(accounts.popularity * likeness * understood) + rng.gumbel(size=len(accounts))
    keys[user] = -np.inf
    count = min(count, len(accounts) - 1)
    return np.sort(np.argpartition(-keys, count - 1)[:count]) if count else np.empty(0, np.int64)
