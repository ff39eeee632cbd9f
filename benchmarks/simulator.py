"""The event-driven simulator against T inferences of the ANN, PyTorch, SpikingJelly and NumPy.

    python benchmarks/simulator.py [--model MODEL.onnx ... --data DATA.npz] [--repeat 5] [--write]

Everything is interleaved A B A B in one run; figures are medians, with the range. onnxruntime is
taken with 1 and with 2 threads, and the better one counts; so is its 8-bit quantised network. Ours
runs with 1 thread and with all cores. Networks given are compiled with the default recipe on the
data (its last samples; the first ones are run). The VGG-16 (CIFAR size, random weights) has biases
such that all its layers fire at the rate asked for. With --write, replaces the tables of its
networks in docs/performance.md. PyTorch and SpikingJelly are taken where they are installed.
"""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from baselines import Run, dense_torch, inference, interleaved, quantised, spikingjelly
from vgg import noise, vgg16_of

from backends.event.program import EventBackend
from backends.reference import NumpyBackend
from backends.workers import available_cores
from snncompiler.driver import compile_model
from snncompiler.metrics import synaptic_operations
from snncompiler.trace import Observe

ROOT = Path(__file__).parents[1]


def compare(
    label: str, ann: onnx.ModelProto, snn: ir.Model, x: np.ndarray, timesteps: int, repeat: int
) -> str:
    """A row of the table: T inferences over our time, exact and with 8-bit weights."""
    cores = available_cores()
    programs = {
        "exact": EventBackend(threads=cores).build(snn),
        "exact1": EventBackend(threads=1).build(snn),
        "int8": EventBackend(threads=cores, precision="int8").build(snn),
    }
    last = Observe(steps=(timesteps,))
    runs: dict[str, Run] = {
        name: (lambda p=p: p.run(x, timesteps, last)) for name, p in programs.items()
    }
    small = quantised(ann, x)
    for n in (1, 2):
        runs |= {f"ann{n}": inference(ann, x, n), f"small{n}": inference(small, x, n)}
    for name, peer in (("torch", dense_torch), ("jelly", spikingjelly)):
        run = peer(ann, x, timesteps) if label.startswith("VGG-16") else None
        runs |= {name: run} if run is not None else {}
    times = interleaved(runs, repeat)
    median = {name: float(np.median(t)) for name, t in times.items()}
    ann_time, small_time = (
        min(median[f"{n}1"], median[f"{n}2"]) * timesteps for n in ("ann", "small")
    )
    trace = programs["exact"].run(x, timesteps, last)
    operations = sum(synaptic_operations(snn, trace.counts, timesteps, len(x)).values())
    active = np.mean(list(trace.firing_rate().values()))
    low, high = (f(np.array(times["exact"])) for f in (np.min, np.max))
    peers = (
        f"{median[n] / median['exact']:.1f}" if n in median else "-" for n in ("torch", "jelly")
    )
    cells = [
        label,
        f"{len(x)}",
        f"{timesteps}",
        f"{active:.1%}",
        f"{operations / 1e6:,.0f} M",
        f"{1e3 * ann_time / len(x):.0f}",
        "{:.1f} ({:.1f}-{:.1f})".format(*(1e3 * s / len(x) for s in (median["exact"], low, high))),
        f"{ann_time / median['exact']:.1f}",
        f"{ann_time / median['int8']:.1f}",
        f"{small_time / median['int8']:.1f}",
        *peers,
        f"{median['exact1'] / median['exact']:.2f}",
    ]
    row = "| " + " | ".join(cells) + " |"
    print(row, flush=True)
    return row


def beside_numpy(snn: object, x: np.ndarray, timesteps: int, repeat: int) -> str:
    """How much quicker than the NumPy backend."""
    last = Observe(steps=(timesteps,))
    ours, numpy = EventBackend().build(snn), NumpyBackend().build(snn)  # type: ignore[arg-type]
    times = interleaved(
        {"a": lambda: ours.run(x, timesteps, last), "b": lambda: numpy.run(x, timesteps, last)},
        repeat,
    )
    ratio = np.array(times["b"]) / np.array(times["a"])
    return f"{np.median(ratio):.1f} ({ratio.min():.1f}-{ratio.max():.1f})"


