"""Plots: arrays in, matplotlib figures out; as SVG that follows the page's colours, or as PNG.

Text is never read as mathematics, for names come from untrusted files.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from snncompiler.decomposition import CAUSES
from snncompiler.diagnostics import clean
from snncompiler.graph import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: Stand-ins that become colours of the page, so that plots are read in light and dark.
INK, LINE = "#1b1b1a", "#c9c8c7"
_PAGE_COLOURS = {INK: "var(--ink)", LINE: "var(--line)"}
#: One colour per cause and per curve, readable on white and on black.
COLOURS = {
    "synapses": "#8c8c8c",
    "inherited": "#5b8def",
    "clipping": "#e0803a",
    "quantisation": "#3fa66b",
    "unevenness": "#c65bb0",
    "pooling": "#d9534f",
}
_CURVES = ("#5b8def", "#e0803a", "#3fa66b", "#c65bb0", "#d9534f", "#8f7ad1", "#a0803a", "#4aa8b8")
_STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@contextmanager
def _plot(width: float, height: float, margins: bool = True) -> Iterator[tuple[Figure, Axes]]:
    """A figure of so many inches with one pair of axes, in our style.

    margins: fixed ones; else as wide as the labels need, which takes drawing everything twice.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout=None if margins else "constrained")
        if margins:
            figure.subplots_adjust(0.62 / width, 0.45 / height, 1 - 0.1 / width, 1 - 0.1 / height)
        yield figure, figure.subplots()


def accuracy_curves(
    curves: Mapping[str, Mapping[int, float]], trained: float | None, what: str = "accuracy"
) -> Figure:
    """Accuracy (or agreement) against T by label, shares in [0, 1]; the trained network's line."""
    with _plot(4.8, 2.8) as (figure, axes):
        for (label, points), colour in zip(curves.items(), _cycle(len(curves)), strict=True):
            x, y = list(points), [100 * v for v in points.values()]
            axes.plot(x, y, marker="o", markersize=4, color=colour, label=_legend(label))
        if trained is not None:
            axes.axhline(100 * trained, color=INK, linestyle="--", linewidth=1)
            axes.annotate(
                f"trained network {100 * trained:.2f} %",
                (0.01, 100 * trained),
                xycoords=("axes fraction", "data"),
                xytext=(0, -11),
                textcoords="offset points",
                fontsize=8,
            )
        steps = sorted({t for points in curves.values() for t in points})
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
        axes.set_xticks(steps, [str(t) for t in steps])
        axes.set(xlabel="time steps T", ylabel=f"{what} (%)")
        axes.legend(fontsize=8, loc="lower right")
        return figure


def decomposition_bars(parts: Mapping[str, Mapping[str, float]]) -> Figure:
    """Stacked bars of the error of each site, in percent; parts below zero to the left."""
    names = list(parts)
    visible = 5e-3 * max((100 * abs(v) for p in parts.values() for v in p.values()), default=0)
    with _plot(4.8, 0.9 + 0.25 * len(names), margins=False) as (figure, axes):
        for cause in CAUSES:
            values = np.array([100 * parts[n].get(cause, 0.0) for n in names])
            if np.abs(values).max(initial=0) <= visible:
                continue
            before = [_stacked(parts[n], cause) for n in names]
            axes.barh(
                range(len(names)),
                values,
                left=before,
                color=COLOURS[cause],
                label=cause,
                height=0.7,
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(names)), [_short(n) for n in names], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="error relative to the activations (%)")
        axes.legend(
            fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.02 - 1.2 / len(names))
        )
        return figure


def _stacked(parts: Mapping[str, float], cause: str) -> float:
    """Where the bar of a cause starts: behind the earlier ones of the same sign."""
    earlier = [100 * parts.get(c, 0.0) for c in CAUSES[: CAUSES.index(cause)]]
    positive = parts.get(cause, 0.0) >= 0
    return sum(v for v in earlier if (v >= 0) == positive)


def thresholds_by_layer(scales: Mapping[str, Array]) -> Figure:
    """Thresholds per channel (physical units) of each layer, as points."""
    names = list(scales)
    with _plot(4.8, 0.7 + 0.25 * len(names), margins=False) as (figure, axes):
        for i, name in enumerate(names):
            values = np.unique(scales[name])
            axes.plot(
                values, np.full(len(values), i), "|", color="#5b8def", markersize=9, alpha=0.7
            )
            axes.plot(np.median(scales[name]), i, "o", color="#e0803a", markersize=4)
        axes.set_yticks(range(len(names)), [_short(n) for n in names], fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="threshold (dot: median)")
        return figure


