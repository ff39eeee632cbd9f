"""What an error inside the trained network does to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir

from snncompiler.ann import session
from snncompiler.graph import Array


class Disturbed:
    """The trained network with an error to be added at each of the values `names`."""

    def __init__(self, model: ir.Model, names: Sequence[str]) -> None:
        proto = ir.to_proto(model)
        taken = {v for n in proto.graph.node for v in (*n.input, *n.output)}
        mark = "_error"
        while any(f"{name}{mark}" in taken or f"{name}{mark}_added" in taken for name in names):
            mark += "_"
        self._ports = {name: f"{name}{mark}" for name in names}
        nodes = []
        for node in proto.graph.node:
            node.input[:] = [f"{v}{mark}_added" if v in self._ports else v for v in node.input]
            nodes.append(node)
            nodes += [
                onnx.helper.make_node("Add", [v, f"{v}{mark}"], [f"{v}{mark}_added"])
                for v in node.output
                if v in self._ports
            ]
        graph = onnx.GraphProto()
        graph.CopyFrom(proto.graph)
        del graph.node[:]
        graph.node.extend(nodes)
        for port in self._ports.values():
            kind = onnx.helper.make_tensor_value_info(port, onnx.TensorProto.FLOAT, None)
            graph.input.append(kind)
        proto.graph.CopyFrom(graph)
        self._session = session(proto)
        self._image = str(model.graph.inputs[0].name)

    def outputs(self, x: Array, errors: Mapping[str, Array]) -> list[Array]:
        """All outputs for the samples x, with the errors added where there are any."""
        nothing: Array = np.zeros(1, np.float32)
        feeds = {port: nothing for name, port in self._ports.items() if name not in errors}
        feeds |= {self._ports[name]: e.astype(np.float32) for name, e in errors.items()}
        results: list[Array] = self._session.run(None, {self._image: x, **feeds})
        return results