HEAD = """# Performance of the event-driven simulator

Measured on {cores} cores ({machine}, {vector}). Times are per image; medians of interleaved runs,
with the range for ours. Ratios above 1 mean that ours is quicker. "ANN x T" is T times one
inference of the trained network by onnxruntime, with 1 or 2 threads, whichever is quicker; "8-bit
ANN" the same for the network quantised by onnxruntime's tool. Ours uses all cores; the last column
says what the second core brings. The PyTorch loop folds time into the batch and convolves densely;
so does SpikingJelly in its multi-step mode. Rates are means over layers, pools included. In its
turn each runs for a fifth of a second at least, again and again.

Made by `python benchmarks/simulator.py --model MODEL.onnx --data DATA.npz --repeat 3 --write` for
every network, 32 steps (`--timesteps 32,128` for two of them, compiled for 128); those of the
VGG-16 (`--rates 0.01,0.05,0.2`) with PyTorch and SpikingJelly installed, the others without.
"Growth" is by `benchmarks/growth.py`. Ratios depend on the machine, and on who else uses it: on
this one, with a second-level cache of 512 KB for each core, the same run takes up to half as long
again, from minute to minute. At batch 32 and T = 32, machines with vectors of 512 bits had, before
what "Single samples" tells below: with 2 MB, in exact mode, 22.4, 11.7 and 5.8 for the VGG-16 at 1,
5 and 20 % (int8: 28.3, 15.2 and 7.9), 5.4 (5.8) for cifar10_vgg; with 1 MB and a nearer third
one, and before "Events asked for", 30.8, 11.4 and 4.2 (36.8, 17.7 and 7.0), and 6.0 (7.9).

A layer is never computed densely: with 20 % of the VGG's neurons active in every step, adding the
rows of events is still quicker than float convolutions.

"""
COLUMNS = """
| network | batch | T | mean rate | SOP per image | ANN x T, ms | ours exact, ms | ANN / exact \
| ANN / int8 | 8-bit ANN / int8 | PyTorch / exact | SpikingJelly / exact | 1 / {cores} threads |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def write(title: str, section: str, page: Path, head: str) -> None:
    """Put a section into the page, in place of the one with the same title."""
    given = page.read_text() if page.exists() else head
    _, *sections = given.split("\n## ")
    kept = [s.strip("\n") for s in sections if not s.startswith(f"{title}\n")]
    page.write_text(
        "\n\n## ".join([head.strip("\n"), *kept, f"{title}\n\n{section.strip()}"]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, nargs="*", default=[])
    parser.add_argument("--data", type=Path, help="for these models; x: float32 [N, ...]")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--timesteps", default="32")
    parser.add_argument("--rates", default="0.01,0.05,0.2", help="firing rates of the VGG-16")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    batches = [int(b) for b in options.batches.split(",")]
    steps = [int(t) for t in options.timesteps.split(",")]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    vector = "512-bit vectors" if "avx512f" in flags else "256-bit vectors"
    cores = os.cpu_count()
    head = HEAD.format(cores=cores, machine=platform.machine(), vector=vector)

    def section(title: str, rows: list[str], note: str) -> None:
        if options.write:
            text = COLUMNS.format(cores=cores) + "\n".join(rows) + f"\n{note}"
            write(title, text, options.output, head)

    for path in options.model:
        data = np.load(options.data)["x"]
        ann, snn = onnx.load(path), compile_model(path, data[-128:], timesteps=max(steps)).model
        rows = [
            compare(path.stem, ann, snn, data[:batch], t, options.repeat)
            for batch in batches
            for t in steps
        ]
        note = f"\nNumPy backend / ours, 8 images, T = 16: {beside_numpy(snn, data[:8], 16, 3)}\n"
        print(note)
        section(path.stem, rows, note)
    for rate in (float(s) for s in options.rates.split(",") if s):
        ann, snn = vgg16_of(rate)
        rows = [
            compare("VGG-16", ann, snn, noise(batch), t, options.repeat)
            for batch in batches
            for t in steps
        ]
        section(f"VGG-16, {rate:.0%} in every layer of neurons", rows, "")


if __name__ == "__main__":
    main()
