"""The onnxruntime backend: the compiled file itself, as any stock onnxruntime executes it.

All steps run at once, for time is folded into axis 0. The inputs of the readouts and the outputs
of the spiking layers are made outputs of the graph; what a Readout would return after every step
is accumulated here, in float64 as the Readout does. Memory grows with T times the samples, so
these are shown in batches.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime

from backends.base import READOUT, Network, Progress, Recorder, batches, size, take_apart
from snncompiler.ann import with_outputs
from snncompiler.diagnostics import refuse
from snncompiler.graph import Array
from snncompiler.ops import DOMAIN
from snncompiler.trace import Observe, Trace, join

#: Bytes that the values of one batch may take over all its steps.
_BATCH = 512 << 20


class OnnxRuntimeBackend:
    """Builds onnxruntime sessions.

    optimise: let onnxruntime rewrite the graph; None: only where every current is exact, so that
    no rewriting can change a spike. threads: None lets onnxruntime choose.
    """

    name = "onnxruntime"

    def __init__(self, optimise: bool | None = None, threads: int | None = None) -> None:
        self.optimise, self.threads = optimise, threads

    def build(self, model: ir.Model) -> OnnxRuntimeProgram:
        """Make what is observed an output of the graph, and start a session."""
        network = take_apart(model)
        for node in network.steps:
            if node.domain == DOMAIN and (DOMAIN, node.op_type, "") not in model.functions:
                raise refuse(
                    f"the network does not define its op '{DOMAIN}.{node.op_type}'",
                    "onnxruntime knows spiking ops only from the functions in the file",
                    "compile the network again, or use --backend numpy",
                )
        watched = [str(output.current.name) for output in network.outputs]
        watched += [str(layer.node.outputs[0].name) for layer in network.layers]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        levels = onnxruntime.GraphOptimizationLevel
        optimise = network.gridded if self.optimise is None else self.optimise
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
        )
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        # As bytes, never as a path: onnxruntime would follow external data anywhere.
        proto = with_outputs(ir.to_proto(model), watched).SerializeToString()
        session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        return OnnxRuntimeProgram(network, session, list(dict.fromkeys(watched)))


class OnnxRuntimeProgram:
    """A session with the names of the values to watch."""

    def __init__(
        self, network: Network, session: onnxruntime.InferenceSession, watched: list[str]
    ) -> None:
        self.network, self.session, self.watched = network, session, watched

    def run(
        self,
        x: Array,
        timesteps: int,
        observe: Observe = READOUT,
        progress: Progress | None = None,
    ) -> Trace:
        """Show the samples x, float32 [N, ...], for `timesteps` steps, from the initial state.

        Raises:
            InputError: membrane potentials are wanted; a function keeps its state to itself.
        """
        self.network.check(x, timesteps)
        if observe.membranes:
            raise refuse(
                "the backend 'onnxruntime' cannot show membrane potentials",
                "the functions in the file keep them to themselves",
                "use --backend numpy, which computes the same ones",
            )
        traces = []
        for part in batches(len(x), self._bytes_per_sample(timesteps), _BATCH):
            traces.append(self._run(x[part], timesteps, observe))
            if progress is not None:
                progress(part.stop * timesteps, len(x) * timesteps)
        return join(traces)

    def _bytes_per_sample(self, timesteps: int) -> int:
        """What is watched stays to the end; a neuron holds its input and output several times."""
        network = self.network
        watched = [
            *(o.current for o in network.outputs),
            *(n.node.outputs[0] for n in network.layers),
        ]
        largest = max(size(value) for node in network.steps for value in node.outputs)
        return timesteps * (4 * sum(map(size, watched)) + 32 * largest)

    def _run(self, x: Array, timesteps: int, observe: Observe) -> Trace:
        feeds = {
            str(self.network.image.name): x,
            str(self.network.duration.name): np.array([timesteps], np.int64),
        }
        results = self.session.run(self.watched, feeds)
        values = {
            name: result.reshape(timesteps, len(x), *result.shape[1:])
            for name, result in zip(self.watched, results, strict=True)
        }
        recorder = Recorder(timesteps, len(x), observe, np.float32)
        for t in range(1, timesteps + 1):
            for output in self.network.outputs:
                recorder.read(output, values[str(output.current.name)][t - 1], t)
            for layer in self.network.layers:
                recorder.spikes(layer, values[str(layer.node.outputs[0].name)][t - 1], t)
        return recorder.trace()
