"""The results table: every recipe on a trained network and its test set, in docs/results.md.

    python benchmarks/results.py --backend event                     # all recipes, all test images
    python benchmarks/results.py --recipes binary,ltb --samples 200 --timesteps 4,8

A recipe that depends on T is compiled for each T; `NAME@8` is one artifact, compiled for T = 8 and
run for every T. What was measured is kept in a journal (benchmarks/results.jsonl) and the page
written from all of it, so a long run can be watched, stopped and resumed, and some of it measured
on fewer images (`--samples`): what was measured on most counts. With nothing left to measure, the
page is just written.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx_ir as ir

from passes.recipes import RECIPES
from snncompiler.data import Samples
from snncompiler.driver import compile_model, import_network
from snncompiler.evaluation import Evaluation, evaluate
from snncompiler.metrics import top1
from snncompiler.ops import NEURONS

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("SNNC_SHARED", ROOT.parent / "shared"))
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
#: Options that make an artifact depend on the T it is compiled for.
TIMED = ("bias_shift.", "search.", "calibrate.", "twin_synapse.", "fine.", "separate.")
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


#: The whole test set.
IMAGES = 10_000
#: Of those, where only some are run: these first ones.
PART = 1_000
_STARRED = f"\nWith a star: the first {PART:,} test images alone, but where said.\n"
#: Images on which spikes before the last step are counted.
COUNTED = 500


@dataclass(frozen=True)
class Cell:
    """What one recipe reached at one T on so many images; per image where that applies."""

    images: int
    accuracy: float
    loss: float
    agreement: float
    error: float
    spikes: float
    operations: float
    energy: float
    steps: int

    def in_percent(self) -> Cell:
        """Shares in %, operations in millions."""
        shares = {k: 100 * getattr(self, k) for k in ("accuracy", "loss", "agreement")}
        return replace(self, **shares, operations=self.operations / 1e6)


#: {recipe: {T: cell}}
Rows = dict[str, dict[int, Cell]]


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


def measure(
    model: ir.Model, test: Samples, ann: np.ndarray, steps: list[int], backend: str
) -> dict[int, Cell]:
    """Run a compiled network for the longest T (its own latency if its layers take turns).

    The readout serves the shorter ones; spikes until then are counted on the first images alone.
    """
    turns = any(n.op_type == "WindowedIF" for n in model.graph)
    longest = max(steps)
    result = evaluate(model, test, timesteps=None if turns else longest, backend=backend)
    cells = {longest: cell(model, test, ann, result, result.trace.output)}
    for t in steps[:-1]:
        few = Samples(test.x[:COUNTED], None)
        counted = evaluate(model, few, timesteps=t, backend=backend)
        (readout,) = result.trace.readout.values()
        cells[t] = cell(model, test, ann, counted, readout[result.trace.steps.index(t)])
    return cells


def cell(
    model: ir.Model, test: Samples, ann: np.ndarray, counted: Evaluation, output: np.ndarray
) -> Cell:
    """How good the output is, and what the run that was counted cost."""
    assert test.y is not None
    own, theirs = (float((top1(o) == test.y).mean()) for o in (output, ann))
    neurons = sum(
        c.size
        for name, c in counted.trace.counts.items()
        if any(n.name == name and n.op_type in NEURONS for n in model.graph)
    )
    operations = counted.synaptic_operations["total"]
    return Cell(
        images=len(test.x),
        accuracy=own,
        loss=(theirs - own) / theirs,
        agreement=float((top1(output) == top1(ann)).mean()),
        error=float(np.square(output - ann).mean() / ann.var()),
        spikes=counted.spikes_per_sample / neurons,
        operations=operations,
        energy=ACCUMULATE * operations / (MULTIPLY * counted.ann_macs_per_sample),
        steps=counted.timesteps,
    )


def read(journal: Path) -> Rows:
    """What has been measured; of a cell measured again, what was measured on more images."""
    rows: Rows = {}
    for line in journal.read_text().splitlines() if journal.exists() else []:
        found = json.loads(line)
        row, t = rows.setdefault(found.pop("recipe"), {}), found.pop("T")
        if t not in row or row[t].images <= found["images"]:
            row[t] = Cell(**found)
    return rows


def table(title: str, rows: Rows, steps: list[int], show: str) -> str:
    """One Markdown table; show: a format string for a Cell called c.

    A star marks what was measured on a part of the images.
    """
    lines = [f"### {title}\n", "| recipe | " + " | ".join(f"T = {t}" for t in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    order = list(RECIPES)
    for recipe in sorted(rows, key=lambda row: (order.index(row.split("@")[0]), row)):
        found = [rows[recipe].get(t) for t in steps]
        texts = [show.format(c=c) + star(c) if c else "" for c in found]
        lines.append(f"| `{recipe}` | " + " | ".join(texts) + " |")
    return "\n".join(lines) + "\n"


def star(cell: Cell) -> str:
    """Tells a cell that was measured on a part of the images, and which part if it is unusual."""
    if cell.images == IMAGES:
        return ""
    return "*" if cell.images == PART else f"* ({cell.images:,} images)"


def report(rows: Rows, head: str) -> str:
    """The whole page."""
    steps = sorted({t for cells in rows.values() for t in cells})
    percent = {name: {t: c.in_percent() for t, c in cells.items()} for name, cells in rows.items()}
    partly = any(c.images < IMAGES for cells in rows.values() for c in cells.values())
    parts = [
        head + (_STARRED if partly else ""),
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


def write(tables: str, page: Path) -> None:
    """Put the tables in place of those on the page; what other benchmarks wrote there stays."""
    given = page.read_text() if page.exists() else ""
    page.write_text(tables + "".join(given.partition("\n## ")[1:]))


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
    parser.add_argument("--journal", type=Path, default=ROOT / "benchmarks" / "results.jsonl")
    given = parser.parse_args()
    model = SHARED / "models" / "cifar10_vgg.onnx"
    fit, test = samples("train", given.calibration), samples("test", IMAGES)
    (ann,) = import_network(model).outputs(test.x)
    accuracy = float((top1(ann) == test.y).mean())
    steps = sorted(int(t) for t in given.timesteps.split(","))
    deviation = 100 * (accuracy * (1 - accuracy) / IMAGES) ** 0.5
    head = f"""# Results

