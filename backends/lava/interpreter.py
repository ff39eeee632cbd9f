"""Find a Python that can run Lava: lava-nc 0.10 wants 3.10, whatever this one is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache

from snncompiler.diagnostics import InputError, clean, refuse

VARIABLE = "SNNC_LAVA_PYTHON"
WANTED = "0.10"
_ASK = (
    "import sys\n"
    "from importlib.metadata import PackageNotFoundError, version\n"
    "try: lava = version('lava-nc')\n"
    "except PackageNotFoundError: lava = 'none'\n"
    "print('%d.%d' % sys.version_info[:2], lava)\n"
)


def find() -> str:
    """The path of a Python that has lava-nc: the one named, this one, or python3.10.

    Raises:
        InputError: there is none; says which were tried, and what to install.
    """
    named = os.environ.get(VARIABLE)
    candidates = [named] if named else [sys.executable, shutil.which("python3.10")]
    tried = []
    for path in dict.fromkeys(c for c in candidates if c):
        answer = _version(path)
        if answer.split()[-1].startswith(f"{WANTED}."):
            return path
        tried.append(f"{path} ({answer})")
    raise _missing(tried, named)


@cache
def _version(path: str) -> str:
    """'3.10 0.10.0', '3.12 none', or what is wrong with it."""
    try:
        run = subprocess.run([path, "-c", _ASK], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {type(error).__name__}"
    words = run.stdout.split()
    if run.returncode or len(words) != 2:
        return f"does not run: exit code {run.returncode}"
    return f"Python {words[0]}, lava-nc {words[1]}"


def _missing(tried: list[str], named: str | None) -> InputError:
    return refuse(
        "there is no Python with Lava",
        clean(f"lava-nc {WANTED} was looked for in {', '.join(tried)}"),
        "python3.10 -m venv lava-env && lava-env/bin/pip install 'lava-nc==0.10.0', then "
        f"{'correct' if named else 'set'} {VARIABLE}=lava-env/bin/python",
    )
