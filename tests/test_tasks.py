"""`snnc run` for detection and segmentation, as a user types it; metrics of maps by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

from networks import Net
from snncompiler.cli import app
from snncompiler.driver import import_network
from snncompiler.segmentation import confusions, shares

RUNNER = CliRunner()


def snnc(*arguments: object, code: int = 0) -> Result:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result


def detector() -> onnx.ModelProto:
    """Two levels with one head for both, as RetinaNets have, on 16 x 24 pixels."""
    net = Net(1, name="detector")
    x = net.conv_bn_relu(net.input(3, 16, 24), 8, strides=2)
    low = net.conv_bn_relu(x, 8, strides=2)
    deep = net.conv_bn_relu(low, 8, strides=2)
    fused = net.relu(net.conv(net.add(net.conv(low, 8, 1), net.upsample(deep)), 8))
    heads = {"boxes": net.weight(4, 8, 3, 3), "scores": net.weight(2, 8, 3, 3)}
    for name, weight in heads.items():
        net.constant(weight, f"{name}_w")
    outputs = [
        net.op("Conv", level, f"{name}_w", name=f"{name}{stride}", pads=[1] * 4)
        for level, stride in ((fused, 4), (deep, 8))
        for name in heads
    ]
    return net.model(*outputs)


def segmenter() -> onnx.ModelProto:
    """Skip by concatenation, transposed convolution, a linear Resize at the end; 12 x 16 pixels."""
    net = Net(2, name="segmenter")
    x = net.conv_bn_relu(net.input(3, 12, 16), 6)
    y = net.conv_relu(net.pool(x, 2), 8)
    up = net.op("ConvTranspose", y, net.weight(8, 6, 2, 2), strides=[2, 2], kernel_shape=[2, 2])
    joined = net.conv_relu(net.concat(net.relu(up), x), 8)
    scores = net.conv(net.pool(joined, 2, "Average"), 4, 1)
    scales = np.array([1, 1, 2, 2], np.float32)
    return net.model(net.op("Resize", scores, "", scales, mode="linear"))


DECODING = {
    "kind": "retinanet",
    "image": [16, 24],
    "classes": ["a", "b"],
    "levels": [
        {
            "boxes": f"boxes{s}_out",
            "scores": f"scores{s}_out",
            "stride": s,
            "anchors": [[2 * s, 2 * s]],
        }
        for s in (4, 8)
    ],
}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector, compiled, its decoding, and images with boxes."""
    folder = tmp_path_factory.mktemp("cells")
    onnx.save(detector(), folder / "net.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3, 16, 24)).astype(np.float32)
    np.savez(folder / "train.npz", x=x)
    corner = rng.uniform(0, 10, (9, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 8, (9, 2))], 1)
    boxes = np.concatenate([boxes, rng.integers(0, 2, (9, 1))], 1)
    np.savez(folder / "test.npz", x=x, boxes=boxes, box_image=np.arange(9) % 6)
    (folder / "decode.json").write_text(json.dumps(DECODING))
    order = ("compile", folder / "net.onnx", "--calibration", folder / "train.npz")
    snnc(*order, "--recipe", "channel-norm", "-T", 16, "-o", folder / "snn.onnx")
    return folder


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a segmentation network, compiled, and images with label maps."""
    folder = tmp_path_factory.mktemp("streets")
    model = segmenter()
    onnx.save(model, folder / "net.onnx")
    x = np.random.default_rng(0).standard_normal((5, 3, 12, 16)).astype(np.float32)
    np.savez(folder / "train.npz", x=x)
    (scores,) = import_network(model).outputs(x)
    y = scores.argmax(1).astype(np.uint8)
    y[:, 0] = 255
    np.savez(folder / "test.npz", x=x, y=y)
    order = ("compile", folder / "net.onnx", "--calibration", folder / "train.npz")
    snnc(*order, "--recipe", "graded", "-T", 16, "-o", folder / "snn.onnx")
    return folder


def run(folder: Path, task: str, *more: object, code: int = 0) -> dict[str, object]:
    file = folder / "run.json"
    decode = ("--decode", folder / "decode.json") if task == "detection" else ()
    order = ("run", folder / "snn.onnx", folder / "test.npz", "--task", task, *decode)
    snnc(*order, "--backend", "numpy", *more, "--json", file, code=code)
    return json.loads(file.read_text())


def test_detection_is_measured_at_every_step(cells: Path) -> None:
    numbers = run(cells, "detection", "--reference", cells / "net.onnx")
    assert numbers["task"] == "detection"
    assert list(numbers["metrics_at"]) == ["1", "2", "4", "8", "16"]
    names = {"mAP50", "mAP", "mAP_small", "mAP_medium", "mAP_large"}
    assert set(numbers["ann_metrics"]) == set(numbers["metrics_at"]["16"]) == names
    assert numbers["ann_metrics"]["mAP_large"] is None
    error = numbers["output_error_at"]
    assert error["16"] < error["4"] < error["1"]
    assert "accuracy_at" not in numbers
    assert "agreement_at" not in numbers
    one = run(cells, "detection", "--reference", cells / "net.onnx", "--batch", 4)
    for name in ("metrics_at", "ann_metrics", "firing_rate"):
        assert one[name] == numbers[name]


def test_the_table_shows_the_trained_network_on_top(cells: Path) -> None:
    order = ("run", cells / "snn.onnx", cells / "test.npz", "--task", "detection")
    text = snnc(
        *(*order, "--decode", cells / "decode.json", "--reference", cells / "net.onnx"),
        *("--backend", "numpy", "-T", 2),
    ).stdout.splitlines()
    head = next(i for i, line in enumerate(text) if "mAP50" in line)
    assert [line.split()[0] for line in text[head + 1 : head + 4]] == ["ANN", "1", "2"]


def test_without_labels_there_is_the_error_alone(cells: Path, tmp_path: Path) -> None:
    order = ("run", cells / "snn.onnx", cells / "train.npz", "--task", "detection", "-T", 2)
    snnc(
        *(*order, "--decode", cells / "decode.json", "--reference", cells / "net.onnx"),
        *("--backend", "numpy", "--json", tmp_path / "run.json"),
    )
    numbers = json.loads((tmp_path / "run.json").read_text())
    assert "metrics_at" not in numbers
    assert set(numbers["output_error_at"]) == {"1", "2"}


def test_segmentation_finds_the_labels_of_the_trained_network(streets: Path) -> None:
    numbers = run(streets, "segmentation", "--reference", streets / "net.onnx")
    assert set(numbers["ann_metrics"].values()) == {1.0}  # its own answers are the labels
    at = numbers["metrics_at"]
    assert at["16"]["mean_iou"] > 0.7  # of random scores, many nearly equal
    assert at["1"]["mean_iou"] < at["16"]["mean_iou"]
    assert set(at["16"]) == {
        "pixel_accuracy",
        "mean_accuracy",
        "mean_iou",
        "frequency_weighted_iou",
    }


def test_trace_and_limit_go_with_every_task(streets: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.npz"
    numbers = run(streets, "segmentation", "--limit", 2, "-T", 2, "--trace", trace)
    assert numbers["samples"] == 2
    with np.load(trace) as arrays:
        (name,) = (n for n in arrays.files if n.startswith("readout/"))
        assert arrays[name].shape == (2, 2, 4, 12, 16)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_pictures_are_drawn_side_by_side(
    task: str, cells: Path, streets: Path, tmp_path: Path
) -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    folder = cells if task == "detection" else streets
    run(folder, task, "--reference", folder / "net.onnx", "--save-images", tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == [f"{task}_{i}.png" for i in range(4)]
    width = {"detection": 7 * 24, "segmentation": 10 * 16}[task]
    with image.open(files[0]) as picture:
        # input, labels, ANN, and T = 1, 4, 16
        assert picture.size[0] == 6 * (width + 4) - 4


def test_shares_by_hand() -> None:
    truth = np.array([[0, 0, 0, 1, 1, 2, 255, 255]])
    said = np.array([[0, 0, 1, 1, 1, 0, 3, 0]])
    table = confusions(said, truth, 4)
    assert table.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    expected = {
        "pixel_accuracy": 4 / 6,
        "mean_accuracy": (2 / 3 + 1 + 0) / 3,
        "mean_iou": (2 / 4 + 2 / 3 + 0) / 3,  # class 3 neither occurs nor is answered
        "frequency_weighted_iou": (3 * 2 / 4 + 2 * 2 / 3) / 6,
    }
    assert shares(table) == pytest.approx(expected)
    assert set(shares(np.zeros((2, 2), np.int64)).values()) == {None}  # nothing was judged


def refused(*arguments: object) -> str:
    return snnc(*arguments, code=2).output


def test_a_task_that_does_not_fit_is_refused(cells: Path, streets: Path) -> None:
    boxes = ("run", cells / "snn.onnx", cells / "test.npz")
    maps = ("run", streets / "snn.onnx", streets / "test.npz")
    decode = ("--decode", cells / "decode.json")
    assert "no task 'guess'" in refused(*boxes, "--task", "guess")
    assert "needs a decoding" in refused(*boxes, "--task", "detection")
    assert "takes no --decode" in refused(*boxes, *decode)
    assert "for images of [16, 24]" in refused(*maps, "--task", "detection", *decode)
    assert "--task segmentation" in refused(*maps)
    assert "cannot end early" in refused(
        *(*maps, "--task", "segmentation", "--early-exit", 10, "--backend", "event")
    )
    digits = Path(__file__).parents[1] / "models" / "digits.onnx"
    assert "is not a spiking network" in refused("run", digits, cells / "test.npz")


def test_a_decoding_of_another_network_is_refused(cells: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    order = ("run", cells / "snn.onnx", cells / "test.npz", "--task", "detection", "--decode", file)
    levels = [{**level} for level in DECODING["levels"]]
    levels[0]["boxes"] = "other"
    file.write_text(json.dumps({**DECODING, "levels": levels}))
    assert "output 'other', which the network does not have" in refused(*order)
    file.write_text(json.dumps({**DECODING, "classes": ["a"]}))
    assert "has shape [2, 4, 6]" in refused(*order)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"box_image": None}, "belong together"),
        ({"boxes": np.zeros((9, 4))}, "'boxes' is float64 [9, 4]"),
        ({"box_image": np.zeros(9)}, "'box_image' is float64 [9]"),
        ({"box_image": np.full(9, 6)}, "names samples 6 to 6"),
        ({"boxes": np.tile([0.0, 0, 1, 1, 2], (9, 1))}, "there is a class 2"),
        ({"boxes": np.tile([5.0, 0, 1, 1, 0], (9, 1))}, "box 0 has x2 < x1"),
        ({"boxes": np.full((9, 5), np.nan)}, "NaN"),
        ({"boxes": None, "box_image": None, "y": np.zeros(6, np.int64)}, "detection needs 'boxes'"),
    ],
)
def test_boxes_of_the_wrong_form_are_refused(
    change: dict[str, np.ndarray], why: str, cells: Path, tmp_path: Path
) -> None:
    with np.load(cells / "test.npz") as given:
        arrays = {**given, **change}
    np.savez(tmp_path / "d.npz", **{k: v for k, v in arrays.items() if v is not None})
    order = ("run", cells / "snn.onnx", tmp_path / "d.npz", "--task", "detection")
    assert why in refused(*order, "--decode", cells / "decode.json")


@pytest.mark.parametrize(
    ("y", "why"),
    [
        (np.zeros(5, np.int64), "'y' is int64 [5]"),
        (np.zeros((5, 12, 16)), "'y' is float64"),
        (np.zeros((4, 12, 16), np.int64), "5 samples but 4 maps"),
        (np.zeros((5, 12, 15), np.int64), "have [12, 15] pixels"),
        (np.full((5, 12, 16), 4), "a pixel has class 4"),
        (np.full((5, 12, 16), -1), "a pixel has class -1"),
    ],
)
def test_label_maps_of_the_wrong_form_are_refused(
    y: np.ndarray, why: str, streets: Path, tmp_path: Path
) -> None:
    with np.load(streets / "test.npz") as given:
        np.savez(tmp_path / "d.npz", x=given["x"], y=y)
    order = ("run", streets / "snn.onnx", tmp_path / "d.npz", "--task", "segmentation")
    assert why in refused(*order)


def test_a_classifier_is_no_segmenter(tmp_path: Path) -> None:
    net = Net(0)
    onnx.save(net.model(net.gemm(net.relu(net.gemm(net.input(4), 5)), 3)), tmp_path / "net.onnx")
    np.savez(tmp_path / "d.npz", x=np.ones((4, 4), np.float32))
    order = ("--calibration", tmp_path / "d.npz", "--recipe", "channel-norm", "-T", 1)
    snnc("compile", tmp_path / "net.onnx", *order, "-o", tmp_path / "snn.onnx")
    order = ("run", tmp_path / "snn.onnx", tmp_path / "d.npz", "--task", "segmentation")
    assert "no map of class scores" in refused(*order)
    order = ("run", tmp_path / "snn.onnx", tmp_path / "d.npz", "--save-images", tmp_path / "images")
    assert "samples of shape [4] are no images" in refused(*order)
    assert not (tmp_path / "images").exists()
