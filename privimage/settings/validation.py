"""Frozen dataclasses from plain mappings, strictly: every fault is found, and all are reported
together, each with its dotted path, what was given and what to give instead.

What is allowed stands in the types of a class: ranges as `annotated_types` writes them, the rest as
`Must`. A class may offer `problems()`, which yields what its values are wrong in together; it is
asked when each of them is right.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval

from privimage.errors import ConfigError

SHOWN = 80  # characters of a value in a message
REMEDIES = {  # by pydantic's names of faults
    "bool_type": "give true or false",
    "dataclass_type": "give a section of settings",
    "dict_type": "give a mapping",
    "finite_number": "give a finite number",
    "float_type": "give a number",
    "greater_than": "give a number above {gt:g}",
    "greater_than_equal": "give at least {ge:g}",
    "int_type": "give a whole number",
    "less_than": "give a number below {lt:g}",
    "less_than_equal": "give at most {le:g}",
    "list_type": "give a list",
    "literal_error": "allowed are {expected}",
    "multiple_of": "give a multiple of {multiple_of}",
    "string_type": "give text, in quotes if need be",
    "string_unicode": "give text that can be written as UTF-8",
    "too_long": "give at most {max_length} of them",
    "too_short": "give at least {min_length} of them",
    "tuple_type": "give a list",
    "value_error": "{error}",
}


@dataclasses.dataclass(frozen=True)
class Must:
    """In `Annotated`: what `check` must find true; `remedy` says what to give instead."""

    check: Callable[[Any], Any]
    remedy: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if not self.check(value):
            raise ValueError(self.remedy)
        return value


Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
Rate = Annotated[float, Interval(ge=0, lt=1)]


def validated(kind: Any, values: Any, *, where: Any, known: Iterable[str] = ()) -> Any:
    """An instance of the dataclass `kind`, or a dict of instances for a `dict[str, ...]` of them.

    One ConfigError has all faults of the file or place `where`, those that are `known` among them.
    """
    # pydantic takes a tenth of a second, which no command waits for that reads no settings
    from privimage.settings.schema import instance_or_errors

    instance, errors = instance_or_errors(kind, values)
    faults = [*known, *(message for error in errors for message in _messages(kind, error))]
    if faults:
        raise ConfigError(f"{where}: " + "; ".join(faults))
    return instance


def _messages(kind: Any, error: Any) -> Iterator[str]:
    fault, loc, context = error["type"], error["loc"], error.get("ctx", {})
    path = "".join(map(_step, loc)).removeprefix(".")
    if fault == "problems":
        yield from (f"{path}.{problem}".removeprefix(".") for problem in context["problems"])
    elif fault == "missing":
        yield f"{path}: missing"
    elif fault in ("unexpected_keyword_argument", "invalid_key"):
        yield f"{path}: unknown; allowed are {', '.join(_keys(kind, loc[:-1]))}"
    else:
        if fault == "literal_error":  # 'grey' or 'rgb'
            context = {"expected": context["expected"].replace(" or ", ", ").replace("'", "")}
        remedy = REMEDIES[fault].format(**context) if fault in REMEDIES else error["msg"]
        yield f"{path} is {_shown(error['input'])}; {remedy}"


def _step(part: int | str) -> str:
    """A place in a list or a key; behind a key, `[key]` marks that not its value is meant."""
    if part == "[key]":
        return "[key]"
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part if part.isprintable() and len(part) <= SHOWN else _shown(part)}"


def _keys(kind: Any, loc: tuple[int | str, ...]) -> list[str]:
    """The keys that are known at a place inside of `kind`."""
    for part in loc:
        if dataclasses.is_dataclass(kind):
            kind = get_type_hints(kind)[str(part)]
            if get_origin(kind) is UnionType:  # X | None
                kind = get_args(kind)[0]
        else:  # dict[str, X] or tuple[X, ...]
            kind = get_args(kind)[get_origin(kind) is dict]
    return sorted(field.name for field in dataclasses.fields(kind))


def _shown(value: Any) -> str:
    """A value in a message: never more than one short line."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out a number of thousands of digits
        text = "a number of too many digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
