"""The command `snnc`: arguments in, calls out, no logic; heavy imports only where needed."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from snncompiler import __version__, cli_studies
from snncompiler.cli_finetune import finetune
from snncompiler.cli_tune import tune
from snncompiler.diagnostics import clean_lines, refuse
from snncompiler.session import Json, progress_bar, say, session_of

app = typer.Typer(
    name="snnc",
    help="Compile trained neural networks (ONNX) into spiking networks, run and inspect them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"snnc {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: snnc check model.onnx")
def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    json_file: Json = None,
) -> None:
    """Tell for every node whether it will spike, stay linear, be folded, or is refused, and why."""
    with session_of(json_file, [], [model]) as session:
        from snncompiler.diagnostics import InputError, Problem, render
        from snncompiler.driver import check_model
        from snncompiler.report import check_table

        result = check_model(model)
        session.show(check_table(result))
        session.write_json(result.as_json())
        refused = [v for v in result.nodes if v.verdict == "refused"]
        if refused:
            problems = [
                Problem(f"cannot convert '{v.op}' at node '{v.name}'", v.reason, v.advice, v.name)
                for v in refused
            ]
            say(render(problems))
            raise typer.Exit(InputError.exit_code)


@app.command(
    name="compile",
    epilog="Example: snnc compile model.onnx --calibration train.npz --recipe ternary -T 16",
)
def compile_(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="DATA.npz", help="Needed: training samples 'x', as it wants them."),
    ] = None,
    recipe: Annotated[str, typer.Option(help="Which method; see 'snnc recipes'.")] = "binary",
    timesteps: Annotated[int, typer.Option("--timesteps", "-T", help="Time steps T.")] = 32,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="OUT.onnx", help="Default: MODEL.snn.onnx."),
    ] = None,
    dump_ir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the IR after every pass.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PASS.OPTION=VALUE", help="Override an option; repeatable."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="ideal (floats), or integers: loihi2, graded (wide spikes).")
    ] = "ideal",
    form: Annotated[
        str, typer.Option(help="'normalised' (thresholds 1) or 'physical' (weights as trained).")
    ] = "normalised",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    doctor: Annotated[
        bool, typer.Option("--doctor", help="Then examine it on 32 of the calibration samples.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Compile a trained network into a spiking one; every pass is verified."""
    artifact = output or model.parent / f"{model.stem}.snn.onnx"
    with session_of(json_file, [artifact], [model, calibration]) as session:
        from passes.options import find_recipe, parse
        from snncompiler import gate
        from snncompiler.data import load_calibration
        from snncompiler.driver import compile_model, input_shape
        from snncompiler.report import compiled_table

        find_recipe(recipe)
        options = {"quantise.target": target, **parse(setting or [])}
        samples = load_calibration(calibration, input_shape(gate.read(model)))
        with progress_bar() as progress:
            result = compile_model(
                model,
                samples.x,
                recipe=recipe,
                timesteps=timesteps,
                options=options,
                form=form,
                dump=dump_ir,
                output=artifact,
                seed=seed,
                labels=samples.y,
                progress=progress,
            )
        session.show(compiled_table(result))
        told = result.as_json()
        if doctor:
            first = samples._replace(x=samples.x[:32])
            told["doctor"] = cli_studies.examine(session, gate.read(model), result.model, first)
        session.write_json(told)


@app.command(epilog="Example: snnc run model.snn.onnx test.npz --reference model.onnx --limit 500")
def run(
    model: Annotated[Path, typer.Argument(metavar="SNN.onnx", help="A compiled network.")],
    data: Annotated[Path, typer.Argument(metavar="DATA.npz", help="Samples 'x', labels 'y'.")],
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", help="Default: the T compiled for.")
    ] = None,
    backend: Annotated[str, typer.Option(help="event, numpy, onnxruntime or lava.")] = "event",
    reference: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="The trained network, to compare.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    batch: Annotated[int, typer.Option(help="Samples at a time.")] = 256,
    trace: Annotated[
        Path | None, typer.Option(metavar="OUT.npz", help="Save spike trains and readouts.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (event, onnxruntime).")] = None,
    memory: Annotated[
        int | None, typer.Option(metavar="MB", help="For values over time (event; 1024).")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="exact, or int8: 8-bit weights, their cost reported (event).")
    ] = "exact",
    early_exit: Annotated[
        float | None,
        typer.Option(
            metavar="MARGIN",
            help="Stop a sample whose two largest outputs are MARGIN standard deviations of its "
            "outputs apart, divided by the steps so far (event); 10 is safe for most.",
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One process per layer (lava).")] = False,
    task: Annotated[
        str, typer.Option(help="classification, detection or segmentation.")
    ] = "classification",
    decode: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="What the outputs of a detector mean."),
    ] = None,
    save_images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Draw the first samples: input, ANN, SNN at several T."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Run a spiking network: how good it is at T = 1, 2, 4, ..., firing rates, operations."""
    with session_of(json_file, [trace], [model, data, reference, decode]) as session:
        from snncompiler.artifact import load
        from snncompiler.data import load_samples
        from snncompiler.evaluation import evaluate
        from snncompiler.files import make_folder
        from snncompiler.graph import shape
        from snncompiler.pictures import require_drawable
        from snncompiler.report import run_table
        from snncompiler.tasks import check_choice, load_task

        if limit is not None and limit < 1:
            raise refuse(f"cannot run {limit} samples", "one is needed", "choose --limit 1 or more")
        check_choice(task, decode)
        network = load(model)
        samples = load_samples(
            data,
            shape(network.graph.inputs[0]),
            limit=limit,
            labels=task == "classification",
            classes=math.prod(shape(network.graph.outputs[0])),
        )
        purpose = load_task(task, network, data, samples, decode)
        if save_images is not None:
            require_drawable(shape(network.graph.inputs[0]))
            make_folder(save_images)
        with progress_bar() as progress:
            result = evaluate(
                network,
                samples,
                timesteps=timesteps,
                backend=backend,
                reference=reference,
                batch=batch,
                threads=threads,
                memory=None if memory is None else memory << 20,
                precision=precision,
                early_exit=early_exit,
                layers=layers,
                task=purpose,
                pictures=save_images,
                trace_file=trace,
                progress=progress,
            )
        session.show(run_table(result, network))
        session.write_json(result.as_json())


