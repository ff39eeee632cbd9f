"""The event-driven backend sends the spikes of the definition: on every op, in every setting."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import product
from pathlib import Path
from threading import Event

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import networks
from backends.base import take_apart
from backends.event import crew, dyadic, geometry, synapses
from backends.event.crew import Crew, cut
from backends.event.episode import Episode
from backends.event.int8 import round_weights, to_int8
from backends.event.plan import Population, make_plan
from backends.event.populations import Neurons
from backends.event.program import EventBackend
from backends.event.steady import Steady
from backends.event.synapses import LANES, blocks
from backends.reference import NumpyBackend
from networks import random_dag, sample_input
from opcases import CASES
from runs import (
    SPIKES,
    chunks,
    cifar10,
    compiled,
    differences,
    every,
    fresh,
    real_data,
    vgg,
    vgg_group,
)
from snncompiler.diagnostics import InputError
from snncompiler.driver import Compiled, compile_model
from snncompiler.graph import constant
from snncompiler.trace import Observe, Trace

T = 8


@pytest.fixture(autouse=True)
def always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks, too, are cut up for several threads."""
    monkeypatch.setattr(crew, "WORTH", 0.0)


def same(a: Trace, b: Trace) -> dict[str, object]:
    """What differs between two traces: spikes, counts, readouts."""
    found: dict[str, object] = dict(differences(a, b))
    found |= {f"{k} counts": 1 for k in a.counts if (a.counts[k] != b.counts[k]).any()}
    found |= {f"{k} read": 1 for k in a.readout if (a.readout[k] != b.readout[k]).any()}
    assert a.counts.keys() == b.counts.keys()
    return found


def compare(model: ir.Model, x: np.ndarray, timesteps: int = T, **options: object) -> object:
    event = EventBackend(**options).build(model)  # type: ignore[arg-type]
    numpy = NumpyBackend().build(to_int8(model) if options.get("precision") == "int8" else model)
    return same(event.run(x, timesteps, SPIKES), numpy.run(x, timesteps, SPIKES))


# ---- every kind of network ---------------------------------------------------------------------

#: One case of every family of ops and of every awkward attribute that reaches a backend.
KINDS = """
    conv_1d_same_upper conv_3d conv_same_upper_stride2 conv_asymmetric_strides conv_dilated
    conv_groups conv_depthwise_multiplier2 conv_twice conv_last conv_transpose_pads
    conv_transpose_output_padding conv_transpose_dilated conv_transpose_depthwise
    conv_transpose_3d gemm_plain matmul_tokens matmul_left bn_between_convs add_map
    mul_channel_map neg_after_relu add_identity add_projection add_with_input sum_3 sub_spikes
    concat concat_rows concat_sppf concat_flat split_num_outputs
""".split()


@pytest.mark.parametrize("name", KINDS)
def test_it_sends_the_spikes_of_the_definition(name: str) -> None:
    model = CASES[name]()
    for recipe in ("binary", "graded", "spicalib"):
        network = compile_model(model, sample_input(model, 4, 1), recipe=recipe, timesteps=T)
        assert not compare(network.model, fresh(model, 1, 3)), recipe


@pytest.mark.parametrize(
    "prefix", ["maxpool", "avgpool", "global", "resize", "pad", "leaky", "prelu", "clip"]
)
def test_it_sends_the_spikes_of_pools_and_neurons(prefix: str) -> None:
    names = [n for n in CASES if n.replace("_", "").startswith(prefix.replace("_", ""))]
    assert names
    for name, recipe in product(names[::3], ("ternary", "burst-lipool")):
        model = CASES[name]()
        if networks.data_input(model).type.tensor_type.shape.dim[0].dim_value:
            continue
        network = compile_model(model, sample_input(model, 4, 1), recipe=recipe, timesteps=T)
        assert not compare(network.model, fresh(model, 1, 3)), (name, recipe)


@pytest.mark.slow
@chunks(30, 10)
def test_it_sends_the_spikes_of_random_networks(seeds: range) -> None:
    def check(seed: int) -> object:
        model = random_dag(seed)
        recipe = ("binary", "ternary", "graded", "spicalib", "burst-lipool")[seed % 5]
        network = compiled(model, seed, recipe=recipe, timesteps=T).model
        x = fresh(model, seed, 5)
        options = {"threads": 1 + seed % 2, "precision": ("exact", "int8")[seed % 3 == 0]}
        return compare(network, x, 1 + seed % 32, **options)

    every(seeds, check)


