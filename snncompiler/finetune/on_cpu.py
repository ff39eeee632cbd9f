"""`spiking.Fire` and `activation.QuantiseClip` on processors, by the kernels of `kernels.py`.

They give values of the type that they are given, float32 or, half as much to read and write,
bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from snncompiler.finetune import kernels
from snncompiler.finetune.activation import drawn, share_of
from snncompiler.graph import Array


def has_kernels(x: torch.Tensor) -> bool:
    """Whether there are kernels for such values."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


class FireOnCpu(torch.autograd.Function):
    """apply(current, theta, slope, lowest) -> theta s, as of `Fire`."""

    @staticmethod
    def forward(
        ctx: Any,
        current: torch.Tensor,
        theta: torch.Tensor,
        slope: torch.Tensor | None,
        lowest: int,
    ) -> torch.Tensor:
        """See above."""
        layout = _Layout(current)
        ctx.layout, ctx.dims = layout, theta.shape
        steep = layout.spread(torch.ones(1) if slope is None else slope)
        ctx.settings = layout.spread(theta), steep, np.float32(lowest), slope is not None
        x = layout.lay(current)
        ctx.save_for_backward(x)
        sent = torch.empty_like(x)
        kernels.fire(_array(x), *ctx.settings, _array(sent))
        return layout.undo(sent)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients through time."""
        (x,) = ctx.saved_tensors
        g, by_current = ctx.layout.lay(gradients[0].to(x.dtype)), torch.empty_like(x)
        parts = _parts(x)
        kernels.fire_backward(_array(x), *ctx.settings, _array(g), _array(by_current), parts)
        return ctx.layout.undo(by_current), ctx.layout.gather(parts, ctx.dims), None, None


class QuantiseClipOnCpu(torch.autograd.Function):
    """apply(f, theta, timesteps, lowest, noise, generator) -> y, as of `QuantiseClip`."""

    @staticmethod
    def forward(
        ctx: Any,
        f: torch.Tensor,
        theta: torch.Tensor,
        timesteps: int,
        lowest: float,
        noise: float,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """See above."""
        f = f[None]
        layout = _Layout(f)
        ctx.layout, ctx.dims = layout, theta.shape
        x = layout.lay(f)
        level = layout.spread(theta)
        chance: Array = np.zeros((1, len(level)), np.uint8)
        if noise:
            chance = drawn(x, generator).flatten(2)[0].numpy()
        share = np.int32(share_of(noise))
        ctx.settings = level, np.float32(timesteps), np.float32(lowest), chance, share
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        kernels.quantise(_array(x)[0], *ctx.settings, _array(y)[0])
        return layout.undo(y)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The straight-through gradients."""
        (x,) = ctx.saved_tensors
        g, by_f = ctx.layout.lay(gradients[0][None].to(x.dtype)), torch.empty_like(x)
        parts = _parts(x)
        kernels.quantise_backward(_array(x)[0], *ctx.settings, _array(g)[0], _array(by_f)[0], parts)
        by_theta = ctx.layout.gather(parts, ctx.dims)
        return ctx.layout.undo(by_f)[0], by_theta, None, None, None, None


class _Layout:
    """The order of a sample's axes in memory; whoever else has it is not copied.

    Args:
        x: [T, N, ...].
    """

    def __init__(self, x: torch.Tensor) -> None:
        self.sample = x.shape[2:]
        self.order = sorted(range(len(self.sample)), key=lambda d: -x.stride(2 + d))

    def lay(self, x: torch.Tensor) -> torch.Tensor:
        """[T, N, ...] with a sample's axes in this order."""
        return x.permute(0, 1, *(2 + d for d in self.order)).contiguous()

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """The axes as they were."""
        return x.permute(0, 1, *(2 + self.order.index(d) for d in range(len(self.order))))

    def spread(self, x: torch.Tensor) -> Array:
        """[S], one number for each of a sample's neurons, of [C, 1, ...], [1, C, 1, ...] or [1]."""
        whole = x.detach().float().expand(1, *self.sample)[0]
        # Contiguous, or the kernels know no distance between two of them and cannot be vectorised.
        result: Array = whole.permute(self.order).flatten().contiguous().numpy()
        return result

    def gather(self, parts: Array, dims: Sequence[int]) -> torch.Tensor:
        """Sums of [.., S] of the shape that was spread."""
        laid = [self.sample[d] for d in self.order]
        summed = self.undo(torch.from_numpy(parts.sum(0)).reshape(1, 1, *laid))[0, 0]
        return summed.sum_to_size((1,) * (summed.ndim - len(dims)) + tuple(dims)).reshape(dims)


def _parts(x: torch.Tensor) -> Array:
    """What kernels sum gradients of thresholds up in."""
    return np.empty((math.ceil(x.shape[1] / kernels.SUMMED), math.prod(x.shape[2:])), np.float32)


def _array(x: torch.Tensor) -> Array:
    """[T, N, S] of the same memory, as the kernels want it."""
    half = x.dtype == torch.bfloat16
    array: Array = (x.view(torch.int16) if half else x).flatten(2).numpy()
    return array.view(np.uint16) if half else array
