"""What a run leaves on disk, as .npy files that are written through memory maps.

Reading a Lava Var costs tens of microseconds per element; a memory map costs nothing, and both
the processes of Lava and the one that waits for them see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.lava.spiking.dynamics import Network

Array = NDArray[Any]


@dataclass(frozen=True)
class Run:
    """One run: `samples` samples, `batch` at a time, `timesteps` steps each, back to back."""

    folder: Path
    samples: int
    batch: int
    timesteps: int
    trains: bool

    @property
    def steps(self) -> int:
        """Time steps of the whole run, without latency."""
        return -(-self.samples // self.batch) * self.timesteps

    def place(self, step: int) -> tuple[slice, int]:
        """Which samples step 1, 2, ... of the run belongs to, and their own step t."""
        group, t = divmod(step - 1, self.timesteps)
        start = group * self.batch
        return slice(start, min(start + self.batch, self.samples)), t + 1


class Record:
    """What one layer sends, or what one readout has heard.

    Spikes: counts.npy, summed over steps and samples, and train.npy [T, N, ...]; readouts:
    train.npy alone. The files are made by `create`, in the process that starts the run.
    """

    def __init__(self, run: Run, number: int, spikes: bool, unit: Array | None = None) -> None:
        self.run, self.spikes, self.unit = run, spikes, unit
        self.counts = run.folder / f"counts_{number}.npy"
        self.train = run.folder / f"train_{number}.npy"
        self.maps: dict[Path, Array] = {}

    def create(self, shape: tuple[int, ...], dtype: str) -> None:
        """Make the files, full of zeros."""
        if self.spikes:
            np.lib.format.open_memmap(self.counts, "w+", np.int64, shape)  # type: ignore[no-untyped-call]
        if self.run.trains or not self.spikes:
            whole = (self.run.timesteps, self.run.samples, *shape)
            np.lib.format.open_memmap(self.train, "w+", dtype, whole)  # type: ignore[no-untyped-call]

    def _map(self, path: Path) -> Array:
        if path not in self.maps:
            self.maps[path] = np.load(path, mmap_mode="r+")
        return self.maps[path]

    def write(self, step: int, sent: Array) -> None:
        """Keep what is sent at a step of the run; what comes before the first or late is not."""
        if not 1 <= step <= self.run.steps:
            return
        rows, t = self.run.place(step)
        sent = sent[: rows.stop - rows.start]
        if self.spikes:
            size = np.abs(sent).sum(0, keepdims=True, dtype=np.float64)
            whole = size if self.unit is None else size / self.unit
            self._map(self.counts)[...] += np.rint(whole[0]).astype(np.int64)
            sent = sent if self.unit is None else np.rint(sent / self.unit)
        if self.run.trains or not self.spikes:
            self._map(self.train)[t - 1, rows] = sent


def records(network: Network, run: Run) -> dict[str, Record]:
    """One record per layer and readout, by node name."""
    result: dict[str, Record] = {}
    for node in network.steps:
        if node.name in network.units or node.op == "Readout":
            unit = network.arrays.get(network.units.get(node.name, ""))
            result[node.name] = Record(run, len(result), node.op != "Readout", unit)
    return result
