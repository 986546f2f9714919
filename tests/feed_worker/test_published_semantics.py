"""The published filters in their order, one class each: the published rule, and our differences.

The visibility filters have a file of their own, test_visibility.
"""

from dataclasses import replace

import numpy as np
import pytest

from feed_worker.candidates.columns import concat
from feed_worker.candidates.query import Query
from feed_worker.filters.age import AgeFilter
from feed_worker.filters.author_socialgraph import AuthorSocialgraphFilter
from feed_worker.filters.core_data import CoreDataFilter
from feed_worker.filters.dedup_conversation import DedupConversationFilter
from feed_worker.filters.drop_duplicates import DropDuplicatesFilter
from feed_worker.filters.feedback import FeedbackFilter
from feed_worker.filters.ineligible_subscription import IneligibleSubscriptionFilter
from feed_worker.filters.language import LanguageFilter
from feed_worker.filters.muted_keyword import MutedKeywordFilter
from feed_worker.filters.oon_retweet_reply import OONRetweetReplyFilter
from feed_worker.filters.previously_seen import PreviouslySeenFilter
from feed_worker.filters.previously_served import PreviouslyServedFilter
from feed_worker.filters.retweet_dedup import RetweetDedupFilter
from feed_worker.filters.self_post import SelfPostFilter
from feed_worker.filters.video import VideoFilter
from feed_worker.framework.components import Filter
from feed_worker.parameters import FORYOU
from tests.feed_worker.builders import (
    NOW_MS,
    VIEWER,
    candidates_in,
    hydrated,
    ids,
    positions_of,
    post,
    query,
    store_of,
    viewer,
)
from thunder_ingest.events import ACTION_INDEX, ActionName, Post
from thunder_ingest.users.seen_filter import FilterSize, SeenFilter

FRIEND, STRANGER, AUTHOR = 60, 70, 50


def kept(rule: Filter, posts: list[Post], asked: Query, *of: int) -> list[int]:
    """The ids that a filter keeps of `of`, all of them in a store of `posts`."""
    found = hydrated(store_of(*posts), asked, *(of or [each.post_id for each in posts]))
    ids_kept: list[int] = found.posts.post_id[rule.keep(asked, found)].tolist()
    return ids_kept


RELATED = [
    post(1),
    post(2, FRIEND, "repost", source_post_id=1),
    post(3, FRIEND, "reply", in_reply_to_post_id=1),
    post(4, FRIEND, "quote", source_post_id=1),
    post(5),
]

SHOWN = [
    post(1),
    post(2, FRIEND, "repost", source_post_id=1, source_author_id=AUTHOR),
    post(3, FRIEND, "quote", source_post_id=1),
    post(4, FRIEND),
]


class TestDropDuplicates:
    """1. A post found by two sources is one candidate."""

    def test_the_first_occurrence_of_a_post_stays(self) -> None:
        store = store_of(post(1), post(2))
        found = concat([candidates_in(store, 2, 1, source="thunder"), candidates_in(store, 1, source="popular")])
        assert DropDuplicatesFilter().keep(query(), found).tolist() == [True, True, False]


class TestCoreData:
    """2. A candidate without core data is dropped."""

    def test_a_candidate_without_an_author_is_dropped(self) -> None:
        store = store_of(post(1))
        found = concat([candidates_in(store, 1), candidates_in(store, 404)])
        assert CoreDataFilter().keep(query(), found).tolist() == [True, False]


class TestAge:
    """3. At most 48 hours old; here by the time of the event, since ids carry no time."""

    @pytest.mark.parametrize(("age_ms", "stays"), [(-5, True), (0, True), (1_000, True), (1_001, False)])
    def test_a_post_is_kept_up_to_its_maximum_age(self, age_ms: int, stays: bool) -> None:
        assert bool(kept(AgeFilter(1_000), [post(1, created_at=NOW_MS - age_ms)], query())) == stays


class TestSelfPost:
    """4. No own posts; here, no reposts of them either."""

    def test_viewers_do_not_see_their_own_posts_or_reposts_of_them(self) -> None:
        posts = [
            post(1, VIEWER),
            post(2, FRIEND, "repost", source_post_id=1),
            post(3, FRIEND, "quote", source_post_id=1),
        ]
        assert kept(SelfPostFilter(), posts, query()) == [3]


class TestOONRetweetReply:
    """5. Replies and reposts are for followers. (6, for a source that is not here, has no counterpart.)"""

    def test_out_of_network_only_originals_and_quotes_are_candidates(self) -> None:
        def by(author: int, first: int) -> list[Post]:
            return [
                post(first, author),
                post(first + 1, author, "reply", in_reply_to_post_id=9),
                post(first + 2, author, "repost", source_post_id=9),
                post(first + 3, author, "quote", source_post_id=9),
            ]

        asked = query(viewer(following=[FRIEND]))
        assert kept(OONRetweetReplyFilter(), by(FRIEND, 10) + by(STRANGER, 20), asked) == [10, 11, 12, 13, 20, 23]

    def test_an_in_network_reply_without_a_parent_is_dropped(self) -> None:
        asked = query(viewer(following=[FRIEND]))
        assert kept(OONRetweetReplyFilter(), [post(1, FRIEND, "reply")], asked) == []


