"""Lava sends the same spikes as the NumPy reference, and nothing of it is left when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

import backends.lava.backend
import networks
from backends.lava import guard, interpreter
from backends.lava.backend import LavaBackend, LavaProgram
from backends.reference import NumpyBackend
from runs import SPIKES, compiled, differences, fresh, lava_group, lava_missing, needs_lava
from snncompiler.diagnostics import Diagnostic, InputError
from snncompiler.driver import Compiled
from snncompiler.trace import Observe, Trace

pytestmark = lava_group

MEMORY = Path("/dev/shm")


def expected(network: Compiled, x: np.ndarray) -> Trace:
    return NumpyBackend().build(network.model).run(x, network.timesteps, SPIKES)


def program(network: Compiled, layers: bool) -> LavaProgram:
    return LavaBackend(layers=layers, patience=60).build(network.model)


def assert_same(a: Trace, b: Trace) -> None:
    assert differences(a, b) == {}
    assert all(c.sum() > 0 for c in a.counts.values())
    for kept in ("counts", "readout"):
        for name, array in getattr(a, kept).items():
            np.testing.assert_array_equal(getattr(b, kept)[name], array, err_msg=name)


def small(seed: int = 0) -> ModelProto:
    """A residual block with a strided first convolution, a pool and a depthwise convolution."""
    net = networks.Net(seed)
    x = net.op("Relu", net.conv(net.input(2, 8, 8), 4, strides=2))
    y = net.op("Relu", net.conv(x, 4))
    x = net.op("Relu", net.op("Add", net.conv(y, 4, group=4), x))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.gemm(net.op("Flatten", x), 5))


@needs_lava
@pytest.mark.parametrize("layers", [False, True], ids=["fused", "layers"])
def test_spikes_are_those_of_the_reference_over_samples_back_to_back(layers, monkeypatch):
    monkeypatch.setattr(backends.lava.backend, "_BATCH", 3)  # the last batch is not full
    network = compiled(small(), 0, timesteps=8, recipe="graded")
    x = fresh(small(), 0, 7)
    heard: list[tuple[int, int]] = []
    trace = program(network, layers).run(x, 8, SPIKES, lambda *n: heard.append(n))
    assert_same(expected(network, x), trace)
    assert heard[-1] == (56, 56)


@needs_lava
@pytest.mark.parametrize("layers", [False, True], ids=["fused", "layers"])
def test_integers_send_the_spikes_of_the_artifact(layers, monkeypatch):
    monkeypatch.setattr(backends.lava.backend, "_BATCH", 3)
    options = {"quantise.target": "graded"}
    network = compiled(small(), 0, timesteps=8, recipe="ternary", options=options)
    x = fresh(small(), 0, 7)
    ours = program(network, layers)
    assert ours.plan.integer
    assert_same(expected(network, x), ours.run(x, 8, SPIKES))


@needs_lava
def test_concatenation_pools_and_twin_synapses_are_the_same():
    network = compiled(networks.inception(), 0, timesteps=6, recipe="spicalib")
    x = fresh(networks.inception(), 0, 2)
    assert_same(expected(network, x), program(network, False).run(x, 6, SPIKES))


@needs_lava
def test_without_start_delays_the_pipeline_computes_something_else():
    network = compiled(small(), 0, timesteps=8, recipe="graded")
    x = fresh(small(), 0, 3)
    late = program(network, True)
    late.start_delay = False
    assert differences(expected(network, x), late.run(x, 8, SPIKES))


@needs_lava
def test_a_flipped_kernel_is_noticed():
    network = compiled(small(), 0, timesteps=8, recipe="graded")
    x = fresh(small(), 0, 3)
    flipped = program(network, False)
    name = next(k for k, w in flipped.plan.arrays.items() if w.shape == (4, 4, 3, 3))
    arrays = {**flipped.plan.arrays, name: flipped.plan.arrays[name][..., ::-1, ::-1]}
    flipped.plan = replace(flipped.plan, arrays=arrays)
    assert differences(expected(network, x), flipped.run(x, 8, SPIKES))


# ---- faults ----------------------------------------------------------------------------------


OURS = "abcde"


def leftovers() -> tuple[set[str], int]:
    """Shared memory and processes of the runs this test started, whatever runs beside it."""
    running = 0
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            running += f"SNN_SHARED_MEMORY=snn{OURS}".encode() in path.read_bytes()
        except OSError:
            continue
    return {p.name for p in MEMORY.glob(f"snn{OURS}*")}, running


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backends.lava.guard.secrets.token_hex", lambda n: OURS)
    yield
    for _ in range(20):  # what was killed may take a moment to go
        if leftovers() == (set(), 0):
            break
        time.sleep(0.1)
    assert leftovers() == (set(), 0)


def broken(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let the emitted neuron run `code` at its third step."""
    original = backends.lava.backend.files

    def files(*arguments: object) -> dict[str, bytes]:
        written = original(*arguments)  # type: ignore[arg-type]
        text = written["spiking/dynamics.py"].decode()
        start = "    settings = {k: v for k, v in node.settings.items()"
        assert text.count(start) == 1
        text = text.replace(start, f"    if t == 3: {code}\n{start}")
        return written | {"spiking/dynamics.py": text.encode()}

    monkeypatch.setattr(backends.lava.backend, "files", files)


