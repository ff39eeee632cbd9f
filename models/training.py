"""What the training scripts share: reading the data, a resumable one-cycle loop, the export."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
THREADS = 2  # fixed, as the order of the sums depends on it, and with it the trained weights


@dataclass(frozen=True)
class Schedule:
    """One cycle of the learning rate: up to `peak` in the first quarter, then down to nothing."""

    epochs: int
    batch: int
    peak: float
    decay: float = 5e-4
    half: bool = False  # activations in bfloat16: twice as fast where a CPU multiplies it


def arguments(description: str | None, nets: list[str]) -> argparse.Namespace:
    """The command line of a training script: ``NET --data DIR [--output DIR] [--work DIR]``."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("net", choices=nets)
    parser.add_argument("--data", type=Path, required=True, help="folder with load.py")
    parser.add_argument("--output", type=Path, default=HERE, help="where NET.onnx goes")
    parser.add_argument("--work", type=Path, default=Path("checkpoints"), help="to resume from")
    return parser.parse_args()


def reader(data: Path) -> ModuleType:
    """The module `load` beside the data sets, which decodes them."""
    spec = importlib.util.spec_from_file_location("load", data / "load.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(
    net: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    samples: int,
    schedule: Schedule,
    checkpoint: Path,
    seed: int = 0,
) -> nn.Module:
    """Minimise ``loss_of(indices of a batch)`` by SGD; returns the net in evaluation mode.

    After each epoch everything is in `checkpoint`; a run that finds one goes on from there, and
    ends with the weights of an uninterrupted run, for every epoch has its own seed.
    """
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    net.to(memory_format=torch.channels_last)
    # Biases and the scales of BatchNorm are not decayed: nothing that decays them generalises.
    groups = [[p for p in net.parameters() if (p.ndim > 1) == large] for large in (True, False)]
    optimizer = torch.optim.SGD(
        [{"params": groups[0], "weight_decay": schedule.decay}, {"params": groups[1]}],
        lr=schedule.peak,
        momentum=0.9,
        nesterov=True,
    )
    steps = samples // schedule.batch
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.peak, total_steps=schedule.epochs * steps, pct_start=0.25
    )
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        first = state["epochs"]
        for part, name in ((net, "net"), (optimizer, "optimizer"), (cycle, "cycle")):
            part.load_state_dict(state[name])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    for epoch in range(first, schedule.epochs):
        torch.manual_seed(1000 * seed + epoch)
        net.train()
        total = 0.0
        for batch in torch.randperm(samples)[: steps * schedule.batch].split(schedule.batch):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=schedule.half):
                loss = loss_of(batch)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 10.0)
            optimizer.step()
            cycle.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{schedule.epochs}: loss {total / steps:.4f}", flush=True)
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
        state |= {"cycle": cycle.state_dict(), "epochs": epoch + 1}
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)
    return net.eval()


def export(net: nn.Module, shape: tuple[int, ...], outputs: list[str], path: Path) -> None:
    """Write a net as ONNX, opset 17, with a free batch size, and print the file's digest.

    The exporter keeps BatchNormalization apart (training mode preserved, nothing folded), for
    folding it is a step of the compiler that these networks are there to exercise.
    """
    torch.onnx.export(
        net.eval().to(memory_format=torch.contiguous_format),
        (torch.zeros(1, *shape),),
        str(path),
        opset_version=17,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        input_names=["image"],
        output_names=outputs,
        dynamic_axes={name: {0: "batch"} for name in ("image", *outputs)},
    )
    content = path.read_bytes()
    print(f"{path.name} {len(content)} bytes, sha256 {hashlib.sha256(content).hexdigest()[:12]}")


def conv_bn(
    channels: int, features: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias, which the BatchNorm behind it would cancel, and that."""
    conv = nn.Conv2d(channels, features, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features))


class Block(nn.Module):
    """Two convolutions and a shortcut: the identity, or a projection where the shape changes."""

    def __init__(self, channels: int, features: int, stride: int = 1) -> None:
        super().__init__()
        self.first = conv_bn(channels, features, stride=stride)
        self.second = conv_bn(features, features)
        same = channels == features and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(channels, features, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, features, H / stride, W / stride]."""
        return (self.second(self.first(x).relu()) + self.shortcut(x)).relu()
