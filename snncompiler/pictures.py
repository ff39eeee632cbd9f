"""Samples and what networks say about them, side by side: boxes, label maps, bars of classes.

Drawn with Pillow, which comes with the extra 'report'.
"""

from __future__ import annotations

import colorsys
import importlib.util
import io
from collections.abc import Sequence

import numpy as np

from snncompiler.diagnostics import refuse
from snncompiler.graph import Array

_CAPTION = 14  # pixels, height of the line above a picture
_LEAST = 160  # pixels; smaller pictures are enlarged by a whole factor


def require_drawable(sample: tuple[int, ...]) -> None:
    """Fail before the work if pictures of samples of this shape cannot be drawn.

    Raises:
        InputError: they are no images [C, H, W], or Pillow is missing.
    """
    if len(sample) != 3:
        raise refuse(
            f"samples of shape {list(sample)} are no images",
            "pictures are drawn of [channels, height, width]",
            "leave out --save-images",
        )
    if importlib.util.find_spec("PIL") is None:
        raise refuse(
            "pictures need Pillow",
            "it is an extra that is not installed",
            "pip install 'snncompiler[report]'",
        )


def photograph(x: Array) -> Array:
    """A sample [C, H, W] as uint8 [H, W, 3], its values spread over the range of a screen.

    Three channels are colours; of any other number the mean is shown in grey.
    """
    colours = x if len(x) == 3 else np.repeat(x.mean(0, keepdims=True), 3, 0)
    low, high = float(colours.min()), float(colours.max())
    spread = (colours - low) / max(high - low, 1e-12)
    return (255 * spread).astype(np.uint8).transpose(1, 2, 0)


def palette(classes: int) -> Array:
    """One colour per class, uint8 [K, 3]; hues in steps of the golden ratio differ for any K."""
    hues = (0.618034 * np.arange(classes)) % 1
    return np.array([[255 * v for v in colorsys.hsv_to_rgb(h, 0.8, 1)] for h in hues], np.uint8)


def with_boxes(
    photo: Array, boxes: Array, labels: Array, scores: Array | None, names: Sequence[str]
) -> Array:
    """The photo with corners [n, 4] drawn in the colour of their class, and the scores in %."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(photo)
    pen = ImageDraw.Draw(picture)
    colours = [tuple(c) for c in palette(len(names)).tolist()]
    for i, (corners, k) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True)):
        pen.rectangle(corners, outline=colours[k])
        if scores is not None:
            place = (corners[0] + 2, corners[1])
            pen.text(place, f"{names[k][0]}{100 * scores[i]:.0f}", fill=colours[k])
    return np.asarray(picture)


def with_labels(photo: Array, labels: Array, classes: int) -> Array:
    """The photo under the colours of its labels [H, W]; labels beyond the classes are black."""
    colours = np.concatenate([palette(classes), np.zeros((256 - classes, 3), np.uint8)])
    blend: Array = (0.35 * photo + 0.65 * colours[labels]).astype(np.uint8)
    return blend


def with_bars(photo: Array, logits: Array) -> Array:
    """softmax(logits) as bars, in a picture as large as the photo; classes from top to bottom."""
    height, width = photo.shape[:2]
    share = np.exp(logits.astype(np.float64) - logits.max())
    share /= share.sum()
    result = np.full((height, width, 3), 255, np.uint8)
    for k, colour in enumerate(palette(len(share))):
        rows = slice(k * height // len(share), (k + 1) * height // len(share))
        result[rows, : round(share[k] * width)] = colour
    return result


def side_by_side(panels: Sequence[tuple[str, Array]]) -> bytes:
    """A PNG of pictures [H, W, 3] of one size in a row, each below its caption."""
    from PIL import Image, ImageDraw

    height, width = panels[0][1].shape[:2]
    factor = max(1, -(-_LEAST // width))
    across, down = factor * width, factor * height
    sheet: Image.Image = Image.new(
        "RGB", ((across + 4) * len(panels) - 4, down + _CAPTION), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for i, (caption, picture) in enumerate(panels):
        left = i * (across + 4)
        scaled = np.repeat(np.repeat(picture, factor, 0), factor, 1)
        sheet.paste(Image.fromarray(scaled), (left, _CAPTION))
        pen.text((left + 2, 1), caption, fill="black")
    # 128 colours do for drawings, and keep the file small.
    file = io.BytesIO()
    sheet.quantize(128).save(file, "PNG", optimize=True)
    return file.getvalue()
