"""Time and peak memory of the large networks in the onnx wheel, at 224 x 224.

    python benchmarks/large.py                              # six networks, 4 calibration images
    python benchmarks/large.py --networks vgg19 --images 32

Their "light" files name no weights, so these are drawn here: He-scaled, so that activations stay
alive. Every network is compiled with `channel-norm` and run for T = 8 on one image, each in a
process of its own; the table goes to standard output.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NETWORKS = ("squeezenet", "shufflenet", "inception_v2", "densenet121", "resnet50", "vgg19")
T = 8


def alive(name: str) -> onnx.ModelProto:
    """The network with random weights in place of the nodes that fill them with one value."""
    model = onnx.load(LIGHT / f"light_{name}.onnx")
    graph = model.graph
    weights = {n.input[1] for n in graph.node if n.op_type in ("Conv", "Gemm")}
    norms = [n for n in graph.node if n.op_type == "BatchNormalization"]
    positive = {v for n in norms for v in (n.input[1], n.input[4])}
    dims_of = {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}
    rng = np.random.default_rng(0)
    for node in [n for n in graph.node if n.op_type == "ConstantOfShape"]:
        filled, dims = node.output[0], dims_of[node.input[0]]
        values = rng.standard_normal(dims, dtype=np.float32)
        if filled in weights:
            values *= np.float32(math.sqrt(2 / math.prod(dims[1:])))
        elif filled in positive:
            values = 1 + np.abs(values) / 10
        else:
            values /= 10
        graph.initializer.append(numpy_helper.from_array(values, filled))
        graph.input.append(helper.make_tensor_value_info(filled, TensorProto.FLOAT, dims))
        graph.node.remove(node)
    return model


def measured(*command: str) -> tuple[float, int]:
    """CPU seconds and peak megabytes of a command line of `snnc`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "snncompiler", *command], stdout=subprocess.DEVNULL
    )
    _pid, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"snnc {' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--images", type=int, default=4, help="calibration images")
    given = parser.parse_args()
    print("| network | images | compile, CPU s | compile, MiB | run, CPU s | run, MiB |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trained, spiking = f"{folder}/net.onnx", f"{folder}/net.snn.onnx"
        data = f"{folder}/data.npz", f"{folder}/one.npz"
        x = np.random.default_rng(1).standard_normal((given.images, 3, 224, 224), np.float32)
        np.savez(data[0], x=x)
        np.savez(data[1], x=x[:1])
        for name in given.networks.split(","):
            onnx.save(alive(name), trained)
            asked = ("--recipe", "channel-norm", "-T", str(T), "-o", spiking)
            made = measured("compile", trained, "--calibration", data[0], *asked)
            ran = measured("run", spiking, data[1])
            cells = [f"{v:,.0f}" for v in (*made, *ran)]
            print(f"| {name} | {given.images} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
