"""Recipes: named, literal selections of pass options, one per paper and baseline, and our own.

To add a method, write its pass or option, then add one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A named choice of options ("pass.option": value); what it leaves out keeps its default.

    neuron: the class of neurons it needs: binary {0, 1}, legal on any chip; ternary {-1, 0, 1};
    graded, several spikes per step.
    """

    summary: str
    neuron: str
    source: str
    options: Mapping[str, object]


RECIPES: dict[str, Recipe] = {
    "binary": Recipe(
        "channel-wise percentile thresholds, initial potential 1/2: the default",
        "binary",
        "ours",
        {"thresholds.percentile": 99.9, "thresholds.channelwise": True, "neurons.v_init": 0.5},
    ),
    "ternary": Recipe(
        "signed neurons that take back what they sent too much",
        "ternary",
        "ours",
        {
            "thresholds.percentile": 99.99,
            "thresholds.channelwise": True,
            "neurons.v_init": 0.5,
            "neurons.gamma_neg": 1.0,
        },
    ),
    "graded": Recipe(
        "signed bursts of up to 5 spikes per step",
        "graded",
        "ours",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": True,
            "neurons.v_init": 0.5,
            "neurons.gamma": 5.0,
            "neurons.gamma_neg": 5.0,
        },
    ),
    "max-norm": Recipe(
        "thresholds at the largest activation of each layer",
        "binary",
        "Diehl et al. 2015",
        {"thresholds.method": "max", "thresholds.channelwise": False, "neurons.v_init": 0.0},
    ),
    "p-norm": Recipe(
        "thresholds at the 99.9 % percentile of each layer",
        "binary",
        "Rueckauer et al. 2017",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": False,
            "neurons.v_init": 0.0,
        },
    ),
    "channel-norm": Recipe(
        "thresholds at the 99.9 % percentile of each channel",
        "binary",
        "Kim et al. 2020",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": True,
            "neurons.v_init": 0.0,
        },
    ),
    "burst-lipool": Recipe(
        "bursts of up to 5 spikes, exact max pooling; initial potential 1/2 added",
        "graded",
        "Li and Zeng 2022",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": False,
            "neurons.v_init": 0.5,
            "neurons.gamma": 5.0,
        },
    ),
    "spicalib": Recipe(
        "bursts, exact max pooling and twin synapses that cancel false spikes",
        "graded",
        "Li et al. 2022",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": False,
            "neurons.v_init": 0.0,
            "neurons.gamma": 5.0,
            "twin_synapse.allowance": "T/2",
        },
    ),
}
DEFAULT = "binary"
