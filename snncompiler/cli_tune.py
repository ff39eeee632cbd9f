"""The command `snnc tune`: arguments in, calls out; heavy imports only where needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snncompiler.session import Json, progress_bar, session_of


def tune(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA.npz", help="Needed: training samples 'x', labels 'y' if known."),
    ] = None,
    budget: Annotated[int, typer.Option(help="How many compilations to try.")] = 20,
    max_timesteps: Annotated[int, typer.Option(help="Most time steps until the answer.")] = 32,
    max_loss: Annotated[str, typer.Option(help="Relative loss allowed: 0.5% or 0.005.")] = "0.5%",
    neurons: Annotated[
        str | None, typer.Option(help="Only recipes for: binary, ternary or graded.")
    ] = None,
    bayesian: Annotated[
        bool, typer.Option(help="Bayesian search of the percentile (needs the extra 'tune').")
    ] = False,
    scoring: Annotated[int, typer.Option(help="Held-out samples to simulate.")] = 100,
    backend: Annotated[str, typer.Option(help="What simulates.")] = "event",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.onnx", help="Default: MODEL.snn.onnx."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    json_file: Json = None,
) -> None:
    """Find the best recipe, options and T on calibration data, and compile it.

    Trials go to OUT.tune.jsonl; the same command goes on where it was. Ctrl-C ends the search and
    compiles the best so far.
    """
    target = output or model.parent / f"{model.stem}.snn.onnx"
    journal = target.with_suffix(".tune.jsonl")
    with session_of(json_file, [target, journal], [model, calibration]) as session:
        from snncompiler import gate
        from snncompiler.data import load_calibration
        from snncompiler.diagnostics import refuse
        from snncompiler.driver import compile_model, input_shape
        from snncompiler.report import tuned_table
        from snncompiler.trials import Goal
        from snncompiler.tuning import loss_of
        from snncompiler.tuning import tune as search

        goal = Goal(max_timesteps, loss_of(max_loss), neurons, bayesian)
        proto = gate.read(model)
        samples = load_calibration(calibration, input_shape(proto))
        with progress_bar() as progress:
            found = search(
                proto,
                samples,
                goal,
                budget=budget,
                scoring=scoring,
                seed=seed,
                backend=backend,
                journal=journal,
                progress=progress,
            )
        session.show(tuned_table(found))
        if found.winner is None:
            reasons = [score.failed for _trial, score in found.trials if score.failed]
            raise refuse(
                "the search found nothing",
                (reasons or ["no trial was finished, or none within the time steps allowed"])[0],
                "give it a larger --budget or --max-timesteps",
            )
        best, _score = found.winner
        compile_model(
            proto,
            samples.x,
            recipe=best.recipe,
            timesteps=best.timesteps,
            options=best.options,
            output=target,
            seed=seed,
            labels=samples.y,
        )
        session.write_json({**found.as_json(), "output": str(target)})
