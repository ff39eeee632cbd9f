"""The results table: every recipe on a trained network and its test set, in docs/results.md.

    python benchmarks/results.py --backend event                     # all recipes, all test images
    python benchmarks/results.py --recipes binary,ltb --samples 200 --timesteps 4,8

A recipe that depends on T is compiled for each T; `NAME@8` is one artifact, compiled for T = 8 and
run for every T. The table is written again after every cell, so a long run can be watched and
stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir

from passes.recipes import RECIPES
from snncompiler.data import Samples
from snncompiler.driver import Compiled, compile_model, import_network
from snncompiler.evaluation import evaluate
from snncompiler.metrics import top1
from snncompiler.ops import NEURONS

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("SNNC_SHARED", ROOT.parent / "shared"))
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
#: Options that make an artifact depend on the T it is compiled for.
TIMED = ("bias_shift.", "search.", "calibrate.", "twin_synapse.", "separate.")
#: Energy of an accumulate and of a multiply-accumulate, pJ (45 nm, 32 bit; as in the papers).
ACCUMULATE, MULTIPLY = 0.9, 4.6
#: Relative loss in % that the papers report, on other networks: {T: loss}.
PAPERS = {
    "p-norm": ("VGG-16, CIFAR-100 (Li et al. 2022)", {32: 42.8, 64: 33.9, 128: 28.6}),
    "channel-norm": ("VGG-16, CIFAR-100 (Li et al. 2022)", {32: 31.2, 64: 14.2, 128: 7.6}),
    "opt-shift": ("VGG-16, CIFAR-10 (Wang et al. 2023)", {8: 52.6, 16: 4.2, 32: 1.0, 64: 0.2}),
    "opi": (
        "VGG-16, CIFAR-10 (Wang et al. 2023)",
        {2: 28.5, 4: 7.9, 8: 2.7, 16: 0.9, 32: 0.2, 64: 0.1},
    ),
    "calibration-light": ("VGG-16, CIFAR-10 (Li, Deng et al. 2021)", {32: 1.8, 64: 0.5, 128: 0.1}),
    "calibration-advanced": (
        "VGG-16, CIFAR-10 (Wang et al. 2023)",
        {2: 18.8, 4: 10.8, 8: 5.2, 16: 2.4, 32: 1.1, 64: 0.4},
    ),
    "burst-lipool": ("VGG-16, CIFAR-10 (Li and Zeng 2022)", {32: 0.2, 64: 0.1, 128: 0.1}),
    "spicalib": ("VGG-16, CIFAR-100 (Li et al. 2022)", {32: 5.7, 64: 0.7, 128: -0.1}),
    "ltb": ("ResNet-18, ImageNet (Bu, Li and Yu 2025)", {32: 6.0, 64: 1.8, 128: 1.0}),
}


@dataclass(frozen=True)
class Cell:
    """What one recipe reached at one T; per sample where that applies."""

    accuracy: float
    loss: float
    agreement: float
    error: float
    spikes: float
    operations: float
    energy: float
    steps: int


def load() -> ModuleType:
    """The reader of the data sets."""
    spec = importlib.util.spec_from_file_location("load", SHARED / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def samples(split: str, n: int | None) -> Samples:
    """CIFAR-10 as the network expects it."""
    reader = load()
    x, y = reader.cifar10(split, limit=n)
    return Samples(reader.normalize_cifar10(x), y.astype(np.int64))


def depends_on_time(recipe: str) -> bool:
    """Whether an artifact of the recipe is for one T."""
    options = RECIPES[recipe].options
    timed = any(name.startswith(TIMED) for name in options)
    return timed or options.get("thresholds.method") == "mmse"


def measure(model: ir.Model, test: Samples, ann: np.ndarray, t: int, backend: str) -> Cell:
    """Run a compiled network for T = t (its own latency if its layers take turns)."""
    turns = any(n.op_type == "WindowedIF" for n in model.graph)
    result = evaluate(model, test, timesteps=None if turns else t, backend=backend)
    output = result.trace.output
    assert test.y is not None
    own, theirs = (float((top1(o) == test.y).mean()) for o in (output, ann))
    neurons = sum(
        c.size
        for name, c in result.trace.counts.items()
        if any(n.name == name and n.op_type in NEURONS for n in model.graph)
    )
    macs = result.ann_macs_per_sample
    operations = result.synaptic_operations["total"]
    return Cell(
        accuracy=own,
        loss=(theirs - own) / theirs,
        agreement=float((top1(output) == top1(ann)).mean()),
        error=float(np.square(output - ann).mean() / ann.var()),
        spikes=result.spikes_per_sample / neurons,
        operations=operations,
        energy=ACCUMULATE * operations / (MULTIPLY * macs),
        steps=result.timesteps,
    )


def table(title: str, rows: dict[str, dict[int, Cell]], steps: list[int], show: str) -> str:
    """One Markdown table; show: a format string for a Cell called c."""
    lines = [f"### {title}\n", "| recipe | " + " | ".join(f"T = {t}" for t in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    for name, cells in rows.items():
        texts = [show.format(c=cells[t]) if t in cells else "" for t in steps]
        lines.append(f"| `{name}` | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def report(rows: dict[str, dict[int, Cell]], steps: list[int], head: str) -> str:
    """The whole page."""
    percent = {
        n: {
            t: Cell(*(100 * v for v in (c.accuracy, c.loss, c.agreement)), c.error, c.spikes,
                    c.operations / 1e6, c.energy, c.steps)
            for t, c in cells.items()
        }
        for n, cells in rows.items()
    }  # fmt: skip
    parts = [
        head,
        table("Accuracy in % (relative loss in %)", percent, steps,
              "{c.accuracy:.2f} ({c.loss:.2f})"),
        table("Logit error: squared error / variance", percent, steps, "{c.error:.4f}"),
        table("Agreement with the ANN in %", percent, steps, "{c.agreement:.2f}"),
        table("Spikes per neuron and image (ratio of synaptic energy to the ANN)", percent, steps,
              "{c.spikes:.2f} ({c.energy:.2f})"),
        table("Million synaptic operations per image", percent, steps, "{c.operations:.1f}"),
        table("Time steps until the answer", percent, steps, "{c.steps}"),
        papers(steps),
    ]  # fmt: skip
    return "\n".join(parts)


def papers(steps: list[int]) -> str:
    """The papers' own relative losses."""
    lines = ["### The papers' own relative losses in %, on their networks\n"]
    lines.append("| recipe | network | " + " | ".join(f"T = {t}" for t in steps) + " |")
    lines.append("|---|---|" + "---|" * len(steps))
    for name, (network, losses) in PAPERS.items():
        lines.append(
            f"| `{name}` | {network} | " + " | ".join(str(losses.get(t, "")) for t in steps) + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipes", default=",".join([*RECIPES, "binary@8", "ternary@8"]))
    parser.add_argument("--timesteps", default=",".join(map(str, STEPS)))
    parser.add_argument("--samples", type=int, default=None, help="test images; default: all")
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    parser.add_argument("--backend", default="event")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results.md")
    given = parser.parse_args()
    model = SHARED / "models" / "cifar10_vgg.onnx"
    fit, test = samples("train", given.calibration), samples("test", given.samples)
    (ann,) = import_network(model).outputs(test.x)
    accuracy = float((top1(ann) == test.y).mean())
    steps = [int(t) for t in given.timesteps.split(",")]
    deviation = 100 * (accuracy * (1 - accuracy) / len(test.x)) ** 0.5
    head = (
        "# Results\n\n"
        f"Network: `cifar10_vgg.onnx` (8 spiking layers, 175,360 neurons, four max pools). "
        f"{len(test.x):,} CIFAR-10 test images, on which the ANN has {100 * accuracy:.2f} %; one "
        f"standard error of an accuracy is {deviation:.2f}"
        f" points (less between rows, which share the images). Calibrated on {len(fit.x)} training "
        "images. Written by `benchmarks/results.py`.\n\n"
        "A recipe that depends on T is compiled for each T; `NAME@8` is one artifact compiled for "
        "T = 8. For `separated`, T is the window. Energy: 0.9 pJ per synaptic operation against "
        "4.6 pJ per MAC of the ANN, synapses only.\n"
    )  # fmt: skip
    page = given.output.read_text() if given.output.exists() else ""
    others = "".join(page.partition("\n## ")[1:])  # what other benchmarks wrote
    rows: dict[str, dict[int, Cell]] = {}
    for name in given.recipes.split(","):
        recipe, _, frozen = name.partition("@")
        rows[name] = {}
        artifact: Compiled | None = None
        for t in steps:
            started = time.perf_counter()
            if artifact is None or (depends_on_time(recipe) and not frozen):
                target = int(frozen or (t if depends_on_time(recipe) else max(steps)))
                artifact = compile_model(model, fit.x, recipe=recipe, timesteps=target)
            compiled = time.perf_counter() - started
            try:
                rows[name][t] = measure(artifact.model, test, ann, t, given.backend)
            finally:
                given.output.parent.mkdir(exist_ok=True)
                given.output.write_text(report(rows, steps, head) + others)
            spent = time.perf_counter() - started
            print(
                f"{name} T={t}: compiled {compiled:.0f} s, {spent:.0f} s, {rows[name][t]}",
                flush=True,
            )


if __name__ == "__main__":
    main()
