"""The event-driven simulator against T inferences of the ANN, a dense PyTorch loop, and NumPy.

    python benchmarks/simulator.py [--model MODEL.onnx ... --data DATA.npz] [--repeat 5] [--write]

Everything is interleaved A B A B in one run; figures are medians, with the range. onnxruntime is
taken with 1 and with 2 threads, and the better one counts. Ours runs with 1 thread and with all
cores. Networks given are compiled with the default recipe on the data. The VGG-16 (CIFAR size,
random weights) is made here, with biases such that all its layers fire at the rate asked for.
Writes docs/performance.md with --write. PyTorch is taken where it is installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from backends.event.program import EventBackend
from backends.reference import NumpyBackend
from backends.workers import available_cores
from snncompiler.driver import compile_model
from snncompiler.metrics import synaptic_operations
from snncompiler.trace import Observe

ROOT = Path(__file__).parents[1]
Run = Callable[[], object]
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def vgg16(rate: float) -> onnx.ModelProto:
    """A VGG-16 for 32 x 32 images with random weights.

    Its biases are found layer by layer, such that spiking neurons with a threshold at the 99.9 %
    percentile of their channel fire at this rate, everywhere.
    """
    rng = np.random.default_rng(0)
    nodes, weights, name = [], [], "image"
    x, sent = noise(32), noise(2)[None]  # what the trained and the spiking network pass on
    for i, width in enumerate(VGG):
        if not width:
            nodes.append(helper.make_node("MaxPool", [name], [f"p{i}"], f"p{i}",
                                          kernel_shape=[2, 2], strides=[2, 2]))  # fmt: skip
            x, sent = pooled(x), np.diff(pooled(sent.cumsum(0)), axis=0, prepend=0)
            name = f"p{i}"
            continue
        w = rng.normal(0, 1, (width, x.shape[1], 3, 3)).astype(np.float32)
        z = convolved(x, w)
        z, w = z / z.std(), w / z.std()
        current = convolved(sent.reshape(-1, *sent.shape[2:]), w).reshape(
            *sent.shape[:2], *z.shape[1:]
        )
        low, high = np.quantile(z, 0.001), z.max()
        for _ in range(10):
            b = np.full(width, -(low + high) / 2, np.float32)
            theta, fired = firing(z, current, b)
            low, high = (-b[0], high) if fired.mean() > rate else (low, -b[0])
        x, sent = np.maximum(z + b[:, None, None], 0), fired * theta
        weights += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(b, f"b{i}")]
        inputs = [name, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{i}"], f"c{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"r{i}"))
        name = f"r{i}"
    w = rng.normal(0, 0.05, (10, 512)).astype(np.float32)
    weights.append(numpy_helper.from_array(w, "head"))
    nodes.append(helper.make_node("Flatten", [name], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "head"], ["y"], "y", transB=1))
    ports = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 32, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10]),
    ]
    graph = helper.make_graph(nodes, "vgg16", ports[:1], ports[1:], weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def noise(n: int) -> np.ndarray:
    """The images of the VGG-16."""
    return np.random.default_rng(1).normal(0, 1, (n, 3, 32, 32)).astype(np.float32)


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x * w with a border of zeros, [N, C, H, W]."""
    node = helper.make_node("Conv", ["x", "w"], ["z"], pads=[1] * 4)
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "xz"]
    given = [numpy_helper.from_array(w.astype(np.float32), "w")]
    graph = helper.make_graph([node], "layer", ports[:1], ports[1:], given)
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, ir_version=10, opset_imports=opsets)
    (z,) = inference(model, x.astype(np.float32), available_cores())()  # type: ignore[misc]
    return np.asarray(z)


def pooled(x: np.ndarray) -> np.ndarray:
    """The largest of every 2 x 2, [..., H, W]."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2, x.shape[-1] // 2, 2).max((-3, -1))


def firing(z: np.ndarray, current: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds [C, 1, 1] of the ANN's pre-activations z + b, spikes [32, N, ...] of currents."""
    activations = np.maximum(z.swapaxes(0, 1).reshape(len(b), -1) + b[:, None], 0)
    theta = np.maximum(np.quantile(activations, 0.999, axis=1), 1e-3)[:, None, None]
    v, fired = np.zeros(current.shape[1:]), np.zeros((32, *current.shape[1:]), np.float32)
    for t in range(32):
        v += current[min(t, len(current) - 1)] + b[:, None, None]
        fired[t] = v >= theta
        v -= fired[t] * theta
    return theta, fired


def vgg16_of(rate: float) -> tuple[onnx.ModelProto, ir.Model]:
    """The VGG-16 whose neurons fire at this rate on average, and its spiking network."""
    ann = vgg16(rate)
    return ann, compile_model(ann, noise(32), recipe="channel-norm", timesteps=32).model


