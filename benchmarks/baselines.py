"""What the simulator is measured against, and how: everything in turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime import quantization

from backends.workers import available_cores

Run = Callable[[], object]


def inference(model: onnx.ModelProto, x: np.ndarray, threads: int) -> Run:
    """One inference of the ANN by onnxruntime, all optimisations on."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    runner = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = runner.get_inputs()[0].name
    return lambda: runner.run(None, {name: x})


def quantised(model: onnx.ModelProto, x: np.ndarray) -> onnx.ModelProto:
    """The ANN in 8 bits, weights per channel, by onnxruntime's own tool on these samples."""
    name = model.graph.input[0].name
    samples = iter([{name: x[i : i + 1]} for i in range(min(32, len(x)))])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(samples, None)

    with TemporaryDirectory() as folder:
        given, result = (str(Path(folder) / n) for n in ("given.onnx", "result.onnx"))
        onnx.save(model, given)
        quantization.shape_inference.quant_pre_process(given, given)
        quantization.quantize_static(given, result, Reader(), per_channel=True)
        return onnx.load(result)


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


def spikingjelly(model: onnx.ModelProto, x: np.ndarray, timesteps: int) -> Run | None:
    """The same network of SpikingJelly's layers, all steps at once; the first layer runs once."""
    try:
        import torch
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError:
        return None
    torch.set_num_threads(available_cores())
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    layers: list[torch.nn.Module] = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            w, b = (torch.from_numpy(tensors[name].copy()) for name in node.input[1:3])
            conv = layer.Conv2d(w.shape[1], w.shape[0], 3, padding=1, step_mode="m")
            conv.weight.data, conv.bias.data = w, b
            layers.append(conv)
        elif node.op_type == "Relu":
            layers.append(neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m"))
        elif node.op_type == "MaxPool":
            layers.append(layer.MaxPool2d(2, step_mode="m"))
    first, net = layers[0], torch.nn.Sequential(*layers[1:])
    image = torch.from_numpy(x)[None]

    @torch.no_grad()
    def run() -> object:
        functional.reset_net(net)
        return net(first(image).repeat(timesteps, 1, 1, 1, 1))

    return run


#: Seconds that a turn lasts at least.
_TURN = 0.2


def interleaved(runs: dict[str, Run], repeat: int) -> dict[str, list[float]]:
    """Seconds of every run, taken in turns; the mean of runs one after the other in a turn."""
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            time.sleep(0.2)  # other engines' threads spin for a while
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < _TURN:
                run()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    return times
