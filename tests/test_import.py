"""Every network comes in as what it is: equal to its file in onnxruntime, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import networks
import opcases
from networks import Net, data_input, fixed_batch, sample_input
from passes.legal import LEGAL
from snncompiler import ann, frontend
from snncompiler.ann import run
from snncompiler.diagnostics import InputError, Problem
from snncompiler.driver import check_model, import_network
from snncompiler.verdicts import Verdict, judge
from snncompiler.verify import verify

VERDICTS = {"spiking", "linear", "folded", "host", "refused"}
TOLERANCE = 1e-5
BUILDERS = opcases.CASES | networks.ARCHITECTURES


def session(model: ModelProto, names: Sequence[str]) -> onnxruntime.InferenceSession:
    """The file as it is in onnxruntime, with further values as outputs."""
    copy = ModelProto()
    copy.CopyFrom(model)
    have = {o.name for o in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names if n not in have
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(copy.SerializeToString(), options)


def original(model: ModelProto, names: Sequence[str], x: np.ndarray) -> list[np.ndarray]:
    """What the file computes, in batches of the size that it hard-codes, if it does."""
    runner, feed = session(model, names), data_input(model).name
    size = fixed_batch(model) or len(x)
    parts = [runner.run(names, {feed: x[i : i + size]}) for i in range(0, len(x), size)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def assert_equal(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> None:
    assert [a.shape for a in got] == [a.shape for a in want]
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= TOLERANCE * np.abs(b).max()


def assert_same(network: frontend.Network, model: ModelProto) -> None:
    """The imported network computes what the file computes, for any number of samples."""
    names = [str(o.name) for o in network.original.graph.outputs]
    assert [v.name for v in network.model.graph.outputs] == names
    batch = fixed_batch(model)
    for n in [batch] if batch else [1, 3]:
        x = sample_input(model, n, seed=n)
        want = original(model, names, x)
        got = run(network.model, x)
        assert_equal([got[name] for name in names], want)
        assert_equal(
            finished(model, network, got), original(model, [o.name for o in model.graph.output], x)
        )
        shapes = [list(v.shape) for v in network.model.graph.outputs]
        assert [s[1:] for s in shapes] == [list(a.shape[1:]) for a in want]
        assert all(s[0] == "N" for s in shapes)


def finished(
    model: ModelProto, network: frontend.Network, values: dict[str, np.ndarray]
) -> list[np.ndarray]:
    """The file's own outputs, computed by the tail that was cut off from what was read out."""
    graph = model.graph
    dynamic = {data_input(model).name}
    nodes = []
    for (name, _), node in zip(network.nodes, graph.node, strict=True):
        depends = bool(dynamic & set(node.input))
        dynamic |= set(node.output) if depends else set()
        if name in network.host or not depends:
            nodes.append(node)
    made = {v for n in nodes for v in n.output}
    rest = [o for o in graph.output if o.name in made]
    infos = [helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in values]
    tail = helper.make_graph(nodes, "tail", infos, rest, graph.initializer)
    if rest:
        proto = helper.make_model(tail, opset_imports=model.opset_import, ir_version=8)
        names = [o.name for o in rest]
        values = values | dict(zip(names, session(proto, names).run(names, values), strict=True))
    return [values[o.name] for o in graph.output]


def assert_complete(verdicts: Sequence[Verdict], model: ModelProto) -> None:
    """Each original node has one verdict, in order, with a reason."""
    nodes = model.graph.node
    assert [v.op for v in verdicts] == [n.op_type for n in nodes]
    assert all(v.name == n.name or not n.name for v, n in zip(verdicts, nodes, strict=True))
    assert {v.verdict for v in verdicts} <= VERDICTS
    assert all(v.reason for v in verdicts)
    assert all(bool(v.advice) == (v.verdict == "refused") for v in verdicts)


# ---- what converts


@pytest.mark.parametrize("name", BUILDERS)
def test_an_imported_network_equals_its_file(name):
    model = BUILDERS[name]()
    network = import_network(model)
    verify(network.model, "import")
    assert {n.op_type for n in network.model.graph} <= LEGAL
    assert network.batch == fixed_batch(model)
    assert_same(network, model)
    verdicts = judge(network.nodes, network.host, {}, network.model)
    assert_complete(verdicts, model)


@pytest.mark.parametrize("name", opcases.EITHER)
def test_an_odd_network_is_refused_or_equals_its_file(name):
    model = opcases.EITHER[name]()
    problems: Sequence[Problem] = ()
    try:
        network = import_network(model)
    except InputError as error:
        problems = error.problems
    else:
        assert_same(network, model)
    assert all(p.node for p in problems)


