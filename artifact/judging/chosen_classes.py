"""Does the private query choose public classes that a person would choose?

A claim may list, for each sensitive class, the public classes that look like it (the letter O for
the digit 0). The count below is post-processing of the released selection.
"""

from collections.abc import Mapping

from artifact.claims.records import ClaimRecord


def num_look_alikes(
    look_alikes: Mapping[str, list[str]], record: ClaimRecord, arm: str
) -> int | None:
    """How many sensitive classes got at least one look-alike; None if nothing was selected."""
    classes = record.entry(arm, "selection.classes")
    if not isinstance(classes, dict) or not classes:
        return None
    return sum(
        bool(set(names) & set(classes.get(label, []))) for label, names in look_alikes.items()
    )
