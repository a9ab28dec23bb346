"""Frozen dataclasses from plain mappings, strictly: every fault is found, and all are reported
together.

A key that is unknown or missing, a value of the wrong type or out of range is a fault with its
dotted path. A dataclass may offer `problems()`, which yields what is wrong with its values.
"""

import dataclasses
import math
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST_INT = 10**18  # what a 64-bit number surely holds
SHOWN = 80  # characters of a value in a message


def build(cls: Any, values: Any, path: str, faults: list[str]) -> Any:
    """An instance of the dataclass `cls`, or None with `faults` extended."""
    if not isinstance(values, dict):
        faults.append(f"{path}: expected a section, got {_shown(values)}")
        return None
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before, arguments = len(faults), {}
    dot = f"{path}." if path else ""
    for key in values:
        if key not in fields:
            allowed = ", ".join(sorted(fields))
            plain = isinstance(key, str) and key.isprintable() and len(key) <= SHOWN
            name = key if plain else _shown(key)
            faults.append(f"{dot}{name}: unknown; allowed are {allowed}")
    for name, field in fields.items():
        if name in values and dataclasses.is_dataclass(hints[name]):
            arguments[name] = build(hints[name], values[name], dot + name, faults)
        elif name in values:
            arguments[name] = _convert(hints[name], values[name], dot + name, faults)
        elif field.default is field.default_factory is dataclasses.MISSING:
            faults.append(f"{dot}{name}: missing")
    if len(faults) > before:
        return None
    instance = cls(**arguments)
    if hasattr(instance, "problems"):
        faults.extend(dot + problem for problem in instance.problems())
    return instance


def _convert(hint: Any, value: Any, path: str, faults: list[str]) -> Any:
    """The value in the annotated type; YAML's ints serve as floats, and lists as tuples."""
    origin, choices = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(c for c in choices if c is not type(None)), value, path, faults)
    if origin is Literal:
        if value not in choices:
            faults.append(f"{path}: {_shown(value)}; allowed are {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(choices[0], item, path, faults) for item in value)
        faults.append(f"{path}: {_shown(value)}; give a list")
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        return _number(value, path, faults)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        if hint is int and abs(value) > LARGEST_INT:
            faults.append(f"{path}: {_shown(value)}; give a whole number of at most 18 digits")
        return value
    faults.append(f"{path}: {_shown(value)} is not of type {hint.__name__}")
    return value


def _number(value: float | str, path: str, faults: list[str]) -> float:
    try:
        number = float(value)  # YAML 1.1 reads 1e-5 as a string
    except (ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        faults.append(f"{path}: {_shown(value)} is not of type float")
    return number


def _shown(value: Any) -> str:
    """A value in a message: never more than one short line."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out a number of thousands of digits
        text = f"a {type(value).__name__} of too many digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
