"""The passes, one a file, and the order they run in."""

from passes.affine import Affine
from passes.base import Pass
from passes.bias_shift import BiasShift
from passes.calibrate import Calibrate
from passes.clamp import Clamp
from passes.coarse import Coarse
from passes.coding import Coding
from passes.fine import Fine
from passes.grid import Grid
from passes.legal import Legal
from passes.neurons import Neurons
from passes.normalise import Normalise
from passes.observe import Observe
from passes.outputs import Outputs
from passes.pooling import Pooling
from passes.quantise import Quantise
from passes.schedule import Schedule
from passes.search import Search
from passes.separate import Separate
from passes.simplify import Simplify
from passes.thresholds import Thresholds
from passes.twin_synapse import TwinSynapse
from passes.windows import Windows

#: Import: what turns any exporter's spelling into the few ops that spikes can compute.
IMPORT: tuple[Pass, ...] = (
    Simplify(),  # first: one spelling, so that no later pass knows another
    Windows(),  # explicit pads and linear averages, so that affine folding sees convolutions
    Affine(),  # before statistics: thresholds belong to the folded network
    Outputs(),  # last of the changes: the activations that are outputs, too, are known by now
    Legal(),  # everything refused is refused here, at once
)

#: The whole pipeline, in order. Options are fields; recipes replace them by name.
PIPELINE: tuple[Pass, ...] = (
    *IMPORT,
    Observe(),  # on the ANN: what are the activations?
    Thresholds(),  # how large is one spike?
    Neurons(),  # activations become populations; from here on the graph is spiking
    TwinSynapse(),  # behind neurons, before pools: pools must see the cancelled counts
    Pooling(),  # pools of spikes become exact in time
    Coding(),  # input current and readout: from here on the network runs
    Clamp(),  # needs neurons and readouts
    BiasShift(),  # in physical units, as all corrections
    Search(),  # thresholds first: weights are corrected for the spikes they make
    Calibrate(),  # what errors are left, layer by layer, with the spikes that really come
    Coarse(),  # potentials first: what is left after them is small enough for descent
    Fine(),  # spike by spike, on potentials that are right on average
    Separate(),  # layers take turns; the corrections before it predict what they send
    Normalise(),  # scales into weights: thresholds become 1, spikes integers
    Grid(),  # the weights that every backend will see, unless
    Quantise(),  # the target wants integers: on the grid, so that the proof of exactness stays
    Schedule(),  # last, for nothing moves any more: when do values arrive on a pipelined chip?
)
