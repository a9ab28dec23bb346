"""The promise of a run and its account: what will be charged, and what a spent folder refuses.

Noise is calibrated from what the queries leave. Once budget is spent in a folder, nothing there may
be done differently, and the account may be neither lost nor replaced by an older copy. `private/`
holds the key that names the sensitive images in public files.
"""

import logging
import secrets
from pathlib import Path
from typing import Any

from privimage.errors import RunFolderError
from privimage.files.plain_yaml import read_yaml
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.moments import MOMENTS
from privimage.privacy.plan import PrivacyPlan
from privimage.privacy.query import QUERY
from privimage.privacy.rng import RandomSource, insecure_source, secure_source
from privimage.run_folder import manifest
from privimage.run_folder.donor import Donor
from privimage.run_folder.private_folder import private_folder, read_private, write_private
from privimage.run_folder.run import ImageSets
from privimage.settings.config import RunConfig

logger = logging.getLogger(__name__)
KEY_BYTES = 32
# what each private stage is charged as
CHARGED = {"query": QUERY, "moments": MOMENTS, "finetune": DP_SGD}
# settings that a charge fixes: they shaped what was released
BEFORE_QUERY = ("seed", "data", "privacy", "query_network", "moments")
BEFORE_DP_SGD = (*BEFORE_QUERY, "selection", "network", "pretrain", "finetune")


def privacy_plan(config: RunConfig) -> PrivacyPlan:
    """What will be charged: queries that are asked, and DP-SGD with the noise that they leave."""
    privacy, asks = config.privacy, config.selection.strategy == "semantic"
    return PrivacyPlan.calibrated(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        sampling_rate=privacy.sampling_rate,
        num_steps=privacy.num_steps,
        query_noise_multiplier=privacy.query_noise_multiplier if asks else None,
        moments_noise_multiplier=config.moments.noise_multiplier if config.moments else None,
        accountant=privacy.accountant,
    )


def random_source(config: RunConfig) -> RandomSource:
    """The operating system's randomness, or a seeded source that marks everything it touches."""
    if not config.privacy.insecure_for_reproduction:
        return secure_source()
    return insecure_source(config.seed, insecure_for_reproduction=True)


def open_ledger(
    plan: PrivacyPlan,
    folder: Path,
    sets: ImageSets,
    source: RandomSource,
    donor: Donor | None = None,
) -> PrivacyLedger:
    """The run's ledger; it names the sensitive set by a hash keyed with `private/data_key`.

    The ledger of a model that is taken over comes with it, and names the images as the donor did.
    """
    if donor is not None and donor.brings_ledger:
        data_id = donor.take_over_ledger(folder)
    else:
        data_id = sets.sensitive.fingerprint(data_key(folder))
    path = folder / "ledger.json"
    if not path.exists() and any(manifest.read(folder, stage) for stage in CHARGED):
        raise RunFolderError(
            f"{path} is gone, and with it the account of what {folder} has spent; restore it from "
            "a copy, or count its whole promise as spent and use a new run folder"
        )
    return plan.open_ledger(path, data_id=data_id, random_source=source)


def refuse_older_ledger(folder: Path, ledger: PrivacyLedger) -> None:
    """RunFolderError if the ledger knows of fewer charges than the finished stages rest on."""
    for stage, mechanism in CHARGED.items():
        if mechanism not in ledger.reserved:
            continue
        before = manifest.read(folder, stage) or {"state": "none"}
        if before["state"] == "done" and ledger.charged(mechanism) < before.get("charged", 0):
            raise RunFolderError(
                f"{folder / 'ledger.json'} knows {ledger.charged(mechanism)} uses of {mechanism}, "
                f"and {stage} rests on {before['charged']}: it is an older copy; restore the "
                "newest, or use a new run folder"
            )


def refuse_other_settings(config: RunConfig, folder: Path, ledger: PrivacyLedger) -> None:
    """RunFolderError, before anything is touched, if budget was spent here under other settings."""
    path = folder / "config.yaml"
    charged = [name for name in CHARGED.values() if ledger.charged(name)]
    if not charged or not path.exists():
        return
    before, now = read_yaml(path), config.to_dict()
    for settings in (before, now):
        settings["data"].pop("evaluate_on", None)  # what results are compared with may change
    fixed = BEFORE_DP_SGD if DP_SGD in charged else BEFORE_QUERY
    changed = [section for section in fixed if before.get(section) != now[section]]
    if changed:
        raise RunFolderError(
            f"{folder} has already spent privacy budget with other settings of "
            f"{', '.join(changed)}; go back to those in {path}, or use a new run folder"
        )


def refuse_changed_release(folder: Path, stage: str, inputs: dict[str, Any]) -> None:
    """RunFolderError if a stage that has been charged would be done with anything changed."""
    if manifest.was_started_otherwise(folder, stage, inputs):
        raise RunFolderError(
            f"{folder} has already spent privacy budget on {stage} with other settings; "
            "doing it again would spend it twice: use a new run folder"
        )


def refuse_lost_answer(folder: Path, ledger: PrivacyLedger, stage: str) -> None:
    """RunFolderError if what a stage is about to ask for was paid for before: it was lost."""
    if ledger.charged(CHARGED[stage]):
        raise RunFolderError(
            f"{folder} has already spent privacy budget on {stage} and its result is no longer "
            "here; doing it again would spend it twice: use a new run folder"
        )


def data_key(folder: Path) -> bytes:
    """The secret that names private images in public files; made when it is first asked for.

    A key that lies there before anything rests on one may be known to whoever put it there, who
    could then confirm guesses of the images by the names: it is not used.
    """
    path = private_folder(folder) / "data_key"
    key = read_private(path)
    if key is not None and len(key) != KEY_BYTES:
        raise RunFolderError(
            f"{path} has {len(key)} bytes, and a key {KEY_BYTES}; put the right one back if the "
            "folder holds results, else remove it"
        )
    is_in_use = (folder / "ledger.json").exists() or any(
        manifest.read(folder, stage) for stage in CHARGED
    )
    if key is not None and is_in_use:
        return key
    if key is not None:
        logger.warning("%s was there before any run: a new key takes its place", path)
    note = b"PRIVATE: data_key names the sensitive set in the ledger. Never publish it.\n"
    write_private(path.parent / "README", note)
    key = secrets.token_bytes(KEY_BYTES)
    write_private(path, key)
    return key
