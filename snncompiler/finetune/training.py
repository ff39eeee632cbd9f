"""The training of stage I: SGD with momentum and a cosine schedule, checkpointed every epoch.

Batch normalisation is folded into the weights by now, and without it a deep network's gradients
grow beyond all bounds where its activations are coarse. So each channel's gradient is held to a
share of its weights (adaptive gradient clipping; Brock et al. 2021, eq. 3).

Every random number follows from the seed and the number of the epoch, so that a run which was
interrupted and goes on from its checkpoint ends where an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch.nn import functional

from snncompiler.data import Samples
from snncompiler.diagnostics import refuse
from snncompiler.finetune.augmentation import cut_and_mixed, shifted_and_mirrored
from snncompiler.finetune.network import TorchNetwork
from snncompiler.finetune.schedule import Schedule
from snncompiler.finetune.spiking import SpikingNetwork
from snncompiler.graph import Array
from snncompiler.progress import Progress

#: Samples whose outputs tell whether the network was written as it was trained.
_SHOWN = 32
#: Gradient of a channel's weights, at most, in their norm; and the least norm that counts.
_SHARE, _LEAST = 0.01, 1e-3

_Outputs = tuple[torch.Tensor, ...]


@dataclass
class Trained:
    """What training made.

    weights: by the value that holds them. thresholds: [C] or [1] by the name of the activation's
    output. before: loss, and accuracy if there are labels, on what was held out, with nothing
    learned yet. history: per epoch the mean loss on what was learned, and those on what was held
    out. outputs: of the first held-out samples, with activations rounded.
    """

    weights: dict[ir.Value, Array]
    thresholds: dict[str, Array]
    before: dict[str, float]
    history: list[dict[str, float]]
    outputs: list[Array]


def train(
    model: ir.Model,
    samples: Samples,
    held: Samples,
    schedule: Schedule,
    *,
    originals: Sequence[ir.Model],
    device: str,
    checkpoint: Path | None,
    key: str,
    progress: Progress,
) -> Trained:
    """Fine-tune a canonical ANN, quantised or spiking; the last epoch's parameters are taken.

    Args:
        model: thresholds to begin with annotated on the activations' outputs.
        samples: to learn.
        held: to report on.
        schedule: how.
        originals: the canonical ANNs that teach, if the schedule distills: the mean of their
            outputs is learned.
        device: a torch device.
        checkpoint: where to save after every epoch, and to go on from if it exists.
        key: tells whether a checkpoint is of this very run.
        progress: called with (what, done, total).

    Raises:
        InputError: the checkpoint is of another run, or the loss is no number any more.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    student = _student(model, schedule).to(device)
    teachers = [TorchNetwork(m, None).to(device).eval() for m in originals if schedule.distill]
    student.noise = schedule.noise
    sgd = torch.optim.SGD(student.parameters(), lr=schedule.rate, momentum=schedule.momentum)
    before = _scores(student, teachers, held, schedule.batch, device)
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = _restore(checkpoint, key, student, sgd, device)
    kind, batches = torch.device(device).type, math.ceil(len(samples.x) / schedule.batch)
    for epoch in range(len(history), schedule.epochs):
        generator = torch.Generator().manual_seed(schedule.seed * 100_003 + epoch)
        student.generator = torch.Generator(device).manual_seed(schedule.seed * 100_003 + epoch)
        order = torch.randperm(len(samples.x), generator=generator).numpy()
        student.train()
        total = torch.zeros((), device=device)
        for i in range(batches):
            progress("training", epoch * batches + i, schedule.epochs * batches)
            done = (epoch + i / batches) / schedule.epochs
            for group in sgd.param_groups:
                group["lr"] = schedule.rate * 0.5 * (1 + math.cos(math.pi * done))
            rows = order[i * schedule.batch : (i + 1) * schedule.batch]
            x = torch.from_numpy(samples.x[rows])
            x = shifted_and_mirrored(x, generator) if schedule.augment else x
            x = cut_and_mixed(x, schedule.cutmix, generator) if schedule.cutmix else x
            y = None if samples.y is None else torch.from_numpy(samples.y[rows]).to(device)
            with torch.autocast(kind, torch.bfloat16, enabled=schedule.half):
                x = x.to(device, memory_format=_layout(x, kind))
                loss = _loss(student(x), teachers, x, y)
            sgd.zero_grad()
            loss.backward()
            limit_gradients(student)
            sgd.step()
            total += loss.detach() * len(rows)
        scores = _scores(student, teachers, held, schedule.batch, device)
        history.append({"loss": float(total) / len(samples.x), **scores})
        if not math.isfinite(history[-1]["loss"]):
            raise refuse(
                f"the training diverged in epoch {epoch + 1}",
                "its loss is no finite number any more",
                f"choose a smaller --rate than {schedule.rate:g}",
            )
        if checkpoint is not None:
            _save(checkpoint, key, student, sgd, history)
    rounded = TorchNetwork(model, schedule.timesteps, channelwise=_channelwise(schedule))
    rounded.load_state_dict(student.state_dict())
    with torch.no_grad():
        outputs = rounded.eval()(torch.from_numpy(held.x[:_SHOWN]))
    return Trained(
        student.trained_weights(),
        student.trained_thresholds(),
        before,
        history,
        [y.numpy() for y in outputs],
    )


