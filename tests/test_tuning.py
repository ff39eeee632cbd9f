"""The tuner: deterministic, resumable, honest about what is best."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from networks import Net
from passes.options import listed
from passes.rewiring import choice
from snncompiler import tuning
from snncompiler.artifact import load
from snncompiler.bayesian import INITIAL, minimise, percentile, suggest
from snncompiler.cli import app
from snncompiler.data import Samples
from snncompiler.diagnostics import InputError
from snncompiler.driver import compile_model, import_network
from snncompiler.evaluation import evaluate
from snncompiler.metrics import divergence
from snncompiler.record import record_of
from snncompiler.trials import Goal, Score, Trial, front, proposals, winner
from snncompiler.tuning import Tuned, loss_of, tune
from test_tiny import TINY

DIGITS = Path(__file__).parents[1] / "models"
MODEL = onnx.parser.parse_model(TINY)
x = np.random.default_rng(0).standard_normal((80, 1, 4, 4)).astype(np.float32)
DATA = Samples(x, (x.mean((1, 2, 3)) < 0).astype(np.int64))
GOAL = Goal(max_timesteps=4, max_loss=0.1, neurons="ternary")


def scored(**changes: float) -> Score:
    values = {"loss": 0.1, "agreement": 0.9, "output_error": 0.1, "divergence": 0.1}
    return Score(**{**values, "steps": 4, "operations": 100.0, **changes})  # type: ignore[arg-type]


def test_the_same_search_gives_the_same_trials_and_scores(tmp_path: Path) -> None:
    runs = [tune(MODEL, DATA, GOAL, budget=4, journal=tmp_path / f"{i}.jsonl") for i in range(2)]
    assert runs[0].trials == runs[1].trials
    assert len(runs[0].trials) == 4
    assert (tmp_path / "0.jsonl").read_bytes() == (tmp_path / "1.jsonl").read_bytes()
    assert len({trial.key for trial, _ in runs[0].trials}) == 4
    assert {t.recipe for t, _ in runs[0].trials} == {"ternary"}
    json.dumps(runs[0].as_json())


def test_an_interrupted_search_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, calls, real = tmp_path / "j.jsonl", [], tuning.compile_model

    def counting(*arguments: object, **settings: object) -> object:
        calls.append(settings["timesteps"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "compile_model", counting)
    first = tune(MODEL, DATA, GOAL, budget=4, journal=journal)
    assert first.interrupted
    assert len(first.trials) == 2
    assert first.winner is not None
    with journal.open("a") as file:
        file.write('{"search": "cut sho')  # as a machine that loses its power leaves it
    second = tune(MODEL, DATA, GOAL, budget=4, journal=journal)
    assert not second.interrupted
    assert second.trials[:2] == first.trials
    third = tune(MODEL, DATA, GOAL, budget=4, journal=journal)
    assert third.trials == second.trials
    assert len(calls) == 5  # two, the interrupted one, and the two that were missing


def test_the_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    tune(MODEL, DATA, GOAL, budget=1, journal=journal)
    with pytest.raises(InputError, match="not the journal of this search"):
        tune(MODEL, DATA, Goal(max_timesteps=8), budget=1, journal=journal)
    journal.write_text("no journal\n")
    with pytest.raises(InputError, match="not the journal of this search"):
        tune(MODEL, DATA, GOAL, budget=1, journal=journal)


def test_scores_that_are_no_numbers_are_tried_again(tmp_path: Path) -> None:
    journal = tmp_path / "j.jsonl"
    first = tune(MODEL, DATA, GOAL, budget=2, journal=journal)
    one, two = journal.read_text().splitlines()
    damaged = json.loads(two)
    damaged["score"]["loss"] = "much"
    journal.write_text(f"{one}\n{json.dumps(damaged)}\n")
    assert tune(MODEL, DATA, GOAL, budget=2, journal=journal).trials == first.trials


def test_without_labels_agreement_is_the_score() -> None:
    found = tune(MODEL, Samples(x, None), GOAL, budget=1)
    ((_, score),) = found.trials
    assert score.loss == 1 - score.agreement


def test_outputs_that_are_no_class_scores_count_by_their_error() -> None:
    net = Net(0)
    hidden = net.relu(net.gemm(net.input(6), 8))
    model = net.model(net.gemm(hidden, 1), net.gemm(hidden, 3))
    given = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    ((trial, score),) = tune(model, Samples(given, None), GOAL, budget=1).trials
    assert score.loss == score.output_error > 0
    held = given[choice(given, 40)[20:]]
    network = compile_model(
        model, given[choice(given, 40)[:20]], recipe=trial.recipe, timesteps=trial.timesteps
    )
    squared = spread = 0.0
    for o, a in zip(
        network.run(held).readout.values(), import_network(model).outputs(held), strict=True
    ):
        squared += float(np.square(o[-1] - a).sum())
        spread += float(a.var() * a.size)
    assert score.output_error == pytest.approx(squared / spread, rel=1e-4)


def test_maps_agree_place_by_place() -> None:
    net = Net(0)
    model = net.model(net.conv(net.conv_relu(net.input(2, 6, 6), 6), 3))
    given = np.random.default_rng(0).standard_normal((40, 2, 6, 6)).astype(np.float32)
    ((_, score),) = tune(model, Samples(given, None), GOAL, budget=1).trials
    places = score.agreement * 20 * 36
    assert places == pytest.approx(round(places))
    assert 0.5 < score.agreement < 1


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"goal": Goal(neurons="quantum")}, "no neurons 'quantum'"),
        ({"samples": Samples(x[:4], None)}, "4 samples"),
        ({"budget": 0}, "a budget of 0"),
        ({"scoring": 0}, "0 samples to score on"),
        ({"scoring": -1}, "-1 samples to score on"),
        ({"seed": -1}, "the seed -1"),
        ({"backend": "abacus"}, "no backend 'abacus'"),
        ({"goal": Goal(max_timesteps=0)}, "at most 0 time steps"),
        ({"goal": Goal(max_timesteps=2**21)}, "at most 2097152 time steps"),
    ],
)
def test_bad_wishes_are_refused(settings: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        tune(**{"source": MODEL, "samples": DATA, "goal": GOAL, "budget": 1, **settings})


def test_failed_trials_are_told_in_json_that_any_reader_understands() -> None:
    told = Tuned([(Trial("a", 1), Score(failed="no"))], [], None).as_json()
    assert json.loads(json.dumps(told, allow_nan=False))["trials"][0]["output_error"] is None


def test_losses_are_shares() -> None:
    for text in ("much", "nan", "-1%", "200%"):
        with pytest.raises(InputError):
            loss_of(text)
    assert loss_of("0.5%") == 0.005


def test_the_front_holds_what_nothing_beats_and_the_winner_is_on_it() -> None:
    trials = [
        (Trial("a", 1), scored(steps=1, loss=0.3)),
        (Trial("b", 2), scored(steps=2, loss=0.05, operations=50.0)),
        (Trial("c", 2), scored(steps=2, loss=0.05, operations=70.0)),  # beaten by b
        (Trial("d", 4), scored(steps=4, loss=0.04)),
        (Trial("e", 8), scored(steps=8, loss=0.04)),  # beaten by d
        (Trial("f", 1), Score(failed="no")),
    ]
    assert [t.recipe for t, _ in front(trials)] == ["a", "b", "d"]
    best = winner(trials, Goal(max_timesteps=8, max_loss=0.1))
    assert best is not None
    assert best[0].recipe == "b"
    best = winner(trials, Goal(max_timesteps=8, max_loss=0.001))
    assert best is not None
    assert best[1].loss == 0.04
    assert winner(trials[5:], GOAL) is None


def test_proposals_never_repeat_and_turn_to_the_best() -> None:
    found: list[tuple[Trial, Score]] = []
    for trial in proposals(Goal(max_timesteps=8, max_loss=0.1), np.random.default_rng(0), found):
        loss = 0.0 if trial.recipe == "ternary" else 0.2
        found.append((trial, scored(steps=trial.timesteps, loss=loss)))
        if len(found) == 60:
            break
    assert len({t.key for t, _ in found}) == 60
    assert found[-1][0].recipe == "ternary"
    assert found[-1][0].options


def test_divergence_is_that_of_the_softmaxes() -> None:
    r = np.random.default_rng(1)
    a, b = r.standard_normal((2, 6, 5)) * 3
    p, q = (np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (a, b))
    assert divergence(a, b) == pytest.approx(float((p * np.log(p / q)).sum(1).mean()))
    assert divergence(a, a + 7) == pytest.approx(0, abs=1e-12)


# ---- the command line -----------------------------------------------------------------------


def test_tune_compiles_the_winner_and_keeps_its_journal(tmp_path: Path) -> None:
    onnx.save(MODEL, tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", x=DATA.x, y=DATA.y)
    arguments = [
        "tune",
        "m.onnx",
        "--calibration",
        "c.npz",
        "--budget",
        "2",
        "--neurons",
        "ternary",
    ]
    arguments = [str(tmp_path / a) if "." in a else a for a in arguments]
    twin = tmp_path / "t.json"
    result = CliRunner().invoke(app, [*arguments, "--max-timesteps", "4", "--json", str(twin)])
    assert result.exit_code == 0, result.output
    assert "2 trials" in result.output
    told = json.loads(twin.read_text())
    record = record_of(load(told["output"]))
    assert record["recipe"] == told["winner"]["recipe"] == "ternary"
    assert record["timesteps"] == told["winner"]["timesteps"]
    assert len((tmp_path / "m.snn.tune.jsonl").read_text().splitlines()) == 2
    wrong = CliRunner().invoke(app, [*arguments, "--max-loss", "lots"])
    assert wrong.exit_code == 2
    assert "--max-loss 0.5%" in wrong.output


def test_recipes_show_prints_every_option() -> None:
    result = CliRunner().invoke(app, ["recipes", "--show", "separated"])
    assert result.exit_code == 0
    for option in listed("separated"):
        assert option in result.output
    twin = CliRunner().invoke(app, ["recipes", "--show", "ltb", "--json", "-"])
    assert json.loads(twin.stdout)["options"]["thresholds.method"] == "balance"
    assert CliRunner().invoke(app, ["recipes", "--show", "none"]).exit_code == 2


# ---- Bayesian optimisation ------------------------------------------------------------------


def valley(u: float) -> float:
    """Steep on one side, as too low a percentile is."""
    return float(np.exp((u - 2.6) ** 2 if u < 2.6 else 0.3 * (u - 2.6)) - 0.9)


def test_the_first_points_are_equidistant_and_need_no_package() -> None:
    assert [suggest([(0.0, 1.0)] * n) for n in range(INITIAL)] == [1, 2, 3, 4, 5]
    assert percentile(2) == 99
    assert percentile(5) == 99.999


@pytest.mark.parametrize("seed", range(3))
def test_bayesian_search_beats_a_grid_of_the_same_cost(seed: int) -> None:
    pytest.importorskip("bayes_opt", reason="needs the extra 'tune'")
    found = minimise(valley, iterations=7, seed=seed)
    assert found == minimise(valley, iterations=7, seed=seed)
    best = min(y for _, y in found)
    assert best <= min(y for _, y in found[:INITIAL])
    assert best < min(valley(u) for u in np.linspace(1, 5, 12))


def test_it_finds_better_percentiles_for_a_narrow_network_than_a_grid() -> None:
    pytest.importorskip("bayes_opt", reason="needs the extra 'tune'")
    model, images = onnx.load(DIGITS / "digits.onnx"), np.load(DIGITS / "digits_train.npz")["x"]
    test = Samples(images[500:564], None)
    (truth,) = import_network(model).outputs(test.x)

    @cache
    def f(u: float) -> float:
        options = {"thresholds.percentile": percentile(u)}
        settings = {"recipe": "p-norm", "timesteps": 8, "options": options}
        return divergence(
            evaluate(compile_model(model, images[:64], **settings).model, test).trace.output, truth
        )

    coarse, fine = (min(f(float(u)) for u in np.linspace(1, 5, n)) for n in (INITIAL, 12))
    for seed in range(3):
        best = min(y for _, y in minimise(f, iterations=12 - INITIAL, seed=seed))
        assert best < 0.9 * min(coarse, fine)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bayes_opt", None)
    with pytest.raises(InputError, match="bayesian-optimization"):
        minimise(valley, iterations=1)
