import pytest

from infra.ops.post_texts import read_texts
from infra.ports.settings import Settings
from tests.infra.cli.foryou import unique, write
from tests.infra.ops.test_state_post import created, record
from thunder_ingest.events import PostDeleted

pytestmark = pytest.mark.embedded


def test_the_newest_text_of_each_post_is_read_and_a_deleted_post_has_none(servers: Settings) -> None:
    edited, deleted, missing = unique("at://edited"), unique("at://deleted"), unique("at://missing")
    write(servers, record(created(edited, "first")), record(created(edited, "second")), record(created(deleted)))
    write(
        servers, record(created(deleted), PostDeleted(post_id=deleted, author_id="did:plc:ana", at=1_700_000_000_007))
    )
    assert read_texts(servers, [edited, deleted, missing], 10.0) == {edited: "second"}
