"""The command `snnc`: arguments in, calls out, no logic; heavy imports only where needed."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from snncompiler import __version__
from snncompiler.diagnostics import Diagnostic, clean, clean_lines, refuse

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    name="snnc",
    help="Compile trained neural networks (ONNX) into spiking networks, run and inspect them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON ('-': to stdout, alone)."
    ),
]


class _Session:
    """Where output goes: tables to stdout, progress to stderr, JSON to its file."""

    def __init__(self, json_file: str | None) -> None:
        self.json_file = json_file
        self.quiet = json_file == "-"

    def show(self, table: RenderableType) -> None:
        if not self.quiet:
            console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
            console.width = console.width if sys.stdout.isatty() else 240
            console.print(table)

    def write_json(self, value: object) -> None:
        from snncompiler.report import as_python

        if self.json_file is None:
            return
        text = json.dumps(value, indent=2, default=as_python) + "\n"
        if self.quiet:
            sys.stdout.write(text)
            return
        from snncompiler.dump import write_whole

        write_whole(Path(self.json_file), text.encode())


@contextlib.contextmanager
def _session(
    json_file: str | None, outputs: Sequence[Path | None] = (), inputs: Sequence[Path | None] = ()
) -> Iterator[_Session]:
    """Run a command; errors become messages, JSON twins and exit codes.

    outputs: files to write, besides the JSON. inputs: files to read, never to be overwritten.
    """
    session = _Session("-" if json_file == "-" else None)
    try:
        if json_file not in (None, "-"):
            _require(Path(str(json_file)), inputs)
            session = _Session(json_file)
        for path in outputs:
            if path is not None:
                _require(path, inputs)
        yield session
    except (typer.Exit, BrokenPipeError):
        raise  # the former has told its story, typer knows what to do about the latter
    except Diagnostic as error:
        _say(str(error))
        _twin(session, error.as_json())
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise typer.Exit(130) from None
    except MemoryError:
        _fail(session, "the memory does not suffice", "use fewer samples, or a smaller --batch")
    except Exception as error:
        if os.environ.get("SNNC_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}"
        _fail(session, text, "set SNNC_DEBUG=1 to see where, and report it with the model")


def _fail(session: _Session, why: str, do: str) -> NoReturn:
    what = "internal error"
    _say(f"error: {what}\n  why: {clean(why)}\n  do:  {do}")
    _twin(session, {"error": [{"what": what, "why": why, "do": do, "node": ""}], "exit_code": 1})
    raise typer.Exit(1)


def _twin(session: _Session, value: object) -> None:
    # A JSON file that cannot be written must not hide the error that it was to carry.
    with contextlib.suppress(Diagnostic):
        session.write_json(value)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _require(target: Path, inputs: Sequence[Path | None]) -> None:
    """Fail before the work if a file cannot be written, or is one of those to be read."""
    from snncompiler.dump import require_writable

    require_writable(target)
    for path in inputs:
        if path is not None and path.exists() and target.exists() and target.samefile(path):
            raise refuse(
                f"the output '{target}' is also an input",
                "it would be overwritten",
                "name another file",
            )


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on stderr for work that takes longer than a second; nothing when piped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report


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
    with _session(json_file, [], [model]) as session:
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
            _say(render(problems))
            raise typer.Exit(InputError.exit_code)


@app.command(
    name="compile",
    epilog="Example: snnc compile model.onnx --calibration train.npz --recipe ternary -T 16",
)
def compile_(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    calibration: Annotated[
        Path,
        typer.Option(metavar="DATA.npz", help="Training samples 'x', as the network wants them."),
    ],
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
    json_file: Json = None,
) -> None:
    """Compile a trained network into a spiking one; every pass is verified."""
    artifact = output or model.parent / f"{model.stem}.snn.onnx"
    with _session(json_file, [artifact], [model, calibration]) as session:
        from passes.options import find_recipe, parse
        from snncompiler import gate
        from snncompiler.data import load_samples
        from snncompiler.driver import compile_model, input_shape
        from snncompiler.report import compiled_table

        find_recipe(recipe)
        options = {"quantise.target": target, **parse(setting or [])}
        proto = gate.read(model)
        samples = load_samples(calibration, input_shape(proto), labels=False)
        with _progress() as progress:
            result = compile_model(
                proto,
                samples.x,
                recipe=recipe,
                timesteps=timesteps,
                options=options,
                form=form,
                dump=dump_ir,
                output=artifact,
                seed=seed,
                progress=progress,
            )
        session.show(compiled_table(result))
        session.write_json(result.as_json())


@app.command(epilog="Example: snnc run model.snn.onnx test.npz --reference model.onnx --limit 500")
def run(
    model: Annotated[Path, typer.Argument(metavar="SNN.onnx", help="A compiled network.")],
    data: Annotated[Path, typer.Argument(metavar="DATA.npz", help="Samples 'x', labels 'y'.")],
    timesteps: Annotated[
        int | None, typer.Option("--timesteps", "-T", help="Default: the T compiled for.")
    ] = None,
    backend: Annotated[str, typer.Option(help="numpy, onnxruntime or lava.")] = "numpy",
    reference: Annotated[
        Path | None, typer.Option(metavar="MODEL.onnx", help="The trained network, to compare.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    batch: Annotated[int, typer.Option(help="Samples at a time.")] = 100,
    trace: Annotated[
        Path | None, typer.Option(metavar="OUT.npz", help="Save spike trains and readouts.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads (onnxruntime).")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="One process per layer (lava).")] = False,
    json_file: Json = None,
) -> None:
    """Run a spiking network: accuracy at T = 1, 2, 4, ..., firing rates, synaptic operations."""
    with _session(json_file, [trace], [model, data, reference]) as session:
        from snncompiler.data import load_samples
        from snncompiler.driver import load
        from snncompiler.evaluation import evaluate
        from snncompiler.graph import shape
        from snncompiler.report import run_table

        if limit is not None and limit < 1:
            raise refuse(f"cannot run {limit} samples", "one is needed", "choose --limit 1 or more")
        network = load(model)
        classes = math.prod(shape(network.graph.outputs[0]))
        samples = load_samples(data, shape(network.graph.inputs[0]), limit=limit, classes=classes)
        with _progress() as progress:
            result = evaluate(
                network,
                samples,
                timesteps=timesteps,
                backend=backend,
                reference=reference,
                batch=batch,
                threads=threads,
                layers=layers,
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
    with _session(json_file, [], [model]) as session:
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
    with _session(twin, [], [file]) as session:
        from snncompiler.driver import open_any
        from snncompiler.report import inspect_table
        from snncompiler.text import as_json, compact, onnx_text, record_of

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


@app.command(epilog="Example: snnc recipes")
def recipes(json_file: Json = None) -> None:
    """List the recipes: which options each one sets, which neurons it needs."""
    with _session(json_file) as session:
        from dataclasses import asdict

        from passes.recipes import DEFAULT, RECIPES
        from snncompiler.report import recipes_table

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
    with _session(json_file) as session:
        from snncompiler.demo import tell

        with _progress() as progress:
            result = tell(output, session.show, progress)
        session.write_json(result)


def main(arguments: list[str] | None = None) -> Any:
    """The entry point of the command line."""
    # Simulation is many small matrix products: threads of OpenBLAS that wait for each other cost
    # more than they bring, and on a busy machine twenty times more. Read when NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app(args=arguments)


if __name__ == "__main__":
    main()