@pytest.mark.parametrize("form", ["physical", "normalised"])
@pytest.mark.parametrize("build", [networks.mlp, random_dag])
def test_networks_off_the_grid_run_too(build: Callable[[int], ModelProto], form: str) -> None:
    model = build(3)
    options = {"grid.enabled": False}
    network = compiled(model, 3, timesteps=T, form=form, options=options).model
    x = fresh(model, 3, 4)
    a = EventBackend().build(network).run(x, T, SPIKES)
    b = NumpyBackend().build(network).run(x, T, SPIKES)
    assert a.trains.keys() == b.trains.keys()
    flips = sum(differences(a, b).values())
    assert flips <= 1e-3 * sum(t.size for t in a.trains.values())


# ---- every setting -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Compiled:
    return compiled(random_dag(7), 7, recipe="ternary", timesteps=16)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return fresh(random_dag(7), 7, 9)


@pytest.fixture(scope="module")
def expected(network: Compiled, x: np.ndarray) -> Trace:
    return NumpyBackend().build(network.model).run(x, 16, SPIKES)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("memory", [1 << 30, 1 << 16, 1])
def test_threads_and_memory_change_nothing(
    network: Compiled, x: np.ndarray, expected: Trace, threads: int, memory: int
) -> None:
    program = EventBackend(threads=threads, memory=memory).build(network.model)
    assert not same(program.run(x, 16, SPIKES), expected)


def test_potentials_count_as_memory() -> None:
    network = compiled(networks.mlp(), 0, timesteps=16)
    # A float32 potential per neuron, and three bytes a step: six steps and a half.
    memory = int(5 * network.neurons * (4 + 6.5 * 3))
    program = EventBackend(threads=1, memory=memory).build(network.model)
    assert 1 < program.steps_at_once(5, 16) <= 6
    assert EventBackend(threads=1).build(network.model).steps_at_once(5, 16) == 16


def test_more_samples_take_no_more_memory() -> None:
    net = networks.Net()
    net.input(3, 16, 16)
    model = net.model(net.head(net.op("GlobalAveragePool", net.conv_relu("x", 64))))
    program = EventBackend(threads=1, memory=1).build(compiled(model, 0, timesteps=2).model)
    peaks = []
    for n in (4, 4, 32):  # the first time, something may be prepared
        tracemalloc.start()
        program.run(fresh(model, 0, n), 2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] + 4 * 64 * 16 * 16 * 8


@pytest.mark.parametrize("size", [1, 2, 4])
def test_batches_change_nothing(
    network: Compiled, x: np.ndarray, expected: Trace, size: int
) -> None:
    program = EventBackend(threads=2).build(network.model)
    for start in range(0, len(x), size):
        part = program.run(x[start : start + size], 16, SPIKES)
        for name, train in part.trains.items():
            np.testing.assert_array_equal(train, expected.trains[name][:, start : start + size])


def test_readouts_at_chosen_steps(network: Compiled, x: np.ndarray, expected: Trace) -> None:
    trace = EventBackend().build(network.model).run(x, 16, Observe(steps=(3, 16)))
    assert trace.steps == (3, 16)
    for name, values in trace.readout.items():
        np.testing.assert_array_equal(values, expected.readout[name][[2, 15]])


def test_membranes_are_those_of_the_definition(network: Compiled, x: np.ndarray) -> None:
    everything = Observe(spikes=True, membranes=True)
    a = EventBackend().build(network.model).run(x, 4, everything)
    b = NumpyBackend().build(network.model).run(x, 4, everything)
    assert a.membranes.keys() == b.membranes.keys() != set()
    for name in a.membranes:
        np.testing.assert_array_equal(a.membranes[name], b.membranes[name])


def test_progress_ends_with_all_samples(network: Compiled, x: np.ndarray) -> None:
    heard: list[tuple[int, int]] = []
    program = EventBackend(threads=2).build(network.model)
    program.run(x, 4, progress=lambda *done: heard.append(done))
    assert heard[-1] == (36, 36)
    assert heard == sorted(heard)


def test_whoever_stops_it_does_not_wait(network: Compiled, x: np.ndarray) -> None:
    stop = Event()
    stop.set()
    program = EventBackend().build(network.model)
    with pytest.raises(KeyboardInterrupt):
        Episode(program, x, 16, SPIKES, Crew(stop)).run()


def test_a_sample_that_is_no_number_is_named(network: Compiled, x: np.ndarray) -> None:
    wrong = x.copy()
    wrong[2].reshape(-1)[0] = np.nan
    for backend in (EventBackend(), NumpyBackend()):
        with pytest.raises(InputError, match="sample 2 holds NaN"):
            backend.build(network.model).run(wrong, 4)


