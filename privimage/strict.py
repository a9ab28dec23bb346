"""Frozen dataclasses from plain mappings, strictly: every fault is found, and all are reported
together.

A key that is unknown or missing, a value of the wrong type or out of range is a fault with its
dotted path. A dataclass may offer `problems()`, which yields what is wrong with its values.
"""

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def build(cls: Any, values: Any, path: str, faults: list[str]) -> Any:
    """An instance of the dataclass `cls`, or None with `faults` extended."""
    if not isinstance(values, dict):
        faults.append(f"{path}: expected a section, got {values!r}")
        return None
    hints = get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before, arguments = len(faults), {}
    dot = f"{path}." if path else ""
    for key in values:
        if key not in fields:
            faults.append(f"{dot}{key}: unknown; allowed are {', '.join(sorted(fields))}")
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
            faults.append(f"{path}: {value!r}; allowed are {', '.join(map(str, choices))}")
        return value
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(choices[0], item, path, faults) for item in value)
        faults.append(f"{path}: {value!r}; give a list")
        return value
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-5 as a string
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    faults.append(f"{path}: {value!r} is not of type {hint.__name__}")
    return value
