"""The safety gate: nothing else sees a file before it has passed here.

The order matters (measured on thirty hostile files): size and parse, then external data, then
names and structure, then onnx's own checker on the raw file with full_check; onnx_ir would hide
duplicate initialisers, and onnxruntime dies of a stride of zero.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from snncompiler.diagnostics import InputError, Problem, refuse
from snncompiler.external_data import load_external, require_loaded
from snncompiler.ops import DOMAIN

MAX_BYTES = 2**31 - 1
MAX_ELEMENTS = 2**31
OPSETS = range(7, 24)
_FLOATING = {
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
    onnx.TensorProto.DOUBLE: "float64",
}


def read(path: str | Path) -> onnx.ModelProto:
    """Read an untrusted ONNX file, external data included.

    Raises:
        InputError: the file cannot be read, is no valid ONNX, or reaches outside its folder.
    """
    path = Path(path)
    export = "export the network again with torch.onnx.export or tf2onnx"
    try:
        size = path.stat().st_size
        if not path.is_file() and not path.is_dir():
            raise refuse(f"cannot read '{path}'", "it is no regular file", "check the path")
        if size > MAX_BYTES:
            raise refuse(
                f"'{path}' has {size} bytes",
                "an ONNX file holds at most 2 GiB",
                "save the weights as external data",
            )
        data = path.read_bytes()
    except OSError as error:
        raise refuse(
            f"cannot read '{path}'", error.strerror or "it cannot be opened", "check the path"
        ) from None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        why = "it is not an ONNX protobuf, or it is cut short"
        raise refuse(f"cannot read '{path}'", why, export) from None
    if not data or not proto.ir_version or not proto.graph.node:
        why = "the file is empty" if not data else "it holds no network"
        raise refuse(f"cannot read '{path}'", why, export)
    with _decoded():
        load_external(proto, path.resolve().parent)
    return proto


@contextlib.contextmanager
def _decoded() -> Iterator[None]:
    """Protobuf decodes names when they are looked at."""
    try:
        yield
    except UnicodeDecodeError:
        why = "they are not UTF-8, as ONNX demands"
        raise refuse("cannot read the names in the network", why, "export it again") from None


def is_compiled(proto: onnx.ModelProto) -> bool:
    """Whether the file is one that this compiler wrote."""
    return any(o.domain == DOMAIN for o in proto.opset_import)


def check(proto: onnx.ModelProto) -> None:
    """Check structure and contents of a trained network; give every node a plain name.

    Raises:
        InputError: with everything found wrong at once, as far as it can be looked at.
    """
    with _decoded():
        _check(proto)


def _check(proto: onnx.ModelProto) -> None:
    if is_compiled(proto):
        raise refuse(
            "this network is a spiking one already",
            f"it uses the domain '{DOMAIN}'",
            "give the trained network to 'compile', and this file to 'run' or 'inspect'",
        )
    _check_opsets(proto)
    require_loaded(proto)
    name_nodes(proto.graph)
    problems = [*_names(proto.graph), *_tensors(proto.graph), *_interface(proto.graph)]
    if problems:
        raise InputError(*problems)
    _check_cycles(proto.graph)
    _check_onnx(proto)
    _plain_names(proto.graph)


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name the nameless nodes by op and position, so that messages can point at them."""
    taken = {n.name for n in graph.node}
    for i, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{i}"
        while not node.name and name in taken:
            name += "_"
        node.name = name
        taken.add(name)


def _plain_names(graph: onnx.GraphProto) -> None:
    """Replace control characters in names, which terminals would obey and no text form keeps."""
    values = [*graph.initializer, *graph.input, *graph.output, *graph.value_info]
    names = {n.name for n in (*graph.node, *values)}
    names |= {v for n in graph.node for v in (*n.input, *n.output)}
    plain = {}
    for name in sorted(n for n in names if not n.isprintable()):
        plain[name] = "".join(c if c.isprintable() else "_" for c in name)
        while plain[name] in names:
            plain[name] += "_"
        names.add(plain[name])
    if not plain:
        return
    for item in (*graph.node, *values):
        item.name = plain.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [plain.get(v, v) for v in node.input]
        node.output[:] = [plain.get(v, v) for v in node.output]


def _check_opsets(proto: onnx.ModelProto) -> None:
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
            raise refuse(
                f"the network uses opset {entry.version}",
                f"opsets {OPSETS.start} to {OPSETS.stop - 1} are known",
                "export it with another opset (17 is a good choice)",
            )
    if not any(e.domain in ("", "ai.onnx") for e in proto.opset_import):
        raise refuse(
            "the network names no ONNX opset",
            "without it the meaning of its nodes is unknown",
            "export the network again",
        )


def _names(graph: onnx.GraphProto) -> list[Problem]:
    do = "give every node and value a name of its own"
    initialisers = [t.name for t in graph.initializer]
    values = [v for n in graph.node for v in n.output if v]
    inputs = [i.name for i in graph.input if i.name not in set(initialisers)]
    kinds = {
        "node": [n.name for n in graph.node],
        "initialiser": initialisers,
        "output": [o.name for o in graph.output],
        "value": inputs + values + [i for i in initialisers if i in set(values)],
    }
    return [
        Problem(f"the {kind} name '{name}' is used {count} times", "names must be unique", do)
        for kind, names in kinds.items()
        for name, count in Counter(names).items()
        if count > 1
    ]


