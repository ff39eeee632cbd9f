"""The tuner: which recipe, options and T give the least loss for the fewest steps and operations.

Everything happens on the calibration data: one half, chosen by content, compiles, the other half
scores, with labels if there are any, else by agreement with the trained network (of maps: place by
place), or, of a single number, by its error. Trials go

    1. our recipes of the class of neurons, at T = 1, 2, 4, ...
    2. every other recipe at the least T that kept the loss within bounds (else the largest)
    3. variations of the best: percentile, burst size, ridge, T

and every one is written to a journal, so that an interrupted search goes on where it was. What is
proposed depends on seed and scores alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import backends
from passes.rewiring import choice
from snncompiler.data import Samples
from snncompiler.diagnostics import InputError, refuse
from snncompiler.driver import check_seed, compile_model, import_network
from snncompiler.evaluation import evaluate
from snncompiler.graph import Array
from snncompiler.metrics import divergence, top1
from snncompiler.progress import Progress, silent
from snncompiler.trials import (
    Goal,
    Score,
    Trial,
    append,
    front,
    proposals,
    read_journal,
    winner,
)


@dataclass
class Tuned:
    """All trials with their scores, the front among them, and the winner.

    labelled: whether labels, not the trained network alone, tell the loss.
    """

    trials: list[tuple[Trial, Score]]
    front: list[tuple[Trial, Score]]
    winner: tuple[Trial, Score] | None
    interrupted: bool = False
    labelled: bool = False

    def as_json(self) -> dict[str, Any]:
        """The JSON twin; what a failed trial does not have is null."""

        def row(pair: tuple[Trial, Score]) -> dict[str, Any]:
            score = {k: None if v == float("inf") else v for k, v in asdict(pair[1]).items()}
            return {**asdict(pair[0]), **score}

        return {
            "trials": [row(p) for p in self.trials],
            "front": [row(p) for p in self.front],
            "winner": None if self.winner is None else row(self.winner),
            "interrupted": self.interrupted,
            "labelled": self.labelled,
        }


def loss_of(text: str) -> float:
    """A relative loss as users write it.

    Raises:
        InputError: it is no share between 0 and 1.

    >>> loss_of("0.5%"), loss_of("0.01")
    (0.005, 0.01)
    """
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise refuse(
            f"cannot read the loss '{text}'", "it is a share", "for example --max-loss 0.5%"
        )
    return share


def tune(
    source: onnx.ModelProto,
    samples: Samples,
    goal: Goal,
    *,
    budget: int = 20,
    scoring: int = 100,
    seed: int = 0,
    backend: str = "event",
    journal: Path | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Search; Ctrl-C ends it early with what has been found.

    Args:
        source: the trained network.
        samples: calibration data, labels if known.
        goal: what is wanted.
        budget: trials at most, those of the journal included.
        scoring: held-out samples to simulate at most.
        seed: of variations and compilations.
        backend: that simulates.
        journal: JSON lines, read first if it is there.
        progress: called with (what, done, total).

    Raises:
        InputError: too few samples, wishes that make no sense, a journal of another search.
    """
    goal.check()
    check_seed(seed)
    backends.load(backend)
    for count, least, what in (
        (len(samples.x), 8, "samples"),
        (scoring, 1, "samples to score on"),
    ):
        if count < least:
            raise refuse(f"cannot tune with {count} {what}", f"{least} are needed", "give more")
    if budget < 1:
        why = "every trial is a compilation"
        raise refuse(f"cannot tune with a budget of {budget}", why, "choose --budget 20")
    order = choice(samples.x, len(samples.x))
    fit, held = order[: len(order) // 2], order[len(order) // 2 :][:scoring]
    test = Samples(samples.x[held], None if samples.y is None else samples.y[held])
    truth = import_network(source).outputs(test.x)
    name = _fingerprint(source, samples, goal, seed, scoring)
    known = {} if journal is None else read_journal(journal, name)
    rng, found = np.random.default_rng(seed), Tuned([], [], None, labelled=test.y is not None)
    try:
        for trial in proposals(goal, rng, found.trials):
            if len(found.trials) >= budget:
                break
            what = f"{trial.recipe}, T = {trial.timesteps}"
            progress(what, len(found.trials), budget)
            score = known.get(trial.key)
            if score is None:
                score = _score(source, samples.x[fit], test, truth, trial, seed, backend)
                if journal is not None:
                    append(journal, name, trial, score)
            found.trials.append((trial, score))
    except KeyboardInterrupt:
        found.interrupted = True
    found.front = front(found.trials)
    found.winner = winner(found.trials, goal)
    return found


def _score(
    source: onnx.ModelProto,
    x: np.ndarray[Any, Any],
    test: Samples,
    truth: list[Array],
    trial: Trial,
    seed: int,
    backend: str,
) -> Score:
    settings: dict[str, Any] = {"recipe": trial.recipe, "timesteps": trial.timesteps}
    try:
        compiled = compile_model(source, x, options=trial.options, seed=seed, **settings)
        result = evaluate(compiled.model, test, backend=backend)
    except InputError as error:
        return Score(failed=str(error.problems[0].what))
    outputs = [readout[-1] for readout in result.trace.readout.values()]
    output, wanted = outputs[0], truth[0]
    squared = sum(float(np.square(o - a).sum()) for o, a in zip(outputs, truth, strict=True))
    off = squared / max(sum(float(a.var()) * a.size for a in truth), 1e-30)
    agreement = float((output.argmax(1) == wanted.argmax(1)).mean())
    loss = 1 - agreement if wanted.shape[1] > 1 else off
    if test.y is not None and wanted.ndim == 2:
        ann, snn = (float((top1(o) == test.y).mean()) for o in (wanted, output))
        loss = (ann - snn) / ann if ann else loss
    return Score(
        loss=loss,
        agreement=agreement,
        output_error=off,
        divergence=divergence(output, wanted),
        steps=result.timesteps,
        operations=result.synaptic_operations["total"],
    )


def _fingerprint(
    source: onnx.ModelProto, samples: Samples, goal: Goal, seed: int, scoring: int
) -> str:
    digest = hashlib.sha256(source.SerializeToString(deterministic=True))
    digest.update(np.ascontiguousarray(samples.x).tobytes())
    digest.update(b"" if samples.y is None else samples.y.tobytes())
    digest.update(json.dumps([asdict(goal), seed, scoring], sort_keys=True).encode())
    return digest.hexdigest()[:16]