def test_a_batch_that_the_file_hard_codes_may_be_filled_in_part():
    model = opcases.CASES["batch_hard_coded_3"]()
    network = import_network(model)
    x = sample_input(model, 7)
    padded = np.concatenate([x, np.zeros_like(x[:2])])
    assert_equal(network.outputs(x), [a[:7] for a in network.outputs(padded)])
    assert_equal(list(run(network.model, x).values()), network.outputs(x))


def test_a_network_that_promises_any_batch_but_reshapes_to_one_sample_runs_one_by_one():
    net = Net()
    x = net.conv_relu(net.input(3, 4, 4), 4)
    y = net.op("Reshape", x, np.array([1, 64]))
    y = net.op("Gemm", y, net.weight(5, 64), net.weight(5), transB=1)
    network = import_network(net.model(y))
    x = sample_input(net._proto(), 3)
    assert_equal(list(run(network.model, x).values()), network.outputs(x))


def test_a_clip_without_an_upper_bound_may_say_so_by_infinity():
    model = opcases.around(lambda n, x: n.op("Clip", x, 0.0, np.float32(np.inf)), before="conv")()
    assert_same(import_network(model), model)


def test_the_tail_keeps_every_value_it_is_made_of():
    model = opcases.around(
        lambda n, x: n.concat(n.op("Sigmoid", n.head(x)), n.gemm(n.flatten(x), 3)), after="output"
    )()
    network = import_network(model)
    assert network.host == ["sigmoid1", "concat1"]
    assert [v.name for v in network.model.graph.outputs] == ["gemm1_out", "gemm2_out"]
    assert_same(network, model)


# ---- the verdicts


def verdicts(model: ModelProto) -> dict[str, str]:
    return {v.name: v.verdict for v in check_model(model).nodes}


def test_each_kind_of_verdict():
    net = Net()
    x = net.relu(net.bn(net.conv(net.input(3, 8, 8), 4)))
    x = net.op("Dropout", net.pool(x, 2))
    x = net.op("LRN", net.op("Clip", net.add(x, net.conv(x, 4)), 0.0, 6.0), size=3)
    check = check_model(net.model(net.op("Softmax", net.head(x))))
    assert {v.name: v.verdict for v in check.nodes} == {
        "conv1": "linear",
        "batchnormalization1": "folded",
        "relu1": "spiking",
        "maxpool1": "spiking",
        "dropout1": "folded",
        "conv2": "linear",
        "add1": "linear",
        "clip1": "spiking",
        "lrn1": "refused",
        "flatten1": "linear",
        "gemm1": "linear",
        "softmax1": "host",
    }
    reasons = {v.name: v.reason for v in check.nodes}
    assert reasons["batchnormalization1"] == "into the synapses of 'conv1'"
    assert "normal" in reasons["lrn1"] or "norm" in reasons["lrn1"]


@pytest.mark.parametrize("opset", [7, 9])
def test_an_upsample_is_not_lost_though_the_converter_renames_it(opset):
    model = opcases.CASES[f"upsample_nearest_opset_{opset}"]()
    assert verdicts(model)["upsample1"] == "linear"


def test_the_json_twin_has_the_promised_form():
    twin = check_model(opcases.REFUSED["lrn"][0]()).as_json()
    assert list(twin) == ["model", "convertible", "nodes", "counts"]
    assert twin["convertible"] is False
    nodes = twin["nodes"]
    assert all(list(n) == ["name", "op", "verdict", "reason", "advice"] for n in nodes)
    counted = [n["verdict"] for n in nodes]
    assert twin["counts"] == {v: counted.count(v) for v in dict.fromkeys(counted)}


def test_checking_leaves_the_model_as_it_was():
    model = opcases.REFUSED["unknown_domain"][0]()
    for node in model.graph.node:
        node.name = ""
    before = model.SerializeToString()
    assert [v.name for v in check_model(model).nodes][:2] == ["Conv_0", "Relu_1"]
    assert model.SerializeToString() == before


# ---- what is refused


@pytest.mark.parametrize("name", opcases.REFUSED)
def test_what_no_spikes_compute_is_refused_by_name(name):
    build, nodes = opcases.REFUSED[name]
    model = build()
    with pytest.raises(InputError) as caught:
        import_network(model)
    problems = caught.value.problems
    assert set(nodes) <= {p.node for p in problems}
    assert all(p.what.startswith("cannot convert '") and p.why and p.do for p in problems)
    check = check_model(model)
    assert_complete(check.nodes, model)
    refused = {v.name: v for v in check.nodes if v.verdict == "refused"}
    assert set(refused) == {p.node for p in problems}
    assert all((refused[p.node].reason, refused[p.node].advice) == (p.why, p.do) for p in problems)
    assert sum(check.counts.values()) == len(model.graph.node)