@needs_lava
@pytest.mark.parametrize(
    ("code", "patience", "told"),
    [
        ("raise ArithmeticError('the third step')", 60, "ArithmeticError: the third step"),
        ("import time; time.sleep(999)", 6, "nothing was heard of it for 6 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 60, "ended by SIGKILL"),
    ],
    ids=["raises", "hangs", "killed"],
)
def test_a_failing_process_model_ends_with_a_message(
    code, patience, told, monkeypatch, nothing_left
):
    broken(monkeypatch, code)
    network = compiled(networks.mlp(), 0, timesteps=4)
    started = time.monotonic()
    with pytest.raises(Diagnostic, match="Lava did not finish") as caught:
        LavaBackend(patience=patience).build(network.model).run(fresh(networks.mlp(), 0), 4)
    assert told in caught.value.problems[0].why
    assert caught.value.exit_code == 1
    assert time.monotonic() - started < 40


@needs_lava
def test_an_interrupt_ends_everything(monkeypatch, nothing_left):
    broken(monkeypatch, "import time; time.sleep(999)")
    network = compiled(networks.mlp(), 0, timesteps=4)
    timer = threading.Timer(4, os.kill, [os.getpid(), signal.SIGINT])
    # What a shell starts in the background ignores interrupts, and so would these tests.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            program(network, False).run(fresh(networks.mlp(), 0), 4)
    finally:
        signal.signal(signal.SIGINT, before)


SLEEPS = "import os, sys, time; [os.fork() for _ in range(2)]; time.sleep(99)  # snn-fault"


@pytest.mark.parametrize("way", ["silent", "interrupted"])
def test_the_guard_kills_the_whole_session_and_frees_its_memory(way, nothing_left):
    code = (
        "import os, pathlib\n"
        "pathlib.Path('/dev/shm', os.environ['SNN_SHARED_MEMORY'] + 'left').write_text('x')\n"
        f"print('@ 1 2', file=__import__('sys').stderr, flush=True)\n{SLEEPS}"
    )

    def heard(done: int, total: int) -> None:
        assert (done, total) == (1, 2)
        assert leftovers()[0]
        if way == "interrupted":
            raise KeyboardInterrupt

    with pytest.raises(guard.Silent if way == "silent" else KeyboardInterrupt):
        guard.run([sys.executable, "-c", code], 1.0, heard)


def test_the_guard_tells_what_a_failing_child_said():
    code = "import sys; print('out'); sys.stderr.write('the reason\\n'); sys.exit(3)"
    with pytest.raises(guard.Failed, match="the reason"):
        guard.run([sys.executable, "-c", code], 10, lambda *_: None)
    assert guard.run([sys.executable, "-c", "print(42)"], 10, lambda *_: None) == "42\n"


# ---- interpreter -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/false", sys.executable])
def test_a_missing_or_wrong_interpreter_is_named_with_the_cure(path, monkeypatch):
    if path == sys.executable and not lava_missing() and interpreter.find() == path:
        pytest.skip("this Python has Lava")
    monkeypatch.setenv(interpreter.VARIABLE, path)
    network = compiled(networks.mlp(), 0, timesteps=2)
    with pytest.raises(InputError, match=r"no Python with Lava") as caught:
        LavaBackend().build(network.model).run(fresh(networks.mlp(), 0), 2)
    problem = caught.value.problems[0]
    assert path in problem.why
    assert "pip install 'lava-nc==0.10.0'" in problem.do
    assert interpreter.VARIABLE in problem.do


def test_membranes_are_not_shown():
    network = compiled(networks.mlp(), 0, timesteps=2)
    with pytest.raises(InputError, match="cannot show membrane potentials"):
        LavaBackend().build(network.model).run(fresh(networks.mlp(), 0), 2, Observe(membranes=True))


def test_the_core_never_imports_lava():
    code = "import backends; backends.load('lava'); import sys; print('lava' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert run.stdout == "False\n", run.stderr
