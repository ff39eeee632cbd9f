"""What the tests of whole networks share: compile, run, compare."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto

import networks
from backends.lava import interpreter
from backends.reference import NumpyBackend
from snncompiler.diagnostics import InputError
from snncompiler.driver import Compiled, compile_model
from snncompiler.trace import Observe, Trace

SPIKES = Observe(spikes=True)


def calibration(model: ModelProto, seed: int, n: int = 4) -> np.ndarray:
    return networks.sample_input(model, n, seed)


def fresh(model: ModelProto, seed: int, n: int = 2) -> np.ndarray:
    """Samples that the calibration did not see.

    A threshold is one of the calibration's own activations: on the sample it comes from, membranes
    meet it exactly, and any rounding decides.
    """
    return networks.sample_input(model, n, seed + 1_000_000)


def compiled(model: ModelProto, seed: int, **settings: object) -> Compiled:
    return compile_model(model, calibration(model, seed), **settings)  # type: ignore[arg-type]


def float64(network: Compiled, x: np.ndarray, timesteps: int) -> Trace:
    return NumpyBackend(np.float64).build(network.model).run(x, timesteps, SPIKES)


def original(model: ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """What the trained network computes, by onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    result: list[np.ndarray] = session.run(None, {networks.data_input(model).name: x})
    return result


def differences(a: Trace, b: Trace) -> dict[str, int]:
    """Per layer, how many entries of the spike trains differ; empty: none, anywhere."""
    assert a.trains.keys() == b.trains.keys()
    found = {name: int((a.trains[name] != b.trains[name]).sum()) for name in a.trains}
    return {name: count for name, count in found.items() if count}


def every(seeds: range, check: Callable[[int], object]) -> None:
    """Check all seeds; fail with the list of those that are wrong and what is wrong with them."""
    wrong = {seed: found for seed in seeds if (found := check(seed))}
    assert not wrong, f"random_dag seeds and what is wrong: {wrong}"


def chunks(n: int, size: int = 20) -> pytest.MarkDecorator:
    """Parametrise `seeds` with ranges that cover n seeds; a range stays with one worker."""
    ranges = {f"{i}-{min(i + size, n) - 1}": range(i, min(i + size, n)) for i in range(0, n, size)}
    group = pytest.mark.xdist_group
    params = [pytest.param(r, id=name, marks=group(name)) for name, r in ranges.items()]
    return pytest.mark.parametrize("seeds", params)


def lava_missing() -> str:
    """Why nothing can run on Lava here; empty if it can."""
    try:
        interpreter.find()
    except InputError as error:
        return error.problems[0].why
    return ""


#: One after the other: Lava runs a process per layer.
lava_group = pytest.mark.xdist_group("lava")
needs_lava = pytest.mark.skipif(bool(lava_missing()), reason=f"no Lava: {lava_missing()}")


SHARED = Path(os.environ.get("SNNC_SHARED", Path(__file__).parents[2] / "shared"))
VGG = SHARED / "models" / "cifar10_vgg.onnx"
real_data = pytest.mark.skipif(
    not (VGG.exists() and (SHARED / "data" / "load.py").exists())
    or importlib.util.find_spec("PIL") is None,
    reason="the CIFAR-10 network and images are not in ../shared (or $SNNC_SHARED), or no pillow",
)


#: Those tests share what they compile.
vgg_group = pytest.mark.xdist_group("vgg")


@cache
def vgg(recipe: str = "binary") -> Compiled:
    """The trained VGG, compiled for 16 steps."""
    x, _ = cifar10("train", 128)
    return compile_model(VGG, x, recipe=recipe, timesteps=16)


def loader() -> ModuleType:
    """The reader of the real data sets."""
    spec = importlib.util.spec_from_file_location("load", SHARED / "data" / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cifar10(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(x, y): n images as the network expects them, and their labels."""
    load = loader()
    x, y = load.cifar10(split, limit=n)
    return load.normalize_cifar10(x), y.astype(np.int64)
