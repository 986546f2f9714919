import json
import re
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from feed_worker.experiments import Experiment, Experiments, Variant, experiments_of
from feed_worker.parameters import CLASSIC, FORYOU, PRESETS, overridden
from feed_worker.serving.service import load_ranker
from infra.ports.settings import SettingsError, load

USERS = range(1, 40_001)


def variant(name: str, share: float, **overrides: Any) -> Variant:
    return Variant(name=name, share=share, overrides=overrides)


def experiment(name: str, *variants: Variant, salt: str | None = None) -> Experiment:
    return Experiment(name=name, variants=list(variants), salt=salt)


FACTOR = experiment("factor", variant("control", 0.5), variant("lower", 0.3, oon_factor=0.5))
VOICES = experiment(
    "voices", variant("few", 0.25, author_diversity_decay=0.9), variant("many", 0.75, author_diversity_decay=0.1)
)


def assigned(name: str, of: Experiments) -> Counter[str]:
    return Counter(of.assign(user).experiments.get(name, "-") for user in USERS)


def test_without_experiments_all_viewers_get_the_same_parameters() -> None:
    assert Experiments(FORYOU).assign(7) == (FORYOU, {})


def test_a_viewer_gets_the_overrides_of_the_variant_and_the_others_do_not() -> None:
    experiments = Experiments(FORYOU, [FACTOR])
    for user in range(1, 100):
        parameters, variants = experiments.assign(user)
        assert parameters.oon_factor == (0.5 if variants == {"factor": "lower"} else 0.75)
        assert variants.get("factor", "control") in ("control", "lower")


def test_shares_are_kept() -> None:
    experiments = Experiments(FORYOU, [FACTOR, VOICES])
    expected = {
        "factor": {"control": 0.5, "lower": 0.3, "-": 0.2},
        "voices": {"few": 0.25, "many": 0.75},
    }
    for name, shares in expected.items():
        counted = assigned(name, experiments)
        assert counted.keys() == shares.keys()
        for each, share in shares.items():
            five_sigmas = 5 * (share * (1 - share) / len(USERS)) ** 0.5
            assert counted[each] / len(USERS) == pytest.approx(share, abs=five_sigmas)


def chi_square(one: Experiment, other: Experiment) -> float:
    """The chi-square statistic of the table of variant pairs against independent experiments."""
    pairs = Counter((one.variant_index(user), other.variant_index(user)) for user in USERS)
    rows, columns = (
        Counter(one.variant_index(user) for user in USERS),
        Counter(other.variant_index(user) for user in USERS),
    )
    expected = {(row, column): rows[row] * columns[column] / len(USERS) for row in rows for column in columns}
    return sum((pairs[cell] - count) ** 2 / count for cell, count in expected.items())


def test_the_variants_of_two_experiments_are_independent() -> None:
    assert chi_square(FACTOR, VOICES) < 16.3  # 2 degrees of freedom; exceeded once in 3,500 draws


def test_experiments_with_a_common_salt_assign_the_same_variants() -> None:
    same = experiment("another name", *FACTOR.variants, salt="factor")
    assert all(same.variant_index(user) == FACTOR.variant_index(user) for user in range(1, 1_000))
    assert chi_square(FACTOR, same) > 10_000


def test_an_assignment_never_changes() -> None:
    assert "".join(str(FACTOR.variant_index(user)) for user in range(1, 21)) == "10100002120100001121"
    assert xxhash.xxh64_intdigest(b"factor:42") == 17_755_518_286_421_423_172
    assert FACTOR.variant_index(2**63 - 1) == 0


def test_a_viewer_stays_in_a_variant_that_grows() -> None:
    grown = experiment("factor", variant("control", 0.5), variant("lower", 0.5))
    for user in range(1, 2_000):
        if FACTOR.variant_index(user) < 2:
            assert grown.variant_index(user) == FACTOR.variant_index(user)


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=5), st.integers(1, 2**63 - 1), st.text(max_size=5))
def test_the_hash_selects_the_variant_by_the_shares(shares: list[float], user: int, salt: str) -> None:
    drawn = experiment("e", *(variant(str(i), share) for i, share in enumerate(shares)), salt=salt)
    at = xxhash.xxh64_intdigest(f"{salt}:{user}".encode()) / 2**64
    assert drawn.variant_index(user) == sum(bound <= at for bound in accumulate(shares))


def test_the_parameters_of_a_combination_of_variants_are_cached() -> None:
    experiments = Experiments(FORYOU, [FACTOR, VOICES])
    seen = {id(experiments.assign(user)) for user in range(1, 2_000)}
    assert len(seen) == 6
    assert {id(experiments.assign(user)) for user in range(1, 2_000)} == seen


def test_overrides_of_several_experiments_add_up() -> None:
    experiments = Experiments(FORYOU, [FACTOR, VOICES, experiment("w", variant("on", 1, weights={"reply": 3.0}))])
    user = next(
        u for u in USERS if experiments.assign(u).experiments.items() >= {"factor": "lower", "voices": "few"}.items()
    )
    parameters = experiments.assign(user).parameters
    assert (parameters.oon_factor, parameters.author_diversity_decay) == (0.5, 0.9)
    assert parameters.weights == {**FORYOU.weights, "reply": 3.0}
    assert parameters.name == "foryou oon_factor=0.5 author_diversity_decay=0.9 weights.reply=3.0"


def test_a_variant_may_take_another_preset_and_keeps_the_overrides_of_the_settings() -> None:
    settings = load(
        overrides={"max_candidates": 10},
        experiments=[{"name": "old", "variants": [{"name": "a", "share": 1, "preset": "classic"}]}],
    )
    parameters = experiments_of(settings).assign(1).parameters
    assert parameters == overridden(CLASSIC, {"max_candidates": 10})


