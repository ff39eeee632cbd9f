"""What a network carries in the model's metadata about its making.

The record of a compilation: one JSON object, written by `driver.compile_model`: recipe, T, form,
target, seed, hashes of the trained network and the calibration data, what each pass did with which
options, versions. The settings of a fine-tuning: one JSON object, written by `finetuning.finetune`.
Both come from a file that somebody may have changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from snncompiler.diagnostics import refuse

#: Model metadata: the record, one JSON object.
RECORD = "snn.compiled"
#: Model metadata: the settings of a fine-tuning, one JSON object.
FINETUNED = "snn.finetuned"


def record_of(model: ir.Model) -> dict[str, Any]:
    """The record of a compiled network; empty if the model has none.

    Raises:
        ValueError: it is no JSON object.
    """
    record = json.loads(model.metadata_props.get(RECORD, "{}"))
    if not isinstance(record, dict):
        raise ValueError(f"'{RECORD}' is no JSON object")
    return record


def learned_spikes(note: str) -> str | None:
    """The neurons that a fine-tuned network learned to spike with, out of its settings.

    >>> learned_spikes('{"spikes": "binary", "timesteps": 4}'), learned_spikes("a stranger's")
    ('binary', None)
    """
    try:
        spikes = json.loads(note)["spikes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return spikes if spikes in ("binary", "ternary") else None


def timesteps_of(record: Mapping[str, Any]) -> int:
    """The T that a network was compiled for."""
    return int(record.get("timesteps", 32))


def choose_timesteps(record: Mapping[str, Any], asked: int | None) -> int:
    """The T of a run: the one asked for, else the one that the network was compiled for.

    Raises:
        InputError: it is below 1.
    """
    steps = timesteps_of(record) if asked is None else asked
    if steps < 1:
        raise refuse(
            f"cannot run for T = {steps}",
            "a spiking network runs for at least one time step",
            "choose --timesteps 1 or more",
        )
    return steps