def inference(model: onnx.ModelProto, x: np.ndarray, threads: int) -> Run:
    """One inference of the ANN by onnxruntime, all optimisations on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    runner = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = runner.get_inputs()[0].name
    return lambda: runner.run(None, {name: x})


def dense_torch(model: onnx.ModelProto, x: np.ndarray, timesteps: int) -> Run | None:
    """What users run today: time folded into the batch, dense convolutions, neurons in place."""
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return None
    torch.set_num_threads(available_cores())
    tensors = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer
    }
    image = torch.from_numpy(x)

    @torch.no_grad()
    def run() -> object:
        a = None
        for node in model.graph.node:
            if node.op_type == "Conv":
                w, b = tensors[node.input[1]], tensors[node.input[2]]
                first = a is None
                a = functional.conv2d(image if first else a, w, b, padding=1)
                a = a.repeat(timesteps, 1, 1, 1) if first else a
            elif node.op_type == "Relu":
                steps = a.view(timesteps, -1, *a.shape[1:])
                v = torch.full_like(steps[0], 0.5)
                for i in steps:
                    v += i
                    torch.ge(v, 1.0, out=(fires := torch.empty_like(v, dtype=torch.bool)))
                    i.copy_(fires)
                    v -= i
            elif node.op_type == "MaxPool":
                a = functional.max_pool2d(a, 2)
        return a

    return run


def interleaved(runs: dict[str, Run], repeat: int) -> dict[str, list[float]]:
    """Seconds of every run, taken in turns."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            time.sleep(0.2)  # other engines' threads spin for a while
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def compare(
    label: str, ann: onnx.ModelProto, snn: object, x: np.ndarray, timesteps: int, repeat: int
) -> str:
    """A row of the table: T inferences over our time, exact and with 8-bit weights."""
    cores = available_cores()
    programs = {
        "exact": EventBackend(threads=cores).build(snn),  # type: ignore[arg-type]
        "exact1": EventBackend(threads=1).build(snn),  # type: ignore[arg-type]
        "int8": EventBackend(threads=cores, precision="int8").build(snn),  # type: ignore[arg-type]
    }
    last = Observe(steps=(timesteps,))
    runs: dict[str, Run] = {
        name: (lambda p=p: p.run(x, timesteps, last)) for name, p in programs.items()
    }
    runs |= {f"ort{n}": inference(ann, x, n) for n in (1, 2)}
    torch = dense_torch(ann, x, timesteps) if label.startswith("VGG-16") else None
    if torch is not None:
        runs["torch"] = torch
    times = interleaved(runs, repeat)
    median = {name: float(np.median(t)) for name, t in times.items()}
    ann_time = min(median["ort1"], median["ort2"]) * timesteps
    trace = programs["exact"].run(x, timesteps, last)
    spent = synaptic_operations(snn, trace.counts, timesteps, len(x))  # type: ignore[arg-type]
    operations = sum(spent.values())
    rates = trace.firing_rate()
    active = np.mean(list(rates.values()))
    low, high = (f(np.array(times["exact"])) for f in (np.min, np.max))
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
        f"{median['torch'] / median['exact']:.1f}" if "torch" in median else "-",
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

Made by `python benchmarks/simulator.py --model MODEL.onnx --data DATA.npz --write` on {cores} cores
({machine}, {vector}). Times are per image; medians of {repeat} interleaved runs, with the range for
ours. "ANN x T" is T times one inference of the trained network by onnxruntime, with 1 or 2 threads,
whichever is quicker; ratios above 1 mean that ours is quicker. Ours uses all cores; the last column
says what the second core brings. The PyTorch loop folds time into the batch and convolves densely.

| network | batch | T | mean rate | SOP per image | ANN x T, ms | ours exact, ms | ANN / exact \
| ANN / int8 | PyTorch / exact | 1 / {cores} threads |
|---|---|---|---|---|---|---|---|---|---|---|
"""


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
    rows, notes = [], []
    for path in options.model:
        data = np.load(options.data)["x"]
        ann, snn = onnx.load(path), compile_model(path, data[-128:], timesteps=max(steps)).model
        for batch in batches:
            for t in steps:
                rows.append(compare(path.stem, ann, snn, data[:batch], t, options.repeat))
        notes.append(
            f"NumPy backend / ours on {path.stem}, 8 images, T = 16: "
            + beside_numpy(snn, data[:8], 16, 3)
        )
        print(notes[-1])
    for rate in (float(s) for s in options.rates.split(",") if s):
        ann, snn = vgg16_of(rate)
        for batch in batches:
            for t in steps:
                rows.append(compare("VGG-16", ann, snn, noise(batch), t, options.repeat))
    if options.write:
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        vector = "512-bit vectors" if "avx512f" in flags else "256-bit vectors"
        head = HEAD.format(
            cores=os.cpu_count(), machine=platform.machine(), vector=vector, repeat=options.repeat
        )
        text = head + "\n".join(rows) + "\n" + "".join(f"\n{note}\n" for note in notes)
        options.output.write_text(text)


if __name__ == "__main__":
    main()
