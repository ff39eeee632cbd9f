"""Trials of the tuner: what to try next, what is good, and the journal of what was tried."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from passes.recipes import RECIPES
from snncompiler import bayesian
from snncompiler.diagnostics import refuse
from snncompiler.metrics import power_steps

Options = dict[str, object]


@dataclass(frozen=True)
class Trial:
    """One compilation to try; timesteps: the T compiled for."""

    recipe: str
    timesteps: int
    options: Options = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same text for the same trial."""
        return json.dumps([self.recipe, self.timesteps, self.options], sort_keys=True)


@dataclass(frozen=True)
class Score:
    """What a trial reached on the held-out half.

    loss: (ANN - SNN) / ANN accuracy, without labels 1 - agreement. agreement, output_error: with
    and to the trained network. divergence: mean KL of the softmaxes. steps: time steps until the
    answer. operations: synaptic operations per sample. failed: why it could not be compiled.
    """

    loss: float = 1.0
    agreement: float = 0.0
    output_error: float = float("inf")
    divergence: float = float("inf")
    steps: int = 0
    operations: float = float("inf")
    failed: str = ""


@dataclass(frozen=True)
class Goal:
    """What is wanted: at most so many steps, at most this loss; neurons: one class, or None."""

    max_timesteps: int = 32
    max_loss: float = 0.005
    neurons: str | None = None
    bayesian: bool = False

    def check(self) -> None:
        """Refuse what cannot be reached.

        Raises:
            InputError: there are no such neurons or time steps, or a package is missing.
        """
        classes = {r.neuron for r in RECIPES.values()}
        if self.neurons not in (None, *classes):
            raise refuse(
                f"there are no neurons '{self.neurons}'",
                "recipes are made for a class of neurons",
                f"use one of: {', '.join(sorted(classes))}",
            )
        if not 1 <= self.max_timesteps <= 2**20:
            raise refuse(
                f"cannot tune for at most {self.max_timesteps} time steps",
                "a spiking network runs for at least one time step (and at most 2^20)",
                "choose --max-timesteps 8 to 128 for most networks",
            )
        if self.bayesian:
            bayesian.require_package()


def proposals(
    goal: Goal, rng: np.random.Generator, scored: Sequence[tuple[Trial, Score]]
) -> Iterator[Trial]:
    """Trials without end, each one once; `scored` grows with the scores of those before."""
    names = [n for n, r in RECIPES.items() if goal.neurons in (None, r.neuron)]
    ours = [n for n in names if RECIPES[n].source.startswith("ours")]
    seen: set[str] = set()

    def fresh(trial: Trial) -> Iterator[Trial]:
        if trial.key not in seen:
            seen.add(trial.key)
            yield trial

    steps = power_steps(goal.max_timesteps)
    for t in steps:
        for name in ours:
            yield from fresh(Trial(name, t))
    good = [trial.timesteps for trial, score in scored if score.loss <= goal.max_loss]
    best_t = min(good, default=goal.max_timesteps)
    for name in names:
        yield from fresh(Trial(name, best_t))
    while goal.bayesian:
        recipe = "p-norm" if "p-norm" in names else names[-1]
        history = [
            (-float(np.log10(1 - float(str(p)) / 100)), score.divergence)
            for trial, score in scored
            if (trial.recipe, trial.timesteps) == (recipe, best_t)
            and (p := trial.options.get("thresholds.percentile")) is not None
        ]
        u = bayesian.suggest(history, int(rng.integers(2**31)))
        yield Trial(recipe, best_t, {"thresholds.percentile": bayesian.percentile(u)})
    for _ in range(10_000):
        base = winner(scored, goal)
        if base is None:
            return
        yield from fresh(varied(base[0], steps, rng))


def varied(trial: Trial, steps: Sequence[int], rng: np.random.Generator) -> Trial:
    """A neighbour of a trial: one to three of its choices drawn anew."""
    recipe, options, timesteps = RECIPES[trial.recipe], dict(trial.options), trial.timesteps
    moves = ["timesteps", "thresholds"]
    moves += ["gamma"] if recipe.neuron == "graded" else []
    moves += ["ridge"] if recipe.options.get("calibrate.weights") == "least_squares" else []
    for _ in range(int(rng.integers(1, 4))):
        match moves[int(rng.integers(len(moves)))]:
            case "timesteps":
                timesteps = int(rng.choice(steps))
            case "gamma":
                options["neurons.gamma"] = float(rng.choice([2, 3, 4, 5, 8]))
            case "ridge":
                options["calibrate.ridge"] = float(rng.choice([0.1, 0.3, 1.0, 3.0, 10.0]))
            case _ if recipe.options.get("thresholds.method") == "mmse":
                options["thresholds.timesteps"] = int(rng.choice(steps))
            case _:
                options["thresholds.method"] = "percentile"
                options["thresholds.percentile"] = bayesian.percentile(float(rng.uniform(2, 4.5)))
    return Trial(trial.recipe, timesteps, options)


def front(trials: Sequence[tuple[Trial, Score]]) -> list[tuple[Trial, Score]]:
    """Those that no other beats in loss, steps and operations at once, by steps."""
    done = [p for p in trials if not p[1].failed]

    def cost(s: Score) -> tuple[float, float, float]:
        return (s.loss, s.steps, s.operations)

    kept: list[tuple[Trial, Score]] = []
    for trial, score in done:
        better = (
            cost(other) != cost(score)
            and all(a <= b for a, b in zip(cost(other), cost(score), strict=True))
            for _, other in done
        )
        if not any(better) and all(cost(score) != cost(k) for _, k in kept):
            kept.append((trial, score))
    return sorted(kept, key=lambda p: (p[1].steps, p[1].loss, p[1].operations))


def winner(trials: Sequence[tuple[Trial, Score]], goal: Goal) -> tuple[Trial, Score] | None:
    """The fewest steps, then operations, within the loss; if none is, the least loss."""
    done = [p for p in trials if not p[1].failed and p[1].steps <= goal.max_timesteps]
    within = [p for p in done if p[1].loss <= goal.max_loss]
    if within:
        return min(within, key=lambda p: (p[1].steps, p[1].operations, p[1].output_error))
    return min(done, key=lambda p: (p[1].loss, p[1].output_error), default=None)


def read_journal(path: Path, search: str) -> dict[str, Score]:
    """Scores by trial key of an earlier run of the same search; a line cut short is dropped.

    Raises:
        InputError: the file is of another search, or no journal.
    """
    if not path.exists():
        return {}
    scores = {}
    for number, line in enumerate(path.read_text(errors="replace").splitlines()):
        try:
            entry = json.loads(line)
            mine, key, score = entry["search"] == search, entry["trial"], Score(**entry["score"])
            if not all(isinstance(getattr(score, k), type(v)) for k, v in asdict(Score()).items()):
                continue
        except (ValueError, KeyError, TypeError):
            if number:
                continue
            mine, key, score = False, "", Score()
        if not mine:
            raise refuse(
                f"'{path}' is not the journal of this search",
                "model, data, goal or seed differ, or it is damaged; its scores mean nothing here",
                "move it away, or name another output",
            )
        scores[key] = score
    return scores


def append(path: Path, search: str, trial: Trial, score: Score) -> None:
    """Write a trial and its score to the end of the journal."""
    line = json.dumps({"search": search, "trial": trial.key, "score": asdict(score)})
    cut_short = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a") as file:
        file.write("\n" * cut_short + line + "\n")
