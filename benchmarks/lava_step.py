"""Cost of a time step on Lava beside the NumPy backend, interleaved in one run.

    python benchmarks/lava_step.py SNN.onnx DATA.npz [batches] [T]

Batches of 8 samples; seconds of the simulation alone, start-up left out, as ratios to NumPy. With
it one small layer on the Conv that comes with Lava, and on ours.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from backends.lava import interpreter
from backends.lava.backend import LavaBackend
from backends.reference import NumpyBackend
from snncompiler.artifact import load

STOCK = """
import time, sys
import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv
from lava.proc.io.source import RingBuffer
spikes = (np.random.default_rng(0).random((16, 16, 32, 10)) < 0.1).astype(float)
weight = np.random.default_rng(1).standard_normal((32, 3, 3, 32))
source = RingBuffer(data=spikes)
conv = Conv(weight=weight, input_shape=(16, 16, 32), padding=1, num_message_bits=8)
source.s_out.connect(conv.s_in)
conv.run(condition=RunSteps(num_steps=2), run_cfg=Loihi2SimCfg(select_tag="floating_pt"))
start = time.perf_counter()
conv.run(condition=RunSteps(num_steps=20))
print((time.perf_counter() - start) / 20)
conv.stop()
"""


def main() -> None:
    model, x = load(sys.argv[1]), np.load(sys.argv[2])["x"]
    batches = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    steps = int(sys.argv[4]) if len(sys.argv) > 4 else 8
    ours, lava = NumpyBackend().build(model), LavaBackend().build(model)
    ours.run(x[:8], 1)
    ratios = []
    for i in range(batches):
        block = x[8 * i : 8 * i + 8]
        start = time.perf_counter()
        ours.run(block, steps)
        alone = time.perf_counter() - start
        lava.run(block, steps)
        ratios.append(lava.seconds / alone)
        print(f"numpy {1e3 * alone / steps:.1f} ms, lava fused {1e3 * lava.seconds / steps:.1f} ms")
    print(f"lava / numpy: median {np.median(ratios):.2f}")
    from backends import numpy_ops

    rng = np.random.default_rng(0)
    spikes = (rng.random((1, 32, 16, 16)) < 0.1).astype(np.float32)
    weight = rng.standard_normal((32, 32, 3, 3)).astype(np.float32)
    window = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    start = time.perf_counter()
    for _ in range(20):
        numpy_ops.conv(spikes, weight, **window)  # type: ignore[arg-type]
    own = (time.perf_counter() - start) / 20
    run = [interpreter.find(), "-c", STOCK]
    stock = float(subprocess.run(run, capture_output=True, text=True, timeout=120).stdout)
    print(f"3x3, 32 to 32 channels, 16x16: stock {1e3 * stock:.1f} ms, ours {1e3 * own:.2f} ms")


if __name__ == "__main__":
    main()
