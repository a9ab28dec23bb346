"""Training state on disk, so that an interrupted stage continues where it stopped.

A checkpoint is one file that is replaced in one step: weights, averages, optimiser state, step,
order of the data and generator states together. It carries its SHA-256 and says what it belongs to;
the one before is kept and used when the newest is damaged. In fine-tuning every value in it is a
result of noisy steps that the ledger has already been charged for.
"""

import hashlib
import io
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from privimage.errors import DataInvalidError
from privimage.files.durable import write_durably
from privimage.files.plain_files import open_plain

logger = logging.getLogger(__name__)
INSECURE, ABOUT = "insecure", "about"  # keys of the metadata of weights
MAGIC = b"privimage checkpoint"
MAX_HEADER_BYTES = 200  # magic and two hashes have 151
TIME_SHARE = 0.02  # of a stage's time may go into writing checkpoints
PAID_TIME_SHARE = 0.5  # where privacy paid for it: each step that lasts twice a save or more


class Checkpoint:
    """The saved state of one stage; without a path nothing is ever kept.

    `belongs_to` is whatever fixes the stage's course (JSON values): a state that was saved for
    anything else is not used. States are tensors, numbers and plain containers. `time_share`
    bounds what saving costs: 0 saves only on `save`, and infinity makes it due after every step.
    """

    def __init__(
        self, path: Path | None, *, belongs_to: Any = None, time_share: float = TIME_SHARE
    ) -> None:
        text = json.dumps(belongs_to, sort_keys=True)
        self.path, self.time_share = path, time_share
        self._owner = hashlib.sha256(text.encode()).hexdigest().encode()
        self._saved, self._cost = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether enough work was done since the last save to be worth another one."""
        if self.path is None:
            return False
        # work since the last save, against what that save took: a fast disk keeps more states
        return (time.monotonic() - self._saved) * self.time_share > self._cost

    def save(self, state: dict[str, Any]) -> None:
        """Write `state`; when this returns it is on the disk, and the one before beside it."""
        if self.path is None:
            return
        started = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        # moved before the new one is written: at every moment a whole state is on the disk
        if self.path.exists():
            os.replace(self.path, self._previous)
        write_durably(self.path, self._header(payload) + payload)
        self._saved = time.monotonic()
        self._cost = self._saved - started

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state of this very stage, or None."""
        for candidate in (self.path, self._previous) if self.path else ():
            if candidate is not None and candidate.exists():
                state = self._read(candidate)
                if state is not None:
                    return state
        return None

    def _read(self, path: Path) -> dict[str, Any] | None:
        content = path.read_bytes()
        end = len(self._header(b""))  # a header's length does not depend on the payload
        header, payload = content[:end], content[end:]
        if header == self._header(payload):
            return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        # owner and sum stand apart in it, so that people learn which of them is wrong
        if header.split()[2:3] == [self._owner]:
            logger.warning("%s is damaged; using the one before, if there is one", path)
        else:
            logger.warning("%s belongs to other settings and is not used", path)
        return None

    def _header(self, payload: bytes) -> bytes:
        digest = hashlib.sha256(payload).hexdigest().encode()
        return b" ".join((MAGIC, self._owner, digest)) + b"\n"

    @property
    def _previous(self) -> Path:
        assert self.path is not None
        return self.path.with_suffix(".previous" + self.path.suffix)


NOT_KEPT = Checkpoint(None)


def is_undamaged(path: Path) -> bool:
    """Whether a saved state has the SHA-256 that it carries; nothing in it is unpacked."""
    with open_plain(path) as file:
        header = file.readline(MAX_HEADER_BYTES)
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    is_headed = header.startswith(MAGIC) and header.endswith(b"\n")
    return is_headed and header.split()[-1] == digest.hexdigest().encode()


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    *,
    insecure: bool,
    about: dict[str, Any] | None = None,
) -> None:
    """Finished weights as safetensors. Their metadata says whether the noise that they rest on had
    a seed, in which case no guarantee holds, and `about` them what else is public (JSON values).
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # under one name, since safetensors writes several in an order of chance: the same weights are
    # to be the same bytes
    metadata = {INSECURE: json.dumps(insecure)}
    if about is not None:
        metadata = {ABOUT: json.dumps(about | {INSECURE: insecure})}
    write_durably(path, safetensors.torch.save(tensors, metadata))


def weights_are_insecure(path: Path) -> bool:
    """Whether they say that it had one; DataInvalidError if they say nothing."""
    metadata = _weights_header(path)[0]
    about = _parsed_about(path, metadata)
    said = metadata.get(INSECURE) if about is None else json.dumps(about.get(INSECURE))
    if said not in ("true", "false"):
        raise DataInvalidError(
            f"{path} does not say whether the noise it rests on was secure; use weights that this "
            "version wrote"
        )
    return said == "true"


def about_weights(path: Path) -> tuple[dict[str, Any] | None, dict[str, tuple[int, ...]]]:
    """What `save_weights` was told about them, None if nothing, and every tensor's shape by name;
    no tensor is read.
    """
    metadata, shapes = _weights_header(path)
    return _parsed_about(path, metadata), shapes


def _parsed_about(path: Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    try:
        about = json.loads(metadata.get(ABOUT, "null"))
    except (ValueError, RecursionError):
        about = False
    if about is None or isinstance(about, dict):
        return about
    raise DataInvalidError(f"{path} has metadata that cannot be read; copy it again")


def _weights_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    try:
        with safetensors.safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, shapes
    except (OSError, safetensors.SafetensorError) as error:
        raise DataInvalidError(f"{path} cannot be read as weights; copy it again") from error


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
