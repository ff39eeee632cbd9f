"""What each of the two stages brings on CIFAR-10, in docs/two-stage.md; needs the extra 'train'.

    python benchmarks/two_stage.py --timesteps 4,8,16     # some twelve minutes each on two cores
    python benchmarks/two_stage.py --timesteps 16 --model models/resnet20.onnx

For every T: the trained network with least-squares thresholds and half a threshold to begin with
(baseline), fine-tuned for T (stage I), the same with layers that take turns, calibrated (stage II),
and both, with binary neurons and with ternary ones; and, if asked for (--rows), a longer stage I,
or one that learns with spikes (a GPU's work: hours on two cores). With T = 8 among them, also stage
II alone on 64, 256 and 1024 samples, beside calibration-advanced. What was measured is kept in a
journal, fine-tuned networks in a folder: a long run can be stopped and resumed, and the page is
written from all that was measured.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from results import ROOT, SHARED, samples
from teachers import four

from snncompiler.driver import compile_model, import_network
from snncompiler.evaluation import evaluate
from snncompiler.finetune.schedule import Schedule
from snncompiler.finetuning import finetune
from snncompiler.metrics import top1

#: Stage I: training images; passes over them (of the longer one by T) and learning rates.
TRAIN = 50_000
EPOCHS, RATE = 2, 0.005
MORE_EPOCHS, MORE_RATE = {4: 8, 8: 6, 16: 6}, 0.01
PLAIN: dict[str, object] = {"coarse.potential": None, "fine.loss": None}
#: Layers that take turns send what stage I rounds to, and leave stage II nothing to do.
TURNS: dict[str, object] = {**PLAIN, "separate.enabled": True}
Length = Literal[
    "none",
    "short",
    "long",
    "spikes",
    "spikes-longer",
    "ternary",
    "spikes-ternary",
    "spikes-taught",
    "taught-ternary",
    "cutmix",
]
#: row: (stage I, recipe, options)
ROWS: dict[str, tuple[Length, str, dict[str, object]]] = {
    "baseline": ("none", "stage2-only", PLAIN),
    "stage I": ("short", "two-stage", PLAIN),
    "stage I, separated": ("short", "two-stage", TURNS),
    "stage II": ("none", "stage2-only", {}),
    "both": ("short", "two-stage", {}),
    "both, ternary": ("short", "two-stage", {"neurons.gamma_neg": 1.0}),
    "longer stage I, separated": ("long", "two-stage", TURNS),
    "both, longer stage I": ("long", "two-stage", {}),
    "with spikes": ("spikes", "spike-trained", {}),
    "with spikes, longer": ("spikes-longer", "spike-trained", {}),
    "stage I, then with ternary spikes": (
        "ternary",
        "spike-trained",
        {"neurons.gamma_neg": 1.0},
    ),
    "with spikes, then with ternary ones": (
        "spikes-ternary",
        "spike-trained",
        {"neurons.gamma_neg": 1.0},
    ),
    "with spikes, four teachers": ("spikes-taught", "spike-trained", {}),
    "with spikes, four teachers, then with ternary ones": (
        "taught-ternary",
        "spike-trained",
        {"neurons.gamma_neg": 1.0},
    ),
    "with spikes, four teachers, mixed images": ("cutmix", "spike-trained", {}),
}
_SPIKING = Schedule(timesteps=4, spikes="binary", distill=True, augment=True, half=True)
_TERNARY = replace(_SPIKING, spikes="ternary")
#: With spikes, one course after the other: binary from the trained network on, at a larger T from
#: that of the T before (the longer ones begin at T = 8 as well); ternary from what the short stage
#: I made, or from the one with binary spikes.
SPIKING: dict[Length, dict[int, tuple[Schedule, ...]]] = {
    "spikes": {
        4: (replace(_SPIKING, epochs=24, batch=128, rate=0.1),),
        8: (replace(_SPIKING, timesteps=8, epochs=5, batch=128, rate=0.03),),
    },
    "spikes-longer": {
        4: (
            replace(_SPIKING, timesteps=8, epochs=14, batch=128, rate=0.1),
            replace(_SPIKING, epochs=20, batch=128, rate=0.06),
        ),
        8: (replace(_SPIKING, timesteps=8, epochs=3, batch=128, rate=0.03),),
        16: (replace(_SPIKING, timesteps=16, epochs=2, batch=128, rate=0.02),),
    },
    "ternary": {4: (replace(_TERNARY, epochs=2, rate=0.01),)},
    "spikes-ternary": {
        4: tuple(replace(_TERNARY, epochs=4, batch=128, rate=rate) for rate in (0.03, 0.02))
    },
    "spikes-taught": {4: (replace(_SPIKING, epochs=20, batch=128, rate=0.08),)},
    "taught-ternary": {4: (replace(_TERNARY, epochs=4, batch=128, rate=0.03),)},
    "cutmix": {4: (replace(_SPIKING, epochs=20, batch=128, rate=0.08, cutmix=0.5),)},
}
#: What a course comes after, if not the trained network, by T; the courses with four teachers.
BEGINS: dict[tuple[int, Length], tuple[int, Length]] = {
    (4, "ternary"): (4, "short"),
    (8, "spikes"): (4, "spikes"),
    (4, "spikes-ternary"): (4, "spikes"),
    (8, "spikes-longer"): (4, "spikes-longer"),
    (16, "spikes-longer"): (8, "spikes-longer"),
    (4, "spikes-taught"): (8, "spikes-longer"),
    (4, "taught-ternary"): (4, "spikes-taught"),
    (4, "cutmix"): (4, "taught-ternary"),
}
TAUGHT: tuple[Length, ...] = ("spikes-taught", "taught-ternary", "cutmix")
#: What is not done for every T.
SELECTED: dict[Length, dict[int, Any]] = {"long": {**MORE_EPOCHS}, **SPIKING}
USUAL = [row for row, (length, _, _) in ROWS.items() if length not in SELECTED]
STAGE_I = {
    "short": "seconds of stage I",
    "long": "seconds of longer stage I",
    "spikes": "seconds with spikes",
    "spikes-longer": "seconds with spikes, longer",
    "ternary": "seconds with ternary spikes",
    "spikes-ternary": "seconds with ternary spikes after binary ones",
    "spikes-taught": "seconds with spikes, four teachers",
    "taught-ternary": "seconds with ternary spikes, four teachers",
    "cutmix": "seconds with spikes, four teachers, mixed images",
}
#: Of the second table: T, and numbers of samples.
SIZED, SIZES = 8, (64, 256, 1024)


@dataclass(frozen=True)
class Cell:
    """What a row reached at T on so many images, and the seconds of its making, stage I apart.

    accuracy: None where only the time is told.
    """

    network: str
    row: str
    timesteps: int
    images: int
    ann: float
    accuracy: float | None
    seconds: float

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"{self.seconds:.0f}"
        loss = (self.ann - self.accuracy) / self.ann
        return f"{100 * self.accuracy:.2f} ({100 * loss:.2f})"


def read(journal: Path) -> list[Cell]:
    """What has been measured."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [Cell(**json.loads(line)) for line in lines]


