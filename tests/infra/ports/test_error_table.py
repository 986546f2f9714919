import pytest
import redis
from redis._parsers import BaseParser
from redis.exceptions import ClusterError, RedisClusterException, SlotNotCoveredError

from infra.ports.error_table import REDIS_CODES, Reaction, redis_reaction
from infra.ports.errors import RedisRefused, RedisUnreachable, StateMissing, StateUnreadable

REPLIES = {
    "READONLY You can't write against a read only replica.": Reaction.WAIT,
    "OOM command not allowed when used memory > 'maxmemory'.": Reaction.WAIT,
    "CLUSTERDOWN The cluster is down": Reaction.WAIT,
    "CLUSTERDOWN Hash slot not served": Reaction.WAIT,
    "LOADING Redis is loading the dataset in memory": Reaction.WAIT,
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": Reaction.WAIT,
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": Reaction.WAIT,
    "MISCONF Errors writing to the AOF file: No space left on device": Reaction.WAIT,
    "TRYAGAIN Multiple keys request during rehashing of slot": Reaction.WAIT,
    "ASK 3999 127.0.0.1:6381": Reaction.WAIT,
    "MOVED 3999 127.0.0.1:6381": Reaction.WAIT,
    "NOREPLICAS Not enough good replicas to write.": Reaction.WAIT,
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": Reaction.WAIT,
    "ERR max number of clients reached": Reaction.WAIT,
    "NOAUTH Authentication required.": Reaction.END,
    "WRONGPASS invalid username-password pair or user is disabled.": Reaction.END,
    "ERR invalid password": Reaction.END,
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration "
    "is correct?": Reaction.END,
    "NOPERM this user has no permissions to run the 'hset' command": Reaction.END,
    "DENIED Redis is running in protected mode because protected mode is enabled": Reaction.END,
    "CROSSSLOT Keys in request don't hash to the same slot": Reaction.END,
    "ERR unknown command 'SMISMEMBER', with args beginning with: 'a' ": Reaction.END,
    "ERR DB index is out of range": Reaction.END,
    "WRONGTYPE Operation against a key holding the wrong kind of value": Reaction.SKIP,
    "WRONGTYPE Operation against a key holding the wrong kind of value script: 4fa, on @user_script:14.": Reaction.SKIP,
    "ERR Error running script (call to f_4fa): @user_script:14: WRONGTYPE Operation against a key": Reaction.SKIP,
    "ERR Error running script (call to f_4fa): @user_script: 3: -READONLY You can't write": Reaction.WAIT,
    "ERR something new": Reaction.RETRY,
    "NOVEL something new": Reaction.RETRY,
}


@pytest.mark.parametrize("text", REPLIES)
def test_each_reply_of_redis_has_its_reaction(text: str) -> None:
    error = BaseParser.parse_error(text)
    assert redis_reaction(error) is REPLIES[text]


@pytest.mark.parametrize("text", REPLIES)
def test_a_reply_within_a_pipeline_has_the_same_reaction(text: str) -> None:
    error = BaseParser.parse_error(text)
    with redis.Redis(port=1).pipeline() as pipe:
        pipe.annotate_exception(error, 1, ["HGETALL", "WRONGTYPE unknown command"])
    assert redis_reaction(error) is REPLIES[text]


def test_every_code_of_the_table_is_tried() -> None:
    assert {text.split()[0] for text in REPLIES} - {"ERR", "NOVEL"} == set(REDIS_CODES)


@pytest.mark.parametrize(
    ("error", "reaction"),
    [
        (redis.ConnectionError("refused"), Reaction.WAIT),
        (redis.TimeoutError("late"), Reaction.WAIT),
        (RedisUnreachable("away"), Reaction.WAIT),
        (RedisClusterException("Redis Cluster cannot be connected"), Reaction.WAIT),
        (SlotNotCoveredError("Slot 3 not covered"), Reaction.WAIT),
        (ClusterError("TTL exhausted."), Reaction.WAIT),
        (RedisClusterException("... reachable node: Cluster mode is not enabled on this node"), Reaction.END),
        (RedisRefused("password"), Reaction.END),
        (StateUnreadable("user:{7}"), Reaction.SKIP),
        (StateMissing("user:{7}"), Reaction.SKIP),
        (redis.InvalidResponse("HTTP/1.1 400 Bad Request"), Reaction.RETRY),
    ],
)
def test_each_error_without_a_code_has_its_reaction(error: Exception, reaction: Reaction) -> None:
    assert redis_reaction(error) is reaction
