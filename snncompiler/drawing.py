"""Where the nodes of an IR go on a drawing: rows by depth, boxes and curves between them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from snncompiler.diagnostics import clean
from snncompiler.graph import data_inputs

WIDTH, HEIGHT = 170, 44
_ACROSS, _DOWN = WIDTH + 30, HEIGHT + 34


@dataclass(frozen=True)
class Box:
    """A node: its index in the graph (-1: the input), corner, two lines of text, kind."""

    index: int
    x: float
    y: float
    title: str
    detail: str
    kind: str


@dataclass(frozen=True)
class Drawing:
    """Boxes and the paths (SVG) between them, in a frame of width x height."""

    boxes: tuple[Box, ...]
    paths: tuple[str, ...]
    width: float
    height: float


def draw(model: ir.Model) -> Drawing:
    """Lay out a model: every node below all it reads from, parents as straight above as can be."""
    nodes = list(model.graph)
    index = {node: i for i, node in enumerate(nodes)}
    image = model.graph.inputs[0]
    parents: list[list[int]] = []
    depth: list[int] = []
    for node in nodes:
        found = []
        for value in dict.fromkeys(data_inputs(node)):
            producer = value.producer()
            if producer is not None:
                found.append(index[producer])
            elif value is image:
                found.append(-1)
        parents.append(found)
        depth.append(1 + max((depth[p] if p >= 0 else 0 for p in found), default=0))
    rows: dict[int, list[int]] = {}
    for i, d in enumerate(depth):
        rows.setdefault(d, []).append(i)
    widest = max((len(row) for row in rows.values()), default=1)
    middle = (widest - 1) / 2
    column: dict[int, float] = {-1: middle}
    for d in sorted(rows):
        row = rows[d]
        wanted = {
            i: sum(column[p] for p in parents[i]) / len(parents[i]) if parents[i] else middle
            for i in row
        }
        row.sort(key=lambda i: (wanted[i], i))
        centre = sum(wanted.values()) / len(row)
        start = min(max(0.0, centre - (len(row) - 1) / 2), widest - len(row))
        column.update({i: start + k for k, i in enumerate(row)})
    places = {-1: 0, **dict(enumerate(depth))}
    corner = {i: (20 + column[i] * _ACROSS, 20 + places[i] * _DOWN) for i in places}
    boxes = [Box(-1, *corner[-1], _short(str(image.name)), _dims(image), "input")]
    boxes += [
        Box(i, *corner[i], _short(str(n.name)), f"{n.op_type} {_dims(n.outputs[0])}", _kind(n))
        for i, n in enumerate(nodes)
    ]
    paths = [_path(corner[p], corner[i]) for i in range(len(nodes)) for p in parents[i]]
    height = 40 + (max(rows, default=0) + 1) * _DOWN
    return Drawing(tuple(boxes), tuple(paths), 40 + widest * _ACROSS - 30, height)


def _path(start: tuple[float, float], end: tuple[float, float]) -> str:
    x1, y1 = start[0] + WIDTH / 2, start[1] + HEIGHT
    x2, y2 = end[0] + WIDTH / 2, end[1]
    bend = (y2 - y1) / 2
    return f"M{x1:g} {y1:g} C{x1:g} {y1 + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}"


def _kind(node: ir.Node) -> str:
    if node.op_type in ("IF", "LeakyIF", "WindowedIF", "TwinSynapse"):
        return "neuron"
    if node.op_type in ("MLIPool", "MaxPool"):
        return "pool"
    if node.op_type in ("Encode", "Readout"):
        return "code"
    return "linear"


def _dims(value: ir.Value) -> str:
    known = [] if value.shape is None else list(value.shape)[1:]
    return "x".join(str(d) for d in known)


def _short(name: str, most: int = 22) -> str:
    name = clean(name)
    return name if len(name) <= most else "..." + name[3 - most :]