def test_a_variant_may_name_a_ranker_and_another_experiment_change_the_rest() -> None:
    ranked = Variant(name="new", share=1.0, checkpoint="/models/new")
    preset = Variant(name="a", share=1.0, preset="classic")
    for order in ([ranked, preset], [preset, ranked]):
        experiments = Experiments(FORYOU, [experiment(each.name, each) for each in order])
        assert experiments.checkpoints == ["/models/new"]
        parameters = experiments.assign(1).parameters
        assert (parameters.checkpoint, parameters.weights) == ("/models/new", CLASSIC.weights)


def test_retrieval_is_prepared_for_every_variant() -> None:
    experiments = Experiments(FORYOU, [experiment("r", variant("a", 0.1, retrieval_max=7), variant("b", 0.1))])
    assert experiments.retrieval_maxima == [7, 500]


def test_settings_in_a_file_read_like_those_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "foryou.toml").write_text(
        "[overrides]\noon_factor = 0.5\nweights = { reply = 2 }\n"
        '[[experiments]]\nname = "e"\n[[experiments.variants]]\nname = "a"\nshare = 1.0\noverrides = { top_k = 60 }\n'
    )
    from_file = experiments_of(load()).assign(1)
    (tmp_path / "foryou.toml").unlink()
    monkeypatch.setenv("FORYOU_OVERRIDES", json.dumps({"oon_factor": 0.5, "weights": {"reply": 2}}))
    variants = [{"name": "a", "share": 1.0, "overrides": {"top_k": 60}}]
    monkeypatch.setenv("FORYOU_EXPERIMENTS", json.dumps([{"name": "e", "variants": variants}]))
    assert experiments_of(load()).assign(1) == from_file
    assert (from_file.parameters.top_k, from_file.parameters.weights["reply"]) == (60, 2.0)


def test_experiments_reach_the_processes_of_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    variants = [{"name": "a", "share": 1.0, "overrides": {"weights": {"reply": 2.5}}}]
    settings = load(overrides={"oon_factor": 0.5}, experiments=[{"name": "é", "variants": variants}])
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert experiments_of(load()).assign(1) == experiments_of(settings).assign(1)


def test_an_invalid_checkpoint_of_a_variant_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^FORYOU_EXPERIMENTS: {tmp_path} contains no checkpoint; `foryou train"):
        load_ranker(str(tmp_path))


def one(**changed: Any) -> list[dict[str, Any]]:
    return [{"name": "e", "variants": [{"name": "a", "share": 0.5} | changed]}]


def two(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "variants": [{"name": "a", "share": 0.5} | each]}
        for name, each in (("one", first), ("two", second))
    ]


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        (one(share=1.5), r"Expected `float` <= 1.0 - at `$[0].variants[0].share`"),
        (one(shar=1), "unknown field `shar`"),
        (one(name=""), "length >= 1"),
        ([{"name": "e", "variants": []}], "length >= 1"),
        ([{"name": "e"}], "missing required field `variants`"),
        (one(preset="clasic"), f"variant 'a' of 'e': no preset 'clasic'; there are {', '.join(PRESETS)}"),
        (one(overrides={"oon": 1}), "variant 'a' of 'e': no parameter 'oon'; there are weights, "),
        (one(overrides={"author_diversity_decay": 2}), "Expected `float` <= 1.0 - at `author_diversity_decay`"),
        (one(overrides={"weights": 3}), "Expected `object`, got `int` - at `weights`"),
        (one() + one(), "more than one experiment is called 'e'"),
        ([{"name": "e", "variants": 2 * [{"name": "a", "share": 0.1}]}], "more than one variant of 'e' is called 'a'"),
        (
            [{"name": "e", "variants": [{"name": "a", "share": 0.6}, {"name": "b", "share": 0.5}]}],
            "the shares of 'e' add up to 1.1, more than 1",
        ),
        (
            two({"overrides": {"top_k": 9}}, {"overrides": {"top_k": 8}}),
            "'one' and 'two' both change top_k; make them variants of one experiment",
        ),
        (
            two({"overrides": {"weights": {"reply": 1.0}}}, {"overrides": {"weights": {"reply": 2.0, "click": 1.0}}}),
            "both change weights.reply;",
        ),
        (two({"preset": "classic"}, {"overrides": {"top_k": 8}}), "both change top_k;"),
        (two({"preset": "classic"}, {"preset": "foryou"}), "both change preset;"),
        (two({"checkpoint": "/a"}, {"checkpoint": "/b"}), "both change checkpoint;"),
    ],
)
def test_contradictory_experiments_are_refused_with_one_line(experiments: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SettingsError, match=rf"^FORYOU_EXPERIMENTS: .*{re.escape(message)}") as error:
        experiments_of(load(experiments=experiments))
    assert len(str(error.value).splitlines()) == 1


def test_experiments_on_different_weights_may_run_together() -> None:
    experiments_of(
        load(experiments=two({"overrides": {"weights": {"reply": 1.0}}}, {"overrides": {"weights": {"click": 1.0}}}))
    )


def test_an_unknown_preset_and_an_unusable_override_name_their_setting() -> None:
    with pytest.raises(SettingsError, match=r"^FORYOU_PARAMETERS: no preset 'x'; there are foryou, classic, x-2026"):
        experiments_of(load(parameters="x"))
    with pytest.raises(SettingsError, match=r"^FORYOU_OVERRIDES: Expected `int`, got `str` - at `top_k`$"):
        experiments_of(load(overrides={"top_k": "many"}))
