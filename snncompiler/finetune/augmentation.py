"""Images changed at random while a network learns, as torch tensors [N, C, H, W]."""

from __future__ import annotations

import torch
from torch.nn import functional


def shifted_and_mirrored(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images shifted by up to an eighth of their size (zeros come in) and mirrored, at random."""
    n, _channels, height, width = x.shape
    reach = (height // 8, width // 8)
    padded = functional.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    top, left = (torch.randint(0, 2 * r + 1, (n,), generator=generator) for r in reach)
    mirrored = torch.rand(n, generator=generator) < 0.5
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample = torch.arange(n)[:, None, None]
    return padded[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_and_mixed(x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """A share of the images with a rectangle from the image before (CutMix).

    The rectangle lies anywhere, cut off at the borders, and takes a part of the area between none
    and all of it, equally likely (Yun et al. 2019). What a mixed image shows, teachers must tell.
    """
    n, _channels, height, width = x.shape
    side = torch.rand(n, generator=generator).sqrt()
    rows, columns = (_stretch(side, size, generator) for size in (height, width))
    chosen = torch.rand(n, generator=generator) < share
    inside = rows[:, :, None] & columns[:, None] & chosen[:, None, None]
    return torch.where(inside[:, None], x.roll(1, 0), x)


def _stretch(side: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Which of `size` places lie in a stretch around a random middle, side [N] of the whole."""
    middle = torch.rand(len(side), generator=generator) * size
    places = torch.arange(size) + 0.5
    return (places - middle[:, None]).abs() < side[:, None] * size / 2
