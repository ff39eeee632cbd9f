"""Samples from DATA.npz: `x` float32 [N, ...] as the network expects it, `y` integer labels [N]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from snncompiler.diagnostics import InputError, refuse

_SAVE = "np.savez('data.npz', x=images.astype(np.float32), y=labels)"


class Samples(NamedTuple):
    """x: float32 [N, ...]; y: int64 [N] or None."""

    x: NDArray[np.float32]
    y: NDArray[np.int64] | None


def load_samples(
    path: str | Path,
    shape: tuple[int, ...],
    *,
    limit: int | None = None,
    labels: bool = True,
    classes: int | None = None,
) -> Samples:
    """Read and check samples for a network whose input has the per-sample shape `shape`.

    limit: take only so many from the beginning. labels: read `y`, if it is there. classes: how
    many there are, if that is known.

    Raises:
        InputError: whatever is wrong with the file, its arrays or their shapes.
    """
    arrays = read(Path(path), ("x", "y") if labels else ("x",))
    if "x" not in arrays:
        raise refuse(
            f"'{path}' has no array 'x'", "the samples are looked for there", f"save with {_SAVE}"
        )
    x = check_samples(arrays["x"], shape, where=f"'{path}'")
    y = None if "y" not in arrays else _labels(arrays["y"], len(x), classes, path)
    return Samples(x[:limit], None if y is None else y[:limit])


def load_calibration(path: str | Path | None, shape: tuple[int, ...]) -> Samples:
    """Calibration samples; labels only serve a prediction, so odd ones are left out.

    Raises:
        InputError: there are none, or whatever is wrong with them.
    """
    if path is None:
        raise refuse(
            "there are no calibration samples",
            "thresholds are set by what goes through the network on samples like those of its "
            "training",
            f"give --calibration DATA.npz with 'x', float32 {_dims(('N', *shape))}, N = 32 or "
            f"more; save with {_SAVE}",
        )
    try:
        return load_samples(path, shape)
    except InputError:
        return load_samples(path, shape, labels=False)


def _labels(
    y: NDArray[np.generic], samples: int, classes: int | None, path: str | Path
) -> NDArray[np.int64]:
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise refuse(
            f"the labels 'y' in '{path}' are {y.dtype} {list(y.shape)}",
            "one integer per sample is needed",
            "save class indices (label maps and boxes: 'snnc run --task segmentation', detection)",
        )
    if len(y) != samples:
        raise refuse(
            f"'{path}' has {samples} samples but {len(y)} labels",
            "each sample needs one label",
            "save x and y of the same length",
        )
    labels = y.astype(np.int64)
    wrong = labels[(labels < 0) | (labels >= (np.inf if classes is None else classes))]
    if len(wrong):
        most = "" if classes is None else f" and below {classes}, the network's outputs"
        raise refuse(
            f"the labels 'y' in '{path}' hold {wrong[0]}",
            f"a label is the index of a class: from 0{most}",
            "save the classes' indices, in the order of the network's outputs",
        )
    return labels


def check_samples(
    x: NDArray[np.generic], shape: tuple[int, ...], where: str = "the data"
) -> NDArray[np.float32]:
    """float32 samples of the right shape, finite and at least one; or an InputError."""
    if not np.issubdtype(x.dtype, np.floating):
        raise refuse(
            f"the samples 'x' in {where} are {x.dtype}",
            "the network expects float32 values, scaled as in training",
            "apply the training's preprocessing and save x.astype(np.float32)",
        )
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
        raise refuse(
            f"the samples 'x' in {where} have shape {_dims(x.shape)}",
            f"the network expects {_dims(('N', *shape))}",
            "reshape or transpose them as in training",
        )
    if not len(x):
        raise refuse(f"{where} holds no samples", "at least one is needed", "save some samples")
    with np.errstate(over="ignore"):  # told below
        result = x.astype(np.float32, copy=False)
    bad = np.flatnonzero(~np.isfinite(result.reshape(len(result), -1)).all(1))
    if len(bad):
        raise refuse(
            f"{len(bad)} samples in {where} hold NaN or infinite values (first: sample {bad[0]})",
            "a current that is not a number makes every spike meaningless",
            "look at the preprocessing; drop or mend those samples",
        )
    return np.ascontiguousarray(result)


def _dims(shape: tuple[object, ...]) -> str:
    return "[" + ", ".join(str(d) for d in shape) + "]"


def read(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
    """Those of the named arrays that an archive holds.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", b"\x93N"):  # NumPy would talk of pickles
                raise ValueError("its first bytes are those of another kind of file")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            arrays = {name: archive[name] for name in names if name in archive.files}
            # What is no array comes as bytes.
            return {k: a for k, a in arrays.items() if isinstance(a, np.ndarray)}
    except OSError as error:
        why = error.strerror or "it cannot be opened"
        raise refuse(f"cannot read '{path}'", why, "check the path") from None
    except Exception as error:
        # NumPy, zipfile and zlib raise whatever they trip over.
        why = f"it is no NumPy archive of plain arrays, or damaged ({str(error)[:100]})"
        raise refuse(f"cannot read '{path}'", why, f"save with {_SAVE}") from None
