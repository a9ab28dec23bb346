"""What pydantic makes of a dataclass of settings: its strict rules, eased for values of YAML.

Strict means that no bool serves as a number and no number as text, that there is no infinity, and
that an unknown key is a fault. `privimage.settings.validation` loads this, and with it pydantic,
when there are settings to be read.
"""

import math
from contextlib import suppress
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError, SchemaValidator
from pydantic_core.core_schema import (
    no_info_after_validator_function,
    no_info_before_validator_function,
)

LARGEST_INT = 10**18  # what a 64-bit number surely holds
RULES: Any = {"strict": True, "allow_inf_nan": False, "extra_fields_behavior": "forbid"}


def instance_or_errors(kind: Any, values: Any) -> tuple[Any, list[Any]]:
    """An instance of `kind`, or None and pydantic's errors."""
    try:
        return _validator(kind).validate_python(values), []
    except ValidationError as error:
        return None, [*error.errors(include_url=False)]


@cache
def _validator(kind: Any) -> SchemaValidator:
    return SchemaValidator(_eased(TypeAdapter(kind).core_schema), RULES)


def _eased(schema: Any) -> Any:
    """YAML's mappings serve as dataclasses, its lists as tuples, its ints and 1e-5 as floats."""
    if isinstance(schema, list):
        return [_eased(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    eased: Any = {key: _eased(value) for key, value in schema.items()}
    match eased.get("type"):
        case "dataclass":
            ref = eased.pop("ref", None)  # names the whole, not the part that asks no `problems`
            eased |= {"strict": False, "config": RULES}
            return no_info_after_validator_function(_without_problems, eased, ref=ref)
        case "tuple":
            return no_info_before_validator_function(_tuple, eased)
        case "float":
            return no_info_before_validator_function(_number, eased)
        case "int":
            return {"ge": -LARGEST_INT, "le": LARGEST_INT, **eased}
    return eased


def _without_problems(instance: Any) -> Any:
    problems = [*instance.problems()] if hasattr(instance, "problems") else []
    if problems:
        raise PydanticCustomError("problems", "", {"problems": problems})
    return instance


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            number = float(value)  # YAML 1.1 reads 1e-5 as text
            if not math.isnan(number):
                return number
    raise PydanticKnownError("float_type")
