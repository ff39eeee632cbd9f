"""Weights that lie in files beside a network: read from its own folder and nowhere else."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper

from snncompiler.diagnostics import InputError, Problem, refuse


def load_external(proto: onnx.ModelProto, folder: Path) -> None:
    """Read the external data of an untrusted network from the files beside it, into the message.

    Raises:
        InputError: with every tensor whose data lie outside of the folder, or are not all there.
    """
    problems = []
    for tensor in _external(proto):
        entries = {e.key: e.value for e in tensor.external_data}
        why = _misplaced(entries.get("location", ""), folder)
        if not why:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about entries of unknown meaning
                    onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
                onnx.numpy_helper.to_array(tensor)
                continue
            except Exception:
                # onnx raises whatever NumPy or the file system raises for a short file.
                why = f"'{entries['location']}' does not hold the bytes that the tensor claims"
        problems.append(
            Problem(
                f"cannot load the external data of tensor '{tensor.name}'",
                why,
                "keep the data file beside the model, or save the model with its weights inside",
            )
        )
    if problems:
        raise InputError(*problems)


def _external(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    inner = (n for f in proto.functions for n in f.node)
    tensors = (*_tensors_of(proto.graph), *_tensors_in(inner))
    return [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]


def require_loaded(proto: onnx.ModelProto) -> None:
    """Refuse a network in memory whose external data were not loaded.

    Raises:
        InputError: names the first such tensor.
    """
    if tensors := _external(proto):
        raise refuse(
            f"the data of tensor '{tensors[0].name}' are not loaded",
            "they lie in a file beside the model's",
            "give the path of the model, or load it with its external data",
        )


def _misplaced(location: str, folder: Path) -> str:
    """Why external data must not be read from a location, or nothing."""
    target = folder / location
    try:
        if not location or Path(location).is_absolute() or ".." in Path(location).parts:
            return f"the location '{location}' leaves the model's folder"
        if target.is_symlink() or not target.resolve().is_relative_to(folder):
            return f"the location '{location}' is a link out of the model's folder"
        return "" if target.is_file() else f"there is no file '{location}' beside the model"
    except (OSError, ValueError):
        return f"the location '{location}' is no file name"


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in a graph: initialisers, sparse ones, and those in attributes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_in(graph.node)


def _tensors_in(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in (a for n in nodes for a in n.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of(graph)