class TestRetweetDedup:
    """7. A post and its reposts count as one."""

    def test_a_post_and_its_reposts_are_one_candidate_the_first(self) -> None:
        posts = [post(1), *(post(i, FRIEND, "repost", source_post_id=1) for i in (2, 3))]
        assert kept(RetweetDedupFilter(), posts, query(), 3, 1, 2) == [3]
        assert kept(RetweetDedupFilter(), posts, query(), 1, 2, 3) == [1]

    def test_a_quote_is_no_duplicate_of_the_quoted_post(self) -> None:
        posts = [post(1), post(2, FRIEND, "quote", source_post_id=1)]
        assert kept(RetweetDedupFilter(), posts, query()) == [1, 2]


class TestIneligibleSubscription:
    """8. Subscriber-only posts are for subscribers; here, reposts and quotes of them, too."""

    def test_subscriber_only_posts_are_for_subscribers_also_when_reposted(self) -> None:
        posts = [post(1, subscriber_only=True), post(2, FRIEND, "repost", source_post_id=1), post(3)]
        assert kept(IneligibleSubscriptionFilter(), posts, query()) == [3]
        assert kept(IneligibleSubscriptionFilter(), posts, query(viewer(subscriptions=[AUTHOR]))) == [1, 2, 3]


class TestPreviouslySeen:
    """9. No post is shown twice; here, a quoted post counts. (10 is the same for a set that is always empty there.)"""

    def test_a_seen_post_is_not_shown_as_itself_repost_quote_or_parent(self) -> None:
        assert kept(PreviouslySeenFilter(), RELATED, query(viewer(seen=[1]))) == [5]

    def test_a_post_that_only_the_bloom_filter_holds_is_not_shown(self) -> None:
        long_ago = SeenFilter().with_posts(np.array([1]), FilterSize())
        assert kept(PreviouslySeenFilter(), RELATED, query(viewer(seen_before=long_ago))) == [5]

    def test_ids_in_the_request_count_as_seen_in_any_form(self) -> None:
        assert kept(PreviouslySeenFilter(), RELATED, query(seen_ids=[2, "5"])) == [1, 3, 4]


class TestPreviouslyServed:
    """11. The next feed differs from the last."""

    def test_a_recently_served_post_is_not_served_again(self) -> None:
        asked = query()
        asked.served = ids(1, 5)
        assert kept(PreviouslyServedFilter(), RELATED, asked) == []
        asked.served = ids(5)
        assert kept(PreviouslyServedFilter(), RELATED, asked) == [1, 2, 3, 4]


class TestMutedKeyword:
    """12. Muted phrases, token by token."""

    @pytest.mark.parametrize(
        ("keyword", "text", "stays"),
        [
            ("cat", "A Cat!", False),
            ("cat", "#cat of the day", False),
            ("cat", "concatenate", True),
            ("star wars", "the Star   WARS saga", False),
            ("star wars", "star of the wars", True),
            ("wars star", "star wars", True),
            ("猫", "かわいい猫です", False),
            ("!?", "what!?", False),
            ("!?", "what! why?", True),
            ("casino", "ca\u200bsino night", False),
            ("casino", "\u3316" * 11 + " casino", False),
            ("😂", "so 😂", False),
            (":(", "sad:(", False),
            ("<3", "3 cats", True),
            ("AI", "j'ai faim", True),
            ("Bob", "Bob's", False),
            ("istanbul", "İstanbul", False),
            ("İstanbul", "istanbul", False),
            ("cafe", "Café", False),
            ("cat", "", True),
            ("last word", " ".join(["word"] * 100) + " last word", False),
        ],
    )
    def test_a_muted_phrase_hides_posts_that_contain_it_word_for_word(
        self, keyword: str, text: str, stays: bool
    ) -> None:
        posts = [post(1, text=text), post(2, text="nothing of the kind")]
        store = store_of(*posts)
        asked = query(viewer(keywords=("unrelated", keyword)))
        found = hydrated(store, asked, 1, 2)
        assert MutedKeywordFilter(store).keep(asked, found).tolist() == [stays, True]

    @pytest.mark.parametrize(("covers_parents", "stay"), [(True, []), (False, [4])])
    def test_a_muted_word_also_hides_reposts_quotes_and_by_a_parameter_replies(
        self, covers_parents: bool, stay: list[int]
    ) -> None:
        posts = [
            post(1, text="spoiler ahead"),
            post(2, FRIEND, "repost", source_post_id=1),
            post(3, FRIEND, "quote", source_post_id=1, text="look"),
            post(4, FRIEND, "reply", in_reply_to_post_id=1, text="thanks"),
        ]
        parameters = replace(FORYOU, mutes_cover_parents=covers_parents)
        asked = query(viewer(keywords=("spoiler",)), parameters=parameters)
        assert kept(MutedKeywordFilter(store_of(*posts)), posts, asked) == stay

    def test_without_muted_words_the_filter_is_disabled(self) -> None:
        store = store_of()
        assert not MutedKeywordFilter(store).enable(query())
        assert MutedKeywordFilter(store).enable(query(viewer(keywords=("a",))))