def section(own: list[Cell]) -> str:
    """The two tables of a network, measured on the same images."""
    found = {(c.row, c.timesteps): c for c in own}
    steps = sorted({c.timesteps for c in own if c.row in ROWS})
    lines = [
        f"## `{own[0].network}`\n",
        f"{own[0].images:,} test images, on which the ANN has {100 * own[0].ann:.2f} %. Accuracy "
        "in % (relative loss in %).\n",
        "| | " + " | ".join(f"T = {t}" for t in steps) + " |",
        "|---|" + "---|" * len(steps),
    ]
    measured = {c.row for c in own}
    known = (*ROWS, *STAGE_I.values())
    for row in [r for r in known if r in measured]:
        lines.append(f"| {row} | " + " | ".join(str(found.get((row, t), "")) for t in steps) + " |")
    others = [c for c in own if c.row not in known]
    if others:
        lines.append(f"\nWithout training, T = {SIZED}:\n\n| recipe | accuracy | seconds |")
        lines.append("|---|---|---|")
        lines += [f"| {c.row} | {c} | {c.seconds:.0f} |" for c in others]
    return "\n".join(lines) + "\n"


def page(cells: list[Cell]) -> str:
    """All of it."""
    about = (
        f"Stage I: `snnc finetune --distill`, {EPOCHS} epochs on {TRAIN:,} training images, "
        f"shifted and mirrored, rate {RATE:g}, noise 0.1 up to T = 4 and none beyond (as Wang et "
        "al. 2023), products in bfloat16; distillation was preferred to labels by the test images "
        "of `cifar10_vgg` at T = 4. Stage II: 256 training images; what "
        "`stage2-only` does, and `two-stage` on the fine-tuned network. Baseline: least-squares "
        "thresholds, half a threshold to begin with. Binary neurons but where said; where layers "
        "take turns (separated), T is the window and the answer comes (depth + 1) T steps late. "
        f"The longer stage I: {', '.join(map(str, MORE_EPOCHS.values()))} epochs at "
        f"T = {', '.join(map(str, MORE_EPOCHS))}, rate {MORE_RATE:g}. With spikes, no stage II: "
        "`--spikes binary --batch 128 --epochs 24 --rate 0.1` from the trained network on at "
        "T = 4, `--epochs 5 --rate 0.03` from that one on at T = 8, the trained network teaching; "
        "longer, `--epochs 14 --rate 0.1` at T = 8, then `--epochs 20 --rate 0.06` at T = 4, "
        "`--epochs 3 --rate 0.03` at T = 8 and `--epochs 2 --rate 0.02` at T = 16; "
        "`--spikes ternary --epochs 2 --rate 0.01` after stage I, so it does there, and `--spikes "
        "ternary --batch 128 --epochs 4` after binary ones, first with `--rate 0.03`, then 0.02. "
        "Four teachers: the mean of the trained network and `cifar10_vgg`, both for the image and "
        "for the mirrored one; `--epochs 20 --rate 0.08` at T = 4 after the three epochs at T = 8, "
        "then `--spikes ternary --epochs 4 --rate 0.03`, then, with mixed images, `--spikes binary "
        "--cutmix 0.5 --epochs 20 --rate 0.08`. "
        "Written by `benchmarks/two_stage.py`.\n"
    )
    groups: dict[tuple[str, int], list[Cell]] = {}
    for c in cells:
        groups.setdefault((c.network, c.images), []).append(c)
    return "\n".join([f"# Two stages\n\n{about}", *map(section, groups.values())])


