"""YAML from people and from strangers: plain values of a bounded size, or a ConfigError.

Refused beside tags that would make objects: aliases that stand for too much (nine lines of them can
stand for gigabytes) or for themselves, and a key that is given twice, for the last one would win in
silence. Settings only; nothing is private.
"""

from pathlib import Path
from typing import Any

import yaml

from privimage.errors import ConfigError

MAX_BYTES = 2**18  # the longest file of this bundle has 15 kB
MAX_VALUES = 2**16  # each alias counted as all that it stands for


def read_yaml(path: Path) -> Any:
    """The value in a YAML file; ConfigError with its path if there is none to be had."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return parse_yaml(content, where=str(path))


def parse_yaml(content: bytes | str, *, where: str) -> Any:
    """The value that YAML text stands for; `where` names the text in the ConfigError."""
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{where}: is longer than {MAX_BYTES} bytes; give the settings alone")
    try:
        text = content.decode() if isinstance(content, bytes) else content
        return yaml.load(text, Loader=_PlainLoader)
    except Exception as error:  # yaml's constructors raise anything, for 2001-99-99 or !!int x
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{where}: is not valid YAML ({reason})") from error


class _PlainLoader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.num_values = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        before, is_alias = self.num_values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        # the size of a node is known when it ends: an alias inside of what it names finds none
        self.num_values += self.sizes.get(id(node), MAX_VALUES) if is_alias else 1
        if self.num_values > MAX_VALUES:
            raise yaml.MarkedYAMLError(
                problem="its aliases stand for too much; write out what is meant"
            )
        self.sizes.setdefault(id(node), self.num_values - before)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.MarkedYAMLError(
                problem="a key is given twice; keep one of them", problem_mark=node.start_mark
            )
        return mapping