class TestFeedback:
    """Beyond the published filters: a report and "not interested" hide a post from their viewer."""

    @pytest.mark.parametrize(
        ("action", "stay"), [("report", [5]), ("not_interested", [5]), ("favorite", [1, 2, 3, 4, 5, 6, 7])]
    )
    def test_they_hide_the_post_and_what_reposts_quotes_or_answers_it(
        self, action: ActionName, stay: list[int]
    ) -> None:
        positions = positions_of([1, 5])
        positions["actions"][0] |= 1 << ACTION_INDEX[action]
        further = [post(6, FRIEND, "quote", source_post_id=4), post(7, FRIEND, "reply", in_reply_to_post_id=6)]
        assert kept(FeedbackFilter(), [*RELATED, *further], query(viewer(positions=positions))) == stay


class TestAuthorSocialgraph:
    """13. Blocks and mutes; here, blocks in both directions for all authors involved. (14 is a list of ids.)"""

    @pytest.mark.parametrize(
        ("state", "stay"),
        [
            ({"blocks": [AUTHOR]}, [4]),
            ({"blocked_by": [AUTHOR]}, [4]),
            ({"blocks": [FRIEND]}, [1]),
            ({"blocked_by": [FRIEND]}, [1]),
            ({"mutes": [FRIEND]}, [1]),
            ({"mutes": [AUTHOR]}, [4]),
            ({"blocks": [STRANGER], "mutes": [STRANGER]}, [1, 2, 3, 4]),
            ({}, [1, 2, 3, 4]),
        ],
    )
    def test_blocks_and_mutes_apply_through_reposts_and_quotes(
        self, state: dict[str, list[int]], stay: list[int]
    ) -> None:
        assert kept(AuthorSocialgraphFilter(), SHOWN, query(viewer(**state))) == stay

    def test_a_quote_of_an_unknown_author_is_not_shown_to_a_viewer_with_blocks(self) -> None:
        posts = [post(3, FRIEND, "quote", source_post_id=404)]
        assert kept(AuthorSocialgraphFilter(), posts, query(viewer(blocks=[STRANGER]))) == []
        assert kept(AuthorSocialgraphFilter(), posts, query(viewer())) == [3]


class TestVideo:
    """15. No videos if the request excludes them. (16 to 18, topics and two that are off, have no counterpart.)"""

    def test_videos_and_their_reposts_are_dropped_if_the_request_excludes_videos(self) -> None:
        posts = [post(1, video_ms=1), post(2, FRIEND, "repost", source_post_id=1), post(3, photos=2)]
        assert VideoFilter().enable(query(exclude_videos=True))
        assert not VideoFilter().enable(query())
        assert kept(VideoFilter(), posts, query(exclude_videos=True)) == [3]


class TestLanguage:
    """Not published: only the request's languages."""

    def test_posts_in_other_languages_and_their_reposts_are_dropped_if_the_request_names_languages(self) -> None:
        posts = [post(1, lang="en-GB"), post(2, lang="fr"), post(3), post(4, lang="eng")]
        posts += [post(5, FRIEND, "repost", source_post_id=2), post(6, FRIEND, "repost", source_post_id=1, lang="fr")]
        posts += [post(7, lang="und"), post(8, lang="EN_us"), post(9, lang="zxx"), post(10, lang="enm")]
        asked = query(langs=["EN"])
        language = LanguageFilter(store_of(*posts))
        assert language.enable(asked)
        assert not language.enable(query())
        assert kept(language, posts, asked) == [1, 3, 4, 6, 7, 8, 9]


class TestDedupConversation:
    """After selection: one post of a conversation."""

    def test_the_best_ranked_post_of_a_conversation_stays(self) -> None:
        posts = [
            post(1, conversation_id=1),
            post(2, FRIEND, "reply", in_reply_to_post_id=1, conversation_id=1),
            post(3, FRIEND, "reply", in_reply_to_post_id=2, conversation_id=1),
            post(4, FRIEND, "quote", source_post_id=1),
        ]
        assert kept(DedupConversationFilter(), posts, query(), 3, 4, 1, 2) == [3, 4]

    def test_without_a_conversation_id_a_reply_belongs_to_its_parent(self) -> None:
        posts = [post(1), *(post(i, FRIEND, "reply", in_reply_to_post_id=1) for i in (2, 3)), post(4)]
        assert kept(DedupConversationFilter(), posts, query(), 2, 1, 3, 4) == [2, 4]


def test_every_filter_accepts_empty_candidates() -> None:
    store = store_of()
    asked = query(viewer(keywords=("a",), blocks=[AUTHOR]))
    for rule in (DropDuplicatesFilter(), MutedKeywordFilter(store), AuthorSocialgraphFilter(), AgeFilter(1)):
        assert rule.keep(asked, hydrated(store, asked)).dtype == np.bool_
