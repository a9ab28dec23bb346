"""Training state on disk, so that an interrupted stage continues where it stopped.

A checkpoint holds weights, averaged weights, optimiser state and the step in one file that is
replaced in one step; the one before is kept and used when the newest cannot be read. In fine-
tuning every value in it is a result of noisy steps that the ledger has already been charged for.
"""

import io
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from privimage.durable import write_durably
from privimage.errors import DataInvalidError

logger = logging.getLogger(__name__)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, plain containers); the previous checkpoint stays beside
    it.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if path.exists():
        os.replace(path, _previous(path))
    write_durably(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None when there is none at all."""
    for candidate in (path, _previous(path)):
        if not candidate.exists():
            continue
        try:
            return torch.load(candidate, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            logger.warning("%s cannot be read (%s); using the one before", candidate, error)
    return None


def remove_checkpoint(path: Path) -> None:
    """Once a stage has written its result its checkpoints go."""
    path.unlink(missing_ok=True)
    _previous(path).unlink(missing_ok=True)


def save_weights(path: Path, weights: dict[str, Tensor]) -> None:
    """Finished weights as safetensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    write_durably(path, safetensors.torch.save(tensors))


def load_weights(path: Path, model: nn.Module) -> None:
    """Load safetensors into `model`, strictly: every name and shape must match."""
    try:
        model.load_state_dict(safetensors.torch.load_file(path))
    except Exception as error:  # safetensors raises its own class, torch RuntimeError
        reason = " ".join(str(error).split())[:200]
        raise DataInvalidError(
            f"{path} does not hold weights of this network ({reason}); "
            "use the configuration that it was trained with"
        ) from error


def _previous(path: Path) -> Path:
    return path.with_suffix(".previous" + path.suffix)
