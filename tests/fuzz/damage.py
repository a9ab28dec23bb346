"""Damage as strangers and bad disks do it, to bytes and to nested values; a bound on memory."""

import copy
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from privimage.errors import UserError

GIB = 2**30


def examples(number: int):
    """The same examples in every run, as many as the default suite has time for."""
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@contextmanager
def memory_bounded(more: int = GIB) -> Iterator[None]:
    """Inside, no more than `more` bytes of address space can be had: MemoryError beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(
    read: Callable[[], Any], refusal: type[UserError] = UserError
) -> tuple[Any, str | None]:
    """What `read` gives, or the message of its refusal; any other error is a defect."""
    try:
        return read(), None
    except refusal as error:
        return None, str(error)


EXTREMES = [
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\x80" + bytes(3),
]


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """The content cut off, or with bits turned, numbers made extreme, pieces lost or doubled."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, 40))
        match draw(
            st.sampled_from(["cut", "turn", "turn", "extreme", "extreme", "lose", "double"])
        ):
            case "cut":
                del data[at:]
            case "turn" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "extreme":
                data[at : at + 4] = draw(st.sampled_from(EXTREMES))
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
    return bytes(data)


def junk(*, finite: bool = False) -> st.SearchStrategy[Any]:
    """Values that YAML and JSON can hold, of any type and depth."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=not finite, allow_infinity=not finite)
        | st.text(max_size=8)
        | st.sampled_from(["1e400", "auto", "cuda:x", "nan", "\ud800", "../x", 10**400, -1, 0])
    )
    keys = st.text(max_size=5)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=6,
    )


@st.composite
def altered(draw: Any, value: Any, *, finite: bool = False) -> Any:
    """The nested value with one to three places removed, replaced, renamed or added to."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(value) if place[0]]
        if not places:
            return value
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["remove", "replace", "replace", "rename", "add"])):
            case "remove":
                del holder[key]
            case "replace":
                holder[key] = draw(junk(finite=finite))
            case "rename" if isinstance(holder, dict):
                holder[draw(st.text(max_size=4)) + str(key)] = holder.pop(key)
            case "add" if isinstance(holder, dict):
                holder[draw(st.text(max_size=4))] = draw(junk(finite=finite))
            case _:
                holder[key] = [holder[key], holder[key]]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield value, key
        yield from _places(item)
