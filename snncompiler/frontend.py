"""From a trained ONNX file to the canonical ANN: opset 21, static shapes, quantisers recognised.

    gate -> host tail cut off -> opset 21, constants folded at one batch size -> quantisers

The batch becomes dynamic at the end of the first pass, `passes/simplify.py`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir

from snncompiler import gate
from snncompiler.ann import session
from snncompiler.canonicalisation import canonicalise, with_weights
from snncompiler.diagnostics import refuse
from snncompiler.graph import Array
from snncompiler.ops import OPSET
from snncompiler.quantiser_patterns import recognise
from snncompiler.record import FINETUNED, learned_spikes
from snncompiler.refusals import refuse_foreign, refuse_outputs
from snncompiler.tail import cut_tail

_BATCH = 32  # samples that onnxruntime gets at a time
_LARGE = 1 << 18  # elements; a file's smaller weights are not worth sharing


@dataclass
class Network:
    """A trained network on its way in.

    model: the canonical ANN. original: the file as read, its host tail cut off: the oracle.
    nodes: name and op of every original node, in order. host: the nodes of the tail.
    batch: the batch size hard-coded in the file, or None. opset: the file's. digest: its sha256.
    quantisers: how many quantised activations of the file are saturating ones in `model`. spikes:
    the neurons, binary or ternary, that it learned to spike with; None: it did not.
    """

    model: ir.Model
    original: ir.Model
    nodes: list[tuple[str, str]]
    host: list[str] = field(default_factory=list)
    batch: int | None = None
    opset: int = OPSET
    digest: str = ""
    quantisers: int = 0
    spikes: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        value = self.model.graph.inputs[0]
        assert value.shape is not None
        return tuple(int(d) for d in list(value.shape)[1:])  # type: ignore[arg-type]

    def outputs(self, x: Array) -> list[Array]:
        """What the original network computes (before its host tail), by onnxruntime.

        Raises:
            InputError: onnxruntime cannot run it, or the results are not finite.
        """
        # A network may promise any batch and yet reshape to one sample.
        for step in [self.batch] if self.batch else [min(len(x), _BATCH), 1]:
            try:
                results = self._outputs(x, step)
                break
            except Exception as error:
                # onnxruntime raises its own RuntimeErrors, one class for each status.
                why = " ".join(str(error).split())[:300]
        else:
            raise refuse(
                "onnxruntime cannot run the trained network",
                why,
                "export it again; it must run in onnxruntime before it can be converted",
            )
        if not all(np.isfinite(y).all() for y in results):
            raise refuse(
                "the trained network computes NaN or infinite values",
                f"onnxruntime finds them in its outputs on {len(x)} samples",
                "look at the values of weights and samples",
            )
        return results

    def _outputs(self, x: Array, step: int) -> list[Array]:
        runner = session(self.original)
        feed = runner.get_inputs()[0].name
        parts = []
        for start in range(0, len(x), step):
            block = x[start : start + step]
            count = len(block)
            if self.batch and count < step:
                block = np.concatenate([block, np.zeros((step - count, *x.shape[1:]), x.dtype)])
            results = runner.run(None, {feed: block})
            if any(y.ndim == 0 or len(y) != len(block) for y in results):
                raise ValueError(f"{len(block)} samples give outputs of another number")
            parts.append([y[:count] for y in results])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]


def load(source: str | Path | onnx.ModelProto) -> Network:
    """Read, check and canonicalise a trained network.

    Raises:
        InputError: the file is unsafe, damaged, or built of what no import can handle.
    """
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
    else:
        proto = gate.read(source)
    noted = {entry.key: entry.value for entry in proto.metadata_props}
    spikes = learned_spikes(noted.get(FINETUNED, ""))
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    gate.check(proto)
    nodes = [(n.name, n.op_type) for n in proto.graph.node]
    refuse_foreign(proto)
    refuse_outputs(proto)
    _drop_initialiser_inputs(proto)
    host = cut_tail(proto)
    batch = _fix_batch(proto)
    opset = next(e.version for e in proto.opset_import if e.domain in ("", "ai.onnx"))
    shared = _take_weights(proto)
    model = canonicalise(proto, batch or 1, shared)
    quantisers = recognise(model)
    original = with_weights(proto, shared)
    return Network(model, original, nodes, host, batch, opset, digest, quantisers, spikes)


def _take_weights(proto: onnx.ModelProto) -> dict[str, ir.TensorProtocol]:
    """Large weights, taken out of the message: both models made of it read the same arrays."""
    taken: dict[str, ir.TensorProtocol] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and math.prod(tensor.dims) > _LARGE:
            taken[tensor.name] = ir.Tensor(onnx.numpy_helper.to_array(tensor), name=tensor.name)
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return taken


def _drop_initialiser_inputs(proto: onnx.ModelProto) -> None:
    """Files of IR version 3 list every initialiser as an input too; then nothing is constant."""
    initialisers = {t.name for t in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initialisers]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.ir_version = max(proto.ir_version, 4)


def _fix_batch(proto: onnx.ModelProto) -> int | None:
    """The batch size that the file hard-codes, if it does: as its input, or in a Resize.

    Such a Resize would make other batches of the batch that it is given, and mix samples.
    """
    dim = proto.graph.input[0].type.tensor_type.shape.dim[0]
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    constants = {t.name: t for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    for node in proto.graph.node:
        whole = not any(a.name == "axes" for a in node.attribute)
        sizes = constants.get(node.input[3]) if len(node.input) > 3 else None
        if node.op_type == "Resize" and whole and sizes is not None:
            batch = int(onnx.numpy_helper.to_array(sizes).reshape(-1)[0])
            return batch if batch > 0 else None
    return None
