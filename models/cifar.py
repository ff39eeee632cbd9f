"""Train a residual or a depthwise-separable classifier on CIFAR-10.

    python models/cifar.py resnet20 --data ../shared/data
    python models/cifar.py mobilenet --data ../shared/data

``resnet20``: nine residual blocks (He et al. 2016), in the paper three of them at each of the
widths 16, 32 and 64; here one, four and four, at 16, 48 and 80, which learns more in the time of a
CPU. ``mobilenet``: depthwise and pointwise convolutions in turn (Howard et al. 2017). Input:
(pixels / 255 - mean) / deviation of each colour.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from training import Block, Schedule, arguments, conv_bn, export, reader, train


def resnet20() -> nn.Module:
    """Identity shortcuts inside a width, projections between widths."""
    blocks = [Block(16, 16)]
    for channels, features in ((16, 48), (48, 80)):
        blocks += [Block(channels, features, 2), *(Block(features, features) for _ in range(3))]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(80, 10))
    return nn.Sequential(conv_bn(3, 16), nn.ReLU(), *blocks, *head)


def mobilenet() -> nn.Module:
    """Each block filters every channel for itself, then mixes the channels."""

    def block(channels: int, features: int, stride: int = 1) -> list[nn.Module]:
        depthwise = conv_bn(channels, channels, stride=stride, groups=channels)
        return [depthwise, nn.ReLU(), conv_bn(channels, features, 1), nn.ReLU()]

    widths = [(32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 128, 1)]
    widths += [(128, 128, 1), (128, 256, 2), (256, 256, 1)]
    layers = [layer for width in widths for layer in block(*width)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    return nn.Sequential(conv_bn(3, 32), nn.ReLU(), *layers, *head)


NETS = {
    "resnet20": (resnet20, Schedule(epochs=26, batch=128, peak=0.2, half=True)),
    "mobilenet": (mobilenet, Schedule(epochs=24, batch=128, peak=0.2)),
}


def augment(x: Tensor) -> Tensor:
    """Flip half of the images [N, 3, 32, 32], shift each by up to four pixels."""
    flipped = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    padded = nn.functional.pad(flipped, (4, 4, 4, 4))
    rows, columns = (torch.randint(0, 9, (len(x), 1)) + torch.arange(32) for _ in range(2))
    index = torch.arange(len(x))[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def main() -> None:
    """Train one net, export it and print its accuracy on the test images."""
    given = arguments(__doc__, list(NETS))
    build, schedule = NETS[given.net]
    load = reader(given.data)

    def normalised(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(load.normalize_cifar10(pixels))

    (x, y), (x_test, y_test) = load.cifar10("train"), load.cifar10("test")
    torch.manual_seed(0)
    net, labels = build(), torch.from_numpy(y.astype(np.int64))

    def loss_of(batch: Tensor) -> Tensor:
        images = augment(normalised(x[batch.numpy()]))
        return nn.functional.cross_entropy(net(images), labels[batch])

    train(net, loss_of, len(x), schedule, given.work / f"{given.net}.pt")
    with torch.no_grad():
        answers = [net(normalised(x_test[i : i + 500])).argmax(1) for i in range(0, 10_000, 500)]
    print(f"test accuracy {(torch.cat(answers).numpy() == y_test).mean():.2%}")
    export(net, (3, 32, 32), ["logits"], given.output / f"{given.net}.onnx")


if __name__ == "__main__":
    main()
