"""Fine-tune a trained network for few time steps (stage I of Wang et al. 2023).

    import -> thresholds of compile -> quantised activations -> SGD -> a plain ONNX network

The result computes what spiking neurons make of T steps if their input is even; `compile`
recognises its activations and keeps their trained thresholds (`snncompiler/quantisers.py`). With
spikes, training runs through the T steps themselves; the result is written in the same way, but
its answers are those of the spiking network alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from passes.base import Context
from passes.observe import Observe
from passes.rewiring import choice
from passes.thresholds import Thresholds
from snncompiler import __version__
from snncompiler.ann import run
from snncompiler.data import Samples, check_samples
from snncompiler.diagnostics import InputError, Problem, VerificationError, refuse
from snncompiler.driver import import_network
from snncompiler.files import write_whole
from snncompiler.finetune.schedule import Schedule
from snncompiler.frontend import Network
from snncompiler.graph import ACTIVATIONS, Array, shape
from snncompiler.progress import Progress, silent
from snncompiler.quantisers import insert
from snncompiler.record import FINETUNED
from snncompiler.verify import checked_proto

#: Samples below which there is nothing to learn from, and that are held out at most.
LEAST, _HELD = 64, 1000
#: Samples for the first thresholds.
_OBSERVED = 512
#: Mean error allowed between the file and what was trained: single roundings may fall otherwise.
_TOLERANCE = 1e-2


@dataclass
class Finetuned:
    """A fine-tuned network; how good it was before its training, and after each epoch.

    spikes: the neurons that it learned to spike with, if it did.
    """

    model: onnx.ModelProto
    before: dict[str, float]
    history: list[dict[str, float]]
    thresholds: dict[str, list[float]]
    host: list[str]
    spikes: str | None = None
    output: Path | None = None

    @property
    def harmed(self) -> bool:
        """Whether the network is worse on what was held out than it was before its training."""
        return self.history[-1]["held_out_loss"] > self.before["held_out_loss"]

    def as_json(self) -> dict[str, object]:
        """The JSON twin of what `snnc finetune` prints."""
        return {
            "output": None if self.output is None else str(self.output),
            "before": self.before,
            "epochs": self.history,
            "thresholds": self.thresholds,
            "host": self.host,
            "spikes": self.spikes,
        }


def require_torch() -> None:
    """Raise InputError, with what to install, if torch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise refuse(
            "cannot fine-tune: torch is not installed",
            "training needs it, compiling and running do not",
            "pip install 'snncompiler[train]'",
        )


