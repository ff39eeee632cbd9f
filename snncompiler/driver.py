"""The door: check and compile. Only this room and the command line know all others."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from backends.base import take_apart
from backends.sweep import Sweep
from passes import IMPORT, PIPELINE
from passes.base import Context, Pass
from passes.bias_shift import BiasShift
from passes.neurons import Neurons
from passes.options import configure
from passes.recipes import DEFAULT
from snncompiler import __version__, frontend, gate
from snncompiler.artifact import simulate
from snncompiler.compilation import FORM_B, Compilation, Step
from snncompiler.data import check_samples
from snncompiler.diagnostics import InputError, Problem, clean, refuse
from snncompiler.dump import Dumps
from snncompiler.files import require_writable, whole
from snncompiler.graph import define_ops, shape
from snncompiler.ops import NEURONS, register
from snncompiler.prediction import Prediction, predict, samples_for
from snncompiler.progress import Progress, silent
from snncompiler.record import RECORD
from snncompiler.trace import Trace
from snncompiler.verdicts import Check, Verdict, judge, unseen
from snncompiler.verify import check_file

#: Fewer samples than these predict nothing.
_LEAST = 16


@dataclass
class Compiled:
    """A spiking network and the story of its making."""

    model: ir.Model
    recipe: str
    timesteps: int
    passes: list[Step]
    neurons: int
    synapses: int
    thresholds: dict[str, list[float]]
    warnings: list[str]
    predictions: dict[str, Prediction] = field(default_factory=dict)
    output: Path | None = None

    def save(self, path: str | Path) -> Path:
        """Write the artifact; the file appears whole or not at all."""
        self.output = Path(path)
        with whole(self.output) as temporary:
            temporary.write_bytes(ir.to_proto(self.model).SerializeToString())
            check_file(temporary)
        return self.output

    def run(self, x: NDArray[np.float32], timesteps: int | None = None) -> Trace:
        """Simulate it with the default backend; see `simulate`."""
        return simulate(self.model, x, timesteps)

    def as_json(self) -> dict[str, object]:
        """The JSON twin of what `snnc compile` prints."""
        return {
            "output": None if self.output is None else str(self.output),
            "recipe": self.recipe,
            "timesteps": self.timesteps,
            "passes": [asdict(p) for p in self.passes],
            "neurons": self.neurons,
            "synapses": self.synapses,
            "thresholds": self.thresholds,
            "predictions": {t: p.as_json() for t, p in self.predictions.items()},
            "warnings": self.warnings,
        }


def import_network(source: str | Path | onnx.ModelProto) -> frontend.Network:
    """Read a trained network and bring it to the few ops that spikes can compute.

    Raises:
        InputError: the file is bad, or nodes in it are refused (all at once).
    """
    register()
    network = frontend.load(source)
    refusals = _import(network)
    if refusals:
        raise InputError(*refusals)
    return network


def _import(network: frontend.Network) -> list[Problem]:
    """Run the import passes; returns what they refused."""
    context = Context(np.zeros((0,), np.float32), 0, network.opset)
    try:
        for p in IMPORT:
            p.run(network.model, context)
    except InputError:
        return context.refusals
    except Exception:
        # What onnx's checker lets pass but onnxruntime cannot run is bad input, not a defect.
        _try_out(network)
        raise
    return []


def _try_out(network: frontend.Network) -> None:
    network.outputs(np.zeros((1, *network.input_shape), np.float32))


def check_model(source: str | Path | onnx.ModelProto) -> Check:
    """Judge every node of a trained network.

    Raises:
        InputError: the file itself is bad; refused nodes are no error here but verdicts.
    """
    register()
    label = "model" if isinstance(source, onnx.ModelProto) else str(source)
    proto = source if isinstance(source, onnx.ModelProto) else gate.read(source)
    try:
        network = frontend.load(proto)
    except InputError as error:
        return Check(label, _before_import(proto, error))
    refused = {p.node: p for p in _import(network)}
    if not refused:
        _try_out(network)
    return Check(label, judge(network.nodes, network.host, refused, network.model))


def _before_import(proto: onnx.ModelProto, error: InputError) -> tuple[Verdict, ...]:
    """Verdicts when import itself gave up over some nodes; a bad file stays an error."""
    refused = {p.node: p for p in error.problems if p.node}
    if not refused:
        raise error
    graph = onnx.GraphProto()
    graph.node.extend(proto.graph.node)
    gate.name_nodes(graph)
    nodes = [(n.name, n.op_type) for n in graph.node]
    return tuple(
        Verdict(n, op, "refused", refused[n].why, refused[n].do) if n in refused else unseen(n, op)
        for n, op in nodes
    )


def compile_model(
    source: str | Path | onnx.ModelProto,
    calibration: NDArray[Any],
    *,
    recipe: str = DEFAULT,
    timesteps: int = 32,
    options: Mapping[str, object] | None = None,
    form: str = "normalised",
    dump: str | Path | None = None,
    output: str | Path | None = None,
    seed: int = 0,
    labels: NDArray[np.int64] | None = None,
    progress: Progress = silent,
) -> Compiled:
    """Compile a trained network into a spiking one.

    Args:
        source: an ONNX file or model.
        calibration: float32 [N, ...] unlabelled samples.
        recipe: a name of passes.recipes.RECIPES.
        timesteps: the T to compile for.
        options: {"pass.option": value} on top of the recipe.
        form: 'normalised' (weights rescaled, thresholds 1) or 'physical' (weights as trained,
            a spike carries its threshold; for studies, exact arithmetic needs the other).
        dump: folder for the IR after each pass.
        output: file for the artifact.
        seed: of all random numbers.
        labels: [N] classes of the samples, for the predicted accuracy alone.
        progress: called with (what, done, total).

    Raises:
        InputError: bad input or a refused node. VerificationError: a pass changed the network.
    """
    if not 1 <= timesteps <= 2**20:
        raise refuse(
            f"cannot compile for T = {timesteps}",
            "a spiking network runs for at least one time step (and at most 2^20)",
            "choose --timesteps 8 to 128 for most networks",
        )
    check_seed(seed)
    if form not in ("normalised", "physical"):
        raise refuse(f"there is no form '{form}'", "there are two", "use normalised or physical")
    pipeline = [
        p for p in configure(recipe, options or {}) if form == "normalised" or p.name not in FORM_B
    ]
    if output is not None:
        require_writable(Path(output))
    register()
    network = frontend.load(source)
    x = check_samples(np.asarray(calibration), network.input_shape, "the calibration data")
    neurons = next(p for p in pipeline if isinstance(p, Neurons))
    shift = sum(p.share for p in pipeline if isinstance(p, BiasShift))
    context = Context(
        x,
        timesteps,
        network.opset,
        gamma=neurons.gamma,
        offset=neurons.v_init + shift,
        sweep=Sweep,
        seed=seed,
        progress=progress,
    )
    job = Compilation(network, context)
    job.dumps = None if dump is None else Dumps(Path(dump))
    try:
        story = job.run(pipeline)
    except InputError:
        if job.dumps is not None:
            job.dumps.discard()
        raise
    model = network.model
    _finish(model, recipe, timesteps, form, seed, network, job, pipeline, story)
    layers = [n for n in model.graph if n.op_type in NEURONS]
    compiled = Compiled(
        model=model,
        recipe=recipe,
        timesteps=timesteps,
        passes=story,
        neurons=sum(int(np.prod(shape(n.outputs[0]))) for n in layers),
        synapses=job.synapses,
        thresholds=job.thresholds,
        warnings=[clean(w) for w in (*job.context.warnings, *_against(network, neurons, story))],
    )
    enough = len(x) >= _LEAST and bool(layers)
    if enough and (count := samples_for(model, timesteps, job.ann_macs)):
        progress("predicting", len(pipeline), len(pipeline))
        (truth, *_others) = network.outputs(x[:count])
        known = None if labels is None else labels[:count]
        compiled.predictions = predict(model, x[:count], truth, timesteps, known)
        if any(n.op_type == "Round" for n in take_apart(model).steps):
            compiled.warnings.append(
                "the prediction leaves out that currents are rounded at every step (see pass grid)"
            )
    if output is not None:
        del job, network, context  # with the trained network, as large as what is to be written
        gc.collect()  # graphs are full of cycles
        compiled.save(output)
    return compiled


def _against(network: frontend.Network, neurons: Neurons, story: list[Step]) -> list[str]:
    """What a compilation does to a network that learned with spikes, and should not."""
    if network.spikes is None:
        return []
    correcting = [p.name for p in PIPELINE if getattr(p, "corrects", False)]
    did = [s.name for s in story if s.name in correcting and not s.is_off]
    found = []
    if did:
        found.append(
            f"the network learned with spikes, from which {', '.join(did)} moves it away: "
            "use --recipe spike-trained"
        )
    wanted = 1.0 if network.spikes == "ternary" else 0.0
    if neurons.gamma_neg != wanted:
        found.append(
            f"the network learned with {network.spikes} neurons: use --set "
            f"neurons.gamma_neg={wanted:g}"
        )
    return found


def _finish(
    model: ir.Model,
    recipe: str,
    timesteps: int,
    form: str,
    seed: int,
    network: frontend.Network,
    job: Compilation,
    pipeline: list[Pass],
    story: list[Step],
) -> None:
    """Put the record and the function bodies into the model."""
    digest = hashlib.sha256(np.ascontiguousarray(job.context.calibration).tobytes()).hexdigest()
    parts = take_apart(model)
    record = {
        "compiler": __version__,
        "recipe": recipe,
        "timesteps": parts.latency or timesteps,
        **({} if parts.window is None else {"window": parts.window}),
        "form": form,
        "gridded": bool(model.meta.get("gridded", False)),
        "target": str(model.meta.get("target", "ideal")),
        "seed": seed,
        "source": network.digest,
        "calibration": digest,
        "host": network.host,
        "ann_macs": job.ann_macs,
        "passes": [{"name": p.name, **asdict(p)} for p in pipeline],  # type: ignore[call-overload]
        "story": [{"name": s.name, "changed": s.changed, "check": s.check} for s in story],
        "versions": {"onnx": onnx.__version__, "onnx_ir": ir.__version__, "numpy": np.__version__},
    }
    model.metadata_props[RECORD] = json.dumps(record)
    model.producer_name, model.producer_version = "snncompiler", __version__
    define_ops(model)


def check_seed(seed: int) -> None:
    """Raise InputError unless random numbers can be drawn from the seed."""
    if seed < 0:
        why = "random numbers follow from a whole number, 0 or more"
        raise refuse(f"cannot use the seed {seed}", why, "choose --seed 0")


def input_shape(proto: onnx.ModelProto) -> tuple[int, ...]:
    """Per-sample shape of a trained network's input, checked.

    Raises:
        InputError: the file is bad.
    """
    gate.check(proto)
    initialisers = {t.name for t in proto.graph.initializer}
    image = next(i for i in proto.graph.input if i.name not in initialisers)
    return tuple(d.dim_value for d in list(image.type.tensor_type.shape.dim)[1:])
