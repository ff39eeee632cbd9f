"""One compilation: the passes run over a network, with everything that hangs between them.

After every pass the IR is verified, the note of the pass kept, the IR dumped, and the network
compared with the trained one: outputs of onnxruntime on samples while it is an ANN, and of the
activations that its neurons stand for once it spikes. A network that runs also tells the error of
its rates.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from backends.base import take_apart
from backends.reference import NumpyBackend
from passes import IMPORT
from passes.base import Context, Pass
from passes.legal import Legal
from snncompiler import frontend
from snncompiler.ann import relative_error, run
from snncompiler.diagnostics import InputError, Problem, VerificationError, clean
from snncompiler.dump import Dumps
from snncompiler.graph import Array, attribute, scale_of
from snncompiler.metrics import macs
from snncompiler.ops import NEURONS
from snncompiler.rate import rate_model
from snncompiler.record import RECORD
from snncompiler.trace import Observe
from snncompiler.verify import verify

#: Largest relative error that a pass may cause before it counts as a defect.
TOLERANCE = 1e-4
#: Passes that round: what that may cost before a warning says so, and what it then advises.
ROUNDING = {
    "grid": (1e-2, "--set grid.enabled=false keeps full weights, without exact arithmetic"),
    "quantise": (1e-1, "--target ideal keeps the weights of the grid"),
}
_SAMPLES = 4
#: Multiply-accumulates that one look at the spiking network should cost; more than that in a single
#: step are not spent on it.
_RATE_BUDGET, _RATE_LIMIT = 1e9, 5e9
#: Passes that only form B knows; a compilation to form A leaves them out.
FORM_B = ("normalise", "grid", "quantise", "schedule")
_BEFORE_LEGAL = tuple(p.name for p in IMPORT if not isinstance(p, Legal))


@dataclass
class Step:
    """What one pass did: its note, what the comparison found, how long it took."""

    name: str
    seconds: float
    changed: str
    check: str

    @property
    def is_off(self) -> bool:
        """Whether the pass left the network as it was, which its note begins with."""
        return self.changed.startswith("off")


@dataclass
class Compilation:
    """One compilation: the passes run over the network, with everything that hangs between."""

    network: frontend.Network
    context: Context
    dumps: Dumps | None = None
    thresholds: dict[str, list[float]] = field(default_factory=dict)
    ann: ir.Model | None = None
    ann_macs: int = 0
    synapses: int = 0
    unrounded: bool = False

    def run(self, pipeline: list[Pass]) -> list[Step]:
        """Run the passes; after each: verify, compare, dump."""
        model, context = self.network.model, self.context
        samples = context.calibration[:_SAMPLES]
        expected = self.network.outputs(samples)
        # Import replaced rounding by what it is on average; the first comparison tells its size.
        self.unrounded = bool(self.network.quantisers)
        if self.dumps is not None:
            self.dumps.write("import", model)
        story: list[Step] = []
        for i, p in enumerate(pipeline):
            context.progress(f"pass {p.name}", i, len(pipeline))
            started = time.perf_counter()
            before = _state_of(model)
            note = p.run(model, context)
            if context.refusals and p.name not in [q.name for q in IMPORT]:
                raise InputError(*context.refusals)
            check = ""
            if _state_of(model) == before and not isinstance(p, Legal):  # nothing new to check
                if self.dumps is not None:
                    self.dumps.write(p.name, model)
            elif p.name not in _BEFORE_LEGAL or not context.refusals:
                check = self._check(p, samples, expected)
            story.append(Step(p.name, time.perf_counter() - started, note, check))
            if isinstance(p, Legal):
                self.ann, self.ann_macs = model.clone(), macs(model)
                context.ann = self.ann
            if p.name not in (*ROUNDING, "schedule"):  # rounding the input is no synapse
                self.synapses = macs(model) if self.ann is not None else 0
            if p.name == "neurons":
                self._note_thresholds()
        context.progress("done", len(pipeline), len(pipeline))
        return story

    def _check(self, p: Pass, samples: Array, expected: list[Array]) -> str:
        model = self.network.model
        spiking = len(model.graph.inputs) > 1  # the image, and T
        legal = p.name not in _BEFORE_LEGAL
        if legal:
            verify(model, p.name)
        if self.dumps is not None:
            self.dumps.write(p.name, model)
        if not legal and not _runs(model):
            return ""
        twin = rate_model(model) if spiking else model
        results = list(run(twin, samples).values())
        error = max(relative_error(a, b) for a, b in zip(results, expected, strict=True))
        text = f"max relative error {error:.1e}"
        if getattr(p, "corrects", False) or self.unrounded:
            self.unrounded = False
            expected[:] = results  # later passes are held to the corrected network
            return f"activations changed on purpose: {text}" if error > TOLERANCE else text
        if p.name == "schedule" or (p.name == "quantise" and "target" not in model.meta):
            return ""  # a note changes nothing
        if p.name in ROUNDING:
            allowed, advice = ROUNDING[p.name]
            if error > allowed:
                what = "to the grid" if p.name == "grid" else "to integers"
                self.context.warnings.append(
                    f"rounding {what} changes the outputs by {error:.1%}; {advice}"
                )
        elif not error <= TOLERANCE:
            raise VerificationError(
                Problem(
                    f"the pass '{p.name}' changes what the network computes: {text}",
                    f"more than {TOLERANCE:g} on {len(samples)} calibration samples",
                    "this is a defect of the compiler; please report it with the model",
                )
            )
        if p.name in ("coding", "separate", *FORM_B):
            form = "normalised" if p.name in FORM_B else "physical"
            noted = {"form": form, "gridded": bool(model.meta.get("gridded", False))}
            model.metadata_props[RECORD] = json.dumps(noted)
            text += self._rate_error(model)
        return text

    def _rate_error(self, model: ir.Model) -> str:
        """How far firing rates are from activations, on as many samples as the budget allows."""
        steps = self.context.timesteps
        cost = max(1, self.ann_macs)
        if cost > _RATE_LIMIT:
            return f"; rates not simulated, a step takes {cost / 1e9:.0f} billion operations"
        steps = max(1, min(steps, int(_RATE_BUDGET // cost) or 1))
        samples = self.context.calibration[
            : max(1, min(_SAMPLES, int(_RATE_BUDGET / cost / steps)))
        ]
        layers = [n for n in model.graph if n.op_type in NEURONS]
        if not layers or self.ann is None:
            return ""
        names = [str(n.outputs[0].name) for n in layers]
        truth = run(self.ann, samples, names)
        network = take_apart(model)
        steps = network.latency or steps
        share = steps / (network.window or steps)  # a neuron that takes turns speaks in one window
        single = NumpyBackend(np.float32)  # half the memory; the figure has three digits
        trace = single.build(model).run(samples, steps, Observe(spikes=True))
        errors = {}
        for node, name in zip(layers, names, strict=True):
            scale = scale_of(node.outputs[0])
            assert scale is not None
            rate = trace.trains[str(node.name)].mean(0) * share
            a = rate * scale.reshape(1, -1, *[1] * (rate.ndim - 2))
            size = float(np.abs(truth[name]).mean(dtype=np.float64))
            off = float(np.abs(a - truth[name]).mean(dtype=np.float64))
            errors[str(node.name)] = off / size if size else 0.0
        worst = max(errors, key=lambda k: errors[k])
        mean = float(np.mean(list(errors.values())))
        return (
            f"; rate error at T = {steps}: mean {mean:.1%}, "
            f"worst {errors[worst]:.1%} in '{clean(worst)}'"
        )

    def _note_thresholds(self) -> None:
        for node in self.network.model.graph:
            if node.op_type in NEURONS:
                scale = scale_of(node.outputs[0])
                assert scale is not None
                same = bool((scale == scale[0]).all())
                listed = [float(s) for s in (scale[:1] if same else scale)]
                self.thresholds[str(node.name)] = listed


def _state_of(model: ir.Model) -> object:
    """Equal at two moments if nothing has touched the model between them."""
    graph = model.graph
    ports = [(v, v.name, str(v.shape)) for v in (*graph.inputs, *graph.outputs)]
    constants = {name: v.const_value for name, v in graph.initializers.items()}
    nodes = [
        (
            *(node, node.name, node.op_type, node.inputs),
            *(dict(node.attributes), dict(node.metadata_props)),
            [(v, v.name, str(v.shape), v.const_value, {**v.metadata_props}) for v in node.outputs],
        )
        for node in graph
    ]
    return ports, constants, nodes, dict(model.metadata_props)


def _runs(model: ir.Model) -> bool:
    """Whether onnxruntime runs a network in the middle of its import, and as its file means it.

    How it divides an average that counts its padding depends on the opset.
    """
    return all(n.domain == "" and not attribute(n, "count_include_pad", 0) for n in model.graph)
