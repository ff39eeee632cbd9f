"""The ablation tables of detection and segmentation, in docs/results.md.

    python benchmarks/tasks.py models/yolo.onnx --rows channel-norm,burst,graded@16 --timesteps 64

A row is NAME or NAME@T, compiled for T (else for the longest T) and run once for all T. What was
measured is kept in a journal (benchmarks/tasks.jsonl), and the tables are written from all of it
after every row: rows of one network on the same images make up one table.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from results import ACCUMULATE, MULTIPLY, ROOT, load

from snncompiler.data import Samples
from snncompiler.decoding import load_decoding
from snncompiler.detection import Truth
from snncompiler.driver import compile_model
from snncompiler.evaluation import Evaluation, evaluate
from snncompiler.graph import shape
from snncompiler.segmentation import VOID
from snncompiler.tasks import Detection, Segmentation, Task

#: Row -> recipe and options on top. Max pools are exact (MLIPool) in every row.
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "channel-norm": ("channel-norm", {}),
    "burst": ("channel-norm", {"neurons.gamma": 5.0}),
    "burst + TwinSynapse": (
        "channel-norm",
        {"neurons.gamma": 5.0, "twin_synapse.allowance": "T/2"},
    ),
    "binary": ("binary", {}),
    "stage2-only ternary": ("stage2-only", {"neurons.gamma_neg": 1.0}),
    "ternary": ("ternary", {}),
    "graded": ("graded", {}),
}
SHOWN: dict[str, tuple[str, ...]] = {
    "detection": ("mAP50", "mAP"),
    "segmentation": ("mean_iou", "pixel_accuracy"),
}
PAGE = ROOT / "docs" / "results.md"
JOURNAL = ROOT / "benchmarks" / "tasks.jsonl"
#: The shortest T that is shown.
FIRST = 4


def cells(split: str, n: int | None) -> tuple[Samples, list[Truth]]:
    """BCCD as `models/cells.py` trained on it; the first n images."""
    pixels, tables = load().bccd(split)
    x = pixels[:n].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255) - np.float32(0.7)
    truth = [Truth(t[:, :4].astype(np.float64), t[:, 4].astype(np.int64)) for t in tables[:n]]
    return Samples(np.ascontiguousarray(x), None), truth


def streets(split: str, n: int | None) -> tuple[Samples, np.ndarray]:
    """CamVid as `models/streets.py` trained on it; n images, evenly spread over the film."""
    pixels, labels = load().camvid(split)
    chosen = slice(None, None, 1 if n is None else max(1, len(pixels) // n))
    x = (pixels[chosen].astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.42) / 0.3
    y = np.where(labels[chosen] == 11, VOID, labels[chosen]).astype(np.uint8)
    return Samples(np.ascontiguousarray(x, np.float32)[:n], None), y[:n]


@dataclass(frozen=True)
class Row:
    """What one artifact reached on so many images; shares in [0, 1], or None, by metric.

    name: NAME or NAME@T. ann: of the trained network. at: by T. timesteps: the longest T, of which
    the energy ratio is told.
    """

    network: str
    images: int
    name: str
    timesteps: int
    energy: float
    ann: dict[str, float | None]
    at: dict[str, dict[str, float | None]]


def row_of(network: str, name: str, result: Evaluation, shown: tuple[str, ...]) -> Row:
    """What is kept of an evaluation."""
    spent = ACCUMULATE * result.synaptic_operations["total"]
    return Row(
        network,
        result.samples,
        name,
        result.timesteps,
        spent / (MULTIPLY * result.ann_macs_per_sample),
        {m: result.ann_metrics[m] for m in shown},
        {t: {m: at[m] for m in shown} for t, at in result.metrics_at.items()},
    )


def read(journal: Path) -> dict[tuple[str, int, str], Row]:
    """What has been measured; the last of the same kind counts."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    rows = [Row(**json.loads(line)) for line in lines]
    return {(row.network, row.images, row.name): row for row in rows}


def line(name: str, cells: list[float | None], energy: str) -> str:
    """One line of the table."""
    found = ["" if c is None else f"{100 * c:.2f}" for c in cells]
    return f"| {name} | " + " | ".join([*found, energy]) + " |"


def table(rows: list[Row]) -> str:
    """The Markdown section of one network on the same images."""
    kinds = list(ROWS)
    rows = sorted(rows, key=lambda r: (kinds.index(r.name.partition("@")[0]), r.timesteps))
    steps = sorted({int(t) for r in rows for t in r.at if int(t) >= FIRST})
    parts = [f"### `{rows[0].network}`, {rows[0].images} test images\n"]
    for shown, ann in rows[0].ann.items():
        parts.append(f"{shown} in %\n\n| row | " + " | ".join(f"T = {t}" for t in steps))
        parts[-1] += " | energy ratio |\n|---|" + "---|" * (len(steps) + 1)
        parts.append(line("ANN", [ann] * len(steps), "1"))
        for r in rows:
            cells = [r.at[str(t)][shown] if str(t) in r.at else None for t in steps]
            parts.append(line(f"`{r.name}`", cells, f"{r.energy:.2f} (T = {r.timesteps})"))
        parts.append("")
    return "\n".join(parts)


def write(rows: list[Row]) -> None:
    """Put the tables at the end of the page, in place of those that are there."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for r in rows:
        groups.setdefault((r.network, r.images), []).append(r)
    text = re.sub(r"### `[^`]+`, \d+ test images\n.*?(?=\n### |\n## |\Z)", "", PAGE.read_text(),
                  flags=re.DOTALL)  # fmt: skip
    PAGE.write_text(
        "\n\n".join([text.rstrip(), *(table(g).rstrip() for g in groups.values())]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="trained network; beside it the decoding JSON")
    parser.add_argument("--rows", default=",".join(ROWS), help="'': just write the page")
    parser.add_argument("--timesteps", type=int, default=256, help="the longest T")
    parser.add_argument("--own", action="store_true", help="run NAME@T no longer than T")
    parser.add_argument("--samples", type=int, default=None, help="test images; default: all")
    parser.add_argument("--calibration", type=int, default=256, help="training images")
    given = parser.parse_args()
    decode = given.model.with_suffix(".json")
    if decode.exists():
        fit, _ = cells("trainval", given.calibration)
        test, truth = cells("test", given.samples)
    else:
        fit, _ = streets("train", given.calibration)
        test, maps = streets("test", given.samples)
    for name in filter(None, given.rows.split(",")):
        started = time.perf_counter()
        kind, _, at = name.partition("@")
        recipe, options = ROWS[kind]
        target = int(at or given.timesteps)
        longest = target if given.own else given.timesteps
        artifact = compile_model(
            given.model, fit.x, recipe=recipe, timesteps=target, options=options
        )
        outputs = {str(v.name): shape(v) for v in artifact.model.graph.outputs}
        task: Task
        if decode.exists():
            image = shape(artifact.model.graph.inputs[0])
            task = Detection.of(load_decoding(decode), image, outputs)
            task.labels = truth
        else:
            task = Segmentation.of(outputs, maps)
        result = evaluate(artifact.model, test, timesteps=longest, task=task, reference=given.model)
        found = row_of(given.model.name, name, result, SHOWN[task.name])
        with JOURNAL.open("a") as journal:
            print(json.dumps(asdict(found)), file=journal)
        write(list(read(JOURNAL).values()))
        spent = time.perf_counter() - started
        print(f"{name}: {spent:.0f} s, {result.metrics_at[str(longest)]}", flush=True)
    write(list(read(JOURNAL).values()))


if __name__ == "__main__":
    main()
