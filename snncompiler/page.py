"""The report: one HTML file that needs no network, and its plots as files.

Whatever comes from a model (names of nodes, files, notes) is hostile text: the template escapes
everything, plots read no markup, the page's own script writes text alone, and a content security
policy allows no other script and no request.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snncompiler import __version__, figures
from snncompiler.decomposition import CAUSES
from snncompiler.diagnostics import clean, clean_lines, refuse
from snncompiler.drawing import HEIGHT, WIDTH, draw
from snncompiler.files import write_whole
from snncompiler.provenance import commands
from snncompiler.study import Entry, Study
from snncompiler.text import as_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DETAILS = 4000  # characters of one field in the details of a node


def require_extra() -> None:
    """Fail before the work if what the page is made with is not installed.

    Raises:
        InputError: matplotlib or jinja2 is missing.
    """
    missing = [name for name in ("jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise refuse(
            f"the report needs {' and '.join(missing)}",
            "what draws it is an extra that is not installed",
            "pip install 'snncompiler[report]'",
        )


def plots_of(study: Study) -> dict[str, Figure]:
    """Every plot of the report by name, in order; those of layer i end in ' i'."""
    measure = _measure(study)
    first = study.entries[0].evaluation
    curves = {e.label: e.curve() for e in study.entries if e.curve()}
    trained = first.ann_accuracy if measure == "accuracy" else None
    result = {"accuracy": figures.accuracy_curves(curves, trained, measure)} if curves else {}
    if study.sites:
        result["decomposition"] = figures.decomposition_bars({s.name: s.parts for s in study.sites})
    if study.thresholds:
        result["thresholds"] = figures.thresholds_by_layer(study.thresholds)
    for i, layer in enumerate(study.close):
        result[f"rates {i}"] = figures.rate_histogram(layer.rates, first.timesteps)
        if len(layer.truth):
            result[f"scatter {i}"] = figures.activation_scatter(
                layer.truth, layer.told, layer.limit
            )
        if layer.train.size:
            result[f"raster {i}"] = figures.raster(layer.train)
            result[f"membrane {i}"] = figures.membrane_traces(
                layer.potential, layer.potential_train
            )
    return result


def render(
    study: Study, plots: Mapping[str, Figure], differences: Sequence[tuple[str, str]] = ()
) -> str:
    """The HTML of a study. differences: (pass, what it changed), see `provenance.diffs`."""
    import jinja2

    folder = resources.files("snncompiler") / "templates"
    parts = {kind: (folder / f"report.{kind}").read_text() for kind in ("html", "css", "js")}
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    environment.filters["microjoule"] = lambda uj: f"{uj:,.0f} uJ" if uj >= 100 else f"{uj:.3g} uJ"
    digest = base64.b64encode(hashlib.sha256(parts["js"].encode()).digest()).decode()
    first = study.entries[0]
    diagnosis = study.diagnosis
    warnings = [*first.evaluation.warnings, *(diagnosis.warnings if diagnosis else [])]
    page: str = environment.from_string(parts["html"]).render(
        version=__version__,
        study=study,
        first=first,
        evaluation=first.evaluation,
        cards=_cards(study),
        warnings=list(dict.fromkeys(warnings)),
        measure=_measure(study),
        steps=sorted({t for e in study.entries for t in e.curve()}),
        causes=CAUSES,
        colours=figures.COLOURS,
        widest=max((sum(max(p, 0) for p in s.parts.values()) for s in study.sites), default=0),
        plots={k: figures.as_svg(f, k) for k, f in plots.items()},
        opened=_opened(study),
        counts=_counts(study.entries),
        drawing=draw(study.model),
        box_width=WIDTH,
        box_height=HEIGHT,
        nodes=_nodes(study),
        story=_story(first.record),
        diffs=differences,
        commands=commands(first.label, first.record),
        provenance=_provenance(first.record),
        css=parts["css"],
        script=parts["js"],
        script_hash=f"sha256-{digest}",
    )
    return page


def write_report(
    study: Study,
    output: Path,
    *,
    plots: Path | None = None,
    differences: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page and, into a folder that exists, every plot as PNG and SVG.

    Raises:
        InputError: a file cannot be written, or matplotlib or jinja2 is missing.
    """
    require_extra()
    drawn = plots_of(study)
    page = render(study, drawn, differences)
    if plots is not None:
        for name, figure in drawn.items():
            for kind in ("png", "svg"):
                file = plots / f"{_file_name(name, study)}.{kind}"
                write_whole(file, figures.as_file(figure, kind))
    write_whole(output, page.encode())


def _file_name(plot: str, study: Study) -> str:
    what, _, index = plot.partition(" ")
    if not index:
        return what
    layer = re.sub(r"[^A-Za-z0-9.-]+", "_", study.close[int(index)].name)[:60]
    return f"{int(index):02d}_{layer}_{what}"


def _measure(study: Study) -> str:
    return "accuracy" if study.entries[0].evaluation.accuracy_at else "agreement"


def _opened(study: Study) -> str:
    names = [layer.name for layer in study.close]
    bad = study.diagnosis.first if study.diagnosis else None
    return bad if bad in names and bad is not None else (names or [""])[0]


