"""What operations may cost in energy: estimates, each with its formula and the source of numbers.

None of these is a measurement. They price operations of a 45 nm process (Horowitz, "Computing's
energy problem", ISSCC 2014) and know nothing of clocks, leakage, routing or a real chip.

    papers   ANN 4.6 pJ a MAC; SNN 0.9 pJ a synaptic operation, 4.6 pJ for MACs (the first layer,
             once per sample). No memory at all: how conversion papers compute it.
    memory   the same, and every operand fetched from a small SRAM without reuse: an ANN MAC reads
             weight and activation; a synaptic operation reads its weight, reads and writes the
             membrane; a membrane update reads and writes once.

Break-even. T steps of a rate code tell T + 1 levels, as an ANN with b = ceil(log2(T + 1)) bits does
(Yan et al., arXiv 2409.08290). With 8-bit weights, one MAC of that ANN buys so many accumulates:

    (E_mult(8, b) + E_add + traffic of a MAC) / (E_add + traffic of an accumulate)

If a connection carries more spikes than that in the whole run, the quantised ANN is cheaper.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from snncompiler.operations import Operations

#: pJ, 45 nm, 0.9 V (Horowitz 2014). Multipliers scale with the product of both widths.
ADD_FLOAT32 = 0.9
MULT_FLOAT32 = 3.7
MAC_FLOAT32 = ADD_FLOAT32 + MULT_FLOAT32
ADD_INT32 = 0.1
MULT_INT8 = 0.2
#: pJ to read or write 32 bits of an 8 KB SRAM (Horowitz 2014: 10 pJ per 64 bits).
SRAM_WORD = 5.0
SOURCE = "Horowitz, ISSCC 2014 (45 nm, 0.9 V)"


@dataclass(frozen=True)
class Estimate:
    """Energy per sample in microjoules, by one formula."""

    name: str
    ann: float
    snn: float
    formula: str
    source: str

    @property
    def ratio(self) -> float:
        """SNN over ANN."""
        return self.snn / self.ann if self.ann else math.inf


@dataclass(frozen=True)
class BreakEven:
    """Spikes per connection and inference: spent, and at which a b-bit ANN costs the same."""

    bits: int
    spent: float
    without_memory: float
    with_memory: float


@dataclass(frozen=True)
class Energy:
    """All estimates of one run."""

    estimates: tuple[Estimate, ...]
    break_even: BreakEven

    def as_json(self) -> dict[str, object]:
        """Plain data, every number labelled an estimate."""
        return {
            "label": "estimates, not measurements",
            "unit": "microjoule per sample",
            "estimates": [{**asdict(e), "ratio": e.ratio} for e in self.estimates],
            "break_even": asdict(self.break_even),
        }


def estimate(operations: Operations, ann_macs: int) -> Energy:
    """Energy of a counted run, and of the trained network, which needs `ann_macs` per sample."""
    acs = operations.synaptic_operations
    macs = operations.macs_once + operations.analog_operations
    papers = Estimate(
        "papers",
        ann_macs * MAC_FLOAT32 * 1e-6,
        (acs * ADD_FLOAT32 + macs * MAC_FLOAT32) * 1e-6,
        f"ANN {MAC_FLOAT32:g} MAC; SNN {ADD_FLOAT32:g} SOP + {MAC_FLOAT32:g} MAC [pJ]",
        SOURCE,
    )
    memory = Estimate(
        "memory",
        ann_macs * (MAC_FLOAT32 + 2 * SRAM_WORD) * 1e-6,
        (
            acs * (ADD_FLOAT32 + 3 * SRAM_WORD)
            + macs * (MAC_FLOAT32 + 2 * SRAM_WORD)
            + operations.membrane_updates * 2 * SRAM_WORD
        )
        * 1e-6,
        f"as above, and {SRAM_WORD:g} pJ per word: MAC 2, SOP 3, membrane update 2 words",
        f"{SOURCE}, 8 KB SRAM, no reuse",
    )
    return Energy((papers, memory), break_even(operations, ann_macs))


def break_even(operations: Operations, ann_macs: int) -> BreakEven:
    """Against an ANN of the same number of levels, weights of 8 bits on both sides."""
    bits = math.ceil(math.log2(operations.timesteps + 1))
    mac = MULT_INT8 * bits / 8 + ADD_INT32
    word = SRAM_WORD / 32  # pJ per bit
    read_mac, read_ac = word * (8 + bits), word * (8 + 32 + 32)
    dynamic = max(1.0, ann_macs - operations.macs_once)
    return BreakEven(
        bits,
        operations.synaptic_operations / dynamic,
        mac / ADD_INT32,
        (mac + read_mac) / (ADD_INT32 + read_ac),
    )
