"""What to do about a cause of error: the passes and options that address it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def advise(cause: str, timesteps: int, record: Mapping[str, Any]) -> str:
    """One sentence of advice against a cause, in the options of the compilation on record.

    timesteps: the T of the run. record: what the compiler noted (see `snncompiler/record.py`).
    """
    noted = record.get("passes")
    listed = [p for p in noted if isinstance(p, dict)] if isinstance(noted, list) else []
    passes = {str(p.get("name")): p for p in listed}
    thresholds, neurons = passes.get("thresholds", {}), passes.get("neurons", {})
    match cause:
        case "clipping":
            return _against_clipping(thresholds, _number(neurons, "gamma", 1.0))
        case "quantisation":
            return _against_quantisation(timesteps, _number(neurons, "v_init", 0.5))
        case "unevenness":
            return _against_unevenness(timesteps, _number(neurons, "gamma_neg", 0.0))
        case "pooling":
            return (
                "pool spikes with snn.MLIPool, which is exact (the pass 'pooling' puts it in); "
                "a MaxPool of single steps is not the maximum of the rates"
            )
        case "synapses":
            return (
                "its weights do not compute what the trained network computes: compile again; if "
                "they were rounded to the grid, try --set grid.enabled=false"
            )
    return "look at the layers before it"


def _number(options: Mapping[str, Any], name: str, usual: float) -> float:
    """An option on a record that may be a stranger's."""
    value = options.get(name)
    return float(value) if isinstance(value, (int, float)) else usual


def _against_clipping(thresholds: Mapping[str, Any], gamma: float) -> str:
    now = thresholds.get("percentile")
    percentile = thresholds.get("method", "percentile") == "percentile"
    told = f" (it is {now:g})" if isinstance(now, (int, float)) and percentile else ""
    raised = f"raise thresholds.percentile{told}, or take the maxima (thresholds.method=max)"
    return raised if gamma > 1 else f"{raised}, or allow bursts (--set neurons.gamma=5)"


def _against_quantisation(timesteps: int, v_init: float) -> str:
    more = f"run for more time steps than {timesteps}, or lower its threshold"
    if v_init != 0.5:
        more = f"start at half the threshold (--set neurons.v_init=0.5; it is {v_init:g}), {more}"
    return more + " (a smaller thresholds.percentile, thresholds.channelwise=true)"


def _against_unevenness(timesteps: int, gamma_neg: float) -> str:
    if gamma_neg:
        return (
            f"let the neurons send and take back more per step (--recipe graded), or run for more "
            f"time steps than {timesteps}"
        )
    return (
        "calibrate the layers in time (--recipe stage2-only), let the neurons take back what they "
        "sent too early (--recipe ternary), cancel false spikes with twin synapses (--recipe "
        f"spicalib), or run for more time steps than {timesteps}"
    )
