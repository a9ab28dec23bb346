"""The model card beside released weights and images: what they are, and what they are good for.

For people who get the files and not the run. The sensitive images appear by their published size
and keyed hash only; class names are public facts, declared or assumed. Scores on real images are
marked, for the privacy guarantee does not cover them. The privacy statement has the last word on
privacy.
"""

import dataclasses
import json
from typing import Any

from privimage.diffusion.build import num_parameters, unet_config
from privimage.release.documents import filled_in
from privimage.release.image_files import load_images
from privimage.release.markup import markdown_blocks
from privimage.release.statement import assumption
from privimage.run_folder.run import Run


def model_card(run: Run, statement: dict[str, Any]) -> str:
    """The card as Markdown; `statement` is the privacy statement of the same run."""
    config, sensitive = run.config, run.sets.sensitive
    metrics = json.loads((run.folder / "metrics.json").read_text())
    network = None  # of a run that took its images over there are no weights
    if (run.folder / "model.safetensors").exists():
        fields = dataclasses.asdict(unet_config(config, sensitive))
        network = {name: repr(value) for name, value in fields.items()}
    is_folder = config.data.public.startswith("folder:")  # its place is not to be told
    return filled_in(
        "model_card.md",
        statement=statement,
        title=config.name,
        num_images=len(load_images(run.folder / "images.npz")),
        image_size=config.data.image_size,
        color={1: "grey", 3: "RGB"}[sensitive.num_channels],
        class_names=sensitive.class_names if config.data.conditional else None,
        network=network,
        num_parameters=num_parameters(config, sensitive),
        assumption=assumption(statement["assumed_public"]),
        public="images of the publisher" if is_folder else f"`{config.data.public}`",
        selection=json.loads((run.folder / "query" / "selection.json").read_text()),
        sampling=config.sampling,
        moments=config.moments is not None,
        accuracy=metrics.pop("query_network_accuracy"),
        scores=sorted(metrics.items()),
        is_rehearsal=config.stage_seconds is not None,
    )


def told_by_card(text: str) -> tuple[str, list[tuple[str, str, str]]]:
    """The title of a card and its scores, read again: name, value, and value of real images in the
    place of synthetic ones; "" for what it does not tell.
    """
    blocks = markdown_blocks(text)
    headings = [block.lines[0] for block in blocks if block.kind == "heading"]
    title = headings[0].removeprefix("Model card: ") if headings else ""
    section, table = "", []
    for block in blocks:
        if block.kind == "heading":
            section = block.lines[0]
        elif block.kind == "table" and section == "Scores":
            table += [row for row in block.rows[1:] if len(row) == 2]
    values = dict(table)
    names = dict.fromkeys(name.removeprefix("real_") for name in values)
    return title, [(n, values.get(n, ""), values.get(f"real_{n}", "")) for n in names]
