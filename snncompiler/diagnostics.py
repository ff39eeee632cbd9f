"""What went wrong, where, why and what to do about it: the only way errors reach a user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Problem:
    """One trouble, in the domain's terms.

    what: what failed and where (with the original node or file name).
    why: the reason; do: what the user can do about it; node: the original node, if there is one.
    """

    what: str
    why: str
    do: str
    node: str = ""


class Diagnostic(Exception):
    """An error that a user can act on; carries every problem found, never the first only."""

    exit_code = 1

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__(render(problems))

    def as_json(self) -> dict[str, object]:
        """The JSON twin of the message."""
        return {"error": [asdict(p) for p in self.problems], "exit_code": self.exit_code}


class InputError(Diagnostic):
    """Bad input, or a model that cannot be converted: exit code 2."""

    exit_code = 2


class VerificationError(Diagnostic):
    """The compiler caught itself changing the network: exit code 3."""

    exit_code = 3


def refuse(what: str, why: str, do: str) -> InputError:
    """An InputError with one problem."""
    return InputError(Problem(what, why, do))


def clean(text: str) -> str:
    """Escape control characters: names come from untrusted files and go to terminals."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def render(problems: Sequence[Problem]) -> str:
    """The message as a person reads it; nodes with the same trouble are named together."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for p in problems:
        # Problems without a node are never merged: their `what` is all they have.
        key = (p.why, p.do) if p.node else (p.what, p.why + p.do)
        groups.setdefault(key, []).append(p)
    return "\n".join(_render_group(group) for group in groups.values())


def _render_group(group: Sequence[Problem]) -> str:
    first, *others = group
    lines = [f"error: {first.what}", f"  why: {first.why}", f"  do:  {first.do}"]
    if others:
        count = (
            f"{len(others)} more node has" if len(others) == 1 else f"{len(others)} more nodes have"
        )
        lines.append(f"  {count} the same trouble: {', '.join(p.node for p in others)}")
    return clean_lines(lines)


def clean_lines(lines: Iterable[str]) -> str:
    """Join lines, each with its control characters escaped."""
    return "\n".join(clean(line) for line in lines)
