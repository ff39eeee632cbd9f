"""What each of the two stages brings on CIFAR-10, in docs/two-stage.md; needs the extra 'train'.

    python benchmarks/two_stage.py                            # a few hours on two cores
    python benchmarks/two_stage.py --timesteps 4 --images 1000 --train 5000 --epochs 2

For every T: the trained network with least-squares thresholds and half a threshold to begin with
(baseline), fine-tuned for T (stage I), calibrated (stage II), and both, with binary neurons and
with ternary ones. Then stage II alone on 64, 256 and 1024 samples. The page is written again after
every network, and fine-tuned networks are kept, so a long run can be stopped and resumed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
from results import SHARED, samples

from snncompiler.data import Samples
from snncompiler.driver import compile_model, import_network
from snncompiler.evaluation import evaluate
from snncompiler.finetune.schedule import Schedule
from snncompiler.finetuning import finetune
from snncompiler.metrics import top1

ROOT = Path(__file__).parents[1]
PLAIN = {"coarse.potential": None, "fine.loss": None}
SIGNED = {"neurons.gamma_neg": 1.0}
#: row: (fine-tuned?, recipe, options)
ROWS: dict[str, tuple[bool, str, dict[str, object]]] = {
    "baseline": (False, "stage2-only", PLAIN),
    "stage I": (True, "two-stage", PLAIN),
    "stage II": (False, "stage2-only", {}),
    "both": (True, "two-stage", {}),
    "both, ternary": (True, "two-stage", SIGNED),
    "calibration-advanced": (False, "calibration-advanced", {}),
}


def accuracy(model: ir.Model, test: Samples, t: int) -> float:
    result = evaluate(model, test, timesteps=t, backend="event")
    return result.accuracy_at[str(t)]


def page(
    head: str, cells: dict[str, dict[int, str]], sizes: dict[int, str], steps: list[int]
) -> str:
    lines = [head, "| | " + " | ".join(f"T = {t}" for t in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    for row, found in cells.items():
        lines.append(f"| {row} | " + " | ".join(found.get(t, "") for t in steps) + " |")
    lines.append("\n### `stage2-only` at T = 8 by the number of calibration samples\n")
    lines.append("| samples | accuracy in % (relative loss in %) |\n|---|---|")
    lines += [f"| {n} | {text} |" for n, text in sizes.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "cifar10_vgg.onnx")
    parser.add_argument("--timesteps", default="4,8,16,32")
    parser.add_argument("--images", type=int, default=None, help="test images; default: all")
    parser.add_argument("--train", type=int, default=10_000, help="training images of stage I")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "two-stage.md")
    parser.add_argument("--keep", type=Path, default=ROOT / "out", help="fine-tuned networks")
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    steps = [int(t) for t in given.timesteps.split(",")]
    train, test = samples("train", given.train), samples("test", given.images)
    (ann,) = import_network(given.model).outputs(test.x)
    reference = float((top1(ann) == test.y).mean())
    head = (
        "# Two stages\n\n"
        f"`{given.model.name}`, {len(test.x):,} CIFAR-10 test images, on which the ANN has "
        f"{100 * reference:.2f} %. Stage I: {given.epochs} epochs on {len(train.x):,} training "
        "images, shifted and mirrored; stage II: 256 training images. Accuracy in % (relative "
        "loss in %). Written by `benchmarks/two_stage.py`.\n"
    )
    cells: dict[str, dict[int, str]] = {row: {} for row in ROWS}
    sizes: dict[int, str] = {}

    def told(model: ir.Model, t: int) -> str:
        found = accuracy(model, test, t)
        return f"{100 * found:.2f} ({100 * (reference - found) / reference:.2f})"

    for t in steps:
        tuned = given.keep / f"{given.model.stem}.T{t}.qc.onnx"
        started = time.perf_counter()
        if not tuned.exists():
            schedule = Schedule(timesteps=t, epochs=given.epochs, augment=True)
            checkpoint = tuned.with_suffix(".pt")
            finetune(given.model, train, schedule, output=tuned, checkpoint=checkpoint)
        print(f"T={t}: stage I {time.perf_counter() - started:.0f} s", flush=True)
        for row, (learned, recipe, options) in ROWS.items():
            started = time.perf_counter()
            source = tuned if learned else given.model
            made = compile_model(source, train.x[:256], recipe=recipe, timesteps=t, options=options)
            cells[row][t] = told(made.model, t)
            print(
                f"T={t} {row}: {cells[row][t]}, {time.perf_counter() - started:.0f} s", flush=True
            )
            given.output.write_text(page(head, cells, sizes, steps))
    for n in (64, 256, 1024):
        options = {"coarse.samples": n, "fine.samples": n}
        x = np.ascontiguousarray(train.x[:n])
        made = compile_model(given.model, x, recipe="stage2-only", timesteps=8, options=options)
        sizes[n] = told(made.model, 8)
        given.output.write_text(page(head, cells, sizes, steps))


if __name__ == "__main__":
    main()