def rate_histogram(rates: Array, timesteps: int) -> Figure:
    """How many neurons have which firing rate: [...] net spikes per step."""
    with _plot(3.6, 2.4) as (figure, axes):
        low, high = min(0.0, float(rates.min())), max(1.0, float(rates.max()))
        bins = min(40, max(10, timesteps)) + 1
        axes.hist(
            rates.reshape(-1), bins=list(np.linspace(low, high, bins)), color="#5b8def", log=True
        )
        axes.minorticks_off()
        counts = [10**i for i in range(len(str(rates.size)))]
        axes.set_yticks(counts, [_count(c) for c in counts])
        axes.set(xlabel="net spikes per step", ylabel="neurons")
        return figure


def raster(train: Array) -> Figure:
    """Spikes of some neurons over time: [T, neurons] counts of one sample; negative ones orange."""
    with _plot(3.6, 2.4) as (figure, axes):
        for sign, colour in ((1, "#5b8def"), (-1, "#e0803a")):
            t, neuron = np.nonzero(sign * train > 0)
            size = 10 * np.abs(train[t, neuron])
            axes.scatter(t + 1, neuron, s=size, marker="|", color=colour, linewidths=1.2)
        _whole_numbers(axes.xaxis, axes.yaxis)
        axes.set(xlabel="step", ylabel="neuron", xlim=(0.5, len(train) + 0.5))
        axes.set(ylim=(-0.5, train.shape[1] - 0.5))
        return figure


def membrane_traces(potential: Array, train: Array) -> Figure:
    """Potentials after reset in units of the threshold, [T, neurons], with their spikes."""
    with _plot(3.6, 2.4) as (figure, axes):
        steps = np.arange(1, len(potential) + 1)
        for i, colour in zip(range(potential.shape[1]), _cycle(potential.shape[1]), strict=True):
            axes.plot(steps, potential[:, i], color=colour, linewidth=1.1)
            fired = np.flatnonzero(train[:, i])
            axes.plot(steps[fired], potential[fired, i], ".", color=colour, markersize=5)
        axes.axhline(1, color=INK, linestyle="--", linewidth=0.8)
        _whole_numbers(axes.xaxis)
        axes.set(xlabel="step (dot: spike)", ylabel="potential / threshold")
        return figure


def activation_scatter(truth: Array, rate: Array, limit: float) -> Figure:
    """What the rate says against the trained network's activation, [points] each.

    limit: the largest value that the neurons can tell (physical units).
    """
    with _plot(3.6, 2.4) as (figure, axes):
        axes.scatter(truth, rate, s=4, color="#5b8def", alpha=0.35, linewidths=0, rasterized=True)
        top = max(float(truth.max(initial=0)), float(rate.max(initial=0)), 1e-9)
        axes.plot([0, top], [0, top], color=INK, linewidth=0.8)
        if limit < 1.5 * top:
            axes.axhline(limit, color="#e0803a", linestyle=":", linewidth=1)
        axes.set(xlabel="activation", ylabel="rate x threshold")
        return figure


def as_svg(figure: Figure, salt: str) -> str:
    """An <svg> element for a page: no header, no colours of its own for ink and lines."""
    text = _save(figure, "svg", salt, transparent=True).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Many figures on one page: ids that nothing refers to would be there more than once.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    for ours, page in _PAGE_COLOURS.items():
        text = text.replace(ours, page)
    return re.sub(r'<svg([^>]*?) width="[^"]*"', r"<svg\1", text, count=1).replace(
        ' height="', ' data-height="', 1
    )


def as_file(figure: Figure, kind: str) -> bytes:
    """The figure on white, as 'png' or 'svg'."""
    return _save(figure, kind, "file", facecolor="white")


def _save(figure: Figure, kind: str, salt: str, **settings: Any) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box is drawn
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(buffer, format=kind, dpi=130, metadata=metadata, **settings)
    return buffer.getvalue()


def _whole_numbers(*scales: Axis) -> None:
    from matplotlib.ticker import MaxNLocator

    for scale in scales:
        scale.set_major_locator(MaxNLocator(integer=True))


def _legend(label: str) -> str:
    # A label that begins with an underscore is none to matplotlib.
    return clean(label) if not label.startswith("_") else f" {clean(label)}"


def _cycle(count: int) -> list[str]:
    return [_CURVES[i % len(_CURVES)] for i in range(count)]


def _short(name: str, most: int = 26) -> str:
    name = clean(name)
    return name if len(name) <= most else "..." + name[3 - most :]


def _count(number: int) -> str:
    return f"{number // 1000}k" if number >= 1000 else str(number)


def spread(count: int, most: int) -> Sequence[int]:
    """At most so many indices below count, evenly apart."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))}) if count else []
