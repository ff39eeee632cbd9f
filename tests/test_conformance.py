"""Every op means the same in words (ops.py), as an ONNX function (op_bodies.py) and in NumPy.

Values are dyadic, so that every comparison is bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import backends
from backends import numpy_ops
from runs import lava_group, needs_lava
from snncompiler import ops
from snncompiler.ann import session
from snncompiler.diagnostics import InputError
from snncompiler.trace import Observe

ops.register()
quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)
Array = np.ndarray
TRAINS = Observe(spikes=True)
EVERYTHING = Observe(spikes=True, membranes=True)


def parse(text: str, **constants: Any) -> onnx.ModelProto:
    head = '<ir_version: 10, opset_import: ["" : 21, "snn" : 1]>\n'
    model = onnx.parser.parse_model(head + text)
    model.graph.initializer.extend(
        numpy_helper.from_array(a if a.dtype == np.int64 else a.astype(np.float32), name)
        for name, a in ((name, np.asarray(value)) for name, value in constants.items())
    )
    model.functions.extend(ops.functions())
    onnx.checker.check_model(model, full_check=True)
    return model


def spiking_op(call: str, i: Array, *, evaluator: bool = True, **constants: Any) -> Array:
    """One spiking op, [T, N, ...] -> [T, N, ...], by its function body in onnxruntime.

    evaluator: onnx's own evaluator must say the same.
    """
    dims, names = ", ".join(["TN", *map(str, i.shape[2:])]), ", ".join("abcdef"[: i.ndim - 1])
    text = f"g (float[{dims}] I, int64[1] T) => (float[{names}] Y) {{ Y = snn.{call} }}"
    model = parse(text, **constants)
    flat = i.reshape(-1, *i.shape[2:]).astype(np.float32)
    feeds = {"I": flat, "T": np.array([len(i)])}
    y = session(model).run(None, feeds)[0]
    assert y.dtype == np.float32
    if evaluator:
        np.testing.assert_array_equal(y, ReferenceEvaluator(model).run(None, feeds)[0])
    return y.reshape(-1, i.shape[1], *y.shape[1:])


def unroll(step: Callable[..., tuple[Array, ...]], i: Array, *state: Any) -> list[Array]:
    """Run a step function of numpy_ops over i [T, N, ...]; all it returns, stacked over time."""
    history = []
    for t in range(1, len(i) + 1):
        sent, *state = step(i[t - 1], *state, t=t)
        history.append((sent, *state))
    return [np.stack(column) for column in zip(*history, strict=True)]


def currents(rng: np.random.Generator, scale: float = 2) -> Array:
    """[T, N, C, ...] of multiples of 1/16, of any rank."""
    space = rng.integers(1, 4, rng.integers(0, 4))
    shape = (rng.integers(1, 9), rng.integers(1, 3), rng.integers(1, 4), *space)
    return np.round(rng.normal(0.3, scale, shape) * 16) / 16


def per_channel(rng: np.random.Generator, channels: int, choices: Sequence[float]) -> Array:
    return rng.choice(choices, channels if rng.random() < 0.7 else 1)


def broadcast(parameter: Array, i: Array) -> Array:
    """[C, ...] against one step [N, C, ...]."""
    return parameter.reshape(parameter.shape + (1,) * (i.ndim - 2 - parameter.ndim))


def write(op: str, inputs: str, **attributes: Any) -> str:
    """A call in ONNX text."""
    written = ", ".join(f"{name} = {json.dumps(value)}" for name, value in attributes.items())
    return f"{op} <{written}> ({inputs})"


def fire(i: Array, theta: Array, v: Array, **attributes: Any) -> tuple[Array, Array]:
    """Counts and potentials [T, N, ...] of IF."""
    theta_ = broadcast(theta, i)
    start = np.broadcast_to(broadcast(v, i), i.shape[1:])

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        return numpy_ops.if_step(x, *state, theta_, t=t, **attributes)

    sent, potential, total = unroll(step, i, start, np.zeros(i.shape[1:]))
    np.testing.assert_array_equal(total, (sent / theta_).cumsum(0))
    return sent / theta_, potential


# ---- spiking ops: NumPy, onnxruntime, onnx's evaluator --------------------------------------


@quick
@given(seeds)
def test_if_is_its_function_body(rng):
    i = currents(rng)
    channels = i.shape[2]
    theta = per_channel(rng, channels, [0.5, 0.75, 1, 2])
    v_shape = i.shape[2:] if rng.random() < 0.3 else rng.choice([1, channels])
    v = rng.choice([-0.5, 0, 0.25, 1], v_shape)
    attributes = {
        "gamma": float(rng.choice([1, 3, 100])),
        "gamma_neg": float(rng.choice([0, 1, 100])),
        "delay": int(rng.choice([0, 2])),
    }
    counts, _ = fire(i, theta, v, **attributes)
    call = write("IF", "I, theta, v, T", **attributes)
    sent = spiking_op(call, i, theta=theta, v=v)
    np.testing.assert_array_equal(sent, (counts * broadcast(theta, i)).astype(np.float32))


@quick
@given(seeds)
def test_leaky_if_is_its_function_body(rng):
    i = currents(rng)
    theta = per_channel(rng, i.shape[2], [0.5, 0.75, 2])
    alpha = per_channel(rng, i.shape[2], [0, 0.125, 0.5, 1])
    attributes = {"gamma": float(rng.choice([1, 4])), "delay": int(rng.choice([0, 2]))}

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        parameters = {"theta": broadcast(theta, i), "alpha": broadcast(alpha, i)}
        return numpy_ops.leaky_if_step(x, *state, t=t, **parameters, **attributes)

    zeros = np.zeros(i.shape[1:])
    sent, *_ = unroll(step, i, zeros, zeros)
    call = write("LeakyIF", "I, theta, T", alpha=[float(a) for a in alpha], **attributes)
    np.testing.assert_array_equal(spiking_op(call, i, theta=theta), sent.astype(np.float32))


@quick
@given(seeds)
def test_twin_synapse_is_its_function_body(rng):
    i = currents(rng)
    theta = per_channel(rng, i.shape[2], [0.5, 0.75, 2])
    gamma = float(rng.choice([1, 2]))
    counts = rng.poisson(0.3, i.shape) if rng.random() < 0.8 else rng.integers(-1, 3, i.shape)
    sent = (counts * broadcast(theta, i)).astype(np.float32)
    attributes = {"gamma": gamma, "allowance": float(rng.choice([0, 1, 2.5]))}

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        return numpy_ops.twin_synapse_step(x, *state, broadcast(theta, i), t=t, **attributes)

    zeros = np.zeros(i.shape[1:])
    expected, *_ = unroll(step, sent, zeros, zeros, zeros)
    found = spiking_op(write("TwinSynapse", "I, theta, T", **attributes), sent, theta=theta)
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@quick
@given(seeds)
def test_windowed_if_is_its_function_body_and_sends_what_it_has_heard(rng):
    i = currents(rng)
    theta = per_channel(rng, i.shape[2], [0.5, 0.75, 1, 2])
    v = rng.choice([0, 0.25, 1], rng.choice([1, i.shape[2]]))
    layer, window, gamma = (int(rng.integers(1, 4)) for _ in range(3))
    attributes = {"gamma": float(gamma), "layer": layer, "window": window}

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        return numpy_ops.windowed_if_step(x, *state, broadcast(theta, i), t=t, **attributes)

    sent, _ = unroll(step, i, np.broadcast_to(broadcast(v, i), i.shape[1:]))
    call = write("WindowedIF", "I, theta, v, T", **attributes)
    found = spiking_op(call, i, theta=theta, v=v)
    np.testing.assert_array_equal(found, sent.astype(np.float32))
    if len(i) >= (layer + 1) * window:
        heard = i[(layer - 1) * window : layer * window].sum(0) + broadcast(v, i)
        count = np.clip(np.floor(heard / broadcast(theta, i)), 0, gamma * window)
        np.testing.assert_array_equal(sent.sum(0), count * broadcast(theta, i))


@quick
@given(seeds)
def test_delay_is_its_function_body_and_shifts(rng):
    i = currents(rng).astype(np.float32)
    steps = int(rng.integers(1, 10))

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        return numpy_ops.delay_step(x, *state)

    sent, *_ = unroll(step, i, *[np.zeros(i.shape[1:], np.float32)] * steps)
    np.testing.assert_array_equal(spiking_op(write("Delay", "I, T", steps=steps), i), sent)
    np.testing.assert_array_equal(
        sent, np.concatenate([np.zeros_like(i[:1])] * steps + [i])[: len(i)]
    )


def windows(rng: np.random.Generator, n: int) -> dict[str, list[int]]:
    kernel = [int(k) for k in rng.integers(1, 4, n)]
    return {
        "kernel_shape": kernel,
        "strides": [int(s) for s in rng.integers(1, 4, n)],
        "pads": [int(p) for p in rng.integers(0, kernel * 2)],
        "dilations": [int(d) for d in rng.integers(1, 3, n)],
    }


def real_windows(x: Array, window: dict[str, Any]) -> None:
    """Assume that there are windows, and that each holds at least one element of x."""
    n = len(window["kernel_shape"])
    sizes = [
        ops.pooled_size(*numbers, window["ceil_mode"])
        for numbers in zip(
            x.shape[-n:],
            *(window[k] for k in ("kernel_shape", "strides", "dilations")),
            window["pads"][:n],
            window["pads"][n:],
            strict=True,
        )
    ]
    assume(min(sizes) > 0)
    reach = zip(window["kernel_shape"], window["dilations"], window["pads"][:n], strict=True)
    spans = zip(x.shape[-n:], reach, window["pads"][n:], strict=True)
    assume(all(size + a + e >= d * (k - 1) + 1 for size, (k, d, a), e in spans))
    assume(np.isfinite(numpy_ops.max_pool(x, **window)).all())


@quick
@given(seeds)
def test_mli_pool_is_its_function_body_and_pools_what_has_arrived(rng):
    n = int(rng.integers(1, 4))
    window = {**windows(rng, n), "ceil_mode": int(rng.integers(2))}
    low, high = rng.choice([(0, 2), (0, 6), (-3, 4)])  # binary, bursts, spikes taken back
    shape = (rng.integers(1, 7), rng.integers(1, 3), rng.integers(1, 3), *rng.integers(2, 9, n))
    s = rng.integers(low, high, shape).astype(np.float32)
    real_windows(s[0], window)

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        return numpy_ops.mli_pool_step(x, *state, **window)

    sent, *_ = unroll(step, s, np.zeros(shape[1:]), np.zeros(1))
    # onnx's evaluator mistakes one-sided pads where strides and dilations are all 1
    evaluator = max(window["strides"] + window["dilations"]) > 1
    found = spiking_op(write("MLIPool", "I, T", **window), s, evaluator=evaluator)
    np.testing.assert_array_equal(found, sent.astype(np.float32))
    for pooled, arrived in zip(found.cumsum(0), s.cumsum(0), strict=True):
        np.testing.assert_array_equal(pooled, numpy_ops.max_pool(arrived, **window))
    bound = np.abs(s).max()
    assert np.abs(found).max() <= bound
    assert low < 0 or found.min() >= 0


@quick
@given(seeds, st.sampled_from(["mean", "sum"]), st.integers(0, 3))
def test_readout_is_its_function_body(rng, mode, start):
    i = currents(rng)
    assume(len(i) > start)
    # onnx's evaluator compares strings of equal length only
    y = spiking_op(write("Readout", "I, T", mode=mode, start=start), i, evaluator=mode == "mean")
    total = i[start:].sum(0)
    read = numpy_ops.readout(total, len(i), mode=mode, start=start)
    np.testing.assert_array_equal(y[0], read.astype(np.float32))


# ---- what the spiking ops promise ------------------------------------------------------------


@quick
@given(seeds)
def test_if_keeps_what_it_does_not_send(rng):
    i, v = currents(rng), np.array([0.25])
    theta = per_channel(rng, i.shape[2], [0.5, 1, 2])
    attributes = {"gamma": float(rng.integers(1, 4)), "gamma_neg": float(rng.integers(2))}
    delay = int(rng.integers(4))
    s, potential = fire(i, theta, v, delay=delay, **attributes)
    heard = np.concatenate([np.zeros_like(i[:delay]), i[delay:]])
    np.testing.assert_array_equal(
        potential, v + heard.cumsum(0) - broadcast(theta, i) * s.cumsum(0)
    )
    assert s.max() <= attributes["gamma"]
    assert s.min() >= -attributes["gamma_neg"]
    assert s.cumsum(0).min() >= 0


def test_if_with_gamma_1_fires_once_and_at_equality():
    i = np.array([0.5, 0.5, 3.0, -1.0, 0.0]).reshape(5, 1, 1)
    s, v = fire(i, np.ones(1), np.zeros(1), gamma=1.0, gamma_neg=0.0, delay=0)
    assert s.ravel().tolist() == [0, 1, 1, 1, 0]
    assert v.ravel().tolist() == [0.5, 0, 2, 0, 0]


@quick
@given(seeds)
def test_signed_if_rounds_what_has_arrived_at_every_step(rng):
    i = currents(rng)
    theta = per_channel(rng, i.shape[2], [0.5, 1, 2])
    s, _ = fire(i, theta, theta / 2, gamma=1e6, gamma_neg=1e6, delay=0)
    arrived = i.cumsum(0) / broadcast(theta, i)
    np.testing.assert_array_equal(s.cumsum(0), np.maximum(0, np.floor(arrived + 0.5)))


@quick
@given(seeds, st.integers(0, 9))
def test_delayed_if_is_frozen_then_fresh(rng, delay):
    i = currents(rng)
    attributes = {"gamma": 2.0, "gamma_neg": 1.0}
    s, v = fire(i, np.ones(1), np.array([0.5]), delay=delay, **attributes)
    assert not s[:delay].any()
    assert (v[:delay] == 0.5).all()
    if delay < len(i):
        fresh = fire(i[delay:], np.ones(1), np.array([0.5]), delay=0, **attributes)
        np.testing.assert_array_equal(s[delay:], fresh[0])
        np.testing.assert_array_equal(v[delay:], fresh[1])


@quick
@given(seeds)
def test_leaky_if_rounds_the_leaky_relu_of_what_has_arrived(rng):
    i = currents(rng)
    alpha, theta = np.array([rng.choice([0, 0.125, 0.5])]), np.array([0.5])

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        fixed: dict[str, Any] = {"theta": theta, "alpha": alpha, "gamma": 1e6, "delay": 0}
        return numpy_ops.leaky_if_step(x, *state, t=t, **fixed)

    sent, arrived, counts = unroll(step, i, np.zeros(i.shape[1:]), np.zeros(i.shape[1:]))
    np.testing.assert_array_equal(arrived, i.cumsum(0))
    np.testing.assert_array_equal(sent.cumsum(0), theta * counts)
    leaky = np.where(arrived > 0, arrived, alpha * arrived)
    np.testing.assert_array_equal(counts, np.floor(leaky / theta + 0.5))


def cancel(s: Array, allowance: float, gamma: float = 1.0) -> tuple[Array, Array]:
    """What a twin synapse sends for counts s [T, N, C], and the net count."""
    i = np.asarray(s, float)

    def step(x: Array, *state: Array, t: int) -> tuple[Array, ...]:
        fixed = {"theta": np.ones(1), "gamma": gamma, "allowance": allowance}
        return numpy_ops.twin_synapse_step(x, *state, t=t, **fixed)

    sent, _, _, net = unroll(step, i, *np.zeros((3, *i.shape[1:])))
    return sent, net


@quick
@given(seeds, st.floats(0, 8))
def test_twin_synapse_never_takes_back_more_than_was_sent(rng, allowance):
    s = rng.poisson(0.3, (20, 2, 3))
    sent, net = cancel(s, allowance, gamma=2.0)
    assert net.min() >= 0
    assert sent.min() >= -2
    np.testing.assert_array_equal(sent.cumsum(0), net)
    never = ~s.any(0)
    assert not sent[:, never].any()
    np.testing.assert_array_equal(cancel(s, allowance=20.0)[0], s)


def train(steps: int, *spikes: int) -> Array:
    """A binary train [T, 1, 1] with spikes at these steps, counted from 1."""
    s = np.zeros((steps, 1, 1))
    s[np.array(spikes) - 1] = 1
    return s


def test_twin_synapse_keeps_the_spikes_of_a_late_starter():
    late = train(50, 40, 41, 42, 43, 44)
    np.testing.assert_array_equal(cancel(late, allowance=8.0)[0], late)


def test_twin_synapse_takes_an_early_burst_back_after_silence():
    sent, net = cancel(train(20, 1, 2, 3), allowance=8.0)
    # mean interval 1: the silence lasts too long when t - 3 > 1 + 8
    assert (sent.ravel() < 0).nonzero()[0].tolist() == [12, 13, 14]
    assert net.ravel()[-1] == 0


# ---- linear ops ------------------------------------------------------------------------------


def standard_op(op: str, x: Array, *constants: Array, **attributes: Any) -> Array:
    names = ["w", "b"][: len(constants)]
    written = write(op, ", ".join(["x", *names]), **attributes)
    dims, result = ", ".join(map(str, x.shape)), ", ".join("abcde"[: x.ndim])
    text = f"g (float[{dims}] x) => (float[{result}] y) {{ y = {written} }}"
    proto = parse(text, **dict(zip(names, constants, strict=True)))
    return session(proto).run(None, {"x": x})[0]


def integers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-8, 9, shape).astype(np.float32)


@quick
@given(seeds, st.booleans(), st.booleans())
def test_conv_is_that_of_onnxruntime(rng, depthwise, single_output):
    n = int(rng.integers(1, 4))
    window = windows(rng, n)
    if single_output:
        window["strides"] = [20] * n  # longer than any input and its pads
    kernel = window["kernel_shape"]
    group, inputs, outputs = (int(c) for c in rng.integers(1, 4, 3))
    inputs, outputs = (1, 1) if depthwise else (inputs, outputs)
    x = integers(rng, rng.integers(1, 4), group * inputs, *rng.integers(5, 9, n))
    w, b = integers(rng, group * outputs, inputs, *kernel), integers(rng, group * outputs)
    y = standard_op("Conv", x, w, b, group=group, **window)
    del window["kernel_shape"]
    for dtype in (np.float32, np.float64):
        with pytest.MonkeyPatch.context() as patch:
            if dtype == np.float64:  # and one sample at a time
                patch.setattr(numpy_ops, "_CHUNK", 1)
            found = numpy_ops.conv(*(a.astype(dtype) for a in (x, w, b)), group=group, **window)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, y)


@quick
@given(seeds)
def test_conv_transpose_is_that_of_onnxruntime(rng):
    n = int(rng.integers(1, 4))
    window = windows(rng, n)
    kernel = window["kernel_shape"]
    group, inputs, outputs = (int(c) for c in rng.integers(1, 4, 3))
    extra = [int(rng.integers(s)) for s in window["strides"]]
    x = integers(rng, rng.integers(1, 4), group * inputs, *rng.integers(3, 6, n))
    w, b = integers(rng, group * inputs, outputs, *kernel), integers(rng, group * outputs)
    settings_ = {"output_padding": extra, "group": group, **window}
    y = standard_op("ConvTranspose", x, w, b, **settings_)
    del settings_["kernel_shape"]
    np.testing.assert_array_equal(numpy_ops.conv_transpose(x, w, b, **settings_), y)


@quick
@given(seeds)
def test_max_pool_is_that_of_onnxruntime(rng):
    n = int(rng.integers(1, 4))
    window = {**windows(rng, n), "ceil_mode": int(rng.integers(2))}
    x = integers(rng, rng.integers(1, 4), 2, *rng.integers(2, 9, n))
    real_windows(x, window)
    y = standard_op("MaxPool", x, **window)
    np.testing.assert_array_equal(numpy_ops.max_pool(x, **window), y)


# ---- whole networks --------------------------------------------------------------------------

PLAIN = "strides = [1, 1], dilations = [1, 1], group = 1"


def dyadic(seed: int, *shape: int, bits: int = 3, low: float = -1, high: float = 1) -> Array:
    return np.round(np.random.default_rng(seed).uniform(low, high, shape) * 2**bits) / 2**bits


def convolutional() -> onnx.ModelProto:
    """Bursts, a delay, overlapping pools, groups, signed neurons, a twin synapse."""
    model = parse(
        f"""
        g (float[N, 2, 7, 6] x, int64[1] T) => (float[N, 3] y) {{
          c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], {PLAIN}> (x, w1, b1)
          i1 = snn.Encode <mode = "current"> (c1, T)
          s1 = snn.IF <gamma = 3.0, gamma_neg = 0.0, delay = 2> (i1, th1, v1, T)
          p1 = snn.MLIPool <kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1],
                            ceil_mode = 1, dilations = [1, 1]> (s1, T)
          c2 = Conv <kernel_shape = [2, 1], pads = [0, 0, 1, 0], strides = [2, 1],
                     dilations = [1, 1], group = 2> (p1, w2)
          s2 = snn.IF <gamma = 2.0, gamma_neg = 2.0, delay = 0> (c2, th2, v2, T)
          n2 = snn.TwinSynapse <gamma = 2.0, allowance = 1.0> (s2, th2, T)
          f = Flatten <axis = 1> (n2)
          o = Gemm <transB = 1> (f, w3, b3)
          y = snn.Readout <mode = "mean", start = 3> (o, T)
        }}""",
        w1=dyadic(1, 4, 2, 3, 3),
        b1=dyadic(2, 4),
        th1=[0.5, 1, 2, 0.5],
        v1=[0.25, 0.5, 1, 0.25],
        w2=dyadic(3, 6, 2, 2, 1),
        th2=[0.5],
        v2=dyadic(4, 6, 2, 3),
        w3=dyadic(5, 3, 36),
        b3=dyadic(6, 3),
    )
    scale = model.graph.value_info.add(name="p1")
    scale.metadata_props.add(key="snn.scale", value="[0.5, 1, 2, 0.5]")
    return model


def branching() -> onnx.ModelProto:
    """Every op that only moves values, sums of branches, leaky neurons, two outputs."""
    return parse(
        f"""
        g (float[N, 2, 4, 4] x, int64[1] T) => (float[N, 2, 8, 8] y, float[N, 3, 2] z) {{
          i0 = snn.Encode <mode = "current"> (x, T)
          s0 = snn.IF <gamma = 1.0, gamma_neg = 0.0, delay = 0> (i0, one, half, T)
          padded = Pad (s0, widths)
          ca = Conv <kernel_shape = [3, 3], pads = [0, 0, 0, 0], {PLAIN}> (padded, wa, ba)
          sa = snn.LeakyIF <gamma = 2.0, alpha = [0.25, 0.5], delay = 0> (ca, two, T)
          gained = Mul (s0, gain)
          sum = Add (sa, gained)
          sb = snn.IF <gamma = 1.0, gamma_neg = 1.0, delay = 0> (sum, one, half, T)
          both = Concat <axis = 1> (sb, sa)
          chosen = Gather <axis = 1> (both, index)
          up = ConvTranspose <kernel_shape = [3, 2], pads = [1, 0, 0, 0], strides = [2, 2],
                              dilations = [1, 1], output_padding = [0, 0], group = 2> (chosen, wu)
          y = snn.Readout <mode = "mean", start = 0> (up, T)
          part = Slice (both, from, to, axes, by)
          turned = Transpose <perm = [0, 2, 1, 3]> (part)
          flat = Reshape (turned, dims)
          left = MatMul (wl, flat)
          right = MatMul (left, wr)
          shifted = Add (right, shift)
          z = snn.Readout <mode = "sum", start = 1> (shifted, T)
        }}""",
        one=[1.0],
        half=[0.5],
        two=[0.5, 2.0],
        widths=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        wa=dyadic(1, 2, 2, 3, 3),
        ba=dyadic(2, 2),
        gain=dyadic(3, 2, 1, 1),
        index=np.array([3, 0]),
        wu=dyadic(4, 2, 1, 3, 2),
        **{"from": np.array([0, 1]), "to": np.array([4, 4]), "axes": np.array([1, 2])},
        by=np.array([2, 1]),
        dims=np.array([0, 3, 8]),
        wl=dyadic(5, 3, 3),
        wr=dyadic(6, 8, 2),
        shift=dyadic(7, 1, 3, 1),
    )


def static() -> onnx.ModelProto:
    """A part that sees no time, rounding the input; a pool of currents, which is no layer."""
    model = parse(
        """
        g (float[N, 1, 6] x, int64[1] T) => (float[N, 1, 2] y) {
          scaled = Mul (x, gain)
          whole = Round (scaled)
          clipped = Clip (whole, low, high)
          positive = Relu (clipped)
          top = MaxPool <kernel_shape = [2], strides = [1], pads = [0, 0], dilations = [1],
                         ceil_mode = 0> (positive)
          i = snn.Encode <mode = "current"> (top, T)
          s = snn.LeakyIF <gamma = 1.0, alpha = [0.5], delay = 1> (i, theta, T)
          c = Conv <kernel_shape = [2], strides = [1], pads = [0, 0], dilations = [2],
                    group = 1> (s, w)
          p = snn.MLIPool <kernel_shape = [2], strides = [1], pads = [0, 0], ceil_mode = 0,
                           dilations = [1]> (c, T)
          y = snn.Readout <mode = "mean", start = 0> (p, T)
        }""",
        gain=[8.0],
        low=np.float32(-3),
        high=np.float32(5),
        theta=[2.0],
        w=[[[1.0, -0.5]]],
    )
    model.graph.value_info.add(name="p").metadata_props.add(key="snn.kind", value="current")
    return model


NETWORKS = {"convolutional": convolutional, "branching": branching, "static": static}


def named(model: onnx.ModelProto, **record: Any) -> ir.Model:
    for node in model.graph.node:
        node.name = f"n_{node.output[0]}"
    model.metadata_props.add(key="snn.compiled", value=json.dumps(record))
    return ir.from_proto(model)


def samples(model: onnx.ModelProto, n: int = 5) -> Array:
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return dyadic(0, n, *dims, bits=4, low=-0.5, high=1.5).astype(np.float32)


@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS.keys())
def test_backends_agree_on_everything_at_every_step(build):
    proto, steps = build(), 12
    model, x = named(proto, gridded=True), samples(proto)
    traces = [
        backends.load(name, **options).build(model).run(x, steps, Observe(spikes=True))
        for name, options in [
            ("numpy", {}),
            ("numpy", {"dtype": np.float64}),
            ("onnxruntime", {}),
            ("onnxruntime", {"optimise": False, "threads": 1}),
        ]
    ]
    first = traces[0]
    assert all(c.sum() > 0 for c in first.counts.values())
    for trace in traces:
        assert (trace.samples, trace.steps) == (5, tuple(range(1, steps + 1)))
        for kept in ("readout", "counts", "trains"):
            expected, found = getattr(first, kept), getattr(trace, kept)
            assert expected.keys() == found.keys()
            for key, array in expected.items():
                np.testing.assert_array_equal(found[key].astype(array.dtype), array, err_msg=key)
        for name, train in trace.trains.items():
            assert train.dtype == np.int32
            np.testing.assert_array_equal(np.abs(train).sum((0, 1)), trace.counts[name])
    for t in (4, steps):
        feeds = {"x": x, "T": np.array([t])}
        outputs = [o.name for o in proto.graph.output]
        for name, y in zip(outputs, session(proto).run(outputs, feeds), strict=True):
            np.testing.assert_array_equal(first.readout[name][t - 1], y, err_msg=name)


def test_layers_are_what_sends_spikes_and_pools_count_in_their_unit():
    proto = convolutional()
    runs = [
        backends.load("numpy").build(named(proto, form=form)).run(samples(proto), 12, TRAINS)
        for form in ("physical", "normalised")
    ]
    assert list(runs[0].trains) == ["n_s1", "n_p1", "n_s2", "n_n2"]
    unit = np.array([0.5, 1, 2, 0.5]).reshape(-1, 1, 1)
    carried = runs[0].trains["n_p1"] * unit
    np.testing.assert_array_equal(np.rint(carried), runs[1].trains["n_p1"])
    window = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "ceil_mode": 1}
    arrived = runs[0].trains["n_s1"].sum(0).astype(float)
    pooled = numpy_ops.max_pool(arrived, dilations=[1, 1], **window)
    np.testing.assert_array_equal(runs[0].trains["n_p1"].sum(0), pooled)
    trace = backends.load("numpy").build(named(static())).run(samples(static()), 3)
    assert list(trace.counts) == ["n_s"]


def test_membranes_hold_what_has_arrived_and_was_not_sent():
    t = np.arange(1, 9).reshape(-1, 1, 1, 1, 1)
    proto = branching()
    x = samples(proto)
    trace = backends.load("numpy").build(named(proto)).run(x, 8, EVERYTHING)
    assert set(trace.membranes) == {"n_s0", "n_sa", "n_sb"}
    sent = trace.trains["n_s0"].cumsum(0)
    np.testing.assert_array_equal(trace.membranes["n_s0"], 0.5 + t * x - sent)
    spikes = trace.trains["n_s0"].reshape(-1, 2, 4, 4).astype(float)
    window: dict[str, Any] = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
    current = numpy_ops.conv(spikes, dyadic(1, 2, 2, 3, 3), dyadic(2, 2), **window)
    arrived = current.reshape(8, -1, 2, 4, 4).cumsum(0)
    alpha, theta = (np.array(v).reshape(2, 1, 1) for v in ([0.25, 0.5], [0.5, 2]))
    leaky = np.where(arrived > 0, arrived, alpha * arrived)
    left = leaky - theta * trace.trains["n_sa"].cumsum(0)
    np.testing.assert_array_equal(trace.membranes["n_sa"], left)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[needs_lava, lava_group] if n == "lava" else [])
        for n in backends.BACKENDS
    ],
)
def test_batches_change_nothing_and_report_progress(name, monkeypatch):
    proto = convolutional()
    program, x = backends.load(name).build(named(proto)), samples(proto)
    whole = program.run(x, 6, Observe(steps=(2, 6, 99), spikes=True))
    for limit in ("_MOST", "_FEWEST") if name == "event" else ("_BATCH",):
        monkeypatch.setattr(f"{type(program).__module__}.{limit}", 1)
    heard: list[tuple[int, int]] = []
    split = program.run(x, 6, Observe(steps=(2, 6, 99), spikes=True), lambda *n: heard.append(n))
    assert heard == [(6 * n, 30) for n in range(1, 6)]
    assert split.steps == whole.steps == (2, 6)
    assert split.samples == 5
    np.testing.assert_array_equal(split.readout["y"], whole.readout["y"])
    for layer, train in whole.trains.items():
        np.testing.assert_array_equal(split.trains[layer], train)
        np.testing.assert_array_equal(split.counts[layer], whole.counts[layer])


def test_working_type_follows_the_grid():
    proto = branching()
    for record, dtype in (({"gridded": True}, np.float32), ({}, np.float64)):
        trace = backends.load("numpy").build(named(proto, **record)).run(samples(proto), 2)
        assert {r.dtype for r in trace.readout.values()} == {np.dtype(dtype)}


# ---- refusals --------------------------------------------------------------------------------

ENCODE = 'snn.Encode <mode = "current">'
IF = "snn.IF <gamma = 1.0, gamma_neg = 0.0, delay = 0>"
READ = 'snn.Readout <mode = "mean", start = 0>'
BROKEN = {
    "no output accumulated": f"e = {ENCODE} (x, T) y = {IF} (e, v, v, T)",
    "neuron without time": f"s = {IF} (x, v, v, T) y = {READ} (s, T)",
    "time and none mixed": f"e = {ENCODE} (x, T) a = Add (e, x) y = {READ} (a, T)",
}


@pytest.mark.parametrize("name", backends.BACKENDS)
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_compiled_network_is_refused(name, body):
    text = f"g (float[N, 3] x, int64[1] T) => (float[N, 3] y) {{ {body} }}"
    model = ir.from_proto(parse(text, v=[1.0]))
    with pytest.raises(InputError, match="not a compiled network"):
        backends.load(name).build(model)


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_a_trained_network_is_refused(name):
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) {y = Relu (x)}'
    with pytest.raises(InputError, match=r"not a compiled network\n.*domain 'snn'"):
        backends.load(name).build(ir.from_proto(onnx.parser.parse_model(text)))


def test_an_op_without_a_rule_is_named():
    text = f"e = {ENCODE} (x, T) a = Sigmoid (e) y = {READ} (a, T)"
    proto = parse(f"g (float[N, 3] x, int64[1] T) => (float[N, 3] y) {{ {text} }}")
    with pytest.raises(InputError, match="cannot run 'Sigmoid' at node 'n_a'"):
        backends.load("numpy").build(named(proto))


def test_onnxruntime_needs_definitions_and_hides_membranes():
    proto = static()
    program = backends.load("onnxruntime").build(named(proto))
    with pytest.raises(InputError, match="cannot show membrane potentials"):
        program.run(samples(proto), 2, EVERYTHING)
    del proto.functions[:]
    with pytest.raises(InputError, match=r"does not define its op 'snn\.Encode'"):
        backends.load("onnxruntime").build(ir.from_proto(proto))


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_samples_must_fit(name):
    proto = static()
    program, x = backends.load(name).build(named(proto)), samples(proto)
    for wrong in (x.astype(float), x[..., :5], x[:0]):
        with pytest.raises(InputError, match="takes float32 samples of shape Nx1x6"):
            program.run(wrong, 2)
    with pytest.raises(InputError, match="0 time steps"):
        program.run(x, 0)


def test_an_unknown_backend_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="numpy, onnxruntime"):
        backends.load("abacus")
