"""Train and export the digits classifier that the demo and the tests compile.

``python models/digits.py`` trains a small residual CNN on scikit-learn's 8x8 digits and writes
``digits.onnx``, ``digits_train.npz`` (calibration images) and ``digits_test.npz`` (held-out
images). ``python models/digits.py --check`` only measures the files that are already there, and
needs no more than numpy and onnxruntime.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    import torch

HERE = Path(__file__).resolve().parent
FILES = ("digits.onnx", "digits_train.npz", "digits_test.npz")
EPOCHS = 60
BATCH = 64


def load_split(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return ``x_train, x_test, y_train, y_test``: a stratified 70/30 split, pixels in [0, 1]."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x = (digits.images[:, None] / 16).astype(np.float32)
    y = digits.target.astype(np.int64)
    return train_test_split(x, y, test_size=0.3, stratify=y, random_state=seed)


def build_net() -> torch.nn.Module:
    """Return the untrained network; `build_onnx` writes the same graph from its weights."""
    from torch import nn

    def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
        # No bias: the BatchNorm that follows every convolution would cancel it.
        return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)

    class Block(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(channels, channels), nn.BatchNorm2d(channels)
            self.conv2, self.bn2 = conv(channels, channels), nn.BatchNorm2d(channels)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn1(self.conv1(x)).relu()
            return (self.bn2(self.conv2(y)) + x).relu()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(1, 16), nn.BatchNorm2d(16)
            self.conv2, self.bn2 = conv(16, 32), nn.BatchNorm2d(32)
            self.block1 = Block(32)
            self.pool = nn.MaxPool2d(2)
            self.fc = nn.Linear(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.bn1(self.conv1(x)).relu()
            x = self.bn2(self.conv2(x)).relu()
            x = self.block1(self.pool(x))
            return self.fc(self.pool(x).mean((2, 3)))

    return Net()


def augment(x: torch.Tensor) -> torch.Tensor:
    """Return the images shifted by up to one pixel each way, with a little noise."""
    import torch

    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(x), 2)).tolist()
    pairs = zip(padded, offsets, strict=True)
    shifted = torch.stack([p[:, r : r + 8, c : c + 8] for p, (r, c) in pairs])
    return (shifted + 0.05 * torch.randn_like(shifted)).clamp(0, 1)


def train(x: np.ndarray, y: np.ndarray, seed: int) -> torch.nn.Module:
    """Return the network trained on ``x, y``, in evaluation mode."""
    import torch

    # One thread: the order of the floating-point sums, and so the weights, must not vary.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)

    net = build_net()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    steps = EPOCHS * -(-len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH):
            logits = net(augment(images[batch]))
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def build_onnx(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the network as ONNX, with ``weights`` named as in its PyTorch state dict.

    The graph is written node by node because PyTorch's exporter folds BatchNormalization into
    the convolutions, and folding is a step of the compiler that this model is there to exercise.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes = []

    def add(op: str, name: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or name
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv_bn(x: str, index: int, scope: str = "") -> str:
        conv, bn = f"{scope}conv{index}", f"{scope}bn{index}"
        x = add("Conv", conv, x, f"{conv}.weight", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        statistics = [f"{bn}.{s}" for s in ("weight", "bias", "running_mean", "running_var")]
        return add("BatchNormalization", bn, x, *statistics, epsilon=1e-5)

    def pool(x: str, name: str) -> str:
        return add("MaxPool", name, x, kernel_shape=[2, 2], strides=[2, 2])

    x = add("Relu", "relu1", conv_bn("image", 1))
    x = add("Relu", "relu2", conv_bn(x, 2))
    skip = pool(x, "pool1")
    x = add("Relu", "block1.relu1", conv_bn(skip, 1, "block1."))
    x = add("Add", "block1.add", conv_bn(x, 2, "block1."), skip)
    x = pool(add("Relu", "block1.relu2", x), "pool2")
    x = add("Flatten", "flatten", add("GlobalAveragePool", "gap", x))
    add("Gemm", "fc", x, "fc.weight", "fc.bias", transB=1, output="logits")

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    # IR version 8 is the one released with opset 17; onnx would default to its newest.
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def build(directory: Path, seed: int) -> None:
    """Train the network and write the model and both halves of the data to ``directory``."""
    import onnx

    x_train, x_test, y_train, y_test = load_split(seed)
    state = train(x_train, y_train, seed).state_dict()
    weights = {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}

    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(build_onnx(weights), directory / "digits.onnx")
    np.savez_compressed(directory / "digits_train.npz", x=x_train, y=y_train)
    np.savez_compressed(directory / "digits_test.npz", x=x_test, y=y_test)


def count_correct(model: Path, data: Path, batch: int = BATCH) -> tuple[int, int]:
    """Return how many images of ``data`` the ONNX ``model`` classifies correctly, and of how many.

    Runs in onnxruntime, ``batch`` images at a time.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        x, y = arrays["x"], arrays["y"]
    logits = [
        session.run(["logits"], {"image": x[start : start + batch]})[0]
        for start in range(0, len(x), batch)
    ]
    return int((np.concatenate(logits).argmax(1) == y).sum()), len(y)


def check(directory: Path) -> None:
    """Print the test accuracy of the model in ``directory`` and the digests of its files."""
    for batch in (1, BATCH):
        correct, total = count_correct(
            directory / "digits.onnx", directory / "digits_test.npz", batch
        )
        print(f"test accuracy, batch {batch:2}: {correct}/{total} = {correct / total:.2%}")
    for name in FILES:
        content = (directory / name).read_bytes()
        print(f"{name:17} {len(content):7} bytes  {hashlib.sha256(content).hexdigest()[:12]}")


def main() -> None:
    """Build the files unless asked only to check them, then report on them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="measure the existing files only")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    parser.add_argument("--directory", type=Path, default=HERE, help="where the files lie")
    arguments = parser.parse_args()
    if not arguments.check:
        build(arguments.directory, arguments.seed)
    check(arguments.directory)


if __name__ == "__main__":
    main()
