"""Between the query and the selection: ask the moments query, where the settings have it; drawing
will begin with sketches that follow from it (docs/method.md, 12).

Only `ask_moments` touches the sensitive set, and only through `moments_query`, which charges the
ledger.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from privimage.data.image_set import to_uint8
from privimage.diffusion.generate import sample_grid
from privimage.privacy.ledger import charge_answer
from privimage.privacy.moments import MOMENTS, Moments, moments_query
from privimage.run_folder import manifest
from privimage.run_folder.budget import refuse_lost_answer
from privimage.run_folder.checkpoint import save_weights
from privimage.run_folder.private_folder import read_private, write_private
from privimage.run_folder.run import Run, plain, public_set, save_picture
from privimage.semantics.sketches import (
    Sketches,
    frame_from,
    public_frame,
    sketches_from,
    tensors_of,
)

PER_LABEL_SHOWN = 10
QUESTION = "question"
MOMENTS_FILE, PICTURE = manifest.PRODUCTS["moments"]


def moments_inputs(run: Run) -> dict[str, Any]:
    if run.config.moments is None:
        return {"moments": "not asked"}
    return {
        "public": public_set(run.config, run.sets),
        "sensitive": run.data_id,
        "labels": list(run.sets.sensitive.class_names),
        "moments": plain(run.config.moments),
        "seed": run.config.seed,
        "insecure": run.source.insecure,
    }


def ask_moments(run: Run) -> list[str]:
    """Release the noisy moments, with the basis that they are in.

    A copy lies in `private/` before the charge, so that no crash can take a paid answer away, and
    the same images are never asked twice.
    """
    if run.config.moments is None:
        return []
    kept = _kept_answer(run) if run.world.is_leader else None
    if run.world.broadcast_flag(kept is None):
        kept = _ask(run)
    if kept is None or not run.world.is_leader:
        return []
    charge_answer(run.ledger, MOMENTS)
    save_weights(run.folder / MOMENTS_FILE, kept, insecure=run.source.insecure)
    save_picture(run.folder / PICTURE, _picture(run, sketches_from(kept)))
    run.progress("moments", 1, 1)
    return [MOMENTS_FILE, PICTURE]


def sketch_inputs(run: Run) -> dict[str, Any]:
    """What drawing rests on beside the model; nothing where no moments were asked for."""
    if run.config.moments is None:
        return {}
    return {"moments": manifest.results(run.folder, "moments")}


def sketches_of(run: Run) -> Sketches | None:
    """What drawing begins with, on every process; None without moments."""
    if run.config.moments is None:
        return None
    kept = {}
    if run.world.is_leader:
        kept = safetensors.torch.load_file(run.folder / MOMENTS_FILE)
    return sketches_from(run.world.broadcast(kept))


def _ask(run: Run) -> dict[str, Tensor]:
    """The answer, asked and paid for; RunFolderError if it was paid for before."""
    config = run.config.moments
    assert config is not None
    found = {}
    if run.world.is_leader:
        refuse_lost_answer(run.folder, run.ledger, "moments")
        size, seed = config.num_components, run.config.seed
        found = tensors_of(public_frame(run.sets.public, num_components=size, seed=seed))
    frame = frame_from(run.world.broadcast(found))  # one for all, to the last bit

    def told(noisy: Moments) -> dict[str, Tensor]:
        return tensors_of(
            frame,
            noisy,
            noise_multiplier=config.noise_multiplier,
            noise_level=config.sketch_noise_level,
        )

    def keep(noisy: Moments) -> None:
        kept = told(noisy) | {QUESTION: _question(run)}
        write_private(_kept(run), safetensors.torch.save(kept))

    noisy = moments_query(
        run.sets.sensitive,
        frame.basis,
        noise_multiplier=config.noise_multiplier,
        ledger=run.ledger,
        source=run.source,
        keep=keep,
        world=run.world,
    )
    return told(noisy)


def _picture(run: Run, sketches: Sketches) -> Image.Image:
    names, size = run.sets.sensitive.class_names, run.config.data.image_size
    labels = torch.arange(PER_LABEL_SHOWN * len(names)) % len(names)
    generator = torch.Generator().manual_seed(run.config.seed)
    drawn = to_uint8(sketches.draw(labels, size=size, generator=generator))
    return sample_grid(drawn, labels, names, per_class=PER_LABEL_SHOWN)


def _kept_answer(run: Run) -> dict[str, Tensor] | None:
    """The answer to this very question that an interrupted process left, or None.

    One that is damaged counts as none: if it was paid for, `_ask` refuses to ask again.
    """
    try:
        kept = load_tensors(read_private(_kept(run)) or b"")
    except (SafetensorError, ValueError, LookupError):
        return None
    question = kept.pop(QUESTION, torch.empty(0))
    return kept if torch.equal(question, _question(run)) else None


def _question(run: Run) -> Tensor:
    """A hash of what is asked, as a tensor that can lie beside the answer."""
    asked = json.dumps(moments_inputs(run), sort_keys=True).encode()
    return torch.tensor(list(hashlib.sha256(asked).digest()), dtype=torch.uint8)


def _kept(run: Run) -> Path:
    return run.folder / "private" / "moments_answer.safetensors"
