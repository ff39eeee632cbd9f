"""What a machine can hold: literal profiles of targets, every number with its source.

Sources: [lif] lava-nc 0.10, lava/proc/lif/models.py; [w] lava/utils/weightutils.py; [v] lava/
magma/compiler/var_model.py; [g] lava/networks/gradedvecnetwork.py. Intel does not publish the
mapper; everything that is computed from these is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Bit widths that a network must fit in; signs are counted.

    weight: of a synapse, whose layer shares one exponent [w]. membrane: of a potential [lif].
    threshold: its mantissa, which may be shifted left by `threshold_shift` [lif]. bias: mantissa,
    with an exponent up to `bias_exponent` [lif]. payload: of a graded spike [v, g].
    """

    summary: str
    weight: int = 8
    membrane: int = 24
    threshold: int = 17
    threshold_shift: int = 6
    bias: int = 13
    bias_exponent: int = 7
    payload: int = 8


TARGETS: dict[str, Target | None] = {
    "ideal": None,  # float32 weights on a dyadic grid
    "loihi2": Target("int8 weights, 24-bit membranes, spikes of up to 8 bits"),
    "graded": Target("int8 weights, 24-bit membranes, spikes of up to 24 bits", payload=24),
}


@dataclass(frozen=True)
class System:
    """A machine of Loihi 2 chips."""

    name: str
    chips: int
    source: str


NEURONS_PER_CORE = (8192, "WikiChip, Loihi 2")
CORE_BYTES = (128 * 1024, "WikiChip says 128 KB, other descriptions 192 KB")
CORES_PER_CHIP = (120, "lava-nc, NUM_VIRTUAL_CORES_L3; the chip has 128")
FAN_IN_AXONS = (4096, "Davies et al. 2018, for Loihi 1; that of Loihi 2 is not published")
SYSTEMS = (
    System("single chip (Oheo Gulch)", 1, "lava-nc, resources.py"),
    System("Kapoho Point", 8, "Lava-DL's tutorial; lava-nc, resources.py, says 4"),
    System("Hala Point", 1152, "Intel's announcement, 2024"),
)
