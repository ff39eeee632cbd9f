"""Stand-alone projects: `snnc emit`."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from backends.base import take_apart
from backends.lava import bundle, numpy_file
from backends.lava.fixed import to_integers
from backends.lava.plan import plan
from backends.lava.spiking.dynamics import Network
from snncompiler.diagnostics import refuse

_WRITERS: dict[str, Callable[[Network, str, str], dict[str, bytes]]] = {
    "lava": bundle.files,  # Processes and models; needs lava-nc
    "numpy": numpy_file.files,  # one file
}

_README = """# {title}

A spiking network of {populations} populations and {neurons} neurons, written by snncompiler.
It was made for T = {timesteps} time steps and computes in {arithmetic}.

```
pip install -r requirements.txt{python}
python {main} DATA.npz
```

`DATA.npz` holds `x`, float32 [N, {image}], prepared as for the trained network, and perhaps labels
`y`. The output is the class predicted for each sample.
{more}"""

_LAVA = """
- `network.py`: the network, node by node. `weights.npz`: its arrays{integers}.
- `spiking/dynamics.py`: what a node computes in one step, in NumPy.
- `spiking/on_lava/`: the Lava Processes, their `floating_pt` and `fixed_pt` models, and the two
  models of the whole network: one process for all, or (`--layers`) one per node.
- `run.py`: feeds samples back to back, `Loihi2SimCfg(select_tag="{tag}")`.

As one process per node it is a pipeline: what node `n` sends at step `t + n.hop` is what a network
without latency sends at `t`. Every population starts, and starts anew, `hop` steps late; a branch
that is shorter than the one it meets is held back by `waits`. On a chip, replace the models of
`IntegrateAndFire` (soft reset: a programmable neuron) and `Synapses`, and keep the wiring.

{report}"""


def emit(model: ir.Model, target: str, title: str, report: str = "") -> dict[str, bytes]:
    """The files of a stand-alone project, by path.

    target: 'lava' or 'numpy'. report: goes into the README.

    Raises:
        InputError: there is no such target, or the network has what it cannot run.
    """
    if target not in _WRITERS:
        raise refuse(
            f"there is no project for '{target}'",
            "a project can be written for some targets",
            f"use one of: {', '.join(_WRITERS)}",
        )
    network = take_apart(model)
    planned = plan(network)
    if network.record.get("target", "ideal") != "ideal":
        planned = to_integers(planned, network)
    populations = [n for n in planned.steps if n.op in ("IF", "LeakyIF")]
    integers = ", 8-bit mantissas with the exponents of their layers" if planned.integer else ""
    tag = "fixed_pt" if planned.integer else "floating_pt"
    lava = target == "lava"
    shape = [d for d in list(network.image.shape or [])[1:]]
    readme = _README.format(
        title=title,
        populations=len(populations),
        neurons=f"{sum(_size(n.shape) for n in populations):,}",
        timesteps=planned.timesteps,
        arithmetic=planned.arithmetic,
        python="   # Python 3.10" if lava else "",
        main="run.py" if lava else "network.py",
        image=", ".join(str(d) for d in shape),
        more=_LAVA.format(integers=integers, tag=tag, report=report) if lava else "",
    )
    return _WRITERS[target](planned, title, readme)


def _size(dims: tuple[int, ...]) -> int:
    size = 1
    for d in dims:
        size *= d
    return size