@pytest.mark.parametrize(("recipe", "op"), [("binary", "IF"), ("separated", "WindowedIF")])
def test_a_potential_that_is_no_number_names_its_layer(recipe: str, op: str) -> None:
    model = random_dag(3)
    options = {"grid.enabled": False}
    network = compiled(model, 3, recipe=recipe, timesteps=T, options=options).model
    neuron = next(n for n in network.graph if n.op_type == op)
    huge = np.full_like(constant(neuron.inputs[2]), np.inf)
    neuron.inputs[2].const_value = ir.tensor(huge)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=f"of '{neuron.name}' is not finite"):
        EventBackend().build(network).run(fresh(model, 3), take_apart(network).latency or T)


@pytest.mark.parametrize("options", [{}, {"memory": 1}, {"early_exit": 1e9}, {"threads": 2}])
@pytest.mark.parametrize("build", [networks.residual, networks.vgg_like, networks.inception])
def test_layers_that_take_turns_send_the_spikes_of_the_definition(
    build: Callable[[int], ModelProto], options: dict[str, object]
) -> None:
    """Whether stretches of time are windows, single steps, or four steps of windows of five."""
    model = build(2)
    network = compiled(model, 2, recipe="separated", timesteps=5).model
    latency = take_apart(network).latency
    assert latency is not None
    assert not compare(network, fresh(model, 2, 3), latency, **options)


# ---- early exit --------------------------------------------------------------------------------


def test_a_margin_out_of_reach_changes_nothing(
    network: Compiled, x: np.ndarray, expected: Trace
) -> None:
    trace = EventBackend(early_exit=1e9).build(network.model).run(x, 16, SPIKES)
    assert not same(trace, expected)
    assert (trace.taken == 16).all()


@pytest.mark.parametrize("margin", [1e-9, 2.0, 8.0])
def test_a_sample_that_ended_keeps_its_answer(
    network: Compiled, x: np.ndarray, expected: Trace, margin: float
) -> None:
    trace = EventBackend(early_exit=margin, threads=2).build(network.model).run(x, 16, SPIKES)
    assert trace.taken is not None
    assert set(trace.taken) <= {4, 8, 12, 16}
    assert_ended(trace, expected)
    for name, rate in trace.firing_rate().items():  # per step that was taken
        spikes = sum(np.abs(trace.trains[name][:end, i]).sum() for i, end in enumerate(trace.taken))
        assert rate == pytest.approx(spikes / trace.taken.sum() / trace.counts[name].size)
    # The criterion, from its definition.
    first = next(iter(expected.readout.values())).reshape(16, len(x), -1)
    ordered = np.sort(first, 2)
    gap = (ordered[..., -1] - ordered[..., -2]) * np.arange(1, 17)[:, None]
    safe = gap > margin * first.std(2)
    for i, end in enumerate(trace.taken):
        assert end == next((t for t in (4, 8, 12) if safe[t - 1, i]), 16)


def assert_ended(trace: Trace, expected: Trace) -> None:
    """Every sample is as expected until it ended, then silent; its readout stays."""
    assert trace.taken is not None
    for name, values in trace.readout.items():
        for i, end in enumerate(trace.taken):
            full = expected.readout[name][:, i]
            np.testing.assert_array_equal(values[:end, i], full[:end])
            np.testing.assert_array_equal(
                values[end:, i], np.broadcast_to(full[end - 1], full[end:].shape)
            )
    for name, train in trace.trains.items():
        for i, end in enumerate(trace.taken):
            np.testing.assert_array_equal(train[:end, i], expected.trains[name][:end, i])
            assert not train[end:, i].any()


def test_samples_that_go_on_do_not_depend_on_those_that_ended() -> None:
    model = networks.mlp()
    network = compiled(model, 0, timesteps=16).model
    # The largest samples decide in which units all potentials are held.
    x = fresh(model, 0, 9) * np.geomspace(0.1, 20, 9, dtype=np.float32)[:, None]
    expected = NumpyBackend().build(network).run(x, 16, SPIKES)
    trace = EventBackend(early_exit=2.0).build(network).run(x, 16, SPIKES)
    assert trace.taken is not None
    assert len(set(trace.taken)) > 2
    assert_ended(trace, expected)


