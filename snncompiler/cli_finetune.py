"""The command `snnc finetune`: arguments in, calls out; heavy imports only where needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from snncompiler.session import Json, progress_bar, session_of


def finetune(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    train: Annotated[
        Path, typer.Option(metavar="TRAIN.npz", help="Training samples 'x', labels 'y'.")
    ],
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", help="Time steps T.")] = 8,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="QC.onnx", help="Default: MODEL.qc.onnx."),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Learn the original network's outputs; no labels.")
    ] = False,
    spikes: Annotated[
        str | None,
        typer.Option(metavar="NEURON", help="Train with spikes: binary or ternary neurons."),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="ANN.onnx",
            help="Distill from this network, not from MODEL; of several, from their mean.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(help="How often to go through the samples.")] = 5,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = 64,
    rate: Annotated[float, typer.Option(help="First learning rate of SGD.")] = 5e-3,
    noise: Annotated[float, typer.Option(help="Share of activations left unrounded.")] = 0.1,
    thresholds: Annotated[
        str, typer.Option(help="One threshold per channel or layer.")
    ] = "channel",
    augment: Annotated[
        bool, typer.Option("--augment", help="Shift and mirror images at random.")
    ] = False,
    cutmix: Annotated[
        float, typer.Option(help="Share of images with a rectangle of another one; distilling.")
    ] = 0.0,
    half: Annotated[
        bool, typer.Option("--half", help="Multiply in bfloat16; quicker on some processors.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    json_file: Json = None,
) -> None:
    """Train a network for few time steps: quantised activations with trainable thresholds.

    The result is an ANN for 'snnc compile' (recipe 'two-stage'). With --spikes the network spikes
    for T steps while it learns (recipe 'spike-trained' then): T times the work, and the least loss
    that few steps allow. Every epoch is saved to
    QC.finetune.pt; the same command goes on where it was interrupted.
    """
    target = output or model.parent / f"{model.stem}.qc.onnx"
    checkpoint = target.with_suffix(".finetune.pt")
    with session_of(json_file, [target, checkpoint], [model, train, *(teacher or ())]) as session:
        from snncompiler import gate
        from snncompiler.data import load_samples
        from snncompiler.driver import input_shape
        from snncompiler.finetune.schedule import Schedule
        from snncompiler.finetuning import finetune as learn
        from snncompiler.finetuning import require_torch
        from snncompiler.report import finetuned_table

        require_torch()
        schedule = Schedule(
            timesteps=timesteps,
            spikes=spikes,
            epochs=epochs,
            batch=batch,
            rate=rate,
            noise=noise,
            thresholds=thresholds,
            distill=distill or bool(teacher),
            augment=augment,
            cutmix=cutmix,
            half=half,
            seed=seed,
        )
        proto = gate.read(model)
        samples = load_samples(train, input_shape(proto), labels=not schedule.distill)
        with progress_bar() as progress:
            result = learn(
                proto,
                samples,
                schedule,
                teachers=teacher or (),
                device=device,
                output=target,
                checkpoint=checkpoint,
                progress=progress,
            )
        session.show(finetuned_table(result))
        session.write_json(result.as_json())
