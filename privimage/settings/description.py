"""What is public of the sensitive images: declared by their owner, or taken from them.

Number, classes, size and colour shape everything that a run makes, without noise. A fact that the
owner declares tells nothing of the images: those that don't fit are left out one by one. A fact
that is taken from them is assumed to be public, and plan, statement and model card name it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privimage.data.own.arrays import MAX_CLASSES
from privimage.errors import ConfigError
from privimage.files.plain_yaml import read_yaml
from privimage.settings.config import FACTS, ClassNames, Color, DataConfig, ImageSize
from privimage.settings.validation import Count, validated


@dataclass(frozen=True, kw_only=True)
class Description:
    """The declared facts by the names of their settings; None where there is no declaration."""

    public_size: Count | None = None
    classes: ClassNames | None = None
    image_size: ImageSize | None = None
    color: Color | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        """The facts that have to be taken from the images."""
        return tuple(fact for fact in FACTS if getattr(self, fact) is None)


def described(file: Path | None, options: dict[str, Any], settings: dict[str, Any]) -> Description:
    """Facts from a description file, from options, which go before it, and from `--set data.x`,
    which goes before both. ConfigError for all faults together.
    """
    values = read_yaml(file) if file else {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of {', '.join(FACTS)}")
    values = values | {fact: value for fact, value in options.items() if value is not None}
    values |= {fact: settings[f"data.{fact}"] for fact in FACTS if f"data.{fact}" in settings}
    if settings.get("data.conditional") is False:
        values.setdefault("classes", [])
    values["classes"] = class_names(values.get("classes"))
    return validated(Description, values, where=file or "description of the images")


def class_names(value: Any) -> Any:
    """Names as declared; a number of classes means the labels 0, 1, ..., and below 2 no classes."""
    if isinstance(value, str):
        value = int(value) if value.isdecimal() else [name.strip() for name in value.split(",")]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_CLASSES:
        return [str(label) for label in range(value)] if value > 1 else []
    return value


def assumed_facts(data: DataConfig, *, public_size: int | None) -> tuple[str, ...]:
    """The facts that were taken from the sensitive images, in words; none if all are declared."""
    number = "" if public_size is None else f" ({public_size:,})"
    classes = "the names of the classes" if data.conditional else "that there is one class only"
    words = {
        "public_size": f"the number of images{number}",
        "classes": classes,
        "image_size": f"the image size ({data.image_size} pixels)",
        "color": f"the colour ({data.color})",
    }
    taken = set(data.assumed)
    if data.public_size is None:
        taken.add("public_size")
    if data.classes is None and data.conditional:
        taken.add("classes")
    facts = [words[fact] for fact in FACTS if fact in taken]
    if data.classes is None:
        of_a_class = " and is of one of these classes" * data.conditional
        facts.append(f"that every image can be read{of_a_class}")
    return tuple(facts)
