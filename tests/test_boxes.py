"""Boxes, their decoding and average precision: by hand, and against pycocotools where it is."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from snncompiler.boxes import overlap, suppress
from snncompiler.decoding import Decoding, Detections, Level, load_decoding
from snncompiler.detection import OVERLAPS, Truth, mean_precision, precision
from snncompiler.diagnostics import InputError

SQUARE = np.array([[0.0, 0, 10, 10]])


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Rows x1, y1, x2, y2, score, class; best first."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def true(*rows: tuple[float, float, float, float, int]) -> Truth:
    table = np.array(rows, np.float64).reshape(-1, 5)
    return Truth(table[:, :4], table[:, 4].astype(np.int64))


def test_overlap_is_intersection_over_union() -> None:
    others = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlap(SQUARE, others), [[1, 50 / 150, 0, 0]])
    assert overlap(others[3:], others[3:]) == 0  # of nothing with nothing


def test_suppression_keeps_the_best_of_those_that_overlap() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [2, 0, 12, 10]])
    scores = np.array([0.8, 0.9, 0.1, 0.7])
    assert suppress(boxes, scores, 0.5).tolist() == [1, 2]
    # The first of the chain is gone, so nothing it overlapped goes because of it.
    chain = np.array([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert suppress(chain, np.array([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]
    assert suppress(chain, np.array([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []


def test_a_yolo_grid_is_decoded_by_hand() -> None:
    anchors = np.array([[8.0, 4.0], [2.0, 2.0]])
    decoding = Decoding("yolo", (32, 48), ("a", "b"), (Level(("grid",), 16.0, anchors),))
    assert decoding.outputs() == {"grid": (14, 2, 3)}
    grid = np.full((2, 14, 2, 3), -20.0, np.float32)
    # Sample 1, anchor 0, row 1, column 2: centre at s(0) of the cell, twice as wide, a for sure.
    grid[1, :7, 1, 2] = [0, 0, math.log(2), 0, 20, 20, -20]
    empty, (boxes, scores, classes) = decoding.decode({"grid": grid})
    assert [len(part) for part in empty] == [0, 0, 0]
    np.testing.assert_allclose(boxes, [[32, 22, 48, 26]], rtol=1e-6)  # centre 40, 24
    np.testing.assert_allclose(scores, [1], rtol=1e-6)
    assert classes.tolist() == [0]


def test_a_pyramid_is_decoded_by_hand() -> None:
    levels = (
        Level(("b8", "s8"), 8.0, np.array([[8.0, 8.0]])),
        Level(("b16", "s16"), 16.0, np.array([[16.0, 32.0]])),
    )
    decoding = Decoding("retinanet", (15, 20), ("a", "b"), levels)
    sizes = decoding.outputs()
    assert sizes == {"b8": (4, 2, 3), "s8": (2, 2, 3), "b16": (4, 1, 2), "s16": (2, 1, 2)}
    outputs = {k: np.full((1, *v), -30.0 if k[0] == "s" else 0.0) for k, v in sizes.items()}
    outputs["b8"][0, :, 0, 1] = [0.25, -0.25, 0, math.log(0.5)]
    outputs["s8"][0, 1, 0, 1] = 0  # score 1/2, class b
    outputs["s16"][0, 0, 0, 0] = math.log(3)  # score 3/4, class a; reaches beyond the image
    ((boxes, scores, classes),) = decoding.decode(outputs)
    np.testing.assert_allclose(boxes, [[0, 0, 16, 15], [10, 0, 18, 4]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.75, 0.5], rtol=1e-6)
    assert classes.tolist() == [0, 1]


def test_wild_outputs_make_no_infinite_boxes() -> None:
    level = Level(("grid",), 16.0, np.array([[8.0, 4.0]]))
    decoding = Decoding("yolo", (16, 16), ("a",), (level,))
    ((boxes, _, _),) = decoding.decode({"grid": np.full((1, 6, 1, 1), 1e4, np.float32)})
    assert boxes.tolist() == [[0, 0, 16, 16]]


def test_average_precision_by_hand() -> None:
    truth = [true((0, 0, 10, 10, 0), (20, 0, 30, 10, 0))]
    both = found((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 0))
    np.testing.assert_allclose(precision([both], truth, 0), 1)
    # A wrong one first: precisions 1/2 and 2/3, made monotonic 2/3 for all recalls.
    late = found((50, 0, 60, 10, 1, 0), (0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.8, 0))
    np.testing.assert_allclose(precision([late], truth, 0), 2 / 3)
    # One of two: recalls 0 to 0.5 are reached, 51 of 101 of them.
    np.testing.assert_allclose(precision([found((0, 0, 10, 10, 0.9, 0))], truth, 0), 51 / 101)
    # A second box on the same cell is wrong.
    twice = found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (20, 0, 30, 10, 0.7, 0))
    np.testing.assert_allclose(precision([twice], truth, 0), (51 + 50 * 2 / 3) / 101)


def test_an_overlap_of_two_thirds_is_right_up_to_that() -> None:
    # 8 of 12 shared: right at .50, .55, .60, .65.
    value = precision([found((0, 0, 10, 10, 1, 0))], [true((0, 0, 10, 15, 0))], 0)
    np.testing.assert_allclose(value, [1] * 4 + [0] * 6)
    result = mean_precision([found((0, 0, 10, 10, 1, 0))], [true((0, 0, 10, 15, 0))], 2)
    assert result["mAP50"] == pytest.approx(1)
    assert result["mAP"] == pytest.approx(0.4)


def test_sizes_are_judged_apart() -> None:
    truth = [true((0, 0, 20, 20, 0), (50, 0, 100, 50, 0))]  # a small one, a medium one
    result = mean_precision([found((50, 0, 100, 50, 0.9, 0))], truth, 1)
    assert result["mAP_small"] == 0
    assert result["mAP_medium"] == pytest.approx(1)
    assert result["mAP_large"] is None
    assert result["mAP50"] == pytest.approx(51 / 101)
    nothing = mean_precision([found()], [true()], 1)
    assert set(nothing.values()) == {None}


def test_average_precision_is_that_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(0)
    classes, images = 3, 12
    truth, detected = [], []
    for _ in range(images):
        n = int(rng.integers(0, 12))
        corner, side = rng.uniform(0, 200, (n, 2)), rng.choice([12, 31, 33, 60, 120], (n, 1))
        side = side * rng.uniform(0.8, 1.25, (n, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        kinds = rng.integers(0, classes, n)
        again = np.repeat(np.arange(n), rng.integers(0, 4, n))
        near = boxes[again] + rng.normal(0, 4, (len(again), 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guess = np.where(rng.random(len(again)) < 0.8, kinds[again], 0)
        scores = np.sort(rng.random(len(again)))[::-1]
        truth.append(Truth(boxes, kinds))
        detected.append(Detections(near, scores, guess))

    def rows(boxes: np.ndarray, kinds: np.ndarray, image: int) -> list[dict[str, object]]:
        wide = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        return [
            {"image_id": image, "category_id": int(k), "bbox": b.tolist(), "area": b[2] * b[3]}
            for b, k in zip(wide, kinds, strict=True)
        ]

    annotations = [r for i, t in enumerate(truth) for r in rows(t.boxes, t.classes, i)]
    results = []
    for i, d in enumerate(detected):
        for row, score in zip(rows(d.boxes, d.classes, i), d.scores, strict=True):
            results.append({**row, "score": float(score)})
    oracle = coco.COCO()
    oracle.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(images)],
        "categories": [{"id": k} for k in range(classes)],
        "annotations": [{**a, "id": i + 1, "iscrowd": 0} for i, a in enumerate(annotations)],
    }
    oracle.createIndex()
    judge = cocoeval.COCOeval(oracle, oracle.loadRes(results), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    ours = mean_precision(detected, truth, classes)
    names = ("mAP", "mAP50", "", "mAP_small", "mAP_medium", "mAP_large")
    for name, expected in zip(names, judge.stats, strict=False):
        if name:
            assert ours[name] == pytest.approx(expected, abs=1e-9), name
    assert len(OVERLAPS) == 10


GOOD = {
    "kind": "yolo",
    "image": [32, 48],
    "classes": ["a"],
    "levels": [{"output": "grid", "stride": 16, "anchors": [[8, 4]]}],
}


def test_a_decoding_is_read(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps({**GOOD, "most": 7, "nms_overlap": 0.45}))
    decoding = load_decoding(file)
    assert (decoding.image, decoding.classes, decoding.most) == ((32, 48), ("a",), 7)
    assert (decoding.score_threshold, decoding.nms_overlap) == (0.05, 0.45)
    assert decoding.levels[0].outputs == ("grid",)


LEVEL = GOOD["levels"][0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "ssd"}, "no kind 'ssd': only yolo and retinanet"),
        ({"kind": ["yolo"]}, "there is no kind"),
        ({"image": [32]}, "'image' has to be [height, width]"),
        ({"image": [32, -1]}, "'image' has to be"),
        ({"classes": []}, "'classes' has to be a list of names"),
        ({"classes": "ab"}, "'classes' has to be a list of names"),
        ({"classes": [""]}, "'classes' has to be a list of names"),
        ({"image": [10**400, 48]}, "'image' has to be"),
        ({"score_threshold": 10**400}, "'score_threshold' has to be"),
        ({"levels": [{**LEVEL, "stride": 5e-324}]}, "stride of level 0"),
        ({"levels": [{**LEVEL, "anchors": [[10**400, 1e308]]}]}, "anchors of level 0"),
        ({"levels": []}, "at least one"),
        ({"levels": [3]}, "level 0 is no object"),
        ({"levels": [{"output": "grid", "stride": 16}]}, "level 0 lacks 'anchors'"),
        ({"levels": [{**LEVEL, "stride": 0}]}, "stride of level 0"),
        ({"levels": [{**LEVEL, "stride": True}]}, "stride of level 0"),
        ({"levels": [{**LEVEL, "anchors": [[1, 2, 3]]}]}, "anchors of level 0"),
        ({"levels": [{**LEVEL, "anchors": [[1, float("nan")]]}]}, "anchors of level 0"),
        ({"levels": [{**LEVEL, "output": 3}]}, "name its outputs"),
        ({"levels": [LEVEL, LEVEL]}, "two levels read the same output"),
        ({"kind": "retinanet"}, "level 0 lacks 'boxes', 'scores'"),
        ({"score_treshold": 0.1}, "unknown keys: 'score_treshold' (known: kind"),
        ({"score_threshold": 2}, "'score_threshold' has to be a number from 0 to 1"),
        ({"most": 0}, "'most' has to be a whole number"),
    ],
)
def test_a_decoding_that_means_nothing_is_refused(
    change: dict[str, object], why: str, tmp_path: Path
) -> None:
    file = tmp_path / "d.json"
    file.write_text(json.dumps({**GOOD, **change}))
    with pytest.raises(InputError) as caught:
        load_decoding(file)
    assert why in caught.value.problems[0].why


def test_what_is_no_json_object_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    for content, why in ((b"{", "no JSON"), (b"[]", "no object"), (b"\xff\xfe", "no JSON")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=why):
            load_decoding(file)
    file.write_text(json.dumps({k: v for k, v in GOOD.items() if k != "image"}))
    with pytest.raises(InputError, match="lacks 'image'"):
        load_decoding(file)
    with pytest.raises(InputError, match="No such file"):
        load_decoding(tmp_path / "none.json")
