"""How to fine-tune: the settings, and what is wrong with those that make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from snncompiler.diagnostics import InputError, Problem


@dataclass(frozen=True)
class Schedule:
    """How to train.

    timesteps: T. spikes: learn with neurons, binary or ternary, that spike for T steps, not with
    activations that are rounded to T levels; T times the work. epochs, batch, rate (of SGD; falls
    to 0 as a half cosine), momentum: as usual. noise: share of activations that are not rounded; of
    no use to spikes. thresholds: one per channel, or per layer. distill: learn the original
    network's outputs instead of labels. augment: shift images by up to an eighth of their size and
    mirror them, at random. cutmix: share of the images that get a rectangle of another one; only
    teachers can tell what they show then. half: multiply in bfloat16, quicker where the processor
    has units for it. seed: of all random numbers.
    """

    timesteps: int
    spikes: str | None = None
    epochs: int = 5
    batch: int = 64
    rate: float = 5e-3
    momentum: float = 0.9
    noise: float = 0.1
    thresholds: str = "channel"
    distill: bool = False
    augment: bool = False
    cutmix: float = 0.0
    half: bool = False
    seed: int = 0

    def check(self, input_shape: tuple[int, ...]) -> None:
        """Raise InputError, with all that is wrong for samples of this shape, if anything is."""
        limits = {
            "timesteps": (1, 2**20),
            "epochs": (1, 10**6),
            "batch": (1, 10**6),
            "rate": (0, 10),
            "noise": (0, 0.999),
            "cutmix": (0, 1),
            "seed": (0, 2**31),
        }
        problems = [
            Problem(
                f"cannot train with {name} = {getattr(self, name)}",
                f"it must lie between {low:g} and {high:g}",
                f"choose another --{name}",
            )
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        if self.spikes not in (None, "binary", "ternary"):
            why = "neurons that learn are binary, or ternary: they take back a spike too much"
            do = "choose --spikes binary or --spikes ternary, or leave it out"
            problems.append(Problem(f"there are no neurons '{self.spikes}' to train", why, do))
        if self.thresholds not in ("channel", "layer"):
            why = "there is one per channel or one per layer"
            do = "choose --thresholds channel or --thresholds layer"
            problems.append(Problem(f"there are no thresholds per '{self.thresholds}'", why, do))
        if self.augment and len(input_shape) != 3:
            problems.append(
                Problem(
                    f"cannot shift and mirror samples of shape {list(input_shape)}",
                    "only images, [channels, height, width], can be",
                    "leave out --augment",
                )
            )
        if self.cutmix and (len(input_shape) != 3 or not self.distill):
            why = (
                "only images, [channels, height, width], can be, and no label tells what they show"
            )
            do = "leave out --cutmix, or train on images with --distill"
            problems.append(Problem("cannot mix these samples", why, do))
        if problems:
            raise InputError(*problems)
