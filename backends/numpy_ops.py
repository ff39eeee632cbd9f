"""What every op of a compiled network means, one small pure function each: the living definition.

The linear ops act on one step, x [N, C, *space]; none knows of time. The spiking ops take the
input I of step t = 1, 2, ... and the state before it, and return what they send and the state
after it. States are float64 [N, C, ...]; what is sent is theta s, s the spike count of the step.
Parameters per channel come in a shape that NumPy broadcasts: [C, 1, ...], or a single number.

The equations are those of `snncompiler/ops.py`, which names the papers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from snncompiler.graph import Array
from snncompiler.ops import pooled_size

#: Bytes of unfolded input that a convolution handles at once, about what a core's cache holds; and
#: columns of it that are enough for a product of matrices.
_CHUNK, _COLUMNS = 1 << 22, 2048


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """Cross-correlation of x [N, C, *space] with w [M, C/group, *kernel], plus b [M].

    y[n, m, p] = b[m] + sum over i, k of  w[m, i, k] x[n, g C/group + i, p stride + k dilation]
    with g = m group / M and x zero-padded by pads = [*begin, *end].
    """
    x = padded(x, pads, 0)
    kernel = w.shape[2:]
    space = _windows(x.shape[2:], kernel, strides, dilations)
    taps = _taps(kernel, strides, dilations, space)
    y: Array
    if w.shape[:2] == (group, 1) and np.prod(space) == 1:  # everything is looked at once
        steps = zip(kernel, dilations, strict=True)
        window = *[slice(None)] * 2, *(slice(0, (k - 1) * d + 1, d) for k, d in steps)
        products = w[:, 0] * x[window]
        y = products.reshape(*x.shape[:2], -1).sum(2).reshape(*x.shape[:2], *space)
    elif w.shape[:2] == (group, 1):
        y = np.zeros((*x.shape[:2], *space), x.dtype)
        for column, tap in zip(w.reshape(group, -1).T, taps, strict=True):
            y += column.reshape(-1, *[1] * len(kernel)) * x[tap]
    elif np.prod(kernel) == 1:
        y = _groups(w, group) @ x[next(taps)].reshape(len(x), group, x.shape[1] // group, -1)
        y = y.reshape(len(x), len(w), *space)
    else:
        y = _unfolded_product(w, x, list(taps), space, group)
    if b is not None:
        y += b.reshape(-1, *[1] * len(kernel))
    return y


def _unfolded_product(
    w: Array, x: Array, taps: list[tuple[slice, ...]], space: tuple[int, ...], group: int
) -> Array:
    """A convolution as one matrix product per group, a few samples at a time."""
    matrix = _groups(w, group)
    y = np.empty((len(x), len(w), *space), x.dtype)
    positions = int(np.prod(space))
    per_sample = x.shape[1] * len(taps) * positions * x.itemsize
    step = max(1, min(_CHUNK // per_sample, _COLUMNS // positions))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        columns = np.empty((x.shape[1], len(taps), len(part), *space), x.dtype)
        for k, tap in enumerate(taps):
            columns[:, k] = part[tap].swapaxes(0, 1)
        result = matrix @ columns.reshape(group, matrix.shape[2], -1)
        y[start : start + step] = result.reshape(len(w), len(part), *space).swapaxes(0, 1)
    return y


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
    group: int,
) -> Array:
    """The transpose of `conv` as a linear map: x [N, C, *space], w [C, M/group, *kernel], b [M].

    Every input adds w times itself to the outputs at p stride + k dilation - begin. Size along an
    axis: stride (size - 1) + dilation (kernel - 1) + 1 + output_padding - begin - end.
    """
    n, kernel, space = len(strides), w.shape[2:], x.shape[2:]
    per_group = w.reshape(group, len(w) // group, -1).swapaxes(1, 2)
    parts = per_group @ x.reshape(len(x), group, len(w) // group, -1)
    channels = group * w.shape[1]
    parts = parts.reshape(len(x), channels, -1, *space)
    whole = [
        s * (size - 1) + d * (k - 1) + 1 + extra
        for size, k, s, d, extra in zip(
            space, kernel, strides, dilations, output_padding, strict=True
        )
    ]
    y = np.zeros((len(x), channels, *whole), x.dtype)
    for k, tap in enumerate(_taps(kernel, strides, dilations, space)):
        y[tap] += parts[:, :, k]
    y = y[
        _inside(pads, [size - a - e for size, a, e in zip(whole, pads[:n], pads[n:], strict=True)])
    ]
    return y if b is None else y + b.reshape(-1, *[1] * n)


def max_pool(
    x: Array,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: int,
) -> Array:
    """y[n, c, p] = max over k of x[n, c, p stride + k dilation], x [N, C, *space] padded with -inf.

    Ceil mode also counts a last partial window if it starts inside the input or left padding.
    """
    n = len(kernel_shape)
    settings = zip(x.shape[2:], kernel_shape, strides, dilations, pads[:n], pads[n:], strict=True)
    space, ends = [], []
    for size, k, s, d, begin, end in settings:
        space.append(pooled_size(size, k, s, d, begin, end, ceil_mode))
        ends.append(max(end, (space[-1] - 1) * s + d * (k - 1) + 1 - size - begin))
    x = padded(x, [*pads[:n], *ends], -np.inf)
    first, *others = _taps(kernel_shape, strides, dilations, space)
    y = x[first].copy()
    for tap in others:
        np.maximum(y, x[tap], out=y)
    return y


def gemm(x: Array, w: Array, b: Array | None = None) -> Array:
    """y = x w' + b:  x [N, K], w [M, K], b [M] -> [N, M]."""
    y = x @ w.T
    return y if b is None else y + b


