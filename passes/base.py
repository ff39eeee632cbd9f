"""What a pass is: a small frozen dataclass whose fields are its options.

The IR is valid before and after a pass, not during one. Verifying, dumping, timing and comparing
with the trained network hang between passes, in the driver; no pass knows of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import onnx_ir as ir
import onnx_ir.passes.common as common

from snncompiler.diagnostics import Problem, clean
from snncompiler.graph import Array, UnknownShape, constant, shape, sources
from snncompiler.ops import OPSET
from snncompiler.progress import Progress, silent


class Refusal(Exception):
    """Raised by a rewrite: this node cannot be converted; why, and what the user can do."""

    def __init__(self, why: str, do: str) -> None:
        super().__init__(why)
        self.why, self.do = why, do


@dataclass
class Statistics:
    """What the trained network's activations did on the calibration data (exact).

    maximum: [C], the largest value of each channel. count: values seen per channel.
    active: share of the values that are positive.
    """

    maximum: Array
    count: int
    active: float


@dataclass
class Context:
    """What a pass may know besides the model.

    calibration: [N, ...] float32 samples. timesteps: the T that the user compiles for.
    opset: the one the file was written in.
    gamma, offset: what the neurons to come will be like: most spikes per step, and the share of a
    spike by which their counts are rounded up (thresholds that match them must know).
    ann: the trained network in the few ops that spikes can compute, the target of calibration.
    sweep: runs a spiking network layer by layer, see `backends/sweep.py`. seed: of all random
    numbers.
    statistics: by value name, filled by `observe`. refusals and warnings collect what the user
    must, or should, be told. shapeless: nodes no rule could look at, for want of a shape; they
    count as refused only if nothing else explains them.
    """

    calibration: Array
    timesteps: int
    opset: int = OPSET
    gamma: float = 1.0
    offset: float = 0.5
    ann: ir.Model | None = None
    sweep: Callable[..., Any] | None = None
    seed: int = 0
    statistics: dict[str, Statistics] = field(default_factory=dict)
    refusals: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shapeless: list[ir.Node] = field(default_factory=list)
    progress: Progress = silent

    def refuse(self, node: ir.Node, why: str, do: str) -> None:
        """Put a node on the list of those that cannot be converted (once)."""
        name = (sources(node) or [str(node.name)])[0]
        if all(p.node != name for p in self.refusals):
            self.refusals.append(Problem(describe(node, name), why, do, name))


class Pass(Protocol):
    """A named change of the model; `run` returns one line that says what it did.

    The line begins with 'off' if the pass was not to do anything, or could not.

    A pass with `corrects = True` changes on purpose what the network's activations compute, so
    that its spikes compute better; all others are held to what the trained network computes.
    """

    name: ClassVar[str]

    def run(self, model: ir.Model, context: Context) -> str:
        """Change the model in place."""
        ...


Rewrite = Callable[[ir.Node, Context], bool]


def rewrite(model: ir.Model, context: Context, rules: Mapping[str, Rewrite]) -> int:
    """Apply to each node the rule of its op, once, in topological order; returns the changes."""
    changes = 0
    for node in list(model.graph):
        rule = rules.get(node.op_type) if node.graph is not None and node.domain == "" else None
        if rule is None:
            continue
        try:
            changes += rule(node, context)
        except Refusal as refusal:
            context.refuse(node, refusal.why, refusal.do)
        except UnknownShape:
            context.shapeless.append(node)
    tidy(model)
    return changes


def tidy(model: ir.Model) -> None:
    """Drop what is not used, order the nodes, give every node and value a unique name."""
    constants = list(model.graph.initializers.values())
    common.RemoveUnusedNodesPass()(model)
    for value in constants:
        if not value.is_initializer():
            # The graph's list of inputs remembers all it ever held, and onnx_ir makes large weights
            # inputs while it infers shapes: without this, old weights would live on with the graph.
            value.const_value = None
    common.TopologicalSortPass()(model)
    common.NameFixPass()(model)


def infer_shapes(model: ir.Model) -> None:
    """Forget all inner shapes and infer them again (a rewrite may have freed the batch)."""
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    common.ShapeInferencePass()(model)


def describe(node: ir.Node, name: str) -> str:
    """'cannot convert OP at node NAME (input X, shape)', as error messages begin."""
    value = next((v for v in node.inputs if v is not None), None)
    where = ""
    if value is not None:
        dims = "" if value.shape is None else ", " + "x".join(str(d) for d in value.shape)
        where = f" (input '{value.name}'{dims})"
    return clean(f"cannot convert '{node.op_type}' at node '{name}'{where}")


#: Advice to who mixes samples.
UNMIXED = "keep axis 0 for the batch; export with a dynamic batch axis to see where it moves"


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that must be there."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Refusal(f"its input {index} is missing", "export the network again")
    return value


def parameter(node: ir.Node, index: int, what: str) -> Array:
    """A constant input; refuses one that depends on the data."""
    array = constant(operand(node, index))
    if array is None:
        raise Refusal(
            f"its {what} is computed from the data; synapses are fixed after training",
            "export with constant weights",
        )
    return array


def image_of(node: ir.Node) -> ir.Value:
    """The first input, whose sizes, like the output's, must be known."""
    value = node.inputs[0]
    assert value is not None
    shape(value), shape(node.outputs[0])
    return value
