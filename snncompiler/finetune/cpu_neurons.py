"""`spiking.Fire` on processors, by kernels that read every number once: see `neuron_kernels`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from snncompiler.finetune.neuron_kernels import SUMMED, fire, fire_backward
from snncompiler.graph import Array


class FireOnCpu(torch.autograd.Function):
    """apply(current, theta, slope, lowest) -> theta s, as of `Fire`; of the current's own type.

    current: float32, or bfloat16, which halves what has to be read and written.
    """

    @staticmethod
    def takes(current: torch.Tensor) -> bool:
        """Whether there are kernels for such a current."""
        return current.device.type == "cpu" and current.dtype in (torch.float32, torch.bfloat16)

    @staticmethod
    def forward(
        ctx: Any,
        current: torch.Tensor,
        theta: torch.Tensor,
        slope: torch.Tensor | None,
        lowest: int,
    ) -> torch.Tensor:
        """See above."""
        sample = current.shape[2:]
        order = sorted(range(len(sample)), key=lambda d: -current.stride(2 + d))

        def flat(x: torch.Tensor) -> Array:
            """What holds for a sample's neurons: [S]."""
            whole = x.detach().float().expand(1, *sample)[0]
            result: Array = whole.permute(order).flatten().numpy()
            return result

        steep = np.ones(math.prod(sample), np.float32) if slope is None else flat(slope)
        ctx.settings = (flat(theta), steep, np.float32(lowest), slope is not None)
        ctx.order, ctx.dims = order, theta.shape
        x = _in_memory(current, order)
        ctx.save_for_backward(x)
        sent = torch.empty_like(x)
        fire(_bits(x), *ctx.settings, _bits(sent))
        return _as_given(sent, order)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients through time."""
        (x,) = ctx.saved_tensors
        g = _in_memory(gradients[0].to(x.dtype), ctx.order)
        result = torch.empty_like(x)
        parts = np.empty((-(-x.shape[1] // SUMMED), math.prod(x.shape[2:])), np.float32)
        fire_backward(_bits(x), *ctx.settings, _bits(g), _bits(result), parts)
        summed = torch.from_numpy(parts.sum(0)).reshape(1, 1, *x.shape[2:])
        by_theta = _as_given(summed, ctx.order)[0, 0].sum_to_size(
            (1,) * (len(ctx.order) - len(ctx.dims)) + tuple(ctx.dims)
        )
        return _as_given(result, ctx.order), by_theta.reshape(ctx.dims), None, None


def _in_memory(x: torch.Tensor, order: list[int]) -> torch.Tensor:
    """[T, N, ...] with a sample's axes in this order, one after the other in memory."""
    return x.permute(0, 1, *(2 + d for d in order)).contiguous()


def _as_given(x: torch.Tensor, order: list[int]) -> torch.Tensor:
    """The axes as they were before `_in_memory`."""
    return x.permute(0, 1, *(2 + order.index(d) for d in range(len(order))))


def _bits(x: torch.Tensor) -> Array:
    """[T, N, S] of the same memory, as the kernels want it."""
    half = x.dtype == torch.bfloat16
    array: Array = (x.view(torch.int16) if half else x).flatten(2).numpy()
    return array.view(np.uint16) if half else array