def relu(x: Array) -> Array:
    """y = max(x, 0)."""
    y: Array = np.maximum(x, 0)
    return y


def clip(x: Array, low: Array | float | None = None, high: Array | float | None = None) -> Array:
    """y = min(max(x, low), high); a bound left out does not bind."""
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def padded(x: Array, pads: Sequence[int], fill: float) -> Array:
    """x [N, C, *space] with pads = [*begin, *end] more elements around its space."""
    if not any(pads):
        return x
    n = len(pads) // 2
    borders = list(zip(x.shape[2:], pads[:n], pads[n:], strict=True))
    y = np.full((*x.shape[:2], *(size + a + e for size, a, e in borders)), fill, x.dtype)
    y[_inside(pads, x.shape[2:])] = x
    return y


def _inside(pads: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    """Where an array of these spatial sizes lies between pads."""
    begins = pads[: len(sizes)]
    space = (slice(a, a + size) for a, size in zip(begins, sizes, strict=True))
    return (slice(None), slice(None), *space)


def _windows(
    sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    windows = zip(sizes, kernel, strides, dilations, strict=True)
    return tuple((size - d * (k - 1) - 1) // s + 1 for size, k, s, d in windows)


def _taps(
    kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], space: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    """For each element of a kernel: which inputs it meets as it slides over `space` places."""
    for place in product(*(range(k) for k in kernel)):
        yield (
            slice(None),
            slice(None),
            *(
                slice(i * d, i * d + (count - 1) * s + 1, s)
                for i, s, d, count in zip(place, strides, dilations, space, strict=True)
            ),
        )


def _groups(w: Array, group: int) -> Array:
    """[M, C/group, *kernel] -> [group, M/group, C/group * kernel]."""
    return w.reshape(group, len(w) // group, -1)


def if_step(
    i: Array,
    v: Array,
    c: Array,
    theta: Array,
    *,
    t: int,
    gamma: float,
    gamma_neg: float,
    delay: int,
) -> tuple[Array, Array, Array]:
    """Integrate-and-fire with soft reset: potential v, count so far c -> (theta s, v, c).

    t <= delay: frozen, s = 0; else  U = V + I;  s = clip(floor(U / theta), -gamma_neg, gamma);
    s = max(s, -C);  V = U - theta s;  C = C + s.  It fires at U == theta.
    """
    if t <= delay:
        return np.zeros_like(v), v, c
    u = v + i
    s = np.floor(u / theta)
    s = np.minimum(np.maximum(s, -gamma_neg, out=s), gamma, out=s)
    if gamma_neg:  # else s >= 0 >= -C already
        s = np.maximum(s, -c, out=s)
    sent = theta * s
    return sent, u - sent, c + s


def windowed_if_step(
    i: Array, v: Array, theta: Array, *, t: int, gamma: float, layer: int, window: int
) -> tuple[Array, Array]:
    """A neuron that first listens, then speaks: potential v -> (theta s, v).

    (l - 1) W < t <= l W: V = V + I; l W < t <= (l + 1) W: s = clip(floor(V / theta), 0, gamma),
    V = V - theta s; else nothing happens.
    """
    if (layer - 1) * window < t <= layer * window:
        return np.zeros_like(v), v + i
    if not layer * window < t <= (layer + 1) * window:
        return np.zeros_like(v), v
    sent = theta * np.clip(np.floor(v / theta), 0, gamma)
    return sent, v - sent


def delay_step(i: Array, *waiting: Array) -> tuple[Array, ...]:
    """The input of as many steps ago as there are waiting: (output, *waiting)."""
    first, *others = (*waiting, i)
    return (first, *others)


def leaky_if_step(
    i: Array,
    x: Array,
    c: Array,
    theta: Array,
    *,
    t: int,
    gamma: float,
    alpha: Array,
    delay: int,
) -> tuple[Array, Array, Array]:
    """The neuron of a LeakyRelu: current so far x, count so far c -> (theta s, x, c).

    t <= delay: frozen, s = 0; else  X = X + I;  f = max(X, 0) + alpha min(X, 0);
    s = clip(floor(f / theta + 1/2) - C, -gamma, gamma);  C = C + s.
    """
    if t <= delay:
        return np.zeros_like(x), x, c
    x = x + i
    s = np.clip(np.floor(leaky(x, alpha) / theta + 0.5) - c, -gamma, gamma)
    return theta * s, x, c + s


def leaky(x: Array, alpha: Array) -> Array:
    """f(x) = max(x, 0) + alpha min(x, 0)."""
    y: Array = np.maximum(x, 0) + np.minimum(x, 0) * alpha
    return y


def mli_pool_step(
    i: Array, c: Array, m: Array | float, **windows: Sequence[int] | int
) -> tuple[Array, Array, Array]:
    """Max pooling of spike trains: input so far c, maximum so far m -> (output, c, m).

    C = C + I;  M = maxpool(C);  output M - M before, 0 at first. Windows as of `max_pool`.
    """
    c = c + i
    top = max_pool(c, **windows)  # type: ignore[arg-type]
    return top - m, c, top


def twin_synapse_step(
    i: Array,
    f: Array,
    last: Array,
    n: Array,
    theta: Array,
    *,
    t: int,
    gamma: float,
    allowance: float,
) -> tuple[Array, Array, Array, Array]:
    """SpiCalib: firing events f, time of the last, net count n -> (theta s, f, last, n).

    s = round(I / theta).  s > 0: F = F + 1, L = t;
    else if (t - L - allowance) F > L and N > 0: s = -min(N, gamma).
    s = max(s, -N);  N = N + s.
    """
    s = np.rint(i / theta)
    fires = s > 0
    f = np.where(fires, f + 1, f)
    last = np.where(fires, t, last)
    cancels = ~fires & ((t - last - allowance) * f > last) & (n > 0)
    s = np.maximum(np.where(cancels, -np.minimum(n, gamma), s), -n)
    return theta * s, f, last, n + s


def readout(total: Array, t: int, *, mode: str, start: int) -> Array:
    """What has been read by step t; total is the sum of the input over the steps after `start`.

    'sum': the total; 'mean': divided by t - start. Zero until the first step that counts.
    """
    return total / (t - start) if mode == "mean" and t > start else total
