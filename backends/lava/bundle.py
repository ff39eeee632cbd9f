"""Write a stand-alone Lava project: the network as readable Python, and all it needs to run."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path

import numpy as np

from backends.lava.spiking.dynamics import Network, Node
from snncompiler.graph import Array
from snncompiler.ops import pooled_size

SOURCES = Path(__file__).parent / "spiking"
OPS = Path(__file__).parent.parent / "numpy_ops.py"
MODULES = ("__init__", "dynamics", "records")
ON_LAVA = ("__init__", "processes", "models", "whole")
REQUIREMENTS = "lava-nc==0.10.0\nnumpy>=1.26,<2\n"


def files(network: Network, title: str, readme: str) -> dict[str, bytes]:
    """The files of a bundle, by path."""
    text = {f"spiking/{name}.py": stand_alone(SOURCES / f"{name}.py") for name in MODULES}
    text |= {
        f"spiking/on_lava/{n}.py": stand_alone(SOURCES / "on_lava" / f"{n}.py") for n in ON_LAVA
    }
    text["spiking/ops.py"] = stand_alone(OPS)
    text["run.py"] = stand_alone(SOURCES / "run.py")
    text["network.py"] = network_text(network, title)
    text["README.md"] = readme
    text["requirements.txt"] = REQUIREMENTS
    return {**{k: v.encode() for k, v in text.items()}, "weights.npz": archive(network.arrays)}


def stand_alone(path: Path) -> str:
    """The source of a module, importing only what is in the bundle."""
    text = path.read_text(encoding="utf-8")
    text = text.replace("import backends.numpy_ops as ops", "from spiking import ops")
    text = text.replace("backends.lava.spiking", "spiking")
    text = text.replace("from snncompiler.graph import Array", "Array = np.ndarray")
    pooled = inspect.getsource(pooled_size)
    text = text.replace("from snncompiler.ops import pooled_size\n", f"\n\n{pooled}\n")
    text = re.sub(r"  # type: ignore.*|The equations are those of.*\n", "", text)
    assert not re.search(r"^(import|from) (snncompiler|backends)", text, re.MULTILINE), path
    return text


def archive(arrays: dict[str, Array] | object) -> bytes:
    """An .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def network_text(network: Network, title: str) -> str:
    """The network as Python."""
    lines = [
        f'"""{_docstring(title)}: the network, node by node, in the order of computation."""',
        "",
        "from pathlib import Path",
        "",
        "import numpy as np",
        "",
        "from spiking.dynamics import Network, Node",
        "",
        "with np.load(Path(__file__).parent / 'weights.npz', allow_pickle=False) as file:",
        "    WEIGHTS = dict(file)",
        "",
        "NETWORK = Network(",
        f"    image={network.image!r},",
        f"    arithmetic={network.arithmetic!r},",
        f"    timesteps={network.timesteps},",
        *nodes_text("static", network.static),
        *nodes_text("steps", network.steps),
        "    # Layers whose spikes are counted, and the array of what one spike carries ('': 1).",
        f"    units={dict(network.units)!r},",
        "    arrays=WEIGHTS,",
        ")",
    ]
    return "\n".join(lines) + "\n"


def nodes_text(name: str, nodes: tuple[Node, ...]) -> list[str]:
    """A field of the network that holds nodes, as lines of Python."""
    lines = [f"    {name}=("]
    for node in nodes:
        lines.append("        Node(")
        lines.append(f"            {node.name!r}, {node.op!r},")
        lines.append(f"            {node.arguments!r},")
        lines.append(f"            shape={node.shape!r},")
        if node.settings:
            lines.append(f"            settings={dict(node.settings)!r},")
        lines.append(f"            hop={node.hop}, waits={node.waits!r},")
        lines.append("        ),")
    return [*lines, "    ),"]


def _docstring(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")
