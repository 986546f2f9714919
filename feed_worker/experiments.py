"""Experiments: assign parameters, weights and rankers to viewers.

A viewer's position in an experiment is the 64-bit xxHash of `SALT:USER` with seed 0. SALT is the experiment's salt, by
default its name. USER is the internal id: the integer, or the 63-bit hash of a string. The variants divide the 64-bit
range in their order, each by its share; viewers in the rest are not in the experiment. So a viewer stays in a variant
unless shares shrink, and the variants of two experiments are independent unless they have the same salt.

Two experiments may not change the same parameter, because the effect of each would depend on the other. Alternative
values of one parameter are variants of one experiment.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, combinations
from math import fsum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
import xxhash
from msgspec import Meta, Struct

from feed_worker.parameters import Parameters, ParametersError, Share, changed_names, overridden, preset_named
from infra.ports.settings import Settings, SettingsError

_RANGE: Final = 2**64
_ROUNDING: Final = 1e-9
_PRESET, _CHECKPOINT = "preset", "checkpoint"

_Name = Annotated[str, Meta(min_length=1, max_length=100)]


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One arm of an experiment; without changes it is the control.

    Attributes:
        name: unique in the experiment.
        share: of all viewers, 0 to 1.
        preset: replaces the preset of the settings; the overrides of the settings still apply.
        overrides: applied after those of the settings.
        checkpoint: a directory of checkpoints; the newest ranks. The model that serves still retrieves, since the index
            has only its vectors.

    """

    name: _Name
    share: Share
    preset: str | None = None
    overrides: dict[str, Any] = {}
    checkpoint: str = ""

    @property
    def changes(self) -> set[str]:
        """The names of the changes."""
        own = changed_names(self.overrides)
        own |= {_CHECKPOINT} if self.checkpoint else set()
        return own | ({_PRESET} if self.preset else set())


class Experiment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Variants to compare; the shares add up to at most 1."""

    name: _Name
    variants: Annotated[list[Variant], Meta(min_length=1)]
    salt: str | None = None

    @property
    def changes(self) -> set[str]:
        """The names of the changes of all variants."""
        return set().union(*(variant.changes for variant in self.variants))

    def variant_index(self, user_id: int) -> int:
        """The index of the viewer's variant; the number of variants for a viewer in none."""
        salt = self.name if self.salt is None else self.salt
        bounds = [round(share * _RANGE) for share in accumulate(variant.share for variant in self.variants)]
        return bisect_right(bounds, xxhash.xxh64_intdigest(f"{salt}:{user_id}".encode()))


class Assignment(NamedTuple):
    """The parameters of one viewer's feeds, and the viewer's variant in each experiment."""

    parameters: Parameters
    experiments: dict[str, str]


class Experiments:
    """Assigns parameters to viewers; caches the parameters of each combination of variants. For the intake thread.

    Args:
        base: the parameters of viewers who are in no experiment.
        experiments: any number.
        overrides: the overrides that `base` contains, for variants with another preset.

    Raises:
        ValueError: one line, for experiments that contradict each other or themselves.

    """

    def __init__(
        self, base: Parameters, experiments: Sequence[Experiment] = (), overrides: dict[str, Any] | None = None
    ) -> None:
        self._base, self._experiments, self._overrides = base, experiments, overrides or {}
        self._assignments: dict[tuple[int, ...], Assignment] = {}
        for experiment in experiments:
            for variant in experiment.variants:
                try:
                    self._with(base, variant)
                except ParametersError as error:
                    raise ValueError(f"variant {variant.name!r} of {experiment.name!r}: {error}") from None
        _check(experiments)

    @property
    def checkpoints(self) -> list[str]:
        """The checkpoints of all variants."""
        return list(dict.fromkeys(variant.checkpoint for variant in self._variants() if variant.checkpoint))

    @property
    def parameters(self) -> list[Parameters]:
        """The parameters of viewers who are in no experiment, then those of each variant alone."""
        return [self._base, *(self._with(self._base, variant) for variant in self._variants())]

    @property
    def retrieval_maxima(self) -> list[int]:
        """The sorted values of `retrieval_max` in all variants."""
        return sorted({parameters.retrieval_max for parameters in self.parameters})

    def assign(self, user_id: int) -> Assignment:
        """The parameters and variants of a viewer; deterministic."""
        indexes = tuple(experiment.variant_index(user_id) for experiment in self._experiments)
        known = self._assignments.get(indexes)
        if known is None:
            known = self._assignments[indexes] = self._assembled(indexes)
        return known

    def _assembled(self, indexes: Sequence[int]) -> Assignment:
        parameters, experiments = self._base, dict[str, str]()
        for experiment, index in zip(self._experiments, indexes, strict=True):
            if index < len(experiment.variants):
                variant = experiment.variants[index]
                parameters = self._with(parameters, variant)
                experiments[experiment.name] = variant.name
        return Assignment(parameters, experiments)

    def _with(self, parameters: Parameters, variant: Variant) -> Parameters:
        if variant.preset:
            checkpoint = parameters.checkpoint
            parameters = replace(overridden(preset_named(variant.preset), self._overrides), checkpoint=checkpoint)
        parameters = overridden(parameters, variant.overrides)
        return replace(parameters, checkpoint=variant.checkpoint) if variant.checkpoint else parameters

    def _variants(self) -> Iterator[Variant]:
        return (variant for experiment in self._experiments for variant in experiment.variants)


def experiments_of(settings: Settings) -> Experiments:
    """The experiments of the settings, with the settings' preset and overrides as the base.

    Raises:
        SettingsError: one line with the setting, the mistake and the valid values.

    """
    try:
        base = preset_named(settings.parameters)
    except ParametersError as error:
        raise SettingsError(f"FORYOU_PARAMETERS: {error}") from None
    try:
        base = overridden(base, settings.overrides)
    except ParametersError as error:
        raise SettingsError(f"FORYOU_OVERRIDES: {error}") from None
    try:
        experiments = msgspec.convert(settings.experiments, list[Experiment])
        return Experiments(base, experiments, settings.overrides)
    except ValueError as error:
        raise SettingsError(f"FORYOU_EXPERIMENTS: {error}") from None


def _check(experiments: Sequence[Experiment]) -> None:
    _check_unique("experiment", [experiment.name for experiment in experiments])
    for experiment in experiments:
        _check_unique(f"variant of {experiment.name!r}", [variant.name for variant in experiment.variants])
        total = fsum(variant.share for variant in experiment.variants)
        if total > 1 + _ROUNDING:
            raise ValueError(f"the shares of {experiment.name!r} add up to {total:g}, more than 1")
    for one, other in combinations(experiments, 2):
        if both := _contested(one.changes, other.changes):
            names = ", ".join(sorted(both))
            raise ValueError(
                f"{one.name!r} and {other.name!r} both change {names}; make them variants of one experiment"
            )


def _check_unique(what: str, names: Sequence[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"more than one {what} is called {min(twice)!r}")


def _contested(one: set[str], other: set[str]) -> set[str]:
    """The changes that both contain; a preset contains every parameter, but not the checkpoint."""
    both = one & other
    if _PRESET in one:
        both |= other - {_CHECKPOINT}
    if _PRESET in other:
        both |= one - {_CHECKPOINT}
    return both