def _student(model: ir.Model, schedule: Schedule) -> TorchNetwork:
    """The network that learns: its activations rounded, or its neurons spiking."""
    channelwise = _channelwise(schedule)
    if schedule.spikes is None:
        return TorchNetwork(model, schedule.timesteps, channelwise=channelwise)
    gamma_neg = int(schedule.spikes == "ternary")
    return SpikingNetwork(model, schedule.timesteps, channelwise=channelwise, gamma_neg=gamma_neg)


def _channelwise(schedule: Schedule) -> bool:
    return schedule.thresholds == "channel"


def limit_gradients(network: torch.nn.Module) -> None:
    """Scale every channel's gradient down to a share of the channel's weights, in norm.

    Biases and thresholds, of one axis, count as one channel.
    """
    for parameter in network.parameters():
        if parameter.grad is not None:
            most = _SHARE * _norm(parameter.detach()).clamp(min=_LEAST)
            parameter.grad *= (most / _norm(parameter.grad).clamp(min=1e-12)).clamp(max=1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Of each channel, along the first axis; of all where there is no other axis."""
    return x.norm() if x.ndim < 2 else x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))


def _loss(
    found: _Outputs, teachers: Sequence[TorchNetwork], x: torch.Tensor, y: torch.Tensor | None
) -> torch.Tensor:
    """Of the student's outputs: cross entropy to labels, or distance from the teachers' mean."""
    if not teachers:
        return functional.cross_entropy(found[0], y)
    with torch.no_grad():
        answers = zip(*(teacher(x) for teacher in teachers), strict=True)
        wanted = [torch.stack(outputs).mean(0) for outputs in answers]
    losses = [_distance(a, b) for a, b in zip(found, wanted, strict=True)]
    return torch.stack(losses).sum()


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """KL divergence of class scores; of other outputs the squared error over their variance."""
    if found.ndim == 2 and found.shape[1] > 1:
        scores = functional.log_softmax(found, 1)
        return functional.kl_div(scores, functional.softmax(wanted, 1), reduction="batchmean")
    return functional.mse_loss(found, wanted) / (wanted.var() + 1e-12)


def _scores(
    student: TorchNetwork,
    teachers: Sequence[TorchNetwork],
    held: Samples,
    batch: int,
    device: str,
) -> dict[str, float]:
    """Loss, and accuracy if there are labels, on samples that are not learned."""
    student.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(held.x), batch):
            x = torch.from_numpy(held.x[start : start + batch]).to(device)
            y = None if held.y is None else torch.from_numpy(held.y[start : start + batch])
            y = None if y is None else y.to(device)
            found = student(x)
            loss += float(_loss(found, teachers, x, y)) * len(x)
            if y is not None:
                right += int((found[0].flatten(1).argmax(1) == y).sum())
    scores = {"held_out_loss": loss / len(held.x)}
    return scores if held.y is None else {**scores, "held_out_accuracy": right / len(held.x)}


def _layout(x: torch.Tensor, kind: str) -> torch.memory_format:
    """Channels last for images on processors: convolutions are twice as quick."""
    return torch.channels_last if kind == "cpu" and x.ndim == 4 else torch.contiguous_format


def _save(
    path: Path,
    key: str,
    student: TorchNetwork,
    sgd: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    state = {"key": key, "student": student.state_dict(), "sgd": sgd.state_dict()}
    whole = path.with_name(path.name + ".new")
    torch.save({**state, "history": history}, whole)
    whole.replace(path)  # an interruption leaves the old one or the new one


def _restore(
    path: Path, key: str, student: TorchNetwork, sgd: torch.optim.Optimizer, device: str
) -> list[dict[str, float]]:
    state: dict[str, Any] = {}
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception:  # torch raises whatever zipfile, pickle or the disk raise
        state = {}
    if state.get("key") != key:
        raise refuse(
            f"'{path}' is no checkpoint of this training",
            "its model, samples or settings were others, or it is damaged",
            "remove it to begin anew, or choose another output",
        )
    student.load_state_dict(state["student"])
    sgd.load_state_dict(state["sgd"])
    history: list[dict[str, float]] = state["history"]
    return history
