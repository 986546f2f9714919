import os
import re
from pathlib import Path

import pytest

from infra.ports.settings import Settings, SettingsError, describe_settings, load, redacted


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in [name for name in os.environ if name.startswith("FORYOU_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    empty_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_environment / "foryou.toml").write_text(
        'kafka = "file:1"\nfeed_size = 7\n[kafka_options]\n"sasl.username" = "me"\n'
    )
    monkeypatch.setenv("FORYOU_KAFKA", "environment:2")
    settings = load()
    assert (settings.kafka, settings.feed_size, settings.partitions) == ("environment:2", 7, 4)
    assert settings.kafka_options == {"sasl.username": "me"}


def test_settings_survive_the_way_to_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(kafka="a:1,b:2", kafka_options={"ssl.ca.location": "/ca"}, redis_cluster=True, clock="log")
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load() == settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FORYOU_PARTITIONS", "0"),
        ("FORYOU_PARTITIONS", "many"),
        ("FORYOU_REDIS", "http://somewhere"),
        ("FORYOU_CLOCK", "sun"),
        ("FORYOU_KAFKA_OPTIONS", "no json"),
    ],
)
def test_an_invalid_value_is_refused_in_one_line_with_its_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.compile(name.removeprefix("FORYOU_"), re.IGNORECASE)) as error:
        load()
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_setting_in_the_file_is_refused_with_the_nearest_name(empty_environment: Path) -> None:
    (empty_environment / "foryou.toml").write_text('kafak = "typo:1"\n')
    with pytest.raises(SettingsError, match=r"^unknown setting 'kafak': did you mean kafka\?$"):
        load()


def test_a_missing_file_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORYOU_CONFIG", "/no/such/foryou.toml")
    with pytest.raises(SettingsError, match=r"FORYOU_CONFIG names /no/such/foryou\.toml"):
        load()


def test_a_file_that_is_not_toml_is_refused_in_one_line(empty_environment: Path) -> None:
    (empty_environment / "foryou.toml").write_text("this is not = = toml")
    with pytest.raises(SettingsError) as error:
        load()
    assert len(str(error.value).splitlines()) == 1


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORYOU_FEED_SICE", "7")
    with pytest.raises(SettingsError, match=r"^unknown setting FORYOU_FEED_SICE: did you mean FORYOU_FEED_SIZE\?$"):
        load()


def test_only_a_documented_variable_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORYOU_FOO", "FORYOU_LOGS", "FORYOU_SEEDS", "FORYOU_E2", "FORYOU_SOKA"):
        monkeypatch.setenv(name, "1")
        with pytest.raises(SettingsError, match=f"^unknown setting {name}: ") as error:
            load()
        monkeypatch.delenv(name)
        suggested = re.search(r"did you mean (\w+)\?$", str(error.value))
        assert suggested is None or suggested[1].removeprefix("FORYOU_").lower() in Settings.model_fields
        assert suggested or str(error.value).endswith("`foryou settings` lists all")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = f'{{"name": "a", "share": 0.5, "overrides": {{"oon_factor": {number}}}}}'
    for name, value in (
        ("FORYOU_OVERRIDES", f'{{"weights": {{"favorite": {number}}}}}'),
        ("FORYOU_OVERRIDES", f'{{"oon_factor": {number}}}'),
        ("FORYOU_EXPERIMENTS", f'[{{"name": "e", "variants": [{variant}]}}]'),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=f"^{name} .*NaN and infinity"):
            load()
        monkeypatch.delenv(name)


@pytest.mark.parametrize("value", ["u:s3cr3t@h:1", "a:1,u:s3cr3t@h:1", "SASL_SSL://u:s3cr3t@h:1", "s3cr3t@h"])
def test_an_address_of_kafka_with_a_password_is_refused_without_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORYOU_KAFKA", value)
    with pytest.raises(
        SettingsError, match=r"^FORYOU_KAFKA .*sasl\.username and sasl\.password of kafka_options$"
    ) as error:
        load()
    assert "s3cr3t" not in str(error.value)


def test_variables_of_the_tests_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORYOU_E2E", "required")
    assert load().feed_size == 35