def _tensors(graph: onnx.GraphProto) -> list[Problem]:
    problems = []
    others: dict[str, list[str]] = {}  # kind of floating-point number -> names
    for tensor in graph.initializer:
        where = f"tensor '{tensor.name}'"
        dims = list(tensor.dims)
        if any(d < 0 for d in dims) or math.prod(dims) > MAX_ELEMENTS:
            why = "dimensions must be positive and the tensor below 2^31 elements"
            problems.append(Problem(f"{where} has shape {dims}", why, "export it again"))
        elif tensor.data_type in _FLOATING:
            others.setdefault(_FLOATING[tensor.data_type], []).append(tensor.name)
        elif tensor.data_type == onnx.TensorProto.FLOAT:
            try:
                onnx.numpy_helper.to_array(tensor)
            except ValueError:
                why = "its data do not fill its shape"
                problems.append(Problem(f"{where} is damaged", why, "export it again"))
    for kind, names in others.items():
        more = f" and {len(names) - 1} more are" if len(names) > 1 else " is"
        problems.append(
            Problem(
                f"tensor '{names[0]}'{more} {kind}",
                "conversion works on float32 networks",
                "convert the network to float32 before exporting",
            )
        )
    sparse = [t.values.name for t in graph.sparse_initializer]
    sparse += [n.name for n in graph.node if any(a.HasField("sparse_tensor") for a in n.attribute)]
    if sparse:
        why = "only dense weights can be read"
        problems.append(Problem(f"tensor '{sparse[0]}' is sparse", why, "export dense weights"))
    return problems


def _interface(graph: onnx.GraphProto) -> list[Problem]:
    initialisers = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in initialisers]
    problems = []
    if len(inputs) != 1 or not graph.output:
        names = ", ".join(f"'{i.name}'" for i in inputs) or "none"
        problems.append(
            Problem(
                f"the network has {len(inputs)} inputs ({names}), {len(graph.output)} outputs",
                "it must have one input, the image batch, and at least one output",
                "make the others constants, or export the part behind them",
            )
        )
    for value in inputs:
        tensor = value.type.tensor_type
        where = f"input '{value.name}'"
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            kinds = {number: name for name, number in onnx.TensorProto.DataType.items()}
            kind = kinds.get(tensor.elem_type, "of an unknown type").lower()
            do = "export with a float32 input; do casts and scaling before the network"
            problems.append(Problem(f"{where} is {kind}", "a float32 input is needed", do))
        dims = list(tensor.shape.dim)
        unknown = [str(i) for i, d in enumerate(dims) if i and not d.HasField("dim_value")]
        wrong = [d.dim_value for d in dims if d.HasField("dim_value") and d.dim_value <= 0]
        if len(dims) < 2:
            why = "axis 0 must be the batch, and at least one axis must follow"
            problems.append(Problem(f"{where} has {len(dims)} axes", why, "add a batch axis"))
        elif unknown:
            problems.append(
                Problem(
                    f"{where} has no fixed size in axis {', '.join(unknown)}",
                    "a population of neurons has a fixed size; only the batch may vary",
                    "export with fixed image dimensions (dynamic_axes for axis 0 only)",
                )
            )
        elif wrong or math.prod(d.dim_value or 1 for d in dims) > MAX_ELEMENTS:
            sizes = [d.dim_value for d in dims]
            why = "sizes must be positive and the input below 2^31 elements"
            problems.append(Problem(f"{where} has shape {sizes}", why, "export it again"))
    return problems


def _check_cycles(graph: onnx.GraphProto) -> None:
    import networkx  # a tenth of a second, which running a compiled network need not wait for

    producer = {v: n.name for n in graph.node for v in n.output if v}
    view = networkx.DiGraph()
    for node in graph.node:
        view.add_edges_from((producer[v], node.name) for v in node.input if v in producer)
    for knot in networkx.strongly_connected_components(view):
        part = view.subgraph(knot)
        if not part.number_of_edges():
            continue
        cycle = [a for a, _ in networkx.find_cycle(part)]
        raise refuse(
            f"the nodes {' -> '.join([*cycle, cycle[0]])} form a cycle",
            "a feed-forward network is needed: every value must be computed before it is used",
            "unroll or remove the recurrence",
        )


def _check_onnx(proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise refuse(
            "the file is not valid ONNX",
            _reason(str(error)),
            "export the network again, or run onnx.checker on it to see more",
        ) from None
    except ValueError as error:
        raise refuse("the file is not valid ONNX", str(error), "export it again") from None


def _reason(text: str) -> str:
    """The first thing that onnx's checker complains of, in one line."""
    first = re.search(r"op_type:(\w+), node name: (.*?)\): (?:\[\w+\] )?(.*)", text)
    if first:
        op, name, why = first.groups()
        return f"{op} '{name}': {why}"
    text, _, context = text.partition("==> Context:")
    return " ".join([*text.split(), *context.split()])