def _cards(study: Study) -> list[dict[str, str]]:
    first = study.entries[0]
    evaluation, record = first.evaluation, first.record
    gamma = "" if study.diagnosis is None else f"output error {study.diagnosis.output_error:.1%}"
    cards = [("recipe", str(record.get("recipe", "?")), f"{first.operations.neurons:,} neurons")]
    curve = first.curve()
    if curve:
        ann = evaluation.ann_accuracy
        note = f"trained: {100 * ann:.2f} %" if ann is not None else gamma
        title = f"{_measure(study)} at T = {evaluation.timesteps}"
        cards.append((title, f"{100 * curve[evaluation.timesteps]:.2f} %", note))
        latency = first.latency()
        told = "not reached" if latency is None else f"T = {latency}"
        cards.append(("latency", told, "first step within 1 point of the trained network"))
    spikes = first.operations.spikes
    cards.append(
        (
            "spikes per sample",
            f"{spikes:,.0f}",
            f"{spikes / first.operations.neurons:.2f} per neuron",
        )
    )
    for e in first.energy.estimates:
        note = f"of the trained network, estimate '{e.name}'"
        cards.append(("energy", f"{e.ratio:.2f} x", note))
    return [dict(zip(("title", "value", "note"), map(clean, c), strict=True)) for c in cards]


def _counts(entries: Iterable[Entry]) -> list[dict[str, object]]:
    rows = (
        ("footprint (bytes)", "footprint_bytes", "{:,.0f}"),
        ("state (bytes)", "state_bytes", "{:,.0f}"),
        ("connection sparsity", "connection_sparsity", "{:.2%}"),
        ("activation sparsity", "activation_sparsity", "{:.2%}"),
        ("dense operations", "dense", "{:,.0f}"),
        ("effective MACs", "effective_macs", "{:,.0f}"),
        ("effective ACs", "effective_acs", "{:,.0f}"),
        ("membrane updates", "membrane_updates", "{:,.0f}"),
        ("spikes", "spikes", "{:,.0f}"),
        ("synaptic operations, as papers count", "synaptic_operations", "{:,.0f}"),
    )
    listed = list(entries)
    result: list[dict[str, object]] = [
        {
            "title": title,
            "cells": [form.format(getattr(e.operations, key)).replace("%", " %") for e in listed],
        }
        for title, key, form in rows
    ]
    macs = [f"{e.evaluation.ann_macs_per_sample:,}" for e in listed]
    return [*result, {"title": "MACs of the trained network", "cells": macs}]


def _nodes(study: Study) -> list[dict[str, str]]:
    """What a click tells of each box of the drawing: the input first, then the nodes in order."""
    sites = {s.name: s for s in study.sites}
    rates = study.entries[0].evaluation.firing_rate
    synapses = {s.name: s for s in study.entries[0].operations.synapses}
    told = as_json(study.model)
    inputs = told["inputs"]
    assert isinstance(inputs, dict)
    result = [{"input": name, "shape": dims} for name, dims in list(inputs.items())[:1]]
    nodes = told["nodes"]
    assert isinstance(nodes, list)
    for node in nodes:
        fields: dict[str, Any] = {k: node[k] for k in ("name", "op", "shape", "kind")}
        fields["stands for"] = ", ".join(node["sources"])
        fields["reads"] = ", ".join(str(i) for i in node["inputs"] if i is not None)
        fields["attributes"] = "\n".join(f"{k} = {v}" for k, v in node["attributes"].items())
        fields["constants"] = "\n".join(f"{k}: {v}" for k, v in node["constants"].items())
        if node["scale"]:
            low, high = min(node["scale"]), max(node["scale"])
            fields["scale"] = f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"
        if node["name"] in rates:
            fields["firing rate"] = f"{rates[node['name']]:.4f} spikes per neuron and step"
        if node["name"] in synapses:
            s = synapses[node["name"]]
            fields["operations"] = f"{s.effective_acs:,.0f} AC, {s.effective_macs:,.0f} MAC"
        if node["name"] in sites:
            site = sites[node["name"]]
            fields["error"] = (
                f"{site.error:.2%}; what is its own is mostly {site.cause}"
                if site.cause
                else f"{site.error:.2%}, inherited"
            )
            fields["effect"] = f"{site.effect:.2%} of the output"
        result.append(
            {
                k: clean_lines(str(v).split("\n"))[:_DETAILS]
                for k, v in fields.items()
                if v not in (None, "")
            }
        )
    return result


def _provenance(record: Mapping[str, object]) -> list[tuple[str, str]]:
    keys = ("compiler", "source", "calibration", "seed", "form", "gridded")
    return [(key, clean(str(record[key]))) for key in keys if key in record]


def _story(record: Mapping[str, object]) -> list[dict[str, str]]:
    """What each pass did, as far as the record, which is a stranger's, says so."""
    story = record.get("story")
    steps = [s for s in story if isinstance(s, dict)] if isinstance(story, list) else []
    return [{k: clean(str(s.get(k, ""))) for k in ("name", "changed", "check")} for s in steps]
