"""The quantisation-clipping activation (Wang et al. 2023, eq. 12 to 15 and 22) in torch.

    q = floor(f(z) T / theta + 1/2) / T,    y = theta clip(q, 0, 1)    (leaky f: clip(q, -1, 1))

Gradients go straight through the rounding:

    inside     dy/df = 1,   dy/dtheta = q - f / theta
    saturated  dy/df = 0,   dy/dtheta = 1  (below: -1, or 0 where the bound is 0)

With quantisation noise p every element is left unrounded with probability p in a forward pass, so
that most weights see unbiased gradients.
"""

from __future__ import annotations

from typing import Any

import torch


class QuantiseClip(torch.autograd.Function):
    """apply(f, theta, timesteps, lowest, noise, generator) -> y.

    f: [N, C, ...] the rectifier's input (Relu) or output (leaky ones). theta: [C, 1, ...] or [1],
    positive. lowest: 0, or -1 for signed neurons. noise: the share of elements that are not
    rounded (to 1 / 256), drawn from the generator.

    Written by hand, with as few passes over memory as there can be: training is bound by them.
    """

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
        x = f / theta
        q = (x * timesteps).add_(0.5).floor_().div_(timesteps)
        if noise:
            q = torch.where(drawn(x, generator).short() < share_of(noise), x, q)
        inside = (q >= lowest) & (q <= 1)
        y = q.clamp_(lowest, 1)
        ctx.save_for_backward(inside, y - x.mul_(inside))
        ctx.dims = theta.shape
        return y * theta

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The straight-through gradients."""
        inside, slope = ctx.saved_tensors
        (g,) = gradients
        by_theta = (g * slope).sum_to_size((1,) * (g.ndim - len(ctx.dims)) + tuple(ctx.dims))
        return g * inside, by_theta.reshape(ctx.dims), None, None, None, None


def drawn(x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """A byte of chance for each element of x; to draw a number would cost more than a convolution.

    An element is left unrounded where its byte is below `share_of(noise)`.
    """
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    return words.view(torch.uint8)[: x.numel()].reshape(x.shape)


def share_of(noise: float) -> int:
    """How many of the 256 values of a byte leave an element unrounded."""
    return round(256 * noise)
