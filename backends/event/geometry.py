"""Which input position every output position sees through which tap of a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from snncompiler.graph import Array


@dataclass(frozen=True)
class Windows:
    """What the outputs see, output after output: pairs[pointers[p]:pointers[p + 1]] = (q, k).

    inputs, outputs: number of positions; taps: of places in the kernel. Padding is left out.
    """

    inputs: int
    outputs: int
    taps: int
    pointers: Array
    pairs: Array

    def runs(self, channels: int) -> tuple[Array, Array]:
        """The windows as runs [first q, last q + 1, shift in rows], and pointers to them.

        A run is a stretch of pairs along which k - q is constant; its events f = q C + c meet the
        rows f + (k - q) C.
        """
        q, k = self.pairs.T
        if not len(q):
            return self.pointers.astype(np.int32), np.zeros((0, 3), np.int32)
        follows = np.zeros(len(q), bool)
        follows[1:] = (np.diff(q) == 1) & (np.diff(k) == 1)
        follows[self.pointers[:-1][self.pointers[:-1] < len(q)]] = False
        begins = np.flatnonzero(~follows)
        ends = np.append(begins[1:], len(q))
        runs = np.stack([q[begins], q[ends - 1] + 1, (k - q)[begins] * channels], 1)
        pointers = np.searchsorted(begins, self.pointers)
        return pointers.astype(np.int32), np.ascontiguousarray(runs, np.int32)


class Convolution(NamedTuple):
    """Sizes of its maps, and its settings; axis by axis, of the paddings the first ones."""

    sizes: Sequence[int]
    out: Sequence[int]
    kernel: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    dilations: Sequence[int]

    def windows(self) -> Windows:
        """What its outputs see."""
        return convolution(*self)

    def abreast(self, n: int) -> Convolution | None:
        """One whose windows are those of n outputs side by side (last axis), if there is one."""
        *rows, wide = self.out
        if wide % n or self.dilations[-1] != 1:
            return None
        *strides, step = self.strides
        *kernel, reach = self.kernel
        return self._replace(
            out=(*rows, wide // n),
            kernel=(*kernel, reach + (n - 1) * step),
            strides=(*strides, n * step),
        )


def joined(parts: Sequence[tuple[Windows, int]]) -> tuple[Array, Array]:
    """What outputs see of several inputs, (windows, channels) each: pointers and runs as above.

    Positions and rows of the inputs are numbered one input after the other.
    """
    found, owners, positions, rows = [], [], 0, 0
    for windows, channels in parts:
        pointers, runs = windows.runs(channels)
        found.append(runs + np.array([positions, positions, rows], np.int32))
        owners.append(np.repeat(np.arange(windows.outputs), np.diff(pointers)))
        positions, rows = positions + windows.inputs, rows + windows.taps * channels
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(parts[0][0].outputs + 1))
    return ends.astype(np.int32), np.ascontiguousarray(np.concatenate(found)[order], np.int32)


def convolution(
    sizes: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Windows:
    """q = p stride + k dilation - pad along every axis; pooling windows are the same."""
    axes = []
    for i, (size, n) in enumerate(zip(sizes, out, strict=True)):
        q = np.arange(n)[:, None] * strides[i] + np.arange(kernel[i]) * dilations[i] - pads[i]
        axes.append(np.where((q >= 0) & (q < size), q, -1))
    return _windows(sizes, out, kernel, axes)


def transposed(
    sizes: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> Windows:
    """p = q stride + k dilation - pad along every axis."""
    axes = []
    for i, (size, n) in enumerate(zip(sizes, out, strict=True)):
        reach = np.arange(n)[:, None] - np.arange(kernel[i]) * dilations[i] + pads[i]
        q = reach // strides[i]
        axes.append(np.where((reach % strides[i] == 0) & (q >= 0) & (q < size), q, -1))
    return _windows(sizes, out, kernel, axes)


def one_to_one(positions: int) -> Windows:
    """Every output sees the input at its own place."""
    q = np.arange(positions)
    return Windows(
        positions, positions, 1, np.arange(positions + 1), np.stack([q, np.zeros_like(q)], 1)
    )


def everything(positions: int) -> Windows:
    """One output that sees every input, each through a tap of its own."""
    q = np.arange(positions)
    return Windows(positions, 1, positions, np.array([0, positions]), np.stack([q, q], 1))


def _windows(
    sizes: Sequence[int], out: Sequence[int], kernel: Sequence[int], axes: Sequence[Array]
) -> Windows:
    """Combine the axes: axes[i][p, k] is the coordinate seen, or -1."""
    outputs, taps = int(np.prod(out)), int(np.prod(kernel))
    q = np.zeros((*out, taps), np.int64)
    inside = np.ones((*out, taps), bool)
    for k, place in enumerate(product(*map(range, kernel))):
        for i, axis in enumerate(axes):
            seen = axis[:, place[i]].reshape(-1, *[1] * (len(axes) - i - 1))
            q[..., k] = q[..., k] * sizes[i] + seen
            inside[..., k] &= seen >= 0
    inside = inside.reshape(outputs, taps)
    pointers = np.concatenate([[0], np.cumsum(inside.sum(1))])
    k = np.broadcast_to(np.arange(taps), inside.shape)[inside]
    pairs = np.stack([q.reshape(outputs, taps)[inside], k], 1)
    return Windows(int(np.prod(sizes)), outputs, taps, pointers, pairs)
