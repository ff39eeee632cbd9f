"""Where the output of a command goes: tables to stdout, the rest to stderr, JSON to a file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from snncompiler.diagnostics import Diagnostic, clean, refuse
from snncompiler.progress import Progress

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON ('-': to stdout, alone)."
    ),
]


class Session:
    """Where output goes: tables to stdout, progress to stderr, JSON to its file."""

    def __init__(self, json_file: str | None) -> None:
        self.json_file = json_file
        self.quiet = json_file == "-"

    def show(self, table: RenderableType) -> None:
        """Print a table, unless stdout belongs to the JSON."""
        if not self.quiet:
            console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
            console.width = console.width if sys.stdout.isatty() else 240
            console.print(table)

    def write_json(self, value: object) -> None:
        """Write the JSON twin, if one is wanted."""
        from snncompiler.report import as_python

        if self.json_file is None:
            return
        text = json.dumps(value, indent=2, default=as_python) + "\n"
        if self.quiet:
            sys.stdout.write(text)
            return
        from snncompiler.files import write_whole

        write_whole(Path(self.json_file), text.encode())


@contextlib.contextmanager
def session_of(
    json_file: str | None, outputs: Sequence[Path | None] = (), inputs: Sequence[Path | None] = ()
) -> Iterator[Session]:
    """Run a command; errors become messages, JSON twins and exit codes.

    outputs: files to write, besides the JSON. inputs: files to read, never to be overwritten.
    """
    current = Session("-" if json_file == "-" else None)
    try:
        if json_file not in (None, "-"):
            _require(Path(str(json_file)), inputs)
            current = Session(json_file)
        for path in outputs:
            if path is not None:
                _require(path, inputs)
        yield current
    except (typer.Exit, BrokenPipeError):
        raise  # the former has told its story, typer knows what to do about the latter
    except Diagnostic as error:
        say(str(error))
        _twin(current, error.as_json())
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        say("interrupted")
        raise typer.Exit(130) from None
    except MemoryError:
        _fail(current, "the memory does not suffice", "use fewer samples, or a smaller --batch")
    except Exception as error:
        if os.environ.get("SNNC_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}"
        _fail(current, text, "set SNNC_DEBUG=1 to see where, and report it with the model")


def _fail(current: Session, why: str, do: str) -> NoReturn:
    what = "internal error"
    say(f"error: {what}\n  why: {clean(why)}\n  do:  {do}")
    _twin(current, {"error": [{"what": what, "why": why, "do": do, "node": ""}], "exit_code": 1})
    raise typer.Exit(1)


def _twin(current: Session, value: object) -> None:
    # A JSON file that cannot be written must not hide the error that it was to carry.
    with contextlib.suppress(Diagnostic):
        current.write_json(value)


def say(text: str) -> None:
    """Tell something that is no result."""
    sys.stderr.write(text + "\n")


def _require(target: Path, inputs: Sequence[Path | None]) -> None:
    """Fail before the work if a file cannot be written, or is one of those to be read."""
    from snncompiler.files import require_writable

    require_writable(target)
    for path in inputs:
        if path is not None and path.exists() and target.exists() and target.samefile(path):
            raise refuse(
                f"the output '{target}' is also an input",
                "it would be overwritten",
                "name another file",
            )


@contextlib.contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on stderr for work that takes longer than a second; nothing when piped."""
    import rich.progress as bars

    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
