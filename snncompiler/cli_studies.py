"""The commands that study a conversion, `snnc doctor`, `report` and `compare`: thin like `cli`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from snncompiler.diagnostics import clean, refuse
from snncompiler.session import Json, Session, progress_bar, session_of

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
    with session_of(json_file, [], [model, network, data]) as current:
        from snncompiler.artifact import load

        snn = load(network)
        samples = _samples(data, snn, limit)
        current.write_json(examine(current, model, snn, samples, timesteps))


def report(
    network: Network,
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.html", help="The report.")
    ] = Path("report.html"),
    reference: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="The trained network, to compare.")
    ] = None,
    other: Annotated[
        list[Path] | None,
        typer.Option("--with", metavar="SNN.onnx", help="Another to compare; repeatable."),
    ] = None,
    timesteps: Timesteps = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    examined: Annotated[int, typer.Option(help="Samples to examine layer by layer.")] = 16,
    backend: Annotated[str, typer.Option(help="What measures the accuracy.")] = "event",
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write all plots as PNG and SVG, too.")
    ] = None,
    dumps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The --dump-ir of 'compile', to show.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Write one HTML file that tells how good a conversion is, and why."""
    others = other or []
    with session_of(json_file, [output], [network, data, reference, *others]) as current:
        from rich.text import Text

        from snncompiler.artifact import load
        from snncompiler.files import make_folder
        from snncompiler.page import require_extra, write_report
        from snncompiler.provenance import diffs
        from snncompiler.study import gather

        if examined < 1:
            raise refuse("cannot examine 0 samples", "one is needed", "choose --examined 1 or more")
        require_extra()
        differences = diffs(dumps)
        if plots is not None:
            make_folder(plots)
        networks = {_label(p, [network, *others]): load(p) for p in [network, *others]}
        samples = _samples(data, next(iter(networks.values())), limit)
        with progress_bar() as bar:
            study = gather(
                networks,
                samples,
                reference=reference,
                timesteps=timesteps,
                backend=backend,
                examined=examined,
                progress=bar,
            )
            write_report(study, output, plots=plots, differences=differences)
        current.show(Text(clean(f"wrote {output}")))
        current.write_json({"output": str(output), **study.as_json()})


def _label(path: Path, among: list[Path]) -> str:
    return path.name if [p.name for p in among].count(path.name) == 1 else str(path)


def compare(
    one: Annotated[Path, typer.Argument(metavar="A.onnx", help="A compiled network.")],
    two: Annotated[Path, typer.Argument(metavar="B.onnx", help="Another, or the same again.")],
    data: Data,
    timesteps: Timesteps = None,
    limit: Annotated[int, typer.Option(help="Only the first so many samples.")] = 64,
    backend: Annotated[str, typer.Option(help="What runs A, and B.")] = "event",
    other_backend: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What runs B, if not the same.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Run two compiled networks, or one on two backends: accuracy, and where their spikes part."""
    with session_of(json_file, [], [one, two, data]) as current:
        from snncompiler.artifact import load
        from snncompiler.comparison import compare as run_both
        from snncompiler.report import comparison_table

        first, second = load(one), load(two)
        samples = _samples(data, first, limit)
        used = (backend, other_backend or backend)
        names = ("A", "B") if one.name == two.name else (one.name, two.name)
        labels = names if used[0] == used[1] else (f"A on {used[0]}", f"B on {used[1]}")
        with progress_bar() as bar:
            result = run_both(
                (first, second),
                samples,
                labels=labels,
                used=used,
                timesteps=timesteps,
                progress=bar,
            )
        current.show(comparison_table(result))
        current.write_json(result.as_json())


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

    with progress_bar() as bar:
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
