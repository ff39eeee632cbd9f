"""What becomes of every original node: spiking, linear, folded, host or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import onnx_ir as ir

from snncompiler.diagnostics import Problem
from snncompiler.graph import ACTIVATIONS, sources


@dataclass(frozen=True)
class Verdict:
    """One original node. verdict: spiking, linear, folded, host or refused."""

    name: str
    op: str
    verdict: str
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class Check:
    """The verdicts on all nodes of a model, in the file's order."""

    model: str
    nodes: tuple[Verdict, ...]

    @property
    def convertible(self) -> bool:
        """Whether no node is refused."""
        return all(v.verdict != "refused" for v in self.nodes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of nodes by verdict."""
        return dict(Counter(v.verdict for v in self.nodes))

    def as_json(self) -> dict[str, object]:
        """The JSON twin of the table."""
        return {
            "model": self.model,
            "convertible": self.convertible,
            "nodes": [asdict(v) for v in self.nodes],
            "counts": self.counts,
        }


_SPIKING = {
    "Relu": "integrate-and-fire neurons",
    "Clip": "integrate-and-fire neurons that saturate at the bound",
    "LeakyRelu": "signed neurons with a slope",
    "PRelu": "signed neurons with a slope per channel",
    "MaxPool": "exact max pooling of spikes (MLIPool)",
}
_LINEAR = {
    "Conv": "synapses",
    "ConvTranspose": "synapses",
    "Gemm": "synapses",
    "MatMul": "synapses",
    "Mul": "one-to-one synapses",
    "Add": "currents add",
}
_COMPUTES = frozenset({*_SPIKING, *_LINEAR})


def judge(
    nodes: list[tuple[str, str]],
    host: list[str],
    refused: Mapping[str, Problem],
    model: ir.Model | None,
) -> tuple[Verdict, ...]:
    """The verdict on every original node.

    model: the canonical network, whose nodes name their originals; None if import failed before.
    """
    stands: dict[str, ir.Node] = {}
    for node in model.graph if model is not None else ():
        for name in sources(node):
            # A node that computes says more about its origin than one that moves values.
            computes = node.op_type in _COMPUTES
            if name not in stands or (computes and stands[name].op_type not in _COMPUTES):
                stands[name] = node
    ops = dict(nodes)
    result = []
    for name, op in nodes:
        if name in refused:
            problem = refused[name]
            result.append(Verdict(name, op, "refused", problem.why, problem.do))
        elif name in host:
            reason = "applied by the host to the accumulated readout"
            result.append(Verdict(name, op, "host", reason))
        elif name in stands:
            result.append(_survivor(name, op, stands[name], ops))
        else:
            reason = "constant, unused or without effect"
            result.append(Verdict(name, op, "folded", reason))
    return tuple(result)


def unseen(name: str, op: str) -> Verdict:
    """The verdict on a node of a network whose import failed over other nodes."""
    word = "spiking" if op in _SPIKING else "linear" if op in _LINEAR else "folded"
    reason = "by its kind; the refused nodes stand in the way of a closer look"
    return Verdict(name, op, word, reason)


def _survivor(name: str, op: str, node: ir.Node, ops: dict[str, str]) -> Verdict:
    if node.op_type in ACTIVATIONS or node.op_type == "MaxPool":
        return Verdict(name, op, "spiking", _SPIKING[node.op_type])
    leads = next((s for s in sources(node) if ops.get(s) == node.op_type), sources(node)[0])
    if leads == name:
        return Verdict(name, op, "linear", _LINEAR.get(node.op_type, "moves spikes, as it is"))
    return Verdict(name, op, "folded", f"into the synapses of '{leads}'")
