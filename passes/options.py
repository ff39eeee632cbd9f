"""Options of passes by name: "thresholds.percentile" = 99.9, from recipes and from --set."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from passes import PIPELINE
from passes.base import Pass
from passes.recipes import RECIPES, Recipe
from snncompiler.diagnostics import refuse


def configure(recipe: str, changes: Mapping[str, object]) -> tuple[Pass, ...]:
    """The pipeline with a recipe's options, then with `changes` on top.

    Raises:
        InputError: unknown recipe, pass or option, or a value of the wrong kind.
    """
    options = {**find_recipe(recipe).options, **changes}
    known = {f"{p.name}.{f.name}": f for p in PIPELINE for f in fields(p)}  # type: ignore[arg-type]
    for name in options:
        if name not in known:
            raise refuse(
                f"there is no option '{name}'",
                "options are named PASS.OPTION",
                f"use one of: {', '.join(sorted(known))}",
            )
    result = []
    for p in PIPELINE:
        hints = typing.get_type_hints(type(p))
        mine = {
            name.partition(".")[2]: checked(name, value, hints[name.partition(".")[2]])
            for name, value in options.items()
            if name.partition(".")[0] == p.name
        }
        result.append(replace(p, **mine))  # type: ignore[type-var]
    return tuple(result)


def listed(recipe: str) -> dict[str, object]:
    """Every option of every pass with its value under a recipe, in the order of the pipeline."""
    return {
        f"{p.name}.{f.name}": getattr(p, f.name)
        for p in configure(recipe, {})
        for f in fields(p)  # type: ignore[arg-type]
    }


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or an InputError that lists them."""
    if name not in RECIPES:
        raise refuse(
            f"there is no recipe '{name}'",
            "a recipe is a named choice of passes and options",
            f"use one of: {', '.join(RECIPES)}",
        )
    return RECIPES[name]


def parse(settings: Iterable[str]) -> dict[str, object]:
    """PASS.OPTION=VALUE strings of the command line as a dict."""
    result: dict[str, object] = {}
    for setting in settings:
        name, sign, text = setting.partition("=")
        if not sign:
            raise refuse(
                f"cannot read '--set {setting}'",
                "it must have the form PASS.OPTION=VALUE",
                "for example --set thresholds.percentile=99.99",
            )
        lowered = {"none": "null", "True": "true", "False": "false", "None": "null"}.get(text, text)
        try:
            result[name] = json.loads(lowered)
        except (ValueError, RecursionError):  # no JSON, or more of it than Python reads
            result[name] = text
    return result


#: Options that only make sense within limits: name -> (least, most).
LIMITS: dict[str, tuple[float, float]] = {
    "thresholds.percentile": (1e-9, 100.0),
    "thresholds.floor": (0.0, 1.0),
    "neurons.gamma": (1.0, 2.0**20),
    "neurons.gamma_neg": (0.0, 2.0**20),
    "neurons.delay": (0.0, 1e9),
    "neurons.v_init": (-1e6, 1e6),
    "twin_synapse.allowance": (0.0, 1e9),
    "coding.start": (0.0, 1e9),
    "thresholds.timesteps": (1.0, 2.0**20),
    "thresholds.offset": (0.0, 1.0),
    "thresholds.rounds": (1.0, 1e5),
    "clamp.delay": (0.0, 1e6),
    "bias_shift.share": (-10.0, 10.0),
    "search.rounds": (0.0, 100.0),
    "search.samples": (1.0, 1e6),
    "search.least": (1.0, 1e6),
    "calibrate.samples": (2.0, 1e6),
    "calibrate.least": (1.0, 1e6),
    "calibrate.ridge": (1e-9, 1e9),
    "calibrate.eta": (1e-3, 1e3),
    "calibrate.iterations": (1.0, 1e6),
    "calibrate.rate": (0.0, 1.0),
    "coarse.samples": (2.0, 1e6),
    "coarse.least": (2.0, 1e6),
    "fine.iterations": (1.0, 1e6),
    "fine.patience": (0.0, 1e6),
    "fine.rate": (0.0, 1.0),
    "fine.alpha": (1e-3, 1e3),
    "fine.ridge": (1e-9, 1e9),
    "fine.samples": (2.0, 1e6),
    "fine.least": (2.0, 1e6),
    "grid.analog_bits": (4.0, 20.0),
    "grid.least_bits": (1.0, 20.0),
    "grid.weight_bits": (6.0, 24.0),
}


def checked(name: str, value: object, hint: Any) -> object:
    """The value if it fits the option's type and limits; ints pass for floats."""
    choices = typing.get_args(hint) if _is_union(hint) else (hint,)
    for choice in choices:
        if typing.get_origin(choice) is typing.Literal and value in typing.get_args(choice):
            return value
        if choice is type(None) and value is None:
            return None
        if choice is bool and isinstance(value, bool):
            return value
        if choice in (int, float) and isinstance(value, (int, float)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            number = float(value)
            if (
                (choice is int and not whole)
                or isinstance(value, bool)
                or not math.isfinite(number)
            ):
                continue
            least, most = LIMITS.get(name, (-math.inf, math.inf))
            if not least <= number <= most:
                raise refuse(
                    f"{name} = {value} is out of range",
                    f"it must lie between {least:g} and {most:g}",
                    f"choose another value with --set {name}=VALUE",
                )
            return number if choice is float else value
    raise refuse(
        f"{name} cannot be {value!r}",
        f"it must be {describe(hint)}",
        f"choose another value with --set {name}=VALUE",
    )


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def describe(hint: Any) -> str:
    """An option's type in words."""
    if _is_union(hint):
        return " or ".join(describe(h) for h in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(v) for v in typing.get_args(hint))
    names = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none"}
    return names.get(hint, str(hint))