Network: `{model.name}` (8 spiking layers, 175,360 neurons, four max pools). {IMAGES:,} CIFAR-10
test images, on which the ANN has {100 * accuracy:.2f} %. One standard error of an accuracy is
{deviation:.2f} points (less between rows, which share the images). Calibrated on {len(fit.x)}
training images. Written by `benchmarks/results.py`.

A recipe that depends on T is compiled for each T; `NAME@8` is one artifact compiled for T = 8. For
`separated`, T is the window. Spikes and operations at a T shorter than the longest that an artifact
was run for are counted on {COUNTED} images. Energy: 0.9 pJ per synaptic operation against 4.6 pJ
per MAC of the ANN, synapses only.
"""
    assert test.y is not None
    test, ann = Samples(test.x[: given.samples], test.y[: given.samples]), ann[: given.samples]
    rows = read(given.journal)
    given.journal.parent.mkdir(exist_ok=True)
    given.output.parent.mkdir(exist_ok=True)
    for name in given.recipes.split(","):
        recipe, _, frozen = name.partition("@")
        row = rows.setdefault(name, {})
        lone = depends_on_time(recipe) and not frozen
        for wanted in [[t] for t in steps] if lone else [steps]:
            if all(t in row and row[t].images >= len(test.x) for t in wanted):
                continue
            started = time.perf_counter()
            artifact = compile_model(
                model, fit.x, recipe=recipe, timesteps=int(frozen or max(wanted))
            )
            compiled = time.perf_counter() - started
            found = measure(artifact.model, test, ann, wanted, given.backend)
            row |= {t: c for t, c in found.items() if t not in row or row[t].images <= c.images}
            with given.journal.open("a") as journal:
                for t, c in found.items():
                    print(json.dumps({"recipe": name, "T": t, **asdict(c)}), file=journal)
            write(report(rows, head), given.output)
            spent = time.perf_counter() - started
            print(f"{name} T={wanted}: compiled {compiled:.0f} s, {spent:.0f} s", flush=True)
            for t, c in found.items():
                print(f"    {t}: {c}", flush=True)
    write(report(rows, head), given.output)


if __name__ == "__main__":
    main()
