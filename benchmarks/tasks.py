"""The ablation tables of detection and segmentation, in docs/results.md.

    python benchmarks/tasks.py models/yolo.onnx --rows channel-norm,burst,graded@16 --timesteps 64

A row is NAME or NAME@T, compiled for T (else for the longest T) and run once for all T. Tables of
other networks in the file stay; the table of this one is written again after every row.
"""

from __future__ import annotations

import argparse
import re
import time
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
from snncompiler.tasks import Detection, Metrics, Segmentation, Task

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
SHOWN = {"detection": ("mAP50", "mAP"), "segmentation": ("mean_iou", "pixel_accuracy")}
PAGE = ROOT / "docs" / "results.md"


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


def row(name: str, at: dict[str, Metrics], steps: list[int], shown: str, energy: str) -> str:
    """One line of the table."""
    found = [f"{100 * (at[str(t)][shown] or 0):.2f}" if str(t) in at else "" for t in steps]
    return f"| {name} | " + " | ".join([*found, energy]) + " |"


def table(
    title: str, task: str, rows: dict[str, Evaluation], steps: list[int], ann: Metrics
) -> str:
    """The Markdown section of one network."""
    parts = [f"### {title}\n"]
    for shown in SHOWN[task]:
        parts.append(f"{shown} in %\n\n| row | " + " | ".join(f"T = {t}" for t in steps))
        parts[-1] += " | energy ratio |\n|---|" + "---|" * (len(steps) + 1)
        parts.append(row("ANN", {str(t): ann for t in steps}, steps, shown, "1"))
        for name, result in rows.items():
            spent = ACCUMULATE * result.synaptic_operations["total"]
            ratio = spent / (MULTIPLY * result.ann_macs_per_sample)
            energy = f"{ratio:.2f} (T = {result.timesteps})"
            parts.append(row(f"`{name}`", result.metrics_at, steps, shown, energy))
        parts.append("")
    return "\n".join(parts)


def write(section: str, title: str) -> None:
    """Put a section into the page, in place of the one with the same title."""
    page = PAGE.read_text()
    kept = re.sub(rf"### {re.escape(title)}\n.*?(?=\n### |\n## |\Z)", "", page, flags=re.DOTALL)
    PAGE.write_text(kept.rstrip() + "\n\n" + section.rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path, help="trained network; beside it the decoding JSON")
    parser.add_argument("--rows", default=",".join(ROWS))
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
    steps = [t for t in (4, 8, 16, 32, 64, 128, 256) if t <= given.timesteps]
    title = f"`{given.model.name}`, {len(test.x)} test images"
    rows: dict[str, Evaluation] = {}
    for name in given.rows.split(","):
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
        rows[name] = evaluate(
            artifact.model, test, timesteps=longest, task=task, reference=given.model
        )
        write(table(title, task.name, rows, steps, rows[name].ann_metrics), title)
        spent = time.perf_counter() - started
        print(f"{name}: {spent:.0f} s, {rows[name].metrics_at[str(longest)]}", flush=True)


if __name__ == "__main__":
    main()