def test_a_sample_does_not_end_before_anything_arrived() -> None:
    net = networks.Net()
    hidden = net.relu(net.op("Gemm", net.input(2), np.eye(2, dtype=np.float32)))
    model = net.model(net.op("Gemm", hidden, np.eye(2, dtype=np.float32)))
    network = compile_model(model, np.ones((1, 2), np.float32), timesteps=32).model
    x = np.array([[0.0, 0.04]], np.float32)
    for margin in (1e-9, 1.0):
        trace = EventBackend(early_exit=margin).build(network).run(x, 32)
        assert trace.taken is not None
        assert trace.taken[0] > 8
        assert next(iter(trace.readout.values()))[-1, 0].argmax() == 1


def test_samples_end_whether_outputs_are_means_or_sums() -> None:
    model = networks.mlp()
    x, taken = fresh(model, 0, 9), []
    for mode in ("mean", "sum"):
        network = compiled(model, 0, timesteps=16, options={"coding.readout": mode}).model
        taken.append(EventBackend(early_exit=4.0).build(network).run(x, 16).taken)
    assert len(set(taken[0])) > 1
    np.testing.assert_array_equal(*taken)


# ---- 8-bit weights -----------------------------------------------------------------------------


def test_8_bits_are_a_coarser_grid(network: Compiled) -> None:
    rounded = take_apart(to_int8(network.model))
    seen = 0
    for node in rounded.steps:
        if node.op_type in ("Conv", "Gemm") and constant(node.inputs[1]) is not None:
            w = constant(node.inputs[1])
            assert w is not None
            k = dyadic.bits(w.reshape(len(w), -1).T)
            whole = np.abs(dyadic.scaled(w.reshape(len(w), -1).T, k))
            if str(node.inputs[1].name).endswith("_int8"):  # type: ignore[union-attr]
                assert whole.max() <= 127
                seen += 1
    assert seen


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rounding_takes_the_best_power_of_two(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 10.0 ** rng.integers(-3, 1), (3, 20)) * (rng.random((3, 20)) < 0.8)
    found, k = round_weights(rows)
    for row, near, bits in zip(rows, found, k, strict=True):
        error = ((near - row) ** 2).sum()
        for other in range(1, 20):
            q = np.clip(np.rint(row * 2.0**other), -127, 127)
            fits = np.abs(row).max() * 2.0**other < 4 * 128
            assert not fits or error <= ((q / 2.0**other - row) ** 2).sum() + 1e-15, other
        np.testing.assert_array_equal(near * 2.0**bits, np.rint(near * 2.0**bits))


@pytest.mark.parametrize("seed", [1, 7])
def test_8_bits_are_exact_too(seed: int) -> None:
    model = random_dag(seed)
    network = compiled(model, seed, timesteps=T).model
    assert not compare(network, fresh(model, seed, 5), 20, precision="int8", threads=2)


# ---- the parts ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_windows_are_those_of_the_equation(seed: int, transposed: bool) -> None:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    sizes, kernel = rng.integers(1, 6, rank), rng.integers(1, 4, rank)
    strides, dilations = rng.integers(1, 4, rank), rng.integers(1, 3, rank)
    begin, out = rng.integers(0, 3, rank), rng.integers(1, 6, rank)
    find = geometry.transposed if transposed else geometry.convolution
    windows = find(sizes, out, kernel, strides, [*begin, *begin], dilations)
    expected = []
    for p in np.ndindex(*out):
        seen = []
        for k, place in enumerate(np.ndindex(*kernel)):
            for q, where in enumerate(np.ndindex(*sizes)):
                inner, outer = (where, p) if transposed else (p, where)
                reach = np.multiply(inner, strides) + np.multiply(place, dilations) - begin
                if (reach == outer).all():
                    seen.append((q, k))
        expected.append(seen)
    channels = int(rng.integers(1, 5))
    pointers, runs = windows.runs(channels)
    for p, seen in enumerate(expected):
        pairs = windows.pairs[windows.pointers[p] : windows.pointers[p + 1]]
        assert [tuple(pair) for pair in pairs] == seen
        unrolled = [
            (q, shift // channels + q)
            for first, last, shift in runs[pointers[p] : pointers[p + 1]]
            for q in range(first, last)
        ]
        assert unrolled == seen


@pytest.mark.parametrize(
    ("gamma", "timesteps"), [(1, 127), (1, 128), (3, 43), (200, 8), (300, 120)]
)
def test_pools_hold_what_every_step_can_bring(gamma: int, timesteps: int) -> None:
    model = networks.vgg_like(1)
    x = 10 * sample_input(model, 4, 1)  # most neurons send as much as they can
    network = compile_model(
        model, x / 10, recipe="graded", timesteps=4, options={"neurons.gamma": float(gamma)}
    )
    assert not compare(network.model, x, timesteps)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 2))