def finetune(
    source: str | Path | onnx.ModelProto,
    samples: Samples,
    schedule: Schedule,
    *,
    teachers: Sequence[str | Path | onnx.ModelProto] = (),
    device: str = "auto",
    output: Path | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> Finetuned:
    """Train the quantised or the spiking form of a network.

    Args:
        source: a trained ONNX network.
        samples: to train on; a tenth of them (1000 at the most) is held out, to report on.
        schedule: how to train.
        teachers: the networks to distill from, the mean of their outputs; none: the source itself.
        device: auto, cpu, cuda or whatever torch knows.
        output: file for the network.
        checkpoint: saved after every epoch; a run goes on from it.
        progress: called with (what, done, total).

    Raises:
        InputError: bad network, samples or settings. VerificationError: the file written does not
            compute what was trained.
    """
    require_torch()
    from snncompiler.finetune.training import train

    network = import_network(source)
    model = network.model
    schedule.check(network.input_shape)
    samples = samples._replace(x=check_samples(samples.x, network.input_shape, "the training data"))
    _check(model, samples, schedule)
    if not any(n.op_type in ACTIVATIONS for n in model.graph):
        raise refuse(
            "there is nothing to fine-tune",
            "the network has no activation that becomes a neuron",
            "compile it as it is",
        )
    if teachers and not schedule.distill:
        why = "it is there to be distilled from, and labels are to be learned"
        raise refuse("a teacher has nothing to teach", why, "use --distill, or leave it out")
    originals = _teachers(teachers, network) or [network]
    x = samples.x[choice(samples.x, _OBSERVED)]
    context = Context(x, schedule.timesteps, network.opset, progress=progress)
    Observe().run(model, context)
    Thresholds(method="mmse", channelwise=schedule.thresholds == "channel").run(model, context)
    held = np.zeros(len(samples.x), bool)
    held[choice(samples.x, min(_HELD, len(samples.x) // 10))] = True
    shown = _part(samples, held)
    trained = train(
        model,
        _part(samples, ~held),
        shown,
        schedule,
        originals=[original.model for original in originals],
        device=_device(device),
        checkpoint=checkpoint,
        key=_key(" ".join(n.digest for n in (network, *originals)), samples, schedule),
        progress=progress,
    )
    for value, array in trained.weights.items():
        value.const_value = ir.tensor(np.ascontiguousarray(array, np.float32))
    insert(model, trained.thresholds, schedule.timesteps)
    proto = _plain(model, schedule)
    _compare(proto, shown.x[: len(trained.outputs[0])], trained.outputs)
    result = Finetuned(
        proto,
        trained.before,
        trained.history,
        {name: [float(t) for t in theta] for name, theta in trained.thresholds.items()},
        network.host,
        schedule.spikes,
        output,
    )
    if output is not None:
        write_whole(output, proto.SerializeToString(deterministic=True))
    return result


def _check(model: ir.Model, samples: Samples, schedule: Schedule) -> None:
    if len(samples.x) < LEAST:
        raise refuse(
            f"cannot train on {len(samples.x)} samples",
            f"fewer than {LEAST} are only learned by heart",
            "give more, or use the recipe 'stage2-only', which needs no training",
        )
    if schedule.distill:
        return
    if samples.y is None:
        raise refuse(
            "the training data have no labels 'y'",
            "without them there is nothing to learn but the original network itself",
            "save integer labels 'y' beside 'x', or use --distill",
        )
    dims = shape(model.graph.outputs[0])
    if len(dims) != 1:
        raise refuse(
            f"labels do not fit the network's output, {list(dims)} per sample",
            "one label per sample teaches a network with one score per class",
            "use --distill",
        )
    wrong = samples.y[(samples.y < 0) | (samples.y >= dims[0])]
    if len(wrong):
        raise refuse(
            f"the labels 'y' hold {wrong[0]}",
            f"a label is the index of a class: from 0 and below {dims[0]}, the network's outputs",
            "save the classes' indices, in the order of the network's outputs",
        )


def _teachers(sources: Sequence[str | Path | onnx.ModelProto], network: Network) -> list[Network]:
    """The networks to distill from, which must answer the same questions."""
    teachers = [import_network(source) for source in sources]
    own, *theirs = (
        f"{list(n.input_shape)} -> {', '.join(str(list(shape(v))) for v in n.model.graph.outputs)}"
        for n in (network, *teachers)
    )
    problems = [
        Problem(
            "the teacher does not fit the network"
            if len(theirs) == 1
            else f"teacher {number} of {len(theirs)} does not fit the network",
            f"per sample it computes {computed}, the network {own}",
            "choose a teacher with the same input and outputs",
        )
        for number, computed in enumerate(theirs, 1)
        if computed != own
    ]
    if problems:
        raise InputError(*problems)
    return teachers


def _part(samples: Samples, chosen: Array) -> Samples:
    return Samples(samples.x[chosen], None if samples.y is None else samples.y[chosen])


def _device(name: str) -> str:
    """The device to train on, tried out."""
    import torch

    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        torch.zeros(1, device=chosen)
    except Exception as error:  # torch raises many kinds, for unknown names and absent drivers
        why = " ".join(str(error).split())[:200]
        raise refuse(f"cannot train on the device '{name}'", why, "use --device cpu") from None
    return chosen


def _key(digest: str, samples: Samples, schedule: Schedule) -> str:
    """Tells a checkpoint of this training from all others."""
    seen = hashlib.sha256(np.ascontiguousarray(samples.x).tobytes())
    seen.update(b"" if samples.y is None else np.ascontiguousarray(samples.y).tobytes())
    settings = json.dumps(asdict(schedule), sort_keys=True)
    return hashlib.sha256(f"{digest} {seen.hexdigest()} {settings}".encode()).hexdigest()


def _plain(model: ir.Model, schedule: Schedule) -> onnx.ModelProto:
    """The network as a file of its own: no notes but one that says how it was made."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props[FINETUNED] = json.dumps(asdict(schedule), sort_keys=True)
    model.producer_name, model.producer_version = "snncompiler", __version__
    return checked_proto(model)


def _compare(proto: onnx.ModelProto, x: Array, outputs: list[Array]) -> None:
    """Hold the file to what was trained."""
    found = run(proto, x)
    for value, wanted in zip(proto.graph.output, outputs, strict=True):
        error = float(np.abs(found[value.name] - wanted).mean() / (np.abs(wanted).mean() + 1e-9))
        if not error <= _TOLERANCE:
            raise VerificationError(
                Problem(
                    f"the fine-tuned network computes something else than what was trained: "
                    f"mean relative error {error:.1e}",
                    f"more than {_TOLERANCE:g} on {len(x)} samples",
                    "this is a defect; please report it with the model",
                )
            )
