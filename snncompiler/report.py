"""Numbers and story as tables on a terminal; the JSON twins live with the numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from snncompiler.diagnostics import clean

if TYPE_CHECKING:
    import onnx_ir as ir

    from snncompiler.comparison import Comparison
    from snncompiler.doctor import Diagnosis
    from snncompiler.driver import Compiled
    from snncompiler.evaluation import Evaluation
    from snncompiler.finetuning import Finetuned
    from snncompiler.tuning import Tuned
    from snncompiler.verdicts import Check

_COLOURS = {
    "spiking": "green",
    "linear": "cyan",
    "folded": "dim",
    "host": "yellow",
    "refused": "red",
}


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left")
    return table


def check_table(check: Check) -> RenderableType:
    """One row per node, then the counts."""
    table = _table("node", "op", "verdict", "why")
    for v in check.nodes:
        colour = _COLOURS[v.verdict]
        table.add_row(
            Text(clean(v.name)), v.op, Text(v.verdict, style=colour), Text(clean(v.reason))
        )
    counts = ", ".join(f"{n} {verdict}" for verdict, n in check.counts.items())
    word = "convertible" if check.convertible else "not convertible"
    return Group(table, Text(f"\n{clean(check.model)}: {word} ({counts})"))


def compiled_table(compiled: Compiled) -> RenderableType:
    """The story of the passes, then sizes and warnings."""
    table = _table("pass", ">seconds", "did; check")
    for p in compiled.passes:
        told = Text(clean(p.changed)).append(f"\n{clean(p.check)}" if p.check else "", style="dim")
        table.add_row(p.name, f"{p.seconds:.2f}", told)
    lines = [
        f"\nrecipe {compiled.recipe}, T = {compiled.timesteps}: {compiled.neurons:,} neurons, "
        f"{compiled.synapses:,} synapses"
    ]
    if compiled.output is not None:
        lines.append(f"wrote {clean(str(compiled.output))}")
    lines += [f"warning: {w}" for w in compiled.warnings]
    return Group(table, *prediction_table(compiled), Text("\n".join(lines)))


def prediction_table(compiled: Compiled) -> list[RenderableType]:
    """What perfect neurons would reach on calibration samples, if it was predicted."""
    if not compiled.predictions:
        return []
    first = next(iter(compiled.predictions.values()))
    known = {">accuracy": first.accuracy, ">agrees with ANN": first.agreement}
    names = [name for name, value in known.items() if value is not None]
    columns = (">T", *names, ">error / variance", ">at the cap")
    table = _table(*columns, title="\npredicted on calibration samples")
    for t, p in compiled.predictions.items():
        cells = [f"{100 * v:.2f} %" for v in (p.accuracy, p.agreement) if v is not None]
        cells += [f"{p.output_error:.4f}", f"{100 * p.capped:.2f} %"]
        table.add_row("no limit (ReLU1)" if t == "inf" else t, *cells)
    return [table]


def run_table(result: Evaluation, model: ir.Model) -> RenderableType:
    """Accuracy against time, then rate and operations by layer."""
    parts: list[RenderableType] = []
    over_time = _table(">T", *_time_columns(result))
    for t in result.trace.steps:
        cells = [f"{t}"]
        for values in (result.accuracy_at, result.agreement_at, result.output_error_at):
            if values:
                cells.append(f"{100 * values[str(t)]:.2f} %")
        over_time.add_row(*cells)
    if len(over_time.columns) > 1:
        parts.append(over_time)
    if result.ann_accuracy is not None:
        parts.append(Text(f"ANN accuracy {100 * result.ann_accuracy:.2f} %"))
    if result.metrics_at:
        parts += [Text(""), metrics_table(result)]
    layers = _table("layer", "op", ">neurons", ">firing rate", ">SOP per sample")
    for node in model.graph:
        name = str(node.name)
        rate = result.firing_rate.get(name)
        spent = result.synaptic_operations.get(name)
        if rate is None and spent is None:
            continue
        layers.add_row(
            Text(clean(name)),
            node.op_type,
            "" if rate is None else f"{result.trace.counts[name].size:,}",
            "" if rate is None else f"{rate:.4f}",
            "" if spent is None else f"{spent:,.0f}",
        )
    parts += [Text(""), layers, Text("\n" + _summary(result))]
    return Group(*parts, *(Text(f"warning: {clean(w)}") for w in result.warnings))


def metrics_table(result: Evaluation) -> RenderableType:
    """What the task measures: the trained network on top, then each T; nothing where undefined."""
    rows = {**({"ANN": result.ann_metrics} if result.ann_metrics else {}), **result.metrics_at}
    names = list(next(iter(rows.values())))
    table = _table(">T", *(f">{name.replace('_', ' ')}" for name in names))
    for t, metrics in rows.items():
        table.add_row(t, *(_percent(metrics[name]) for name in names))
    return table


def _time_columns(result: Evaluation) -> list[str]:
    titles = {
        ">accuracy": result.accuracy_at,
        ">agrees with ANN": result.agreement_at,
        ">output error": result.output_error_at,
    }
    return [title for title, values in titles.items() if values]


def _summary(result: Evaluation) -> str:
    total = result.synaptic_operations["total"]
    text = (
        f"{result.samples:,} samples, T = {result.timesteps}, backend {result.backend}: "
        f"{result.seconds:.2f} s ({result.seconds_total:.2f} s in all)\n"
        f"{result.spikes_per_sample:,.0f} spikes and {total:,.0f} synaptic operations per sample"
    )
    if result.mean_timesteps is not None:
        text += f"\nan answer takes {result.mean_timesteps:.1f} steps in the mean"
    if result.exact:
        text += (
            f"\n8-bit weights: the same answer as with exact ones for "
            f"{result.exact['agreement']:.1%} of {result.exact['samples']:.0f} samples"
        )
        if "accuracy" in result.exact:
            rounded, exact = result.exact["accuracy_rounded"], result.exact["accuracy"]
            text += f" (accuracy {rounded:.1%}, exact {exact:.1%})"
    if result.ann_macs_per_sample:
        share = total / result.ann_macs_per_sample
        text += f"; the ANN needs {result.ann_macs_per_sample:,} MACs ({share:.2f} SOP per MAC)"
    return text


def doctor_table(result: Diagnosis) -> RenderableType:
    """One row per layer: its error and the parts of it; then the verdict."""
    from snncompiler.decomposition import CAUSES

    table = _table(
        "", "layer", "op", ">error", *(f">{c}" for c in CAUSES), *">alone >effect >SIN".split()
    )
    for site in result.sites:
        mark = ">" if site.name == result.first else "+" if site.name in result.also else ""
        parts = [_percent(site.parts[c]) if site.sizes[c] else "" for c in CAUSES]
        row = [_percent(site.error), *parts, *map(_percent, (site.alone, site.effect, site.sin))]
        table.add_row(mark, Text(clean(site.name)), site.op, *row)
    lines = [
        f"\n{result.samples:,} samples, T = {result.timesteps}: "
        f"output error {result.output_error:.2%}"
    ]
    if result.accuracy is not None and result.ann_accuracy is not None:
        lines[0] += f", accuracy {result.accuracy:.2%} (trained network {result.ann_accuracy:.2%})"
    if result.first is not None:
        lines.append(f"first bad layer: {clean(result.first)}, mostly {result.cause}")
        if result.also:
            lines.append(f"about as bad, later: {', '.join(map(clean, result.also))}")
    lines.append(f"advice: {result.advice}")
    lines += [f"warning: {clean(w)}" for w in result.warnings]
    return Group(table, Text("\n".join(lines)))


def comparison_table(result: Comparison) -> RenderableType:
    """Outputs against time, spikes by layer, and where the two part."""
    labels = [clean(label) for label in result.labels]
    over_time = _table(
        ">T", *(f">{label}" for label in result.accuracy_at), ">same top-1", ">output difference"
    )
    for t, agreement in result.agreement_at.items():
        shares = [_percent(at[t]) for at in result.accuracy_at.values()]
        difference = _percent(result.output_difference_at[t])
        over_time.add_row(t, *shares, _percent(agreement), difference)
    layers = _table("layer", "op", ">different spikes", ">share", ">first step")
    for layer in result.layers:
        share = _percent(layer.different / layer.entries if layer.entries else 0.0)
        first = "" if layer.first_step is None else str(layer.first_step)
        layers.add_row(Text(clean(layer.name)), layer.op, f"{layer.different:,}", share, first)
    lines = [f"\n{result.samples:,} samples, T = {result.timesteps}: {' and '.join(labels)}"]
    if result.only:
        lines.append(f"not in both: {', '.join(map(clean, result.only))}")
    if result.first is not None:
        name, step = result.first
        lines.append(f"they part in layer {clean(name)} at step {step}")
    else:
        lines.append("every spike is the same" + (" in the common layers" if result.only else ""))
    return Group(over_time, Text(""), layers, Text("\n".join(lines)))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}".replace("-0.00%", "0.00%")


def inspect_table(model: ir.Model, record: dict[str, object]) -> RenderableType:
    """What a file holds, in a few lines."""
    ops = Counter(f"{n.domain + '.' if n.domain else ''}{n.op_type}" for n in model.graph)
    stored = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    table = _table("", "")
    table.add_row("kind", "spiking network" if record else "trained network")
    for key in ("recipe", "timesteps", "form", "gridded", "ann_macs", "host", "compiler"):
        if record.get(key) not in (None, []):
            table.add_row(key, Text(clean(str(record[key]))))
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for v in values:
            dims = "?" if v.shape is None else "x".join(str(d) for d in v.shape)
            table.add_row(kind, Text(clean(f"{v.name} {dims}")))
    table.add_row("nodes", ", ".join(f"{n} {op}" for op, n in ops.most_common()))
    table.add_row("weights", f"{stored:,} bytes")
    return table


def recipes_table() -> RenderableType:
    """All recipes, with the neurons they need and where they come from."""
    from passes.recipes import DEFAULT, RECIPES

    table = _table("recipe", "neurons", "what", "from")
    for name, recipe in RECIPES.items():
        label = f"{name} (default)" if name == DEFAULT else name
        table.add_row(label, recipe.neuron, recipe.summary, recipe.source)
    return table


def tuned_table(tuned: Tuned) -> RenderableType:
    """The Pareto front of loss, steps and operations, the winner marked."""
    table = _table("", "recipe", ">T", ">loss", ">agrees", ">error / variance", ">SOP", "options")
    for trial, score in tuned.front:
        mark = "*" if tuned.winner is not None and tuned.winner[0] == trial else ""
        table.add_row(
            mark,
            trial.recipe,
            f"{score.steps}",
            f"{100 * score.loss:.2f} %",
            f"{100 * score.agreement:.1f} %",
            f"{score.output_error:.4f}",
            f"{score.operations:,.0f}",
            Text(", ".join(f"{k}={v}" for k, v in trial.options.items())),
        )
    word = "interrupted after " if tuned.interrupted else ""
    failed = sum(bool(score.failed) for _, score in tuned.trials)
    note = f", {failed} could not be compiled" if failed else ""
    note += "" if tuned.labelled else "; without labels the trained network tells the loss"
    return Group(table, Text(f"\n{word}{len(tuned.trials)} trials{note}; * compiled"))


def finetuned_table(result: Finetuned) -> RenderableType:
    """How the training went, epoch by epoch."""
    table = _table("epoch", ">loss", ">held-out loss", ">held-out accuracy")
    for i, epoch in enumerate([result.before, *result.history]):
        right = epoch.get("held_out_accuracy")
        accuracy = "" if right is None else f"{100 * right:.2f} %"
        learned = f"{epoch['loss']:.4f}" if i else ""
        table.add_row(str(i), learned, f"{epoch['held_out_loss']:.4f}", accuracy)
    note = f"\n{len(result.thresholds)} activations with trained thresholds"
    if result.spikes is not None:
        back = " --set neurons.gamma_neg=1" if result.spikes == "ternary" else ""
        note += f", trained with {result.spikes} spikes: compile with --recipe spike-trained{back}"
    if result.harmed:
        note += "; worse than before (epoch 0): try a smaller --rate, more epochs or more samples"
    if result.host:
        note += f"; left to the host and out of the file: {clean(', '.join(result.host))}"
    if result.output is not None:
        note += f"\nwritten to {clean(str(result.output))}"
    return Group(table, Text(note))


def options_table(name: str) -> RenderableType:
    """Every option of every pass under a recipe, those it sets itself marked."""
    from passes.options import find_recipe, listed

    recipe = find_recipe(name)
    table = _table("option", "value", "")
    for option, value in listed(name).items():
        table.add_row(option, Text(str(value)), "set" if option in recipe.options else "default")
    head = f"{name}: {recipe.summary}\nneurons {recipe.neuron}, from {recipe.source}\n"
    return Group(Text(head), table)


def as_python(value: object) -> object:
    """NumPy scalars and arrays as what json can write."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
