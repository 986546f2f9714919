"""The prior: a closed form that ranks before there is any training data, and the base margin of every prediction.

Shapes: see `phoenix.features.inputs`; E is the width of the hashed tables. In addition:

    P: polarities, 2: positive actions, negative feedback

The ranker's logits are those of the prior plus those of its head, which starts at zero (a residual on a base margin,
as in gradient boosting). So an untrained ranker is the prior, and training takes over without a switch. All constants
are initial values of parameters, so training fits them, too.

For each action, the prior is a sum in log-odds:

- the viewer's own rate of the action, shrunk to the base rate (empirical Bayes);
- the affinities for its text and for its author: two kernel sums over the history, like Nadaraya-Watson regression
  without its denominator. Positions with a similar text, or with the same author, count: engaged and long-read ones
  for much, passed-over ones for little, and those with negative feedback against the candidate, even if they have
  other actions. There is no denominator, since a viewer's history contains selected posts: even a passed-over post
  speaks for similar ones;
- the post's rate of the action, shrunk to the viewer's rate;
- the age of the post.
"""

from typing import Final, NamedTuple

import haiku as hk
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from phoenix.features.actions import (
    ACTION_COUNT,
    BASE_DWELL_MS,
    BASE_RATES,
    DISCRETE,
    DWELL_TIME,
    IS_NEGATIVE,
    MAX_DWELL_MS,
)
from phoenix.features.inputs import CandidateRows, HistoryRows
from phoenix.models.layers import unit
from thunder_ingest.events import ACTION_INDEX

_DWELL: Final = ACTION_INDEX["dwell"]
_NEGATIVE: Final = IS_NEGATIVE.astype(np.float32)[None, None]
_ENGAGEMENT: Final = np.where(IS_NEGATIVE, 0.0, 1.0).astype(np.float32)[None, None]
"""The weight of a history position by its actions, the greatest of which counts. A dwell may be a mere glance."""
_ENGAGEMENT[..., _DWELL], _ENGAGEMENT[..., DWELL_TIME] = 0.5, 0.0
_READ: Final = 5
"""The bucket of dwell times from 4 s on: a post that was read so long counts as engaged, half as long for half."""
_POLARITY: Final = IS_NEGATIVE.astype(np.int32)
_SHARPNESS: Final = 4.0
"""A text with cosine s counts exp(4 (s − 1)): one with half of its words in common counts 14 % of an equal text."""
_PASSED_OVER: Final = 0.1
"""The least weight of a history position; one with negative feedback has −1, and no other action changes that."""
_LEAST_SUM: Final = -0.9
"""Lower bound of the kernel sum, above the −1 at which its logarithm ends."""
_HISTORY_STRENGTH: Final = 20.0
"""The base rate weighs as much as this number of the viewer's own positions."""
_POST_STRENGTH: Final = 20.0
"""The viewer's rate weighs as much as this number of the post's impressions."""
_TEXT: Final = 1.0
"""Log-odds for each unit of the logarithm of the text's kernel sum."""
_AUTHOR: Final = 0.5
"""Log-odds for each unit of the logarithm of the author's kernel sum. An author writes about several topics, so ten
engaged posts of one are no reason to show everything by this author first."""
_POST_RATE: Final = 0.1
"""Log-odds for each unit of the logarithm of the post's rate over the viewer's. In the generated world, 0.05 to 0.2
rank equally well, and 0.5 ranks worse than 0: the taste of others tells less than the viewer's own."""
_AGE: Final = -0.03
"""Log-odds for each doubling of the age above a minute: a post of an hour is at −0.18, one of two days at −0.36."""


class ViewerFeatures(NamedTuple):
    """The prior's features of each viewer."""

    content: Float[Array, "B H E"]  # unit vectors of the texts
    author: Int[Array, "B H K"]
    weights: Float[Array, "B P H"]  # of the positions in the kernel sums
    log_rates: Float[Array, "B A"]  # logarithms of the viewer's rates; of the dwell time, of its share


class CandidateFeatures(NamedTuple):
    """The prior's features of each candidate."""

    content: Float[Array, "B C E"]  # unit vectors of the texts
    author: Int[Array, "B C K"]
    totals: Float[Array, "B C A+1"]
    age: Float[Array, "B C"]  # buckets: doublings of a minute


