"""How the simulator's time grows with activity, T, batch and width; in docs/performance.md.

    python benchmarks/growth.py [--repeat 5] [--write]     # adds to the page of simulator.py

One thing at a time is changed on the VGG-16 of `vgg.py`, with all cores; everything in turns.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir
from baselines import interleaved
from simulator import ROOT, write
from vgg import VGG, noise, vgg16_of

from backends.event.program import EventBackend
from snncompiler.metrics import synaptic_operations
from snncompiler.trace import Observe

#: (rate, width, batch, T); the middle one is what the others depart from.
POINTS = [
    *((rate, 1.0, 16, 32) for rate in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)),
    *((0.05, 1.0, 16, t) for t in (8, 64, 128)),
    *((0.05, 1.0, batch, 32) for batch in (1, 4, 64)),
    *((0.05, width, 16, 32) for width in (0.25, 0.5)),
]
TITLE = "Growth"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    networks: dict[tuple[float, float], ir.Model] = {}
    runs, operations = {}, {}
    for point in POINTS:
        rate, width, batch, t = point
        if (rate, width) not in networks:
            networks[rate, width] = vgg16_of(rate, tuple(int(n * width) for n in VGG))[1]
        snn, x = networks[rate, width], noise(batch)
        program = EventBackend().build(snn)
        counts = program.run(x, t, Observe(steps=(t,))).counts
        operations[point] = sum(synaptic_operations(snn, counts, t, batch).values())
        runs[point] = lambda p=program, x=x, t=t: p.run(x, t, Observe(steps=(t,)))
    lines = ["| rate | width | batch | T | SOP per image | ms per image | ns per 1,000 SOP |"]
    lines.append("|---|---|---|---|---|---|---|")
    for point, times in interleaved(runs, options.repeat).items():
        rate, width, batch, t = point
        seconds = float(np.median(times)) / batch
        lines.append(
            f"| {rate:.1%} | {width:g} | {batch} | {t} | {operations[point] / 1e6:,.1f} M "
            f"| {1e3 * seconds:.2f} | {1e12 * seconds / operations[point]:.0f} |"
        )
    text = "\n" + "\n".join(lines)
    print(text)
    if options.write:
        write(TITLE, text, options.output, options.output.read_text().partition("\n## ")[0])


if __name__ == "__main__":
    main()