def test_the_message_names_every_node_once():
    with pytest.raises(InputError) as caught:
        import_network(opcases.REFUSED["lrn"][0]())
    assert str(caught.value).splitlines() == [
        "error: cannot convert 'LRN' at node 'norm1' (input 'relu1_out', Nx4x8x8)",
        "  why: it divides by a data-dependent norm; no integrate-and-fire network computes that",
        "  do:  retrain with BatchNormalization, or export without it",
        "  1 more node has the same trouble: norm2",
    ]


def test_a_window_larger_than_its_input_is_refused():
    with pytest.raises(InputError, match="larger than its input"):
        import_network(opcases.around(lambda n, x: n.pool(x, 9, "Average"), shape=(3, 5, 5))())


# ---- the published networks that come with onnx, their constant weights replaced by random ones

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
CONVERTIBLE = ["densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19"]
WITH_LRN = {"bvlc_alexnet": ["n2", "n6"], "inception_v1": ["n3", "n8"], "zfnet512": ["n2", "n6"]}


def light(name: str) -> ModelProto:
    return onnx.load(LIGHT / f"light_{name}.onnx")


def with_random_weights(model: ModelProto) -> ModelProto:
    """Initialisers in place of the nodes that fill weights with one value; IR version 3 as before.

    Weights are He-scaled, scales and variances lie around 1, everything else is small.
    """
    graph = model.graph
    weights = {n.input[1] for n in graph.node if n.op_type in ("Conv", "Gemm")}
    norms = [n for n in graph.node if n.op_type == "BatchNormalization"]
    positive = {v for n in norms for v in (n.input[1], n.input[4])}
    targets = {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}
    draws = np.random.default_rng(0).standard_normal(100_003).astype(np.float32)
    fills = [n for n in graph.node if n.op_type == "ConstantOfShape"]
    for node in fills:
        name, dims = node.output[0], targets[node.input[0]]
        values = draws * np.float32(0.1)
        if name in positive:
            values = np.float32(1) + np.abs(values)
        if name in weights:
            values = draws * np.float32(math.sqrt(2 / math.prod(dims[1:])))
        size = 4 * math.prod(dims)
        raw = values.tobytes() * (size // values.nbytes + 1)
        graph.initializer.append(
            TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=raw[:size])
        )
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))
        graph.node.remove(node)
    return model


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "vgg19")) for n in CONVERTIBLE]
)
def test_a_published_network_equals_its_file(name):
    model = with_random_weights(light(name))
    network = import_network(model)
    assert network.batch == 1
    x = np.random.default_rng(1).standard_normal((3, *network.input_shape)).astype(np.float32)
    names = [str(o.name) for o in network.original.graph.outputs]
    want = original(model, names, x)
    assert all(np.isfinite(a).all() and a.std() > 0 for a in want)
    assert_complete(judge(network.nodes, network.host, {}, network.model), model)
    del model
    runner, feed = ann.session(network.model), str(network.model.graph.inputs[0].name)
    assert_equal(runner.run(names, {feed: x}), want)
    assert_equal(runner.run(names, {feed: x[:1]}), [a[:1] for a in want])


@pytest.mark.parametrize("name", ["shufflenet", "squeezenet"])
def test_weights_that_nodes_fill_are_folded(name):
    model = light(name)
    check = check_model(model)
    assert check.convertible
    assert_complete(check.nodes, model)
    assert all(v.verdict == "folded" for v in check.nodes if v.op == "ConstantOfShape")


@pytest.mark.parametrize("name", WITH_LRN)
def test_every_lrn_of_a_published_network_is_refused_at_once(name):
    model = light(name)
    check = check_model(model)
    assert_complete(check.nodes, model)
    assert [v.name for v in check.nodes if v.verdict == "refused"] == WITH_LRN[name]
    assert {v.op for v in check.nodes if v.verdict == "refused"} == {"LRN"}
    with pytest.raises(InputError) as caught:
        import_network(model)
    assert [p.node for p in caught.value.problems] == WITH_LRN[name]
    assert str(caught.value).count("error:") == 1


def test_a_resize_that_hard_codes_the_batch_mixes_no_samples():
    net = Net(0, name="promises_any_batch")
    low = net.relu(net.conv(net.input(3, 8, 8), 4))
    high = net.relu(net.conv(low, 4, strides=2))
    size = np.array([1, 4, 8, 8])
    grown = net.op("Resize", high, "", "", size, mode="nearest")
    model = net.model(net.conv(net.add(grown, low), 2, 1))
    x = sample_input(model, 5)
    name = model.graph.output[0].name
    want = np.concatenate(
        [session(model, []).run([name], {"x": x[i : i + 1]})[0] for i in range(5)]
    )
    network = import_network(model)
    assert_equal(list(run(network.model, x).values()), [want])
    assert_equal(network.outputs(x), [want])