class Prior(hk.Module):
    """The prior as a Haiku module, since training fits its constants."""

    def viewer_features(self, history: HistoryRows, content: Float[Array, "B H E"]) -> ViewerFeatures:
        """Read the history, whose texts have the mean embeddings `content`."""
        present = history.mask.astype(jnp.float32)
        actions = history.actions.astype(jnp.float32) * present[..., None]
        engaged = jnp.maximum(jnp.max(actions * _ENGAGEMENT, axis=-1), _read(history.dwell) * actions[..., DWELL_TIME])
        rejected = jnp.max(actions * _NEGATIVE, axis=-1)
        likes = jnp.where(rejected > 0.0, -1.0, jnp.maximum(engaged, _PASSED_OVER)) * present
        recorded = (history.recorded & history.mask[..., None])[..., :DISCRETE].astype(jnp.float32)
        done = jnp.sum(actions[..., :DISCRETE] * recorded, axis=1) + _HISTORY_STRENGTH * BASE_RATES[None]
        rates = done / (jnp.sum(recorded, axis=1) + _HISTORY_STRENGTH)
        dwell = jnp.full((len(present), 1), np.float32(BASE_DWELL_MS / MAX_DWELL_MS))
        return ViewerFeatures(
            unit(content),
            history.author,
            jnp.stack([likes, rejected], axis=1),
            jnp.log(jnp.concatenate([rates, dwell], axis=-1)),
        )

    def candidate_features(self, candidates: CandidateRows, content: Float[Array, "B C E"]) -> CandidateFeatures:
        """Read the candidates, whose texts have the mean embeddings `content`."""
        return CandidateFeatures(
            unit(content),
            candidates.author,
            candidates.totals.astype(jnp.float32),
            candidates.age.astype(jnp.float32),
        )

    def __call__(self, viewer: ViewerFeatures, candidate: CandidateFeatures) -> Float[Array, "B C A"]:
        """The logits of all actions; the last is that of the dwell time, as a share of MAX_DWELL_MS."""
        log_rates = viewer.log_rates[:, None]
        rates = jnp.exp(log_rates)
        return (
            log_rates
            - jnp.log1p(-rates)
            + self._of_actions("text", _TEXT) * _summed(self._likeness(viewer, candidate), viewer)
            + self._of_actions("author", _AUTHOR) * _summed(_same_author(viewer, candidate), viewer)
            + self._of_actions("post_rate", _POST_RATE) * _log_rate_ratio(candidate.totals, rates, log_rates)
            + self._of_actions("age", _AGE) * candidate.age[..., None]
        )

    def _likeness(self, viewer: ViewerFeatures, candidate: CandidateFeatures) -> Float[Array, "B C H"]:
        """The kernel of texts: 1 for equal ones."""
        cosines = jnp.einsum("bce,bhe->bch", candidate.content, viewer.content)
        return jnp.exp(self._scalar("sharpness", _SHARPNESS) * (cosines - 1.0))

    def _of_actions(self, name: str, first: float) -> Float[Array, "1 1 A"]:
        values = hk.get_parameter(name, [ACTION_COUNT], init=hk.initializers.Constant(first))
        return values[None, None]

    def _scalar(self, name: str, first: float) -> Float[Array, ""]:
        return hk.get_parameter(name, [], init=hk.initializers.Constant(first))


def _read(dwell: Int[Array, "B H"]) -> Float[Array, "B H"]:
    """The weight of a dwell time, from its bucket: 0 to 1."""
    return jnp.minimum(jnp.exp2(dwell.astype(jnp.float32) - _READ), 1.0)


def _same_author(viewer: ViewerFeatures, candidate: CandidateFeatures) -> Float[Array, "B C H"]:
    """The kernel of authors: 1 for the same one."""
    shared = (candidate.author[:, :, None] == viewer.author[:, None]) & (candidate.author[:, :, None] != 0)
    return jnp.all(shared, axis=-1).astype(jnp.float32)


def _summed(kernel: Float[Array, "B C H"], viewer: ViewerFeatures) -> Float[Array, "B C A"]:
    """The logarithms of the kernel sums: of positive actions, and for negative feedback of negative feedback."""
    sums = jnp.einsum("bch,bph->bcp", kernel, viewer.weights)
    return jnp.log1p(jnp.maximum(sums, _LEAST_SUM))[..., _POLARITY]


def _log_rate_ratio(
    totals: Float[Array, "B C A+1"], rates: Float[Array, "B 1 A"], log_rates: Float[Array, "B 1 A"]
) -> Float[Array, "B C A"]:
    """The logarithm of the post's shrunk rate over the viewer's; 0 without impressions, and for the dwell time.

    A count may exceed the impressions, as an app may publish engagements alone; the rate then counts as 1.
    """
    done = jnp.minimum(totals[..., :-1], totals[..., -1:]) + _POST_STRENGTH * rates
    ratio = jnp.log(done) - jnp.log(totals[..., -1:] + _POST_STRENGTH) - log_rates
    return ratio.at[..., DISCRETE].set(0.0)
