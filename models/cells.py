"""Train detectors of blood cells on BCCD, 320 x 240: 292 images, three kinds of cells.

    python models/cells.py yolo --data ../shared/data          # ReLU and max pools
    python models/cells.py yolo_leaky --data ../shared/data    # the same with LeakyReLU
    python models/cells.py retinanet --data ../shared/data     # ResNet, pyramid, shared heads

The YOLO-style net (Redmon and Farhadi 2018) has one grid; the RetinaNet-style one (Lin et al. 2017)
three levels of a feature pyramid. Beside NET.onnx comes NET.json, which tells `snnc run --decode`
how its outputs mean boxes. Input: pixels / 255 - 0.7 of each colour.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor, nn
from training import Block, Schedule, arguments, conv_bn, export, reader, train

CLASSES = ["RBC", "WBC", "platelets"]
SIZE = (240, 320)
#: Width and height in pixels; k-means of the training boxes' logarithms.
ANCHORS = [[21.0, 20.0], [45.0, 52.0], [55.0, 48.0], [106.0, 96.0]]
YOLO = {
    "kind": "yolo",
    "image": list(SIZE),
    "classes": CLASSES,
    "levels": [{"output": "grid", "stride": 16, "anchors": ANCHORS}],
}
RETINANET = {
    "kind": "retinanet",
    "image": list(SIZE),
    "classes": CLASSES,
    "levels": [
        {
            "boxes": f"boxes{stride}",
            "scores": f"scores{stride}",
            "stride": stride,
            "anchors": [[size * 2 ** (i / 3)] * 2 for i in range(3)],
        }
        for stride, size in ((8, 18.0), (16, 38.0), (32, 76.0))
    ],
}


class Yolo(nn.Module):
    """Five stages of convolution and max pool; per anchor x, y, w, h, objectness, classes."""

    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()

        def stage(channels: int, features: int, stride: int = 1) -> list[nn.Module]:
            slope = (0.1,) if activation is nn.LeakyReLU else ()
            return [conv_bn(channels, features, stride=stride), activation(*slope)]

        self.layers = nn.Sequential(
            *stage(3, 16, 2), nn.MaxPool2d(2), *stage(16, 32), nn.MaxPool2d(2), *stage(32, 48),
            *stage(48, 48), nn.MaxPool2d(2), *stage(48, 96), *stage(96, 96),
            nn.Conv2d(96, len(ANCHORS) * (5 + len(CLASSES)), 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 240, 320] -> [N, anchors * (5 + classes), 15, 20]."""
        return self.layers(x)


class RetinaNet(nn.Module):
    """A residual backbone, a pyramid of three levels, and one head for all of them."""

    def __init__(self) -> None:
        super().__init__()
        width, anchors = 40, 3
        self.stem = nn.Sequential(conv_bn(3, 16, stride=2), nn.ReLU(), nn.MaxPool2d(2))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(Block(16, 16), Block(16, 32, 2)),
                nn.Sequential(Block(32, 64, 2)),
                nn.Sequential(Block(64, 96, 2)),
            ]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in (32, 64, 96))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.tower = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.boxes = nn.Conv2d(width, anchors * 4, 3, padding=1)
        self.scores = nn.Conv2d(width, anchors * len(CLASSES), 3, padding=1)
        # At the start nothing is a cell; otherwise the empty anchors drown the rest.
        nn.init.constant_(self.scores.bias, -4.0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[N, 3, 240, 320] -> boxes8, scores8, boxes16, scores16, boxes32, scores32."""
        x = self.stem(x)
        laterals = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            x = stage(x)
            laterals.append(lateral(x))
        top = laterals[2]
        levels = [top]
        for i in (1, 0):
            size = laterals[i].shape[2:]
            top = laterals[i] + nn.functional.interpolate(top, size=size, mode="nearest")
            levels.insert(0, self.smooth[i](top))
        features = [self.tower(level) for level in levels]
        return tuple(out for f in features for out in (self.boxes(f), self.scores(f)))


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (x1, y1, x2, y2): [A, 4], [B, 4] -> [A, B]."""
    low, high = (f(a[:, None, s], b[None, :, s]) for f, s in
                 ((torch.maximum, slice(0, 2)), (torch.minimum, slice(2, 4))))  # fmt: skip
    common = (high - low).clamp(min=0).prod(2)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (a, b)]
    return common / (areas[0][:, None] + areas[1] - common)


