"""What YAML may write for a typed value, and how a fault is told."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from privimage.errors import ConfigError
from privimage.settings.validation import Count, Must, Rate, validated


@dataclass(frozen=True, kw_only=True)
class Part:
    number: Count = 1
    rate: Rate = 0.5
    flag: bool = False
    kind: Literal["a", "b"] | None = None
    word: Annotated[str, Must(str.islower, "give it in small letters")] = "x"

    def problems(self) -> Iterator[str]:
        if self.flag and self.kind is None:
            yield "flag is set and kind is not; give both"


@dataclass(frozen=True, kw_only=True)
class Whole:
    part: Part = Part()
    list: tuple[Part, ...] = ()
    named: dict[str, Part] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def faults(**values):
    with pytest.raises(ConfigError) as caught:
        validated(Whole, values, where="it")
    return str(caught.value).removeprefix("it: ").split("; ")


def test_what_yaml_writes_otherwise_serves_and_the_rest_is_left_alone():
    part = validated(Part, {"rate": "1e-5"}, where="it")
    assert part == Part(rate=1e-5)
    assert hash(part) == hash(Part(rate=1e-5))
    assert isinstance(validated(Part, {"rate": 0}, where="it").rate, float)
    whole = validated(Whole, {"list": [{}], "named": {"y": {}}, "free": {"z": [1]}}, where="it")
    assert whole == Whole(list=(Part(),), named={"y": Part()}, free={"z": [1]})


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ({"number": True}, "number is True; give a whole number"),
        ({"number": 2.0}, "number is 2.0; give a whole number"),
        ({"number": "2"}, "number is '2'; give a whole number"),
        ({"number": 0}, "number is 0; give at least 1"),
        ({"number": 10**19}, f"number is {10**19}; give at most 1e+18"),
        ({"number": 10**5000}, "number is a number of too many digits; give at most 1e+18"),
        ({"rate": True}, "rate is True; give a number"),
        ({"rate": math.nan}, "rate is nan; give a number"),
        ({"rate": "nan"}, "rate is 'nan'; give a number"),
        ({"rate": -math.inf}, "rate is -inf; give a finite number"),
        ({"rate": 10**400}, f"rate is {str(10**400)[:80]}...; give a number"),
        ({"rate": 1}, "rate is 1.0; give a number below 1"),
        ({"flag": 1}, "flag is 1; give true or false"),
        ({"flag": "yes"}, "flag is 'yes'; give true or false"),
        ({"kind": ["a"]}, "kind is ['a']; allowed are a, b"),
        ({"word": b"x"}, "word is b'x'; give text, in quotes if need be"),
        ({"word": "X"}, "word is 'X'; give it in small letters"),
        ({"words": 1}, "words: unknown; allowed are flag, kind, number, rate, word"),
        ({None: 1}, "None: unknown; allowed are flag, kind, number, rate, word"),
        ({"flag": True}, "flag is set and kind is not; give both"),
    ],
)
@pytest.mark.parametrize("place", ["part", "list[0]", "named.x"])
def test_a_fault_has_its_path_what_was_given_and_what_to_give(value, remedy, place):
    values = {"part": {"part": value}, "list[0]": {"list": [value]}}
    values["named.x"] = {"named": {"x": value}}
    assert "; ".join(faults(**values[place])) == f"{place}.{remedy}"


def test_faults_of_all_places_are_told_together_beside_those_that_are_known():
    values = {"part": {"flag": True}, "list": [{"rate": 2, "number": 0}, 3], "named": {5: {}}}
    with pytest.raises(ConfigError) as caught:
        validated(Whole, values | {"free": []}, where="it", known=["the file is old"])
    assert str(caught.value) == (
        "it: the file is old; part.flag is set and kind is not; give both; "
        "list[0].number is 0; give at least 1; list[0].rate is 2.0; give a number below 1; "
        "list[1] is 3; give a section of settings; "
        "named[5][key] is 5; give text, in quotes if need be; free is []; give a mapping"
    )


def test_a_set_of_values_has_no_order_and_is_no_list():
    assert faults(list={1}) == ["list is {1}", "give a list"]
