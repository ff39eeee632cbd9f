"""Train segmentation of street scenes on CamVid, 240 x 180: 367 images, eleven classes.

    python models/streets.py fcn --data ../shared/data
    python models/streets.py unet --data ../shared/data

``fcn``: class scores of three depths, enlarged by transposed convolutions and added (Long et al.
2015). ``unet``: features on the way down concatenated to those on the way up (Ronneberger et al.
2015). Input: (pixels / 255 - 0.42) / 0.3 of each colour.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from training import Block, Schedule, arguments, conv_bn, export, reader, train

CLASSES = 11  # sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, cyclist
VOID = 11


def conv(channels: int, features: int, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(conv_bn(channels, features, stride=stride), nn.ReLU())


class Fcn(nn.Module):
    """Scores at 1/12, 1/4 and 1/2 of the size, added from deep to shallow."""

    def __init__(self) -> None:
        super().__init__()
        self.at2 = conv(3, 16, 2)
        self.at4 = nn.Sequential(conv(16, 32, 2), Block(32, 32))
        self.at12 = nn.Sequential(nn.MaxPool2d(3), Block(32, 64), Block(64, 64), Block(64, 64))
        self.scores = nn.ModuleList(nn.Conv2d(c, CLASSES, 1) for c in (16, 32, 64))
        self.up3 = nn.ConvTranspose2d(CLASSES, CLASSES, 3, stride=3)
        self.up2 = nn.ConvTranspose2d(CLASSES, CLASSES, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 180, 240] -> class scores [N, 11, 180, 240]."""
        two = self.at2(x)
        four = self.at4(two)
        scores = self.up3(self.scores[2](self.at12(four))) + self.scores[1](four)
        scores = self.up2(scores) + self.scores[0](two)
        return nn.functional.interpolate(
            scores, scale_factor=2.0, mode="bilinear", align_corners=False
        )


class Unet(nn.Module):
    """Two levels down by max pools; up by a transposed convolution, and by nearest neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.at2 = nn.Sequential(conv(3, 16, 2), conv(16, 16))
        self.at4 = nn.Sequential(nn.MaxPool2d(2), conv(16, 32), conv(32, 32))
        self.at12 = nn.Sequential(nn.MaxPool2d(3), conv(32, 64), conv(64, 64), conv(64, 64))
        self.up3 = nn.Sequential(nn.ConvTranspose2d(64, 32, 3, stride=3), nn.ReLU())
        self.joined = conv(64, 24)
        self.up2 = nn.Upsample(scale_factor=2.0, mode="nearest")
        self.last = conv(40, 16)
        self.scores = nn.ConvTranspose2d(16, CLASSES, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, 180, 240] -> class scores [N, 11, 180, 240]."""
        two = self.at2(x)
        four = self.at4(two)
        x = self.joined(torch.cat([self.up3(self.at12(four)), four], 1))
        return self.scores(self.last(torch.cat([self.up2(x), two], 1)))


NETS = {"fcn": Fcn, "unet": Unet}
SCHEDULE = Schedule(epochs=15, batch=8, peak=0.05)


def main() -> None:
    """Train one net on the training images and print its mean IoU on the validation images."""
    given = arguments(__doc__, list(NETS))
    load = reader(given.data)

    def split(name: str) -> tuple[Tensor, Tensor]:
        pixels, labels = load.camvid(name)
        x = (pixels.astype(np.float32).transpose(0, 3, 1, 2) / 255 - 0.42) / 0.3
        return torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))

    (x, y), (x_val, y_val) = split("train"), split("val")
    shares = torch.bincount(y.ravel(), minlength=CLASSES + 1)[:CLASSES] / len(y.ravel())
    # Rare classes count more, but not as much more as they are rarer.
    weights = 1 / (0.1 + shares).log1p()
    torch.manual_seed(0)
    net = NETS[given.net]()

    def loss_of(batch: Tensor) -> Tensor:
        images, labels = x[batch], y[batch]
        if torch.rand(()) < 0.5:
            images, labels = images.flip(3), labels.flip(2)
        return nn.functional.cross_entropy(net(images), labels, weights, ignore_index=VOID)

    train(net, loss_of, len(x), SCHEDULE, given.work / f"{given.net}.pt")
    with torch.no_grad():
        answers = torch.cat([net(x_val[i : i + 8]).argmax(1) for i in range(0, len(x_val), 8)])
    known = y_val != VOID
    pairs = torch.bincount(CLASSES * y_val[known] + answers[known], minlength=CLASSES**2)
    confusion = pairs.view(CLASSES, CLASSES).double()
    common = confusion.diag()
    iou = common / (confusion.sum(0) + confusion.sum(1) - common)
    print(f"validation: mean IoU {iou.nanmean():.2%}, pixels {common.sum() / confusion.sum():.2%}")
    export(net, (3, 180, 240), ["scores"], given.output / f"{given.net}.onnx")


if __name__ == "__main__":
    main()
