"""How work that takes a while tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Hears (what, done, total).
Progress = Callable[[str, int, int], None]


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""