def test_constant_currents_are_brought_over_as_they_are(seed: int, mapped: bool, n: int) -> None:
    rng = np.random.default_rng(seed)
    samples, channels, positions = rng.integers(1, 40, 3)
    k = rng.integers(0, 12, channels)

    def drawn(*shape: int) -> np.ndarray:  # whole numbers of 2^-k
        return rng.integers(-4096, 4096, (*shape, channels)) * np.exp2(-k)

    bias = drawn(positions if mapped else 1)
    arriving = [drawn(samples, positions) for _ in range(n)]
    values = [a.swapaxes(1, 2).astype(rng.choice([np.float32, np.float64])) for a in arriving]
    steady = Steady(bias, values)
    expected = sum(arriving, bias[None])
    np.testing.assert_array_equal(steady.current(), expected)
    assert (steady.peak() >= np.abs(expected).max((0, 1))).all()

    found = steady.in_units(k, Crew())
    np.testing.assert_array_equal(found, expected * np.exp2(k))
    c, p = rng.integers(channels), rng.integers(len(bias))
    bias[p, c] += 2.0 ** -(k[c] + 1)
    assert Steady(bias, values).in_units(k, Crew()) is None


@pytest.mark.parametrize("recipe", ["binary", "graded"])
def test_convolutions_that_join_are_added_in_integers(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = CASES["add_projection"]()
    network = compile_model(model, sample_input(model, 4, 1), recipe=recipe, timesteps=T)
    full = [
        [c for c in stage.current.connections if not c.single]
        for stage in make_plan(take_apart(network.model)).stages
        if isinstance(stage, Population)
    ]
    assert max(map(len, full)) == 2
    monkeypatch.delattr(Neurons, "_anyhow")
    assert not compare(network.model, fresh(model, 1, 3))


@given(st.integers(1, 40), st.integers(1, 9))
def test_pieces_cover_everything_once(size: int, pieces: int) -> None:
    tasks = cut(size, pieces)
    assert len(tasks) == min(size, pieces)
    np.testing.assert_array_equal(np.concatenate([np.arange(*task) for task in tasks]), range(size))
    assert np.ptp(np.diff(tasks)) <= 1


@given(st.integers(1, 300), st.integers(1, 3))
def test_blocks_hold_every_weight_once(width: int, groups: int) -> None:
    w = np.arange(2 * 3 * width * groups, dtype=np.int32).reshape(2, 3, -1)
    found = blocks(w, groups, np.dtype(np.int32))
    for some in found:
        assert some.rows.shape[2] == some.lanes in LANES
        assert some.rows.ctypes.data % 64 == 0
        for rows, first, used in zip(some.rows, some.first, some.width, strict=True):
            part = rows[:-1, :used].reshape(2, 3, -1)
            np.testing.assert_array_equal(part, w[..., first : first + used])
            assert not rows[:, used:].any()
            assert not rows[-1].any()
            assert some.group == first // width
    assert sum(some.width.sum() for some in found) == width * groups


@pytest.mark.parametrize(
    ("told", "lanes"),
    [("256K", 64), ("512K", 64), ("1280K", 64), ("2048K", 128), ("none", 64), (None, 64)],
)
def test_blocks_fit_the_cache(
    told: str | None, lanes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synapses, "_CACHES", tmp_path)
    (tmp_path / "index2").mkdir()
    if told is not None:
        (tmp_path / "index2" / "size").write_text(f"{told}\n")
    synapses._own_cache.cache_clear()
    w = np.ones((9, 512, 256), np.int16)
    first, *_ = blocks(w, 1, np.dtype(np.int16))
    synapses._own_cache.cache_clear()
    assert first.lanes == lanes


@given(st.lists(st.integers(-(2**23), 2**23), min_size=1), st.integers(0, 30))
def test_bits_are_the_least_that_suffice(numbers: list[int], k: int) -> None:
    array = np.ldexp(np.array(numbers, np.float64), -k)[:, None]
    (least,) = dyadic.bits(array)
    assert (dyadic.scaled(array, np.array([least])) == np.ldexp(array, least)).all()
    assert least == 0 or (np.ldexp(array, least - 1) % 1 != 0).any()


# ---- real data ---------------------------------------------------------------------------------


@real_data
@vgg_group
@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_the_vgg_sends_the_same_spikes(precision: str) -> None:
    images, _ = cifar10("test", 3)
    assert not compare(vgg().model, images, 16, precision=precision)
