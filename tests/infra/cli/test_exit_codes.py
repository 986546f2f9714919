from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaError, KafkaException

from infra.cli.exit_codes import Failure, failure_of
from infra.ports.errors import ForYouError, UsageError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ForYouError("no broker"), 1),
        (UsageError("no such setting"), 2),
        (redis.ResponseError("OOM"), 1),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), 1),
    ],
)
def test_an_error_of_the_user_or_a_server_has_an_exit_code(error: Exception, code: int) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert failure.exit_code == code


def test_an_unusable_file_is_reported_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError) as raised:
        tmp_path.read_bytes()
    assert failure_of(raised.value) == Failure(2, f"{tmp_path}: Is a directory")


@pytest.mark.parametrize("error", [KeyError("x"), OSError("socket"), ModuleNotFoundError("infra.x", name="infra.x")])
def test_a_defect_of_the_program_has_no_exit_code(error: Exception) -> None:
    assert failure_of(error) is None
