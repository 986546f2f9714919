"""Settings: one typed class, filled from `FORYOU_*` variables, then from a TOML file, then from the defaults here.

The file is `foryou.toml` in the working directory, or the one named by `FORYOU_CONFIG`. This module imports nothing
else of the house, so that flows and workers can read it where their processes begin.
"""

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.ports.errors import UsageError

HOUR_MS = 3_600_000
# where `foryou up` listens: nobody's default ports, so that nothing is published to some other broker by accident
UP_KAFKA_PORT = 19_092
UP_REDIS_PORT = 16_379


class SettingsError(UsageError, ValueError):
    """A setting cannot be used; the text is one line that says which, why and what would be right."""


class Settings(BaseSettings):
    """Everything that differs between one deployment and another."""

    model_config = SettingsConfigDict(env_prefix="FORYOU_", extra="forbid", frozen=True)

    kafka: str = Field(f"127.0.0.1:{UP_KAFKA_PORT}", description="bootstrap servers, host:port[,host:port…]")
    kafka_options: dict[str, str] = Field(
        {}, description="further librdkafka options as JSON, such as security.protocol, sasl.username, ssl.ca.location"
    )
    redis: str = Field(
        f"redis://127.0.0.1:{UP_REDIS_PORT}/0",
        pattern=r"^(redis|rediss|unix)://",
        description="redis://[user:password@]host:port/db; rediss:// for TLS",
    )
    redis_cluster: bool = Field(False, description="the address is that of a Redis Cluster node")
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics that are created")
    replication_factor: int = Field(1, ge=1, le=7, description="replicas of topics that are created")
    session_timeout_ms: int = Field(10_000, ge=1_000, le=300_000, description="of the workers' consumer group")
    group_prefix: str = Field(
        "foryou", min_length=1, description="consumer groups are called PREFIX.flows.posts and so on"
    )

    clock: Literal["wall", "log"] = Field(
        "wall", description="wall: service; log: a replay, time is the newest event's"
    )
    max_post_age_ms: int = Field(48 * HOUR_MS, ge=1, description="older posts are no candidates")
    late_tolerance_ms: int = Field(
        HOUR_MS, ge=0, description="events that come so late still meet what is known of their post"
    )
    future_tolerance_ms: int = Field(300_000, ge=0, description="events further ahead of the wall clock are refused")

    model: str = Field("nano", description="the model configuration, one of phoenix.models.configs.CONFIGS")
    model_seed: int = Field(20_260_721, ge=0, description="seeds the parameters where there is no checkpoint")
    checkpoint: str = Field(
        "",
        description="directory of checkpoints as `foryou train` writes it; its newest is served, whatever `model` is, "
        "unless another one was announced (`foryou models`)",
    )
    swap_overlap_ms: int = Field(
        600_000,
        ge=0,
        description="once all posts have vectors of another model, new ones get those of the one before for so long",
    )

    parameters: str = Field(
        "foryou", description="the preset of weights and limits, one of feed_worker.parameters.PRESETS"
    )
    overrides: dict[str, Any] = Field(
        {}, description="other values of the preset's parameters as JSON; `weights` by action, merged"
    )
    experiments: list[dict[str, Any]] = Field(
        [], description="experiments as JSON: name, salt, variants of name, share, preset, overrides, checkpoint"
    )
    feed_size: int = Field(35, ge=1, le=200, description="posts in a feed whose request names no size")
    feed_ttl_s: int = Field(86_400, ge=1, description="how long a feed stays in Redis")
    deadline_ms: int = Field(30_000, ge=1, description="a request older than this is answered `expired`")
    max_batch: int = Field(16, ge=1, le=256, description="feed requests computed together at most")
    max_wait_ms: int = Field(
        10_000, ge=1, le=3_600_000, description="a request that waited longer for a worker is answered `failed`"
    )

    http_host: str = Field("127.0.0.1", min_length=1, description="where a worker serves metrics, health and readiness")
    http_port: int = Field(
        0, ge=0, le=65_535, description="the port for that, 0 for none; each worker of one machine needs its own"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="what processes log on stderr: lines to read, or an object a line"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        path = Path(os.environ.get("FORYOU_CONFIG", "foryou.toml"))
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=path)

    @property
    def remembered_ms(self) -> int:
        """How long the flows remember a post of which they hear no more: longer than it can be a candidate."""
        return self.max_post_age_ms + self.late_tolerance_ms

    def environment(self) -> dict[str, str]:
        """These settings as `FORYOU_*` variables, for the processes of a stack."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            f"FORYOU_{name.upper()}": value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }


def load(**overrides: Any) -> Settings:
    """The settings of this process.

    Raises:
        SettingsError: one line for each mistake.

    """
    path = os.environ.get("FORYOU_CONFIG")
    if path and not Path(path).is_file():
        raise SettingsError(f"FORYOU_CONFIG names {path}, which is not a file; unset it or create the file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_line(detail) for detail in error.errors())) from None
    except ValueError as error:  # a TOML file or a JSON value that cannot be parsed
        raise SettingsError(str(error)) from None


def _line(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    field = Settings.model_fields.get(name)
    if field is None:
        return f"unknown setting {name!r}; known are {', '.join(Settings.model_fields)}"
    return f"FORYOU_{name.upper()} ({field.description}): {detail['msg']}, not {detail['input']!r}"