@pytest.mark.parametrize("line", ['"linger.ms" = 5', "linger.ms = 5"])
def test_a_kafka_option_at_the_top_of_the_file_is_refused_with_its_place(empty_environment: Path, line: str) -> None:
    (empty_environment / "foryou.toml").write_text(line)
    with pytest.raises(SettingsError, match=r"'linger.ms': options of Kafka belong under \[kafka_options\]"):
        load()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0", "redis://***@host:1/0"),
        ("redis:/user:secret@host:1", "***@host:1"),
        ("redis://user:se@cret@host", "redis://***@host"),
        ("unix:///run/redis?password=secret&db=1", "unix:///run/redis?password=***&db=1"),
        ("redis://host:1/0", "redis://host:1/0"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "value", ["redis:/user:secret@host:1", "http://user:secret@host", "secret", "redis://user:secret/word@host:1"]
)
def test_a_malformed_address_of_redis_is_refused_without_its_password(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORYOU_REDIS", value)
    with pytest.raises(SettingsError, match=r"^FORYOU_REDIS ") as error:
        load()
    assert "secret" not in str(error.value)


def test_secrets_are_hidden_wherever_settings_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"sasl.username": "me", "sasl.password": "secret", "ssl.key.password": "secret"}
    settings = load(redis="redis://me:secret@host:1", kafka_options=options)
    rows = {row.name: row.value for row in describe_settings(settings)}
    assert "secret" not in f"{settings!r} {settings} {rows}"
    assert rows["redis"] == "redis://***@host:1"
    assert "secret" in settings.environment()["FORYOU_REDIS"]


@pytest.mark.parametrize(
    "value",
    ['{"sasl.password": ["secret"]}', '["sasl.password=secret"]', '"sasl.password=secret"', "sasl.password=secret"],
)
def test_mistyped_options_of_kafka_are_refused_without_their_passwords(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORYOU_KAFKA_OPTIONS", value)
    with pytest.raises(SettingsError, match=r"(?i)kafka_options") as error:
        load()
    assert "secret" not in str(error.value)


def test_settings_are_described_with_their_origin(empty_environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty_environment / "foryou.toml").write_text("feed_size = 7\n")
    monkeypatch.setenv("FORYOU_MAX_BATCH", "8")
    rows = {row.name: row for row in describe_settings(load(clock="log"))}
    assert [(rows[name].value, rows[name].origin) for name in ("feed_size", "max_batch", "clock", "partitions")] == [
        ("7", "file foryou.toml"),
        ("8", "environment"),
        ("log", "argument"),
        ("4", "default"),
    ]
    assert (rows["feed_size"].variable, rows["feed_size"].default) == ("FORYOU_FEED_SIZE", "35")
    limits = [
        rows[name].limits for name in ("feed_size", "deadline_ms", "clock", "redis_cluster", "overrides", "model")
    ]
    assert limits == ["1 to 200", "at least 1 ms", "wall or log", "true or false", "JSON", ""]
    assert all(row.meaning for row in rows.values())


@pytest.mark.parametrize(
    "name",
    [
        "enable.auto.commit",
        "auto.commit.enable",
        "enable.auto.offset.store",
        "group.id",
        "group.instance.id",
        "auto.offset.reset",
        "isolation.level",
        "partition.assignment.strategy",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "retries",
        "message.send.max.retries",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "max.in.flight",
        "transactional.id",
        "bootstrap.servers",
        "allow.auto.create.topics",
        "message.max.bytes",
    ],
)
def test_a_kafka_option_that_would_switch_a_guarantee_off_is_refused_by_name(name: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"^FORYOU_KAFKA_OPTIONS .*cannot be changed: {re.escape(name)} \(.*\S\)"
    ) as refused:
        load(kafka_options={name: "0", "sasl.password": "secret"})
    assert len(str(refused.value).splitlines()) == 1
    assert "secret" not in str(refused.value)


def test_other_kafka_options_are_accepted() -> None:
    options = {"security.protocol": "SASL_SSL", "linger.ms": "5", "compression.type": "zstd", "client.rack": "a"}
    assert load(kafka_options=options).kafka_options == options