@app.command(epilog="Example: snnc emit model.snn.onnx --target lava -o lava-project")
def emit(
    model: Annotated[Path, typer.Argument(metavar="SNN.onnx", help="A compiled network.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="A new or empty folder.")
    ],
    target: Annotated[str, typer.Option(help="lava or numpy.")] = "lava",
    json_file: Json = None,
) -> None:
    """Write a stand-alone project that runs the network without snncompiler."""
    with session_of(json_file, [], [model]) as session:
        from snncompiler.emission import write_project

        written, told = write_project(model, target, output)
        session.show(told)
        session.write_json(written)


@app.command(epilog="Example: snnc inspect model.snn.onnx --format text")
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="Trained or compiled.")],
    format_: Annotated[
        str, typer.Option("--format", help="summary, text (compact IR), onnx (parseable) or json.")
    ] = "summary",
    target: Annotated[
        str | None, typer.Option(help="loihi2: estimate what a compiled network takes of it.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Print what a file holds: a summary, the IR as text, or ONNX text that parses back."""
    twin = "-" if format_ == "json" and json_file is None else json_file
    with session_of(twin, [], [file]) as session:
        from snncompiler.artifact import open_any
        from snncompiler.record import record_of
        from snncompiler.report import inspect_table
        from snncompiler.text import as_json, compact, onnx_text

        if format_ not in ("summary", "text", "onnx", "json"):
            raise refuse(
                f"there is no format '{format_}'",
                "a file can be shown in four ways",
                "use one of: summary, text, onnx, json",
            )
        if target is not None:
            from snncompiler.emission import fit_report

            report, table = fit_report(file, target)
            session.show(table)
            session.write_json(report)
            return
        network = open_any(file)
        if format_ == "summary":
            session.show(inspect_table(network, record_of(network)))
        elif format_ != "json" and not session.quiet:
            text = compact(network) if format_ == "text" else onnx_text(network)
            sys.stdout.write(clean_lines(text.split("\n")))
        session.write_json(as_json(network))


@app.command(epilog="Example: snnc recipes --show ternary")
def recipes(
    show: Annotated[
        str | None, typer.Option(metavar="NAME", help="All options of one recipe.")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the recipes: what each one does, which neurons it needs, where it comes from."""
    with session_of(json_file) as session:
        from dataclasses import asdict

        from passes.options import listed as all_options
        from passes.recipes import DEFAULT, RECIPES
        from snncompiler.report import options_table, recipes_table

        if show is not None:
            session.show(options_table(show))
            session.write_json({"recipe": show, "options": all_options(show)})
            return
        session.show(recipes_table())
        listed = {n: {**asdict(r), "default": n == DEFAULT} for n, r in RECIPES.items()}
        session.write_json(listed)


@app.command(epilog="Example: snnc demo --output /tmp/snnc-demo")
def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path(
        "snnc-demo"
    ),
    json_file: Json = None,
) -> None:
    """The whole story on the bundled network: check, compile with IR dumps, run, compare."""
    with session_of(json_file) as session:
        from snncompiler.demo import tell

        with progress_bar() as progress:
            result = tell(output, session.show, progress)
        session.write_json(result)


for command, example in (
    (cli_studies.doctor, "model.onnx model.snn.onnx test.npz"),
    (cli_studies.compare, "binary.snn.onnx ternary.snn.onnx test.npz"),
    (cli_studies.report, "model.snn.onnx test.npz --reference model.onnx"),
    (tune, "model.onnx --calibration train.npz --max-loss 0.5%"),
    (finetune, "model.onnx --train train.npz -T 4 -o model.qc.onnx"),
):
    app.command(epilog=f"Example: snnc {command.__name__} {example}")(command)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point of the command line."""
    # Simulation is many small matrix products: threads of OpenBLAS that wait for each other cost
    # more than they bring, and on a busy machine twenty times more. Read when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(args=arguments)
