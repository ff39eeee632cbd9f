"""The whole story on the bundled network, in under a minute."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from snncompiler.artifact import load
from snncompiler.data import load_samples
from snncompiler.diagnostics import refuse
from snncompiler.driver import check_model, compile_model
from snncompiler.evaluation import evaluate
from snncompiler.files import make_folder
from snncompiler.graph import shape
from snncompiler.progress import Progress
from snncompiler.report import check_table, compiled_table, run_table


def models_folder() -> Path:
    """The bundled networks: beside the packages in a checkout, else where the wheel put them.

    Raises:
        InputError: this installation lacks them.
    """
    root = Path(__file__).resolve().parents[1]
    for folder in (root / "models", root / "share/snncompiler/models"):
        if (folder / "digits.onnx").is_file():
            return folder
    for file in metadata.files("snncompiler") or ():
        if file.match("share/snncompiler/models/digits.onnx"):
            return Path(str(file.locate())).resolve().parent
    raise refuse(
        "the bundled network is missing",
        "this installation holds no digits.onnx",
        "install snncompiler again, or run from a checkout",
    )


def tell(
    output: Path, show: Callable[[RenderableType], None], progress: Progress
) -> dict[str, object]:
    """Check, compile, run and compare the digits network; returns the JSON of all steps.

    output: gets the artifact digits.snn.onnx and the folder ir/ with the dumps of every pass.

    Raises:
        InputError: the folder cannot be written.
    """
    make_folder(output)
    folder = models_folder()
    trained, artifact = folder / "digits.onnx", output / "digits.snn.onnx"
    checked = check_model(trained)
    show(_title("$ snnc check digits.onnx"))
    show(check_table(checked))
    sample_shape = (1, 8, 8)
    calibration = load_samples(folder / "digits_train.npz", sample_shape, labels=False)
    compiled = compile_model(
        trained, calibration.x, dump=output / "ir", output=artifact, progress=progress
    )
    show(_title("\n$ snnc compile digits.onnx --calibration digits_train.npz --dump-ir ir"))
    show(compiled_table(compiled))
    model = load(artifact)
    test = load_samples(folder / "digits_test.npz", shape(model.graph.inputs[0]))
    result = evaluate(model, test, reference=trained, progress=progress)
    show(_title("\n$ snnc run digits.snn.onnx digits_test.npz --reference digits.onnx"))
    show(run_table(result, model))
    show(
        Text(f"\nThe spiking network is in {artifact}, the IR after every pass in {output / 'ir'}.")
    )
    return {
        "check": checked.as_json(),
        "compile": compiled.as_json(),
        "run": result.as_json(),
    }


def _title(text: str) -> Text:
    return Text(text, style="bold")
