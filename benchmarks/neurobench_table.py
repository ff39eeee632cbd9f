"""Our operation counts beside those of the package neurobench, on one small spiking network.

    pip install neurobench torch snntorch    (besides this package)
    python benchmarks/neurobench_table.py

A perceptron for the digits is compiled; its weights go into a PyTorch network of the same neurons,
which NeuroBench then measures on the same samples. Prints the table of docs/operations.md.
"""

from pathlib import Path

import numpy as np
import onnx.parser
import snntorch
import torch
from neurobench.metrics.static import ConnectionSparsity, Footprint
from neurobench.metrics.workload import ActivationSparsity, MembraneUpdates, SynapticOperations
from neurobench.models import SNNTorchModel

from snncompiler.driver import compile_model
from snncompiler.graph import weights
from snncompiler.operations import count

T, SAMPLES = 16, 32
DIGITS = Path(__file__).resolve().parents[1] / "models"
NETWORK = """
<ir_version: 8, opset_import: ["": 17]>
perceptron (float[N,64] x) => (float[N,10] y)
{
  [fc1] a = Gemm <transB = 1> (x, w1, b1)
  [relu1] r = Relu (a)
  [fc2] b = Gemm <transB = 1> (r, w2, b2)
  [relu2] s = Relu (b)
  [fc3] y = Gemm <transB = 1> (s, w3, b3)
}
"""


def trained() -> onnx.ModelProto:
    """A perceptron with random weights, a tenth of them zero."""
    model, random = onnx.parser.parse_model(NETWORK), np.random.default_rng(0)
    for i, (n, m) in enumerate(((64, 48), (48, 32), (32, 10)), 1):
        w = random.normal(0, (2 / n) ** 0.5, (m, n)) * (random.random((m, n)) > 0.1)
        for name, array in ((f"w{i}", w), (f"b{i}", random.normal(0, 0.1, m))):
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(array.astype(np.float32), name)
            )
    return model


class IF(snntorch.SpikingNeuron):
    """Our binary neuron: V += I; a spike if V >= 1; V -= 1 if it fired."""

    def __init__(self, v_init: np.ndarray) -> None:
        super().__init__(threshold=1.0, init_hidden=True, output=False)
        self.v_init, self.mem = torch.tensor(v_init), torch.zeros(0)

    def forward(self, current: torch.Tensor) -> torch.Tensor:
        u = self.mem + current
        spikes = (u >= 1).to(u.dtype)
        self.mem = u - spikes
        return spikes


class Net(torch.nn.Module):
    """The compiled network in PyTorch; the rounded image is its constant current."""

    def __init__(self, layers: list[tuple[np.ndarray, np.ndarray]], v: list[np.ndarray]) -> None:
        super().__init__()
        self.linear = torch.nn.ModuleList()
        for w, b in layers:
            layer = torch.nn.Linear(w.shape[1], w.shape[0])
            layer.weight.data, layer.bias.data = torch.tensor(w), torch.tensor(b)
            self.linear.append(layer)
        self.neurons = torch.nn.ModuleList(IF(x) for x in v)

    def reset(self) -> None:
        for neuron, layer in zip(self.neurons, self.linear, strict=False):
            neuron.mem = neuron.v_init.expand(1, layer.out_features).clone()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        for layer, neuron in zip(self.linear, self.neurons, strict=False):
            x = neuron(layer(x))
        return self.linear[-1](x), None


def main() -> None:
    with np.load(DIGITS / "digits_train.npz") as train, np.load(DIGITS / "digits_test.npz") as test:
        calibration, x = (a["x"].reshape(-1, 64) for a in (train, test))
    x = x[:SAMPLES]
    model = compile_model(trained(), calibration, timesteps=T).model
    ours = count(model, x, T)

    named = {str(n.name): n for n in model.graph}
    layers = [tuple(weights(v) for v in named[k].inputs[1:3]) for k in ("fc1", "fc2", "fc3")]
    v_init = [weights(named[k].inputs[2]) for k in ("relu1", "relu2")]
    wrapped = SNNTorchModel(Net(layers, v_init))
    metrics = [SynapticOperations(), MembraneUpdates()]
    silent = []
    bits = next(n for n in model.graph if n.op_type == "Mul" and n.outputs[0].name != "x_rounded")
    fine = float(weights(bits.inputs[1]))
    for row in torch.tensor(np.rint(x * fine) / fine, dtype=torch.float32):
        wrapped.register_hooks()
        data = (row.expand(1, T, -1), torch.zeros(1))
        spikes = wrapped(data[0])
        results = [metric(wrapped, spikes, data) for metric in metrics]
        silent.append(ActivationSparsity()(wrapped, spikes, data))
        wrapped.cleanup_hooks()
    operations, updates = results
    first = next(s for s in ours.synapses if s.name == "fc1")
    rows = (
        ("footprint (bytes)", ours.footprint_bytes, Footprint()(wrapped)),
        ("connection sparsity", ours.connection_sparsity, ConnectionSparsity()(wrapped)),
        ("activation sparsity", ours.activation_sparsity, float(np.mean(silent))),
        ("dense operations", ours.dense, operations["Dense"]),
        (
            "... first synapse at every step",
            ours.dense + (T - 1) * first.dense,
            operations["Dense"],
        ),
        ("effective MACs", ours.effective_macs, operations["Effective_MACs"]),
        (
            "... first synapse at every step",
            ours.effective_macs + (T - 1) * first.effective_macs,
            operations["Effective_MACs"],
        ),
        ("effective ACs", ours.effective_acs, operations["Effective_ACs"]),
        ("membrane updates", ours.membrane_updates, updates),
    )
    print("| per sample | snncompiler | neurobench |\n|---|---|---|")
    for name, a, b in rows:
        print(f"| {name} | {a:,.6g} | {b:,.6g} |")


if __name__ == "__main__":
    main()
