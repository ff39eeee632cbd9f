"""Write a network as one readable Python file that needs NumPy alone, and its weights."""

from __future__ import annotations

import re

from backends.lava.bundle import OPS, SOURCES, archive, network_text, stand_alone
from backends.lava.spiking.dynamics import Network

_MAIN = '''

def main() -> None:
    """python network.py DATA.npz [T]: the class predicted for each sample x of the file."""
    import sys

    data = np.load(sys.argv[1], allow_pickle=False)
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else NETWORK.timesteps
    readout, predicted = NETWORK.readouts()[0], []
    for rows in blocks(len(data["x"]), 8):
        simulation = Simulation(NETWORK)
        simulation.start(currents(NETWORK, data["x"][rows]))
        for t in range(1, steps + 1):
            values = simulation.step(t)
        said = outputs(readout, values[readout.name], steps, NETWORK.exponent(readout))
        predicted.extend(said.reshape(len(said), -1).argmax(1))
    print("predicted:", *predicted)
    if "y" in data:
        print(f"accuracy: {np.mean(np.array(predicted) == data['y']):.4f}")


if __name__ == "__main__":
    main()
'''


def files(network: Network, title: str, readme: str) -> dict[str, bytes]:
    """The files of a NumPy project, by path."""
    ops, dynamics = stand_alone(OPS), stand_alone(SOURCES / "dynamics.py")
    # One file: imports once, and what was imported as `ops` by its own name.
    dynamics = re.sub(r"\bops\.", "", dynamics.replace("from spiking import ops\n", ""))
    nodes = network_text(network, title).split("NETWORK = Network(", 1)
    head = "from pathlib import Path\n" + _body(nodes[0])
    text = "\n".join(
        [
            f'"""{nodes[0].split(chr(34) * 3)[1]}"""\n',
            _imports(ops, dynamics),
            _body(ops),
            _body(dynamics),
            _body(head).replace("from spiking.dynamics import Network, Node\n", ""),
            "NETWORK = Network(" + nodes[1],
        ]
    )
    return {
        "network.py": (text + _MAIN).encode(),
        "README.md": readme.encode(),
        "requirements.txt": b"numpy>=1.26\n",
        "weights.npz": archive(network.arrays),
    }


_IMPORT = re.compile(r"^(?:from \S+ import (?:\([^)]*\)|[^\n(]+)|import [^\n]+)\n", re.MULTILINE)
_OPENING = re.compile(r'\A""".*?"""\n', re.DOTALL)


def _imports(*texts: str) -> str:
    found = {line for text in texts for line in _IMPORT.findall(text)} | {
        "from pathlib import Path\n"
    }
    future = "from __future__ import annotations\n"
    return future + "\n" + "".join(sorted(found - {future}))


def _body(text: str) -> str:
    return _IMPORT.sub("", _OPENING.sub("", text)).strip("\n") + "\n"
