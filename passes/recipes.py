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
        "thresholds, weights and potentials calibrated layer by layer for T: the default",
        "binary",
        "ours",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "calibrate.weights": "least_squares",
            "calibrate.potential": "channel",
        },
    ),
    "ternary": Recipe(
        "signed neurons that take back what they sent too much; searched, fitted, fine-calibrated",
        "ternary",
        "ours",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "neurons.gamma_neg": 1.0,
            "search.rounds": 2,
            "calibrate.weights": "least_squares",
            "fine.loss": "mse",
            "fine.target": "original",
            "fine.longest": 16,
            "fine.work": 1e13,  # four million weights
            "fine.held": 268_435_456,  # 1 GiB
        },
    ),
    "graded": Recipe(
        "signed bursts of up to 5 spikes per step; searched, fitted, fine-calibrated",
        "graded",
        "ours",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "neurons.gamma": 5.0,
            "neurons.gamma_neg": 5.0,
            "search.rounds": 2,
            "calibrate.weights": "least_squares",
            "calibrate.predicted": True,
            "calibrate.samples": 256,
            "fine.loss": "mse",
            "fine.target": "original",
            "fine.longest": 16,
            "fine.work": 1e13,  # four million weights
            "fine.held": 268_435_456,  # 1 GiB
        },
    ),
    "separated": Recipe(
        "layers take turns of T steps: exactly the quantised network, (depth + 1) T steps late",
        "binary",
        "ours; temporal separation of Liu et al. 2022 (SpikeConverter)",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "search.rounds": 2,
            "calibrate.weights": "least_squares",
            "calibrate.predicted": True,
            "calibrate.samples": 3072,  # no simulation is needed: the more, the better
            "fine.loss": "mse",
            "fine.target": "original",
            "fine.predicted": True,
            "fine.samples": 3072,
            "fine.longest": 16,
            "fine.work": 1e13,  # four million weights
            "fine.held": 268_435_456,  # 1 GiB
            "separate.enabled": True,
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
    "spike-norm": Recipe(
        "thresholds at the largest current that the layers before really send",
        "binary",
        "Sengupta et al. 2019",
        {
            "thresholds.method": "max",
            "thresholds.channelwise": False,
            "neurons.v_init": 0.0,
            "calibrate.thresholds": "spike_norm",
        },
    ),
    "opt-shift": Recipe(
        "percentile thresholds of each layer, a bias shift of theta / 2T",
        "binary",
        "Deng and Gu 2021",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": False,
            "neurons.v_init": 0.0,
            "bias_shift.share": 0.5,
        },
    ),
    "opi": Recipe(
        "percentile thresholds of each layer, initial potential 1/2",
        "binary",
        "Bu et al. 2022 (AAAI)",
        {
            "thresholds.percentile": 99.9,
            "thresholds.channelwise": False,
            "neurons.v_init": 0.5,
        },
    ),
    "calibration-light": Recipe(
        "least-squares thresholds of each channel, bias shift, biases calibrated",
        "binary",
        "Li, Deng et al. 2021",
        {
            "thresholds.method": "mmse",
            "thresholds.offset": 0.0,
            "neurons.v_init": 0.0,
            "bias_shift.share": 0.5,
            "calibrate.bias": True,
        },
    ),
    "calibration-advanced": Recipe(
        "least-squares thresholds, bias shift, weights and potentials calibrated",
        "binary",
        "Li, Deng et al. 2021",
        {
            "thresholds.method": "mmse",
            "thresholds.offset": 0.0,
            "neurons.v_init": 0.0,
            "bias_shift.share": 0.5,
            "calibrate.weights": "straight_through",
            "calibrate.potential": "neuron",
        },
    ),
    "stage2-only": Recipe(
        "least-squares thresholds; every layer calibrated by back-propagation through time",
        "binary",
        "Wang et al. 2023, stage II alone",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "coarse.potential": "channel",
            "coarse.target": "original",
            "fine.loss": "mse",
            "fine.target": "original",
        },
    ),
    "two-stage": Recipe(
        "for what 'snnc finetune' made: trained thresholds kept, layers calibrated in time",
        "binary",
        "Wang et al. 2023",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "coarse.potential": "channel",
            # Wang et al. take the divergence ("kl") for recognition; measured, neither is better
            # throughout, and this one is for every task.
            "fine.loss": "mse",
        },
    ),
    "spike-trained": Recipe(
        "for what 'snnc finetune --spikes' made: thresholds kept, nothing corrected",
        "binary",
        "ours",
        {
            "thresholds.method": "mmse",
            "neurons.v_init": 0.5,
            "grid.weight_bits": 16,  # nothing later makes up for what rounding does
        },
    ),
    "fast-inference": Recipe(
        "99.99 % percentile of each channel, initial potential 1/2, voltage clamping",
        "binary",
        "Mueller et al. 2021",
        {
            "thresholds.percentile": 99.99,
            "thresholds.channelwise": True,
            "neurons.v_init": 0.5,
            "clamp.delay": 1,
        },
    ),
    "ltb": Recipe(
        "locally balanced thresholds of each channel, initial potential 1/2",
        "binary",
        "Bu, Li and Yu 2025 (CVPR)",
        {"thresholds.method": "balance", "neurons.v_init": 0.5},
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
