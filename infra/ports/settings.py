"""Settings: one typed class, filled from arguments, then `FORYOU_*` variables, then a TOML file, then defaults.

The file is `foryou.toml` in the working directory, or the file that `FORYOU_CONFIG` names.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import annotated_types
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.ports.clock import HOUR_MS
from infra.ports.errors import UsageError

PREFIX: Final = "FORYOU_"
CONFIG_VARIABLE: Final = "FORYOU_CONFIG"
OTHER_VARIABLES: Final = (
    CONFIG_VARIABLE,
    "FORYOU_E2E",
    "FORYOU_E2E_CLUSTER",
    "FORYOU_SOAK",
    "FORYOU_SOAK_ROUNDS",
    "FORYOU_LOG",
    "FORYOU_SEED",
)
"""Variables that are not settings: the name of the settings file, and the variables of the tests."""
# ports of `foryou up`; not the defaults of Kafka and Redis, so that no app publishes to another broker by chance
UP_KAFKA_PORT: Final = 19_092
UP_REDIS_PORT: Final = 16_379
HIDDEN: Final = "***"
_GUARANTEES: Final = {
    "bootstrap.servers": "the addresses are FORYOU_KAFKA",
    "metadata.broker.list": "the addresses are FORYOU_KAFKA",
    "session.timeout.ms": "the setting is FORYOU_SESSION_TIMEOUT_MS",
    "group.instance.id": "the setting is FORYOU_GROUP_INSTANCE_ID",
    **dict.fromkeys(("group.id", "group.protocol"), "the setting is FORYOU_GROUP_PREFIX"),
    **dict.fromkeys(
        ("enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms", "enable.auto.offset.store"),
        "offsets are committed after the results are written",
    ),
    **dict.fromkeys(("auto.offset.reset", "isolation.level"), "every accepted message is read once"),
    **dict.fromkeys(
        ("partition.assignment.strategy", "heartbeat.interval.ms", "max.poll.interval.ms"),
        "the workers of a group share their partitions by one rule",
    ),
    **dict.fromkeys(
        (
            "enable.idempotence",
            "acks",
            "request.required.acks",
            "retries",
            "message.send.max.retries",
            "message.timeout.ms",
            "delivery.timeout.ms",
            "max.in.flight",
            "max.in.flight.requests.per.connection",
            "enable.gapless.guarantee",
            "transactional.id",
            "queuing.strategy",
        ),
        "every message is delivered once, in order",
    ),
    **dict.fromkeys(
        ("message.max.bytes", "receive.message.max.bytes", "delivery.report.only.error"),
        "the limits of messages and their reports are fixed",
    ),
    "allow.auto.create.topics": "`foryou topics --create` creates topics, with the settings that they need",
}
"""Options of librdkafka that would switch a guarantee off, each with the reason why it is refused."""
_SECRET_OPTION: Final = re.compile(r"password|secret|token|oauthbearer\.config|\.pem$|key\.pem", re.IGNORECASE)
_UNITS: Final = {"_ms": "ms", "_s": "s"}


class SettingsError(UsageError, ValueError):
    """A setting cannot be used; the text is one line with the name, the reason and the valid values."""


def redacted(url: str) -> str:
    """Return an address without its user and password; it may be malformed."""
    credentials, at, rest = url.rpartition("@")
    scheme = re.match(r"\w+://", credentials)
    shown = f"{scheme[0] if scheme else ''}{HIDDEN}@{rest}" if at else url
    return re.sub(r"(?i)([?&](?:username|password)=)[^&#]*", rf"\g<1>{HIDDEN}", shown)


def redis_nodes(address: str) -> list[str]:
    """Return the URL of each node of the setting `redis`: `redis://user:password@a:1,b:2/0` has two."""
    found = re.match(r"(rediss?://(?:[^/?#]*@)?)([^/?#]*)(.*)", address, re.DOTALL)
    return [f"{found[1]}{host}{found[3]}" for host in found[2].split(",")] if found else [address]


class Settings(BaseSettings):
    """The settings of a deployment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    kafka: str = Field(
        f"127.0.0.1:{UP_KAFKA_PORT}", description="addresses of Kafka brokers to start with, host:port[,host:port…]"
    )
    kafka_options: dict[str, str] = Field(
        {}, description="further librdkafka options as JSON, such as security.protocol, sasl.username, ssl.ca.location"
    )
    redis: str = Field(
        f"redis://127.0.0.1:{UP_REDIS_PORT}/0",
        pattern=r"^(redis|rediss|unix)://",
        description="address of Redis, redis://[user:password@]host:port/db; rediss:// for TLS; several start nodes of "
        "a Redis Cluster: redis://host:port,host:port",
    )
    redis_cluster: bool = Field(False, description="true if `redis` names nodes of a Redis Cluster")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics that `foryou topics --create` creates")
    replication_factor: int = Field(
        1, ge=1, le=7, description="replicas of topics that `foryou topics --create` creates"
    )
    session_timeout_ms: int = Field(
        10_000, ge=1_000, le=300_000, description="session timeout of the workers' consumer group"
    )
    group_instance_id: str = Field(
        "",
        max_length=249,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="name of this worker in its consumer group, its own for each worker (static membership): a restart "
        "within `session_timeout_ms` moves no partition; empty: none",
    )
    group_prefix: str = Field("foryou", min_length=1, description="prefix of consumer groups, as in PREFIX.flows.posts")

    clock: Literal["wall", "log"] = Field(
        "wall", description="clock of age rules; wall: the time of day, log: the newest event, for replays"
    )
    max_post_age_ms: int = Field(48 * HOUR_MS, ge=1, description="age up to which a post can be a candidate")
    late_tolerance_ms: int = Field(
        HOUR_MS, ge=0, description="time after that age during which late events of a post are accepted"
    )
    future_tolerance_ms: int = Field(
        300_000, ge=0, description="largest distance of an event ahead of the wall clock; later events are refused"
    )

    max_voices: int = Field(
        32_000_000,
        ge=1,
        description="largest number of voices (one account, post and action) of the engagements flow, 55 bytes each; "
        "above it, the counts of posts without an event for longest are dropped",
    )

    model: str = Field("nano", description="model configuration, one of phoenix.models.configs.CONFIGS")
    model_seed: int = Field(20_260_721, ge=0, description="seed of the parameters if there is no checkpoint")
    checkpoint: str = Field(
        "",
        description="directory of checkpoints that `foryou train` wrote; its newest one is served instead of `model`, "
        "unless a model was announced (`foryou models`)",
    )
    swap_overlap_ms: int = Field(
        600_000,
        ge=0,
        description="time after a model swap during which new posts also get vectors of the previous model",
    )

    parameters: str = Field("foryou", description="preset of weights and limits, one of feed_worker.parameters.PRESETS")
    overrides: dict[str, Any] = Field(
        {}, description="changed parameters of the preset as JSON; `weights` are merged by action"
    )
    experiments: list[dict[str, Any]] = Field(
        [], description="experiments as JSON: name, salt, variants of name, share, preset, overrides, checkpoint"
    )
    feed_size: int = Field(35, ge=1, le=200, description="posts in a feed if the request has no size")
    feed_ttl_s: int = Field(86_400, ge=1, description="lifetime of a feed in Redis")
    deadline_ms: int = Field(30_000, ge=1, description="age of a request above which the answer is `expired`")
    max_batch: int = Field(16, ge=1, le=256, description="largest number of feed requests in a batch")
    max_wait_ms: int = Field(
        10_000, ge=1, le=HOUR_MS, description="longest wait for a worker; then the answer is `failed`"
    )

    http_host: str = Field(
        "127.0.0.1", min_length=1, description="address on which a worker serves metrics, health and readiness"
    )
    http_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="port of metrics, health and readiness, its own for each worker; 0: none",
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="format of the log on stderr: text, or one JSON object a line"
    )

    @field_validator("kafka_options")
    @classmethod
    def _keeps_the_guarantees(cls, options: dict[str, str]) -> dict[str, str]:
        refused = [f"{name} ({_GUARANTEES[name.strip()]})" for name in options if name.strip() in _GUARANTEES]
        if refused:
            raise ValueError(f"these options cannot be changed: {', '.join(refused)}")
        return options

    @field_validator("overrides", "experiments")
    @classmethod
    def _has_finite_numbers(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False, default=str)  # dates of TOML are refused where they are used
        except ValueError:
            raise ValueError("NaN and infinity are no numbers to count with") from None
        return value

    @field_validator("kafka")
    @classmethod
    def _has_no_credentials(cls, value: str) -> str:
        if "@" in value:
            raise ValueError(
                "an address has no user or password: they are sasl.username and sasl.password of kafka_options"
            )
        return value

    @field_validator("redis")
    @classmethod
    def _has_a_port(cls, value: str) -> str:
        try:
            _ = [urlsplit(url).port for url in redis_nodes(value)]
        except ValueError:  # its text has part of the password
            raise ValueError("the port is not a number; percent-encode the special characters of a password") from None
        return value

    @model_validator(mode="after")
    def _has_one_server_or_a_cluster(self) -> "Settings":
        if len(redis_nodes(self.redis)) > 1 and not self.redis_cluster:
            raise ValueError("FORYOU_REDIS names several nodes, which needs FORYOU_REDIS_CLUSTER=true")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, then the environment, then the TOML file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_file())

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Return the fields without passwords."""
        return [(name, _shown(name, getattr(self, name))) for name in type(self).model_fields]

    @property
    def remembered_ms(self) -> int:
        """Time for which the flows keep a post without further events; at least the age limit of candidates."""
        return self.max_post_age_ms + self.late_tolerance_ms

    def environment(self) -> dict[str, str]:
        """Return these settings, with passwords, as `FORYOU_*` variables for the processes of a stack."""
        return {variable(name): _text(getattr(self, name)) for name in type(self).model_fields}


class SettingRow(NamedTuple):
    """A setting as `foryou settings` and the documentation list it; passwords are hidden.

    Attributes:
        name: key in the TOML file.
        variable: environment variable.
        value: as text; JSON if it is not a string.
        origin: `default`, `environment`, `file NAME` or `argument`.
        default: as text.
        limits: valid values and unit, empty if any text is valid.
        meaning: a noun phrase.

    """

    name: str
    variable: str
    value: str
    origin: str
    default: str
    limits: str
    meaning: str


def describe_settings(settings: Settings) -> list[SettingRow]:
    """Describe all settings in their order."""
    file = _file()
    in_file = tomllib.loads(file.read_text()) if file.is_file() else {}
    in_environment = {name.upper() for name in os.environ}
    without_arguments = load()

    def origin(name: str) -> str:
        if getattr(settings, name) != getattr(without_arguments, name):
            return "argument"
        if variable(name) in in_environment:
            return "environment"
        return f"file {file.name}" if name in in_file else "default"

    return [
        SettingRow(
            name,
            variable(name),
            _text(_shown(name, getattr(settings, name))),
            origin(name),
            _text(field.default),
            _limits(name, field),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def load(**overrides: Any) -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsError: one line with all mistakes.

    """
    path = os.environ.get(CONFIG_VARIABLE)
    if path and not Path(path).is_file():
        raise SettingsError(f"{CONFIG_VARIABLE} names {path}, which is not a file; unset it or create the file")
    _refuse_unknown_variables()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_line(detail) for detail in error.errors())) from None
    except ValueError as error:  # a TOML file or a JSON value that cannot be parsed
        raise SettingsError(str(error)) from None


