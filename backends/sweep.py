"""A network layer by layer instead of step by step: calibration changes a layer, then moves on.

Simulated: every node is visited once, in order, with the values of all T steps at hand, rows
t*N + n. Predicted: one pass over values summed over time, where a neuron has sent

    theta clip(floor((X + v_init) / theta), 0, gamma T),   X = its input summed over T steps,

as if all of X had come at once: exact for WindowedIF, and for signed neurons while no cap on the
spikes of a single step binds; what a perfect neuron would send otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from operator import is_

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike

from backends import numpy_ops as ops
from backends.base import Network, per_channel, take_apart
from backends.definitions import Values, evaluate, initial_state, parameters_of, spike
from backends.workers import available_cores, workers
from snncompiler.ann import probe
from snncompiler.graph import (
    WEIGHTED,
    Array,
    attribute,
    constant,
    data_inputs,
    rank,
    shape,
    weights,
)
from snncompiler.ops import DOMAIN, NEURONS

#: Numbers of one step that stay in a core's cache, states included.
_CACHED = 1 << 14
#: Rows of a convolution that are worth cutting up for the cores there are.
_ROWS, _CORES = 64, available_cores()
#: Called before a neuron or readout takes its current: may change it and the synapse before.
Visit = Callable[["Sweep", ir.Node], None]


class Sweep:
    """One pass over a spiking network, layer by layer.

    Args:
        model: with Encode and Readout (any form).
        x: float32 [N, ...] samples.
        timesteps: T.
        predicted: one pass over sums instead of a simulation of T steps.
        keep: keep all values, so that a part can be run again.
        dtype: of the currents; None: float64 if predicted, else float32.
    """

    def __init__(
        self,
        model: ir.Model,
        x: Array,
        timesteps: int,
        *,
        predicted: bool,
        keep: bool = False,
        dtype: DTypeLike = None,
    ) -> None:
        self.network: Network = take_apart(model)
        self.timesteps, self.samples = timesteps, len(x)
        self.predicted, self.keep = predicted, keep
        self.dtype = np.dtype(dtype or (np.float64 if predicted else np.float32))
        #: The last spike trains asked for: the neuron and all that they depend on, the trains.
        self._fired: tuple[list[object], Array] | None = None
        #: Of the predicted neurons, how many reached the cap of gamma spikes per step.
        self.capped = self.fired = 0
        self.values: Values = {self.network.image: x.astype(self.dtype)}
        for node in self.network.static:
            self.values[node.outputs[0]] = self._standard(node, 1)
        self.untimed = {self.network.image, *(n.outputs[0] for n in self.network.static)}
        self._last = self._last_uses()

    def run(self, visit: Visit | None = None, start: int = 0) -> dict[str, Array]:
        """Go through the network (from node number `start` on); returns the readouts, [N, ...].

        visit is called with (sweep, node) before each neuron fires, and with (sweep, Readout node)
        before each output is read.
        """
        for i, node in enumerate(self.network.steps[start:], start):
            if visit is not None and node.op_type in NEURONS:
                visit(self, node)
            self.values[node.outputs[0]] = self.respond(node)
            self._fired = None
            if not self.keep and node.op_type in NEURONS:
                for value in [v for v in self.values if v and self._last.get(v, i + 1) < i]:
                    del self.values[value]
        result = {}
        for output in self.network.outputs:
            if visit is not None:
                visit(self, output.node)
            current = output.node.inputs[0]  # calibration may have given it another one
            assert current is not None
            scale = self.timesteps if output.mode == "sum" else 1
            result[output.name] = self.mean(current) * scale
        return result

    def _last_uses(self) -> dict[ir.Value, int]:
        """The number of the last node at which a value is needed.

        What a synapse receives is needed until the neuron, or readout, behind it takes its current:
        only then may the synapse be changed.
        """
        steps = self.network.steps
        heard = {output.current: len(steps) for output in self.network.outputs}
        last = dict(heard)
        for i, node in reversed(list(enumerate(steps))):
            taken = heard.get(node.outputs[0], i)
            for value in data_inputs(node):
                last[value] = max(last.get(value, i), taken if node.op_type in WEIGHTED else i)
                through = taken if node.op_type in ("Add", "Encode") else i
                heard[value] = max(heard.get(value, i), through)
        return last

    def mean(self, value: ir.Value) -> Array:
        """A value averaged over the steps, [N, ...]."""
        a = self.values[value]
        if value in self.untimed:
            return a
        if self.predicted:
            return a / self.timesteps
        mean: Array = a.reshape(self.timesteps, -1, *a.shape[1:]).mean(0)
        return mean

    def steps(self, value: ir.Value) -> Array:
        """A value at every step, [T, N, ...] (predicted: [1, N, ...], the mean)."""
        if self.predicted:
            return self.mean(value)[None]
        a = self.values[value]
        return a.reshape(self.timesteps, -1, *a.shape[1:])

    def add(self, before: ir.Value, after: ir.Value, current: Array) -> None:
        """Value `after` is `before` plus a current, [C], at every step."""
        a = self.values[before]
        factor = self.timesteps if self.predicted and before not in self.untimed else 1
        shift = (factor * current).reshape(-1, *[1] * (a.ndim - 2)).astype(self.dtype)
        self.values[after] = a + shift

    def again(self, node: ir.Node) -> None:
        """Compute a node again, after its constants have changed, and encode it if it is static."""
        value = node.outputs[0]
        if value not in self.untimed:
            self.values[value] = self.respond(node)
            return
        self.values[value] = self._standard(node, 1)
        for use in value.uses():
            self.values[use.node.outputs[0]] = self.respond(use.node)

    def activation(self, neuron: ir.Node) -> Array:
        """What a neuron sends on average per step, with its present parameters, [N, ...]."""
        if self.predicted:
            sent = self.respond(neuron)
            sent /= self.timesteps
            return sent
        train = self._train(neuron, self.values[neuron.inputs[0]])
        mean: Array = train.reshape(self.timesteps, -1, *train.shape[1:]).mean(0)
        return mean

    def respond(self, node: ir.Node) -> Array:
        """What a node makes of its inputs, at all steps."""
        if node.domain != DOMAIN:
            timed = not any(v in self.untimed for v in data_inputs(node))
            return self._standard(node, self.timesteps if timed and self.predicted else 1)
        current = self.values[node.inputs[0]]
        return self._sum(node, current) if self.predicted else self._train(node, current)

    def _standard(self, node: ir.Node, times: int) -> Array:
        """A standard op; `times`: how many steps its values are sums of."""
        inputs: Values = {}
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if array is None:
                if value is not None:
                    inputs[value] = self.values[value]
                continue
            array = array.astype(self.dtype)
            additive = index == 2 or node.op_type == "Add"
            inputs[value] = array * times if additive and times != 1 else array
        x = inputs.get(node.inputs[0]) if node.op_type == "Conv" else None
        if x is not None and x.dtype == np.float32:
            return self._convolution(node, x, times)
        parameters = parameters_of(node)
        if x is None or len(x) < _ROWS:
            return evaluate(node, inputs, parameters)
        cuts = np.linspace(0, len(x), 2 * _CORES + 1).astype(int)
        parts = [{**inputs, node.inputs[0]: x[a:b]} for a, b in pairwise(cuts)]
        with workers(_CORES) as pool:
            found = pool.map(lambda part: evaluate(node, part, parameters), parts)
            return np.concatenate(list(found))

    def _convolution(self, node: ir.Node, x: Array, times: int) -> Array:
        """By onnxruntime, several times as quick as NumPy."""
        y = probe(node, [x])[0]
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None and times != 1:
            y += (times - 1) * bias.astype(np.float32).reshape(-1, *[1] * (y.ndim - 2))
        return y

    def _train(self, node: ir.Node, current: Array) -> Array:
        if node.op_type == "Encode":
            return np.tile(current, (self.timesteps, *[1] * (current.ndim - 1)))
        asked: list[object] = [node, current, *node.inputs]
        if self._fired is not None and all(map(is_, self._fired[0], asked)):
            return self._fired[1]
        steps = current.reshape(self.timesteps, -1, *current.shape[1:])
        result = np.empty((*steps.shape[:2], *shape(node.outputs[0])), self.dtype)

        def work(samples: slice) -> None:
            for t, sent in enumerate(self._train_of(node, steps[:, samples])):
                result[t, samples] = sent

        self._in_parts(steps, work)
        train = result.reshape(-1, *result.shape[2:])
        self._fired = (asked, train) if node.op_type in NEURONS else None
        return train

    def _train_of(self, node: ir.Node, steps: Array) -> Iterator[Array]:
        """What a spiking op sends, step by step."""
        parameters = {
            key: value.astype(self.dtype) if isinstance(value, np.ndarray) else value
            for key, value in parameters_of(node).items()
        }
        state = tuple(part.astype(self.dtype) for part in initial_state(node, steps[0]))
        for t, current in enumerate(steps, 1):
            sent, state = spike(node, current, state, t, parameters)
            yield sent

    def _in_parts(self, steps: Array, work: Callable[[slice], None]) -> None:
        """Do the work for a few samples at a time, whose states fit the cache, on all cores."""
        part = max(1, _CACHED // steps[0, 0].size)
        slices = [slice(a, a + part) for a in range(0, steps.shape[1], part)]
        with workers(_CORES) as pool:
            list(pool.map(work, slices))

    def _sum(self, node: ir.Node, x: Array) -> Array:
        match node.op_type:
            case "Encode":
                return x * self.timesteps
            case "MLIPool":
                return ops.max_pool(x, **parameters_of(node))
            case "TwinSynapse" | "Delay":
                return x
        theta = per_channel(weights(node.inputs[1]), rank(node.outputs[0])).astype(self.dtype)
        top = float(attribute(node, "gamma", 1)) * self.timesteps
        if node.op_type == "LeakyIF":
            alpha = np.asarray(attribute(node, "alpha"), np.float32).astype(self.dtype)
            slope = per_channel(alpha, rank(node.outputs[0])).astype(self.dtype)
            count: Array = np.clip(np.floor(ops.leaky(x, slope) / theta + 0.5), -top, top)
        else:
            # In place: on thousands of samples every copy is a gigabyte.
            count = x + initial_state(node, x[:1])[0].astype(self.dtype)
            count /= theta
            np.floor(count, out=count)
            np.clip(count, 0, top, out=count)
        self.capped += int((count >= top).sum()) + int((count <= -top).sum())
        self.fired += count.size
        count *= theta
        return count
