from thunder_ingest.events.redis_keys import answered_key, explain_key, feed_key, ready_channel, user_key


def test_each_key_carries_the_published_id_as_the_hash_tag() -> None:
    assert user_key("42") == "user:{42}"
    assert feed_key("did:a") == "feed:{did:a}"
    assert explain_key("42") == "explain:{42}"
    assert answered_key("42") == "answered:{42}"
    assert ready_channel("42") == "feed-ready:{42}"
