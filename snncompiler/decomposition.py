"""Where the error of a layer comes from: a sum of parts, one per cause, that adds up exactly.

A site is a population of neurons, a max pool or a readout. Let a be what the trained network
computes there, and C(T) the spikes sent by step T, so that the spiking network says
lambda C(T) / T. Between the two stands a chain of values; each step of it lets one more cause act:

    a                               the trained network
    f(z taught)    synapses         z: mean current of the compiled synapses, fed with the trained
                                    network's own activations: rounded, quantised or damaged weights
    f(z)           inherited        the mean current that really arrived: errors of earlier layers
    clip(f(z))     clipping         to [0, gamma lambda], all that gamma spikes per step can tell
    lambda Q / T   quantisation     Q = clip(floor((T z + v_init) / theta), 0, gamma T)
    lambda C / T   unevenness       spikes came early, late or clustered: C is not Q

(f: Relu, Clip or LeakyRelu; of a LeakyIF, Q = clip(floor(T f(z) / theta + 1/2), +-gamma T).)
Of a pool: maxpool of the rates that arrived (inherited), then what it sent (pooling). Of a readout:
synapses and inherited alone. The part e_k of a cause is the difference that it makes, so the parts
sum to the error e at every single neuron, by construction. In numbers, over samples and neurons,

    error  = ||e|| / ||a||,     part_k = <e_k, e> / (||e|| ||a||),     sum of part_k = error

(a part below zero works against the others). Taxonomy: Li et al. 2022 (clipping, quantisation,
SIN), Wang et al. 2023 (residual potential, here unevenness).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from snncompiler.graph import Array

#: All causes, in the order in which the chain lets them act.
CAUSES = ("synapses", "inherited", "clipping", "quantisation", "unevenness", "pooling")
#: Those that arise in the layer itself.
OWN = tuple(c for c in CAUSES if c != "inherited")


@dataclass(frozen=True)
class Population:
    """Neurons with what their op fixes; arrays broadcast over [N, C, ...].

    theta, v_init: threshold and initial potential in the units of the network. scale: what one
    spike stands for in the units of the trained network (lambda). gamma: most spikes per step.
    bound: where the activation saturates (network units), if it came from a Clip. alpha: negative
    slopes of a LeakyIF; None: an IF.
    """

    theta: Array
    v_init: Array
    scale: Array
    gamma: float
    bound: Array | None = None
    alpha: Array | None = None

    def activation(self, current: Array) -> Array:
        """f(z) in the units of the trained network."""
        low: Array | float = 0.0
        if self.alpha is not None:
            low = self.alpha * np.minimum(current, 0)
        f = np.maximum(current, 0) + low
        if self.bound is not None:
            f = np.minimum(f, self.bound)
        result: Array = f * (self.scale / self.theta)
        return result

    def clipped(self, a: Array) -> Array:
        """The part of an activation that gamma spikes per step can tell."""
        top = self.gamma * self.scale
        low: Array | float = 0.0 if self.alpha is None else -top
        result: Array = np.clip(a, low, top)
        return result

    def counts(self, total: Array, steps: int) -> Array:
        """Q: the spikes that a perfect neuron sends for a current that sums to `total`."""
        most = self.gamma * steps
        if self.alpha is None:
            count = np.floor((total + self.v_init) / self.theta)
            perfect: Array = np.clip(count, 0, most)
            return perfect
        f = np.maximum(total, 0) + self.alpha * np.minimum(total, 0)
        signed: Array = np.clip(np.floor(f / self.theta + 0.5), -most, most)
        return signed


def neuron_stages(
    population: Population, taught: Array, total: Array, sent: Array, steps: int
) -> dict[str, Array]:
    """The chain of a population: cause -> the value once that cause has acted too.

    taught: current from the trained network's activations. total: current that arrived, summed
    over `steps` steps. sent: net spike counts. All [N, C, ...], in the units of the network.
    """
    arrived = population.activation(total / steps)
    return {
        "synapses": population.activation(taught),
        "inherited": arrived,
        "clipping": population.clipped(arrived),
        "quantisation": population.scale * population.counts(total, steps) / steps,
        "unevenness": population.scale * sent / steps,
    }


def parts(truth: Array, stages: Mapping[str, Array]) -> dict[str, Array]:
    """What each cause adds; the parts sum to the last stage minus the truth."""
    result, before = {}, truth
    for cause, value in stages.items():
        result[cause] = value - before
        before = value
    return result


@dataclass
class ErrorSum:
    """Inner products of the parts of one site, summed over samples.

    gram: [causes, causes], <e_j, e_k>. truth: ||a||^2.
    """

    gram: Array = field(default_factory=lambda: np.zeros((len(CAUSES), len(CAUSES))))
    truth: float = 0.0

    def add(self, truth: Array, found: Mapping[str, Array]) -> None:
        """Take in a batch: the trained network's values and the parts of the error."""
        self.truth += float(np.vdot(truth, truth))
        for j, one in enumerate(CAUSES):
            for k, other in enumerate(CAUSES[: j + 1]):
                if one in found and other in found:
                    product = float(np.vdot(found[one], found[other]))
                    self.gram[j, k] = self.gram[k, j] = self.gram[j, k] + product

    @property
    def error(self) -> float:
        """||e|| / ||a||; of a site where a is 0, ||e||."""
        return float(np.sqrt(max(self.gram.sum(), 0.0))) / self._norm

    @property
    def own(self) -> float:
        """The same without what was inherited: what this site does wrong itself."""
        chosen = [CAUSES.index(c) for c in OWN]
        return float(np.sqrt(max(self.gram[np.ix_(chosen, chosen)].sum(), 0.0))) / self._norm

    @property
    def parts(self) -> dict[str, float]:
        """The error split by cause; sums to `error`."""
        whole = float(np.sqrt(max(self.gram.sum(), 0.0)))
        rows = self.gram.sum(1) / (whole * self._norm) if whole else np.zeros(len(CAUSES))
        return dict(zip(CAUSES, (float(r) for r in rows), strict=True))

    @property
    def sizes(self) -> dict[str, float]:
        """||e_k|| / ||a||: how large each part is by itself, whatever the others do."""
        norms = np.sqrt(np.diag(self.gram)) / self._norm
        return dict(zip(CAUSES, (float(n) for n in norms), strict=True))

    @property
    def cause(self) -> str:
        """The cause that contributes most to the site's own error; none if there is no error."""
        chosen = [CAUSES.index(c) for c in OWN]
        rows = self.gram[np.ix_(chosen, chosen)].sum(1)
        return OWN[int(rows.argmax())] if rows.any() else ""

    @property
    def _norm(self) -> float:
        return float(np.sqrt(self.truth)) or 1.0
