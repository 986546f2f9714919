import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix.features.inputs import History, PostInputs, blank_history
from phoenix.models.configs import ModelConfig
from phoenix.serving.engine import Phoenix
from tests.phoenix.builders import TOLERANCE, padded_in_front, some_history, some_posts, viewer

FAVORITE, NOT_INTERESTED = 0, 14
TOPICS, WORDS = 5, 20


def posts_of_topics(config: ModelConfig, count: int, seed: int) -> tuple[PostInputs, np.ndarray]:
    """Posts with words of one topic each, and these topics; all authors are different."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, TOPICS, count)
    words = topics[:, None] * WORDS + rng.integers(1, WORDS, (count, config.tokens))
    blank = some_posts(config, count, seed)
    return blank._replace(tokens=words.astype(np.uint32), video_ms=blank.video_ms * 0, photos=blank.photos * 0), topics


def history_with(config: ModelConfig, posts: PostInputs, action: int | None) -> History:
    """A viewer with the same action on all these posts, or with none."""
    count = len(posts.author_id)
    history = blank_history(config, 1)
    history.author_id[0, -count:] = posts.author_id
    history.tokens[0, -count:] = posts.tokens
    history.mask[0, -count:] = True
    if action is not None:
        history.actions[0, -count:, action] = True
    return history


def test_an_untrained_index_finds_posts_in_the_words_of_those_engaged_with(phoenix: Phoenix) -> None:
    liked, topics_liked = posts_of_topics(phoenix.config, 60, seed=1)
    corpus, topics = posts_of_topics(phoenix.config, 300, seed=2)
    for topic in range(TOPICS):
        engaged = PostInputs(*(column[topics_liked == topic][:5] for column in liked))
        similarity = (
            phoenix.embed_posts(corpus) @ phoenix.embed_users(history_with(phoenix.config, engaged, FAVORITE))[0]
        )
        best = np.argsort(-similarity)[:20]
        assert (topics[best] == topic).mean() > 0.7  # 0.2 by chance


def test_an_untrained_index_finds_posts_of_authors_engaged_with(phoenix: Phoenix) -> None:
    corpus = some_posts(phoenix.config, 300)
    corpus.author_id[:20] = 77
    engaged = some_posts(phoenix.config, 5, seed=9)._replace(author_id=np.full(5, 77))
    similarity = phoenix.embed_posts(corpus) @ phoenix.embed_users(history_with(phoenix.config, engaged, FAVORITE))[0]
    assert (np.argsort(-similarity)[:20] < 20).mean() > 0.7  # 0.07 by chance


def test_negative_feedback_repels(phoenix: Phoenix) -> None:
    posts, _ = posts_of_topics(phoenix.config, 6, seed=3)
    vectors = phoenix.embed_posts(posts)
    user = phoenix.embed_users(history_with(phoenix.config, posts, NOT_INTERESTED))[0]
    assert (vectors @ user < 0).all()


def test_an_engaged_post_outweighs_passed_over_ones(phoenix: Phoenix) -> None:
    posts = some_posts(phoenix.config, 12)
    history = history_with(phoenix.config, posts, None)
    history.actions[0, 0, FAVORITE] = True
    similarity = phoenix.embed_posts(posts) @ phoenix.embed_users(history)[0]
    assert np.argmax(similarity) == 0


def test_vectors_have_length_1(phoenix: Phoenix) -> None:
    vectors = phoenix.embed_posts(some_posts(phoenix.config, 40))
    users = phoenix.embed_users(some_history(phoenix.config, 9, 12))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), 1.0, rtol=1e-5)


def test_a_viewer_without_a_history_gets_a_zero_vector(phoenix: Phoenix) -> None:
    assert not phoenix.embed_users(some_history(phoenix.config, 2, 0)).any()


def test_a_post_without_words_is_found_by_its_author(phoenix: Phoenix) -> None:
    wordless = some_posts(phoenix.config, 2)._replace(tokens=np.zeros((2, 0), np.uint32))
    np.testing.assert_allclose(np.linalg.norm(phoenix.embed_posts(wordless), axis=1), 1.0, rtol=1e-5)


@given(st.integers(1, 70), st.integers(0, 2**16))
@settings(deadline=None, max_examples=20)
def test_a_vector_does_not_depend_on_the_batch(phoenix: Phoenix, count: int, seed: int) -> None:
    posts = some_posts(phoenix.config, count, seed)
    last = PostInputs(*(column[-1:] for column in posts))
    np.testing.assert_allclose(phoenix.embed_posts(posts)[-1:], phoenix.embed_posts(last), atol=TOLERANCE)
    history = some_history(phoenix.config, count % 9 + 1, 12, seed)
    np.testing.assert_allclose(
        phoenix.embed_users(history)[-1:],
        phoenix.embed_users(viewer(history, -1 % len(history.user_id))),
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("positions", [1, 5, 11])
def test_masked_positions_change_nothing(phoenix: Phoenix, positions: int) -> None:
    short = some_history(phoenix.config, 2, positions)
    filled = padded_in_front(short, 12 - positions)
    np.testing.assert_allclose(phoenix.embed_users(filled), phoenix.embed_users(short), atol=TOLERANCE)
