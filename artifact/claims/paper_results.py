"""Numbers that others published: the paper's main table, and DPImageBench's.

`expected_results/published.yaml` holds them as printed, each table with its source; this reads the
file strictly and finds one number at a time. A claim's `published_as` is the set that its columns
begin with. Nothing in it is private, and nothing is computed here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from annotated_types import Gt
from pydantic import AllowInfNan

from artifact.claims.registry import Source, claims_root, read_mapping
from privimage.errors import ConfigError
from privimage.settings.validation import Must, validated

FILE = "published.yaml"
MAIN_TABLE = "paper"
Column = Annotated[str, Must(lambda name: name.count(".") == 1, "write it as SET.METRIC")]


@dataclass(frozen=True)
class Row:
    """One method at one epsilon; infinite means without privacy, None that there is no number."""

    method: str
    epsilon: Annotated[float, AllowInfNan(), Gt(0)]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table as printed; a column is SET.METRIC, and accuracies are in percent."""

    source: Source
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def problems(self) -> Iterator[str]:
        for i, row in enumerate(self.rows):
            if len(row.values) != len(self.columns):
                yield (
                    f"rows[{i}].values: {len(row.values)} numbers for {len(self.columns)} columns"
                )
        names = [(row.method, row.epsilon) for row in self.rows]
        for method, epsilon in sorted({name for name in names if names.count(name) > 1}):
            yield f"rows: {method} at epsilon {epsilon:g} is there twice; keep one"

    @cached_property
    def _cells(self) -> dict[tuple[str, float, str], float | None]:
        return {
            (row.method, row.epsilon, column): value
            for row in self.rows
            for column, value in zip(self.columns, row.values, strict=True)
        }

    @property
    def methods(self) -> tuple[str, ...]:
        """Every method once, in the table's order."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    def metrics(self, dataset: str) -> tuple[str, ...]:
        """What is reported on a set; empty if the table does not have the set."""
        return tuple(
            column.removeprefix(f"{dataset}.")
            for column in self.columns
            if column.startswith(f"{dataset}.")
        )

    def epsilons(self, method: str) -> tuple[float, ...]:
        """The epsilons of a method, in the table's order; empty for an unknown method."""
        return tuple(row.epsilon for row in self.rows if row.method == method)

    def value(self, method: str, dataset: str, *, metric: str, epsilon: float) -> float | None:
        """The number as printed; None where the source has none, ConfigError for another cell."""
        cell = (method, float(epsilon), f"{dataset}.{metric}")
        if cell not in self._cells:
            raise ConfigError(
                f"no published {metric} of {method} on {dataset} at epsilon {epsilon:g}; methods "
                f"are {', '.join(self.methods)}; columns are {', '.join(self.columns)}; epsilons "
                f"of {method} are {', '.join(f'{e:g}' for e in self.epsilons(method)) or 'none'}"
            )
        return self._cells[cell]


def published_path() -> Path:
    """`expected_results/published.yaml`, beside the folder of the claims."""
    return claims_root().parent / "expected_results" / FILE


def published_table(name: str = MAIN_TABLE, *, path: Path | None = None) -> PublishedTable:
    """One table by name; ConfigError lists those there are."""
    tables = load_published(path)
    if name not in tables:
        raise ConfigError(f"no published table {name!r}; there are {', '.join(tables)}")
    return tables[name]


def load_published(path: Path | None = None) -> dict[str, PublishedTable]:
    """All tables of the file; one ConfigError for all its faults."""
    path = path or published_path()
    return validated(dict[str, PublishedTable], read_mapping(path), where=path)
