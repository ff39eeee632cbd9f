"""Show samples to the network of this folder, on Lava.

    python run.py DATA.npz [--timesteps T] [--batch B] [--layers] [--record DIR]

DATA.npz holds x, float32 [N, ...], and may hold labels y [N]. Prints the class predicted for each
sample and, with labels, the accuracy.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing.shared_memory
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg

from backends.lava.spiking import dynamics
from backends.lava.spiking.dynamics import Network
from backends.lava.spiking.on_lava.processes import SpikingNetwork
from backends.lava.spiking.records import Record, Run, records


def simulate(
    network: Network, x: Any, run: Run, layers: bool, late: bool = True, progress: bool = False
) -> dict[str, Record]:
    """Run all samples, batch after batch, without building anything anew.

    layers: one process per node instead of one for all. late: start every node as late as the
    pipeline demands. Returns what was recorded, by layer and readout.
    """
    heard = records(network, run)
    for node in network.steps:
        if node.name in heard:
            exact = "int64" if network.integer else "float64"
            heard[node.name].create(node.shape, exact if node.op == "Readout" else "int16")
    drive: dict[str, Any] = {}
    for rows in dynamics.blocks(run.samples, run.batch):
        for number, (name, part) in enumerate(dynamics.currents(network, x[rows]).items()):
            if name not in drive:
                path, size = run.folder / f"current_{number}.npy", (run.samples, *part.shape[1:])
                drive[name] = np.lib.format.open_memmap(path, "w+", part.dtype, size)  # type: ignore[no-untyped-call]
            drive[name][rows] = part
    whole = SpikingNetwork(network=network, drive=drive, run=run, heard=heard, late=late)
    tag = "fixed_pt" if network.integer else "floating_pt"
    config = Loihi2SimCfg(select_tag=tag, select_sub_proc_model=layers)
    whole.create_runtime(run_cfg=config, compile_config={"pypy_channel_size": 2})
    threading.Thread(target=watch, daemon=True).start()
    left = run.steps + (max(node.hop for node in network.steps) if layers else 0)
    started, total = time.perf_counter(), left
    while left:
        now = min(left, run.timesteps)
        try:
            whole.run(condition=RunSteps(num_steps=now))
        except RuntimeError:
            give_up(whole)
        left -= now
        if progress:
            print(f"@ {total - left} {total}", file=sys.stderr, flush=True)
    (run.folder / "seconds.json").write_text(json.dumps(time.perf_counter() - started))
    whole.stop()
    return heard


def give_up(whole: SpikingNetwork) -> None:
    """Tell what a ProcessModel raised; a plain stop() would wait for ever for its answer."""
    for actor in whole.runtime._messaging_infrastructure.actors:
        if actor.exception:
            print(actor.exception[1], file=sys.stderr)
    print("a ProcessModel failed", file=sys.stderr, flush=True)
    end()


def watch() -> None:
    """End everything if a process of ours is killed: Lava itself would wait for it for ever."""
    while True:
        time.sleep(0.5)
        for pid in children():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[-1]) & 127:
                name = signal.Signals(int(fields[-1]) & 127).name
                print(f"a process was ended by {name}", file=sys.stderr, flush=True)
                end()


def outlive_nobody() -> None:
    """End when whoever started this run is gone: its end of our stdin is then closed."""
    os.read(0, 1)  # not sys.stdin: its lock would be held in every process that is forked
    end()


def children() -> list[str]:
    """The processes that this one started."""
    found = Path("/proc/self/task").glob("*/children")
    return [pid for path in found for pid in path.read_text().split()]


def end() -> None:
    """End this process and all that it started, and free their shared memory."""
    for path in Path("/dev/shm").glob(f"{prefix()}*"):
        path.unlink(missing_ok=True)
    for pid in children():
        os.kill(int(pid), signal.SIGKILL)
    os._exit(1)


def prefix() -> str:
    """What the names of this run's shared memory begin with."""
    return os.environ.get("SNN_SHARED_MEMORY", f"snn{os.getpid() % 16**5:05x}")


def main() -> None:
    """The command line."""
    from network import NETWORK  # type: ignore[import-not-found]

    parser = argparse.ArgumentParser(description="Run this spiking network on Lava.")
    parser.add_argument("data", type=Path, help=".npz with samples x and, perhaps, labels y")
    parser.add_argument("--timesteps", type=int, default=NETWORK.timesteps)
    parser.add_argument("--batch", type=int, default=8, help="samples at a time")
    parser.add_argument("--layers", action="store_true", help="one process per layer")
    parser.add_argument("--record", type=Path, help="folder for spike trains and readouts")
    parser.add_argument("--trains", action="store_true", help="record whole spike trains")
    parser.add_argument("--no-start-delay", action="store_true", help="to see what it is for")
    parser.add_argument("--guarded", action="store_true", help="report progress, end with stdin")
    options = parser.parse_args()
    # Names of our own: whoever ends this run by force knows which segments to free.
    multiprocessing.shared_memory._SHM_NAME_PREFIX = f"/{prefix()}"  # type: ignore[attr-defined]
    if options.guarded:
        threading.Thread(target=outlive_nobody, daemon=True).start()
    data = np.load(options.data, allow_pickle=False)
    x = data["x"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.record or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        batch = min(options.batch, len(x))
        run = Run(folder, len(x), batch, options.timesteps, options.trains)
        heard = simulate(
            NETWORK, x, run, options.layers, not options.no_start_delay, options.guarded
        )
        readout = NETWORK.readouts()[0]
        totals = np.load(heard[readout.name].train, mmap_mode="r")[-1]
        said = dynamics.outputs(readout, totals, run.timesteps, NETWORK.exponent(readout))
    predicted = said.reshape(len(said), -1).argmax(1)
    print("predicted:", *predicted)
    if "y" in data:
        print(f"accuracy: {np.mean(predicted == data['y']):.4f}")


if __name__ == "__main__":
    main()