def _file() -> Path:
    return Path(os.environ.get(CONFIG_VARIABLE, "foryou.toml"))


def _refuse_unknown_variables() -> None:
    documented = [*map(variable, Settings.model_fields), CONFIG_VARIABLE]
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in (*documented, *OTHER_VARIABLES):
            raise SettingsError(f"unknown setting {name}: {_nearest(name.upper(), documented)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else "`foryou settings` lists all"


def _line(detail: Any) -> str:
    reason: str = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:  # of two settings that do not fit
        return reason
    name, *inner = (str(part) for part in detail["loc"])
    field = Settings.model_fields.get(name)
    if field is None:
        return _unknown_key(name, detail["input"])
    what = f"{variable(name)} {'.'.join(inner)}".rstrip()
    # `redacted` cannot find the password in every malformed address, nor in options that are no object
    shown = name not in ("redis", "kafka", "kafka_options")
    return f"{what} ({field.description}): {reason}" + (f", not {_shown(name, detail['input'])!r}" if shown else "")


def _unknown_key(name: str, value: Any) -> str:
    key = f"{name}.{next(iter(value))}" if isinstance(value, dict) and value else name
    if "." in key:
        return f'unknown setting {key!r}: options of Kafka belong under [kafka_options], as "{key}" = "VALUE"'
    return f"unknown setting {name!r}: {_nearest(name, Settings.model_fields)}"


def _shown(name: str, value: Any) -> Any:
    if name == "redis":
        return redacted(str(value))
    if name == "kafka_options" and isinstance(value, dict):
        return {key: HIDDEN if _SECRET_OPTION.search(key) else option for key, option in value.items()}
    return value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _limits(name: str, field: FieldInfo) -> str:
    if choices := get_args(field.annotation) if field.annotation not in (dict, list) else ():
        if all(isinstance(choice, str) for choice in choices):
            return " or ".join(choices)
        return "JSON"
    if field.annotation is bool:
        return "true or false"
    if field.annotation is not int:
        return ""
    low = next((each.ge for each in field.metadata if isinstance(each, annotated_types.Ge)), None)
    high = next((each.le for each in field.metadata if isinstance(each, annotated_types.Le)), None)
    bounds = f"{low} to {high}" if high is not None else f"at least {low}"
    unit = next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")
    return f"{bounds} {unit}".rstrip()
