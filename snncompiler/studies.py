"""The commands that study a conversion: thin, like those in `cli`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snncompiler.diagnostics import refuse
from snncompiler.session import Json, Session, progress, session

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from snncompiler.data import Samples

Timesteps = Annotated[
    int | None, typer.Option("--timesteps", "-T", help="Default: the T compiled for.")
]
Data = Annotated[Path, typer.Argument(metavar="DATA.npz", help="Samples 'x', labels 'y'.")]
Network = Annotated[Path, typer.Argument(metavar="SNN.onnx", help="A compiled network.")]


def doctor(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The trained network.")],
    network: Network,
    data: Data,
    timesteps: Timesteps = None,
    limit: Annotated[int, typer.Option(help="Only the first so many samples.")] = 64,
    json_file: Json = None,
) -> None:
    """Tell where the error of a conversion comes from, layer by layer, and what to do about it."""
    with session(json_file, [], [model, network, data]) as current:
        from snncompiler.driver import load

        snn = load(network)
        samples = _samples(data, snn, limit)
        current.write_json(examine(current, model, snn, samples, timesteps))


def examine(
    current: Session,
    source: Path | onnx.ModelProto,
    network: ir.Model,
    samples: Samples,
    timesteps: int | None = None,
) -> dict[str, object]:
    """Call the doctor and show what it finds; returns the JSON twin."""
    from snncompiler.doctor import diagnose
    from snncompiler.report import doctor_table

    with progress() as bar:
        result = diagnose(source, network, samples, timesteps=timesteps, progress=bar)
    current.show(doctor_table(result))
    return result.as_json()


def _samples(data: Path, snn: ir.Model, limit: int | None) -> Samples:
    from snncompiler.data import load_samples
    from snncompiler.graph import shape

    if limit is not None and limit < 1:
        raise refuse(f"cannot take {limit} samples", "one is needed", "choose --limit 1 or more")
    classes = math.prod(shape(snn.graph.outputs[0]))
    return load_samples(data, shape(snn.graph.inputs[0]), limit=limit, classes=classes)
