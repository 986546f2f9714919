"""Experiments: which parameters, weights and ranker a viewer's feeds are made with.

A viewer's place in an experiment is the 64-bit xxHash of `SALT:USER` with seed 0, where SALT is the experiment's salt,
its name unless it says otherwise, and USER the id inside: the integer, or the 63-bit hash of a string. Variants take
up the 64-bit range in the order in which they are listed, each as much as its share; what is left over is not in the
experiment. So a viewer stays in a variant for as long as its share does not shrink, and where a viewer stands in one
experiment says nothing of where in another, unless the two have a salt in common.

Two experiments may not change the same parameter: what either of them shows would then depend on the other. Ways of
setting one thing are variants of one experiment.
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

from feed_worker.parameters import Parameters, ParametersError, Share, keys_of, overridden, preset_named
from infra.ports.settings import Settings, SettingsError

_RANGE: Final = 2**64
_ROUNDING: Final = 1e-9
_PRESET, _CHECKPOINT = "preset", "checkpoint"

_Name = Annotated[str, Meta(min_length=1, max_length=100)]


class Variant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way of doing things, and the share of viewers whose feeds are made in it; without changes, a control.

    Attributes:
        preset: instead of the one in the settings, whose overrides count all the same.
        overrides: as in the setting of that name, on top of it.
        checkpoint: a directory of checkpoints, the newest of which ranks instead of the model that is served. That one
            still retrieves: the index has its vectors alone.

    """

    name: _Name
    share: Share
    preset: str | None = None
    overrides: dict[str, Any] = {}
    checkpoint: str = ""

    @property
    def changes(self) -> set[str]:
        """What is changed, by name."""
        own = keys_of(self.overrides)
        own |= {_CHECKPOINT} if self.checkpoint else set()
        return own | ({_PRESET} if self.preset else set())


class Experiment(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Variants whose effect is to be told apart."""

    name: _Name
    variants: Annotated[list[Variant], Meta(min_length=1)]
    salt: str | None = None

    @property
    def changes(self) -> set[str]:
        """What any of the variants changes."""
        return set().union(*(variant.changes for variant in self.variants))

    def variant_index(self, user_id: int) -> int:
        """Where a viewer stands among the variants: the number of one, or how many there are where in none."""
        salt = self.name if self.salt is None else self.salt
        bounds = [round(share * _RANGE) for share in accumulate(variant.share for variant in self.variants)]
        return bisect_right(bounds, xxhash.xxh64_intdigest(f"{salt}:{user_id}".encode()))


class Assignment(NamedTuple):
    """What one viewer's feeds are made with, and the variant of each experiment that the viewer is in."""

    parameters: Parameters
    experiments: dict[str, str]


class Experiments:
    """Assigns viewers. Each combination of variants is put together once, when the first viewer of it comes.

    Args:
        base: for viewers who are in no experiment.
        experiments: any number.
        overrides: those in `base`, for variants that take another preset.

    Raises:
        ValueError: experiments that contradict each other or themselves; one line.

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
        """The checkpoints whose rankers variants ask for."""
        return list(dict.fromkeys(variant.checkpoint for variant in self._variants() if variant.checkpoint))

    @property
    def parameters(self) -> list[Parameters]:
        """What feeds are made with: those of viewers who are in no experiment, then with each variant alone."""
        return [self._base, *(self._with(self._base, variant) for variant in self._variants())]

    @property
    def retrieval_maxima(self) -> list[int]:
        """How many candidates retrieval may be asked for, in any variant."""
        return sorted({parameters.retrieval_max for parameters in self.parameters})

    def assign(self, user_id: int) -> Assignment:
        """What a viewer's feeds are made with; the same for as long as the experiments are."""
        places = tuple(experiment.variant_index(user_id) for experiment in self._experiments)
        known = self._assignments.get(places)
        if known is None:
            known = self._assignments[places] = self._assembled(places)
        return known

    def _assembled(self, places: Sequence[int]) -> Assignment:
        parameters, experiments = self._base, dict[str, str]()
        for experiment, place in zip(self._experiments, places, strict=True):
            if place < len(experiment.variants):
                variant = experiment.variants[place]
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
    """The preset, the overrides and the experiments of the settings.

    Raises:
        SettingsError: one line that names the setting, what is wrong and what would be right.

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
    """What both change; a preset changes every parameter, but no ranker."""
    both = one & other
    if _PRESET in one:
        both |= other - {_CHECKPOINT}
    if _PRESET in other:
        both |= one - {_CHECKPOINT}
    return both
