"""Training with spikes: the network is the spiking one, gradients go back through its steps.

What rounding does not know, uneven spikes, is there from the first step on. One neuron, for its
current I[t] at every step (see `passes/bptt.py`; rectangles of the surrogate one threshold wide):

    X[t] = X[t-1] + I[t],      w[t] = f(X[t]) / theta + 1/2 - C[t-1]
    s[t] = clip(floor(w[t]), -n, 1),      C[t] = C[t-1] + s[t],      sent: theta s[t]
    n = gamma_neg min(1, C[t-1]), 1 for the neuron of a LeakyRelu

    h[t] = 1 where -n + 1/2 < w[t] < 3/2, else 0
    A[t] = (theta g[t] - sum of A after t) h[t]                       g = dLoss/d(theta s)
    dLoss/dI[t] = sum of A[t'] f'(X[t']) / theta over t' >= t
    dLoss/dtheta = sum of g[t] s[t] - A[t] f(X[t]) / theta^2 over t

f is the identity, or leaky. Steps lie along the batch, [T N, ...], the first N rows are step 1.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch

from snncompiler.finetune.network import Tensors, TorchNetwork, as_tensor
from snncompiler.finetune.on_cpu import FireOnCpu, has_kernels
from snncompiler.graph import data_inputs
from snncompiler.quantisers import limits_of, slope_of, spread_out


class Fire(torch.autograd.Function):
    """apply(current, theta, slope, lowest) -> theta s, like the current [T, N, C, ...].

    theta: [C, 1, ...] or [1], positive. slope: of a leaky f, below zero; None: the identity.
    lowest: the most spikes taken back, gamma_neg; of a leaky neuron 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        current: torch.Tensor,
        theta: torch.Tensor,
        slope: torch.Tensor | None,
        lowest: int,
    ) -> torch.Tensor:
        """See above."""
        z = current / theta
        total = torch.zeros_like(z[0])
        count = torch.zeros_like(total)
        sent, inside = torch.empty_like(z), torch.empty_like(z, dtype=torch.bool)
        for t, i in enumerate(z):
            total += i
            w = (total if slope is None else _leaky(total, slope)) + 0.5 - count
            back = count.clamp(max=lowest) if lowest and slope is None else lowest
            sent[t] = w.floor().clamp_(max=1).clamp_(min=-back)
            inside[t] = (w > 0.5 - back) & (w < 1.5)
            count += sent[t]
        ctx.save_for_backward(z, theta, sent, inside)
        ctx.slope = slope
        return sent * theta

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients through time."""
        z, theta, sent, inside = ctx.saved_tensors
        (g,) = gradients
        total = z.cumsum(0)
        by_theta = g * sent
        share = g * theta
        result = torch.empty_like(z)
        fired, later = torch.zeros_like(z[0]), torch.zeros_like(z[0])
        for t in range(len(z) - 1, -1, -1):
            a = (share[t] - fired).mul_(inside[t])
            fired += a
            f = total[t] if ctx.slope is None else _leaky(total[t], ctx.slope)
            by_theta[t] -= a * f / theta
            later += a if ctx.slope is None else torch.where(total[t] > 0, a, ctx.slope * a)
            torch.div(later, theta, out=result[t])
        by_theta = by_theta.sum_to_size((1,) * (g.ndim - theta.ndim) + tuple(theta.shape))
        return result, by_theta.reshape(theta.shape), None, None


class SpikingNetwork(TorchNetwork):
    """The spiking network of T steps: the input is the same current at all of them.

    Args:
        model, timesteps, channelwise: as of `TorchNetwork`.
        gamma_neg: 1, neurons may take back what they sent too much; 0, they may not.
    """

    def __init__(
        self, model: ir.Model, timesteps: int, *, channelwise: bool = True, gamma_neg: int = 0
    ) -> None:
        super().__init__(model, timesteps, channelwise=channelwise)
        self.gamma_neg = gamma_neg

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What is read after T steps of the samples x, the mean over them, of every output."""
        return tuple(
            y.reshape(-1, len(x), *y.shape[1:]).float().mean(0) for y in super().forward(x)
        )

    def _evaluate(self, node: ir.Node, values: Tensors) -> torch.Tensor:
        rows, inputs = len(values[self.model.graph.inputs[0]]), data_inputs(node)
        if node in self.thresholds or all(len(values[v]) == rows for v in inputs):
            return super()._evaluate(node, values)
        assert self.timesteps is not None
        timed: Tensors = {}
        for v in inputs:
            x = values[v]
            timed[v] = x if len(x) > rows else torch.cat([x] * self.timesteps)
        if node.op_type != "MaxPool":
            return super()._evaluate(node, {**values, **timed})
        # The maximum of what came so far, less what was sent of it (MLIPool).
        (v,) = inputs
        x = timed[v].reshape(-1, rows, *timed[v].shape[1:])
        top = super()._evaluate(node, {**values, v: x.cumsum(0).reshape(timed[v].shape)})
        top = top.reshape(len(x), rows, *top.shape[1:])
        return torch.cat([top[:1], top.diff(dim=0)]).flatten(0, 1)

    def _quantised(self, node: ir.Node, values: Tensors) -> torch.Tensor:
        assert self.timesteps is not None
        limits, rows = limits_of(node), len(values[self.model.graph.inputs[0]])
        x = values[limits[-1].inputs[0] if limits else node.inputs[0]]
        current = x.reshape(-1, rows, *x.shape[1:]).expand(self.timesteps, rows, *x.shape[1:])
        theta = self.thresholds[node].abs().reshape(-1, *[1] * (x.ndim - 2))
        signed = node.op_type in ("LeakyRelu", "PRelu")
        slope = as_tensor(spread_out(slope_of(node), node.outputs[0])).to(theta) if signed else None
        fire = FireOnCpu if has_kernels(current) else Fire
        sent: torch.Tensor = fire.apply(current, theta, slope, 1 if signed else self.gamma_neg)
        return sent.flatten(0, 1)


def _leaky(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)
