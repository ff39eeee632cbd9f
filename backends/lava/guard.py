"""Run a child that may hang, fail or be killed, and leave nothing of it behind.

It gets a session of its own, which is killed as a whole; its shared memory bears a name of ours,
which is freed. It ends by itself when this process does, for its stdin is then closed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_MEMORY = Path("/dev/shm")
#: Lines of the child's story that are told when it fails.
_TAIL = 40


class Failed(Exception):
    """The child failed; the text is what it said last."""


class Silent(Failed):
    """The child said nothing for longer than it may."""


def run(
    command: Sequence[str],
    patience: float,
    heard: Callable[[int, int], None],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end; returns what it wrote to stdout.

    patience: seconds without a sign of life after which it is killed. heard: called with
    (done, total) for every line '@ done total' on its stderr.

    Raises:
        Silent: it hung. Failed: it ended with an error.
    """
    name = f"snn{secrets.token_hex(3)[:5]}"
    single = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **single, "SNN_SHARED_MEMORY": name, **(environment or {})},
    )
    said: list[str] = []
    tail: list[str] = []
    lines: queue.Queue[str | None] = queue.Queue()
    try:
        readers = [
            threading.Thread(target=_read, args=(child.stdout, said.append), daemon=True),
            threading.Thread(target=_read, args=(child.stderr, lines.put), daemon=True),
        ]
        for reader in readers:
            reader.start()
        while (line := _next(lines, patience, tail)) is not None:
            if line.startswith("@ "):
                done, total = line.split()[1:3]
                heard(int(done), int(total))
            else:
                tail.append(line.rstrip("\n"))
        try:
            code = child.wait(patience)
        except subprocess.TimeoutExpired:
            raise Silent(_story(tail)) from None
        readers[0].join(5)
    finally:
        _clear(child, name)
    if code:
        raise Failed(_story(tail) or f"exit code {code}")
    return "".join(said)


def _read(stream: object, put: Callable[[str | None], object]) -> None:
    with contextlib.suppress(ValueError):  # closed while we read
        for line in stream:  # type: ignore[attr-defined]
            put(line)
    if put.__name__ == "put":
        put(None)


def _next(lines: queue.Queue[str | None], patience: float, tail: list[str]) -> str | None:
    try:
        return lines.get(timeout=patience)
    except queue.Empty:
        raise Silent(_story(tail)) from None


def _story(tail: list[str]) -> str:
    return "\n".join(tail[-_TAIL:])


def _clear(child: subprocess.Popen[str], name: str) -> None:
    """Kill what is left of the session, free its shared memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(10)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    for path in _MEMORY.glob(f"{name}*"):
        path.unlink(missing_ok=True)
