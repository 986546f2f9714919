"""The report of a benchmark: one JSON object with the machine, the configuration and the measures."""

import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

PACKAGES = ("foryou", "bytewax", "confluent-kafka", "jax", "numpy", "redis")


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. `spread` holds its other quantiles or repetitions by name, in the same unit."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    goal: float | None = None
    spread: dict[str, float] | None = None


def print_report(benchmark: str, config: dict[str, Any], measures: list[Measure]) -> None:
    """Print the report on stdout."""
    report = {"benchmark": benchmark, "machine": machine(), "config": config, "measures": measures}
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def machine() -> dict[str, Any]:
    """The machine of the measurement: cores, CPU, accelerator and versions."""
    import jax

    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "accelerator": None if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def quantiles(values: list[float]) -> dict[str, float]:
    """The quantiles p50, p90, p99 and the maximum."""
    return {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)} | {"max": round(max(values), 3)}