def yolo_loss(grid: Tensor, boxes: list[Tensor]) -> Tensor:
    """Each cell of the blood belongs to the grid cell of its centre and the anchor most alike.

    grid: [N, anchors * (5 + classes), H, W]; boxes: per image [n, 5], corners and class.
    """
    n, _, h, w = grid.shape
    grid = grid.view(n, len(ANCHORS), -1, h, w)
    anchors = torch.tensor(ANCHORS)
    objectness = torch.zeros(n, len(ANCHORS), h, w)
    weight = torch.ones_like(objectness)
    loss = grid.new_zeros(())
    for i, truth in enumerate(boxes):
        sides, centres = truth[:, 2:4] - truth[:, :2], (truth[:, :2] + truth[:, 2:4]) / 2 / 16
        least = torch.minimum(sides[:, None], anchors).prod(2)
        alike = least / (sides.prod(1)[:, None] + anchors.prod(1) - least)
        column, row = centres[:, 0].long().clamp(0, w - 1), centres[:, 1].long().clamp(0, h - 1)
        # Anchors that would also fit are neither punished nor wanted.
        for k in range(len(ANCHORS)):
            weight[i, k, row[alike[:, k] > 0.5], column[alike[:, k] > 0.5]] = 0
        best = alike.argmax(1)
        objectness[i, best, row, column], weight[i, best, row, column] = 1, 1
        mine = grid[i, best, :, row, column]
        offset = centres - torch.stack([column, row], 1)
        loss = loss + nn.functional.binary_cross_entropy_with_logits(
            mine[:, :2], offset, reduction="sum"
        )
        size = (sides / anchors[best]).log()
        loss = loss + 4 * nn.functional.smooth_l1_loss(
            mine[:, 2:4], size, beta=0.1, reduction="sum"
        )
        kind = nn.functional.one_hot(truth[:, 4].long(), len(CLASSES)).float()
        loss = loss + nn.functional.binary_cross_entropy_with_logits(
            mine[:, 5:], kind, reduction="sum"
        )
    there = nn.functional.binary_cross_entropy_with_logits(
        grid[:, :, 4], objectness, weight, reduction="sum"
    )
    return (loss + there) / sum(map(len, boxes))


def anchor_boxes() -> Tensor:
    """All anchors of the pyramid as corners, in the order of the flattened outputs: [A, 4]."""
    found = []
    for level in RETINANET["levels"]:
        stride, sides = level["stride"], torch.tensor(level["anchors"])
        rows, columns = (-(-s // stride) for s in SIZE)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (torch.stack([x, y], 2) + 0.5) * stride
        low = centres[None] - sides[:, None, None] / 2
        found.append(torch.cat([low, low + sides[:, None, None]], 3).view(-1, 4))
    return torch.cat(found)


def retinanet_loss(outputs: tuple[Tensor, ...], boxes: list[Tensor]) -> Tensor:
    """Focal loss of all anchors, smooth L1 of those that overlap a cell by half or more."""
    n, anchors = len(boxes), anchor_boxes()
    deltas, scores = (
        torch.cat([o.view(n, 3, k, -1).transpose(2, 3).reshape(n, -1, k) for o in part], 1)
        for part, k in ((outputs[::2], 4), (outputs[1::2], len(CLASSES)))
    )
    sides, centres = anchors[:, 2:] - anchors[:, :2], (anchors[:, 2:] + anchors[:, :2]) / 2
    loss = scores.new_zeros(())
    for i, truth in enumerate(boxes):
        shared = overlap(anchors, truth[:, :4])
        most, which = shared.max(1)
        best = shared.argmax(0)
        most[best], which[best] = 1, torch.arange(len(truth))
        positive, counted = most >= 0.5, (most >= 0.5) | (most < 0.4)
        wanted = nn.functional.one_hot(truth[which, 4].long(), len(CLASSES)) * positive[:, None]
        p = scores[i].sigmoid()
        wrong = torch.where(wanted > 0, 1 - p, p)
        share = torch.where(wanted > 0, 0.25, 0.75)
        entropy = nn.functional.binary_cross_entropy_with_logits(
            scores[i], wanted.float(), reduction="none"
        )
        loss = loss + (share * wrong**2 * entropy)[counted].sum()
        box = truth[which[positive], :4]
        shift = ((box[:, :2] + box[:, 2:]) / 2 - centres[positive]) / sides[positive]
        size = ((box[:, 2:] - box[:, :2]) / sides[positive]).log()
        loss = loss + nn.functional.smooth_l1_loss(
            deltas[i][positive], torch.cat([shift, size], 1), beta=0.1, reduction="sum"
        )
    return loss / sum(map(len, boxes))


def flip(x: Tensor, boxes: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Mirror the whole batch, or not, along each side of the image."""
    for axis in (0, 1):
        if torch.rand(()) < 0.5:
            size = SIZE[1 - axis]
            x = x.flip(3 - axis)
            boxes = [b.clone() for b in boxes]
            for b in boxes:
                b[:, [axis, axis + 2]] = size - b[:, [axis + 2, axis]]
    return x, boxes


NETS = {
    "yolo": (lambda: Yolo(nn.ReLU), yolo_loss, YOLO, 60),
    "yolo_leaky": (lambda: Yolo(nn.LeakyReLU), yolo_loss, YOLO, 60),
    "retinanet": (RetinaNet, retinanet_loss, RETINANET, 40),
}


def main() -> None:
    """Train one detector and write it with its decoding."""
    given = arguments(__doc__, list(NETS))
    build, criterion, decode, epochs = NETS[given.net]
    pixels, tables = reader(given.data).bccd("trainval")
    # A box without area is an error of labelling and has no logarithm.
    boxes = [torch.from_numpy(t[(t[:, 2:4] > t[:, :2] + 1).all(1)]) for t in tables]
    x = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.7)
    torch.manual_seed(0)
    net = build()

    def loss_of(batch: Tensor) -> Tensor:
        images, truth = flip(x[batch], [boxes[i] for i in batch])
        return criterion(net(images), truth)

    schedule = Schedule(epochs, batch=8, peak=0.02)
    train(net, loss_of, len(x), schedule, given.work / f"{given.net}.pt")
    levels = decode["levels"]
    names = [level[k] for level in levels for k in ("output", "boxes", "scores") if k in level]
    export(net, (3, *SIZE), names, given.output / f"{given.net}.onnx")
    (given.output / f"{given.net}.json").write_text(json.dumps(decode, indent=2) + "\n")


if __name__ == "__main__":
    main()
