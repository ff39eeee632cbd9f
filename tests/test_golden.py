"""Each pass on networks small enough to read: golden/<pass>/<case>.txt holds before --- after.

Before is a trained network in ONNX text, perhaps behind lines `# set PASS.OPTION=VALUE`. It runs
through the pipeline as far as the named pass; after is the compact text of what comes out, or the
message if the network is refused. `pytest --golden` rewrites the part after `---`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from backends.sweep import Sweep
from passes import PIPELINE
from passes.base import Context, Pass
from passes.legal import Legal
from passes.options import configure, parse
from passes.recipes import DEFAULT
from snncompiler import frontend
from snncompiler.diagnostics import InputError
from snncompiler.ops import register
from snncompiler.text import compact
from snncompiler.verify import verify

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(GOLDEN.glob("*/*.txt"))
CUT = "---\n"
SAMPLES = 3


def calibration(shape: tuple[int, ...]) -> np.ndarray:
    """Quarters in [-2, 2], the same for every network of this input shape."""
    x = (np.arange(SAMPLES * np.prod(shape)) * 5 % 17 - 8) / 4
    return x.reshape(SAMPLES, *shape).astype(np.float32)


def compiled_text(before: str, last: str) -> str:
    """The network after the pass named `last`, or why it was refused."""
    register()
    lines = before.splitlines()
    settings = [s.removeprefix("# set ") for s in lines if s.startswith("# set ")]
    pipeline: tuple[Pass, ...] = configure(DEFAULT, parse(settings))
    names = [p.name for p in pipeline]
    network = frontend.load(onnx.parser.parse_model(before))
    context = Context(calibration(network.input_shape), 8, network.opset, sweep=Sweep)
    legal = names.index(Legal.name)
    try:
        for i, p in enumerate(pipeline[: names.index(last) + 1]):
            p.run(network.model, context)
            if i == legal:
                context.ann = network.model.clone()
            if i >= legal:
                verify(network.model, p.name)
    except InputError as error:
        return f"{error}\n"
    return compact(network.model)


@pytest.mark.parametrize("case", CASES, ids=[f"{p.parent.name}-{p.stem}" for p in CASES])
def test_pass_makes_of_a_network_what_the_golden_file_says(
    case: Path, request: pytest.FixtureRequest
) -> None:
    before, cut, after = case.read_text().partition(CUT)
    measured = compiled_text(before, case.parent.name)
    if request.config.getoption("golden"):
        case.write_text(before + CUT + measured)
        return
    assert cut, f"{case.name} has no '---' line"
    assert measured == after, "look at the change; if it is meant, run 'make golden'"


def test_every_pass_that_changes_the_network_has_a_golden_case() -> None:
    unseen = {"observe"}  # it only looks
    assert {p.parent.name for p in CASES} == {p.name for p in PIPELINE} - unseen
