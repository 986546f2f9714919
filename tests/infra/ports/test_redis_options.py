import asyncio

import pytest
import redis

from infra.ports.errors import UsageError
from infra.ports.redis import connect, connect_async
from infra.ports.settings import Settings

pytestmark = pytest.mark.embedded


def address(valkey: redis.Redis, options: str) -> Settings:
    path = valkey.connection_pool.connection_kwargs["path"]
    return Settings(redis=f"unix://me:secret@{path}?{options}")


@pytest.mark.parametrize(
    "options",
    ["health_check_interval=1&socket_timeout=x", "unknown=1", "db=x"],
)
def test_an_option_of_the_address_that_redis_py_cannot_use_is_refused_in_one_line(
    valkey: redis.Redis, options: str
) -> None:
    settings = address(valkey, options)
    with pytest.raises(UsageError, match=r"^FORYOU_REDIS has an option[^\n]*$") as error:
        connect(settings)
    assert "secret" not in str(error.value)
    with pytest.raises(UsageError, match=r"^FORYOU_REDIS has an option"):
        asyncio.run(_connect_async(settings))


async def _connect_async(settings: Settings) -> None:
    await (await connect_async(settings)).aclose()


def test_usable_options_of_the_address_are_taken(valkey: redis.Redis) -> None:
    path = valkey.connection_pool.connection_kwargs["path"]
    with connect(Settings(redis=f"unix://{path}?health_check_interval=1&socket_timeout=2")) as client:
        assert client.connection_pool.connection_kwargs["socket_timeout"] == 2