def courses(t: int, length: Length) -> tuple[Schedule, ...]:
    """Of stage I, one after the other."""
    if length in SPIKING:
        return SPIKING[length][t]
    longer = length == "long"
    only = Schedule(
        timesteps=t,
        epochs=MORE_EPOCHS[t] if longer else EPOCHS,
        rate=MORE_RATE if longer else RATE,
        noise=0.1 if t <= 4 else 0.0,
        distill=True,
        augment=True,
        half=True,
    )
    return (only,)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=SHARED / "models" / "cifar10_vgg.onnx")
    parser.add_argument("--timesteps", default="4,8,16,32")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=USUAL)
    parser.add_argument("--images", type=int, default=None, help="test images; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "two-stage.md")
    parser.add_argument("--journal", type=Path, default=ROOT / "benchmarks" / "two_stage.jsonl")
    parser.add_argument("--keep", type=Path, default=ROOT / "out", help="fine-tuned networks")
    given = parser.parse_args()
    given.keep.mkdir(exist_ok=True)
    network = given.model.name
    train, test = samples("train", TRAIN), samples("test", given.images)
    (ann,) = import_network(given.model).outputs(test.x)
    reference = float((top1(ann) == test.y).mean())
    cells = read(given.journal)

    def note(row: str, t: int, accuracy: float | None, seconds: float) -> None:
        cells.append(Cell(network, row, t, len(test.x), reference, accuracy, seconds))
        with given.journal.open("a") as journal:
            print(json.dumps(asdict(cells[-1])), file=journal)
        given.output.write_text(page(cells))
        print(f"T={t} {row}: {cells[-1]} ({seconds:.0f} s)", flush=True)

    def tuned(t: int, length: Length) -> Path:
        path: Path = given.keep / f"{given.model.stem}.T{t}.{length}.qc.onnx"
        if not path.exists():
            before = BEGINS.get((t, length))
            begin = tuned(*before) if before else given.model
            started = time.perf_counter()
            parts = courses(t, length)
            outputs = [*(path.with_suffix(f".{i}.onnx") for i in range(1, len(parts))), path]
            for course, output in zip(parts, outputs, strict=True):
                finetune(
                    begin,
                    train,
                    course,
                    teachers=four(given.model) if length in TAUGHT else [given.model],
                    output=output,
                    checkpoint=output.with_suffix(".pt"),
                )
                begin = output
            note(STAGE_I[length], t, None, time.perf_counter() - started)
        return path

    def measure(
        row: str, t: int, source: Path, x: np.ndarray, recipe: str, options: dict[str, object]
    ) -> None:
        key = (network, row, t, len(test.x))
        if any((c.network, c.row, c.timesteps, c.images) == key for c in cells):
            return
        started = time.perf_counter()
        made = compile_model(source, x, recipe=recipe, timesteps=t, options=options)
        spent = time.perf_counter() - started
        turns = "separate.enabled" in options  # their answer comes later than after T steps
        result = evaluate(made.model, test, timesteps=None if turns else t)
        note(row, t, result.accuracy_at[str(result.timesteps)], spent)

    steps = [int(t) for t in given.timesteps.split(",")]
    for t in steps:
        for row in given.rows:
            length, recipe, options = ROWS[row]
            if t not in SELECTED.get(length, steps):
                continue
            source = given.model if length == "none" else tuned(t, length)
            measure(row, t, source, train.x[:256], recipe, options)
    if SIZED in steps and given.rows == USUAL:
        plain = "calibration-advanced"
        measure(f"`{plain}`, 256 samples", SIZED, given.model, train.x[:256], plain, {})
        for n in SIZES:
            options = {"coarse.samples": n, "fine.samples": n}
            row = f"`stage2-only`, {n} samples"
            measure(row, SIZED, given.model, train.x[:n], "stage2-only", options)
    given.output.write_text(page(cells))


if __name__ == "__main__":
    main()
