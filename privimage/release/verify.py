"""Is a run what it says? Every hash that it records is taken again, its epsilon is counted again,
and its documents are held against one another: `privimage verify`, for whoever must approve a
release.

Needs neither images nor training, and reads no private file. Works for a whole run folder and for
what was published of one; what cannot be checked for want of files is said. Who rewrites all files
so that they agree is not found out: that takes a hash of `SHA256SUMS` which came another way.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jinja2

from privimage.errors import RunFolderError, UserError
from privimage.files.durable import file_sha256
from privimage.files.plain_files import inside, refuse_links
from privimage.release import agreement
from privimage.release.checksums import CHECKSUMS, PAPERS, published_files, read_checksums
from privimage.release.export import fault_of_export
from privimage.release.papers import LEDGER, STATEMENT, Broken, NotHere, Papers, refuse
from privimage.run_folder import manifest
from privimage.run_folder.checkpoint import is_undamaged
from privimage.run_folder.public_weights import START_FROM

logger = logging.getLogger(__name__)
NOISE_CHECK = "the noise was secure"
MAX_REASON = 400  # characters; a folder of a stranger may hold endless names
# stage and entry of its manifest that names what an earlier stage left
RESTS_ON = (
    ("query", "query_network", "query_network"),
    ("selection", "query", "query"),
    ("pretrain", "selection", "selection"),
    ("finetune", "pretrained", "pretrain"),
    ("generate", "model", "finetune"),
    ("generate", "moments", "moments"),
    ("evaluate", "images", "generate"),
)
# what damaged or foreign JSON makes of code that reads it
UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, OSError)


@dataclass(frozen=True)
class Check:
    """One question, its answer, and in words why."""

    what: str
    answer: Literal["ok", "FAILED", "not made"]
    reason: str


def verify_run(folder: Path) -> list[Check]:
    """All checks of a run folder, or of what was published of one, in order.

    RunFolderError if it holds neither ledger nor privacy statement, or links.
    """
    refuse_links(folder)
    if not any((folder / name).is_file() for name in (LEDGER, STATEMENT)):
        raise RunFolderError(
            f"{folder} has neither {LEDGER} nor {STATEMENT}; give the folder of a finished run, or "
            "of what was published of one"
        )
    papers = Papers(folder)
    return [_answer(what, check, papers) for what, check in CHECKS]


def all_stages_ended(papers: Papers) -> str:
    """Every stage has a manifest, and says that it is done."""
    _needs_whole_run(papers)
    faults = []
    for stage in manifest.PRODUCTS:
        found = manifest.read(papers.folder, stage)
        if found is None and manifest.exists(papers.folder, stage):
            faults.append(f"stages/{stage}.json is no manifest")
        elif found is None and stage != "query_network":  # which several runs may share
            faults.append(f"{stage} was not begun")
        elif found is not None and found["state"] != "done":
            faults.append(f"{stage} did not end")
    if not papers.has("record.json"):
        faults.append("there is no record.json")
    refuse(faults)
    return f"{len(manifest.PRODUCTS)} stages"


def files_are_their_stages(papers: Papers) -> str:
    """Every file that a manifest names, and every saved state, has its hash."""
    _needs_whole_run(papers)
    faults, number = [], 0
    for stage in manifest.PRODUCTS:
        outputs = (manifest.read(papers.folder, stage) or {}).get("outputs", {})
        faults += _changed(papers, outputs)
        number += len(outputs)
    for path in sorted((papers.folder / "checkpoints").rglob("*.pt")):
        number += 1
        if not is_undamaged(path):
            faults.append(f"{path.relative_to(papers.folder)} is damaged")
    refuse(faults)
    return f"{number} files"


def stages_rest_on_one_another(papers: Papers) -> str:
    """What a stage began from is what the one before it left; the training is the accounted one."""
    _needs_whole_run(papers)
    faults = []
    for stage, name, earlier in RESTS_ON:
        inputs = (manifest.read(papers.folder, stage) or {"inputs": {}})["inputs"]
        is_here = manifest.read(papers.folder, earlier) is not None
        if name in inputs and is_here and inputs[name] != manifest.results(papers.folder, earlier):
            faults.append(f"{stage} did not begin from what {earlier} left")
    faults += _other_weights(papers)
    inputs = (manifest.read(papers.folder, "finetune") or {"inputs": {}})["inputs"]
    events = {event["name"]: event for event in papers.account.to_dict()["events"]}
    began = inputs.get("mechanism", {})
    wanted = events.get("dp_sgd", {})
    for key, entry in (
        ("noise_multiplier", "noise_multiplier"),
        ("sampling_rate", "sampling_rate"),
        ("count", "reserved"),
    ):
        if began.get(key) != wanted.get(entry):
            faults.append(f"the training began with another {key} than was accounted")
    refuse(faults)
    return ""


def _other_weights(papers: Papers) -> list[str]:
    """Where a run started from public weights: do its stages and its statement name the same ones,
    and is the query network theirs?
    """
    told = papers.statement.get(START_FROM) if papers.has(STATEMENT) else None
    faults = []
    for stage in ("query_network", "pretrain"):
        found = manifest.read(papers.folder, stage)
        # a donor's pre-training is told of in its own statement
        if found is None or (stage == "pretrain" and manifest.TAKEN_OVER in found["inputs"]):
            continue
        named = found["inputs"].get(START_FROM)
        if papers.has(STATEMENT) and named != told:
            faults.append(f"{stage} began from other public weights than the statement says")
        left = manifest.results(papers.folder, stage)
        if stage == "query_network" and named and not left.items() <= named["files"].items():
            faults.append("the query network is not that of the public weights")
    return faults


def published_files_are_unchanged(papers: Papers) -> str:
    """Every file that is published and here has the hash in SHA256SUMS."""
    path = papers.path(CHECKSUMS)
    known = read_checksums(papers.folder)
    here = {name: digest for name, digest in known.items() if papers.has(name)}
    faults = _changed(papers, here)
    released = papers.statement["released"] if papers.has(STATEMENT) else ()
    for name in published_files(papers.folder, released):
        if name not in known:
            faults.append(f"{name} has no hash in {CHECKSUMS}")
    faults += [f"{CHECKSUMS} does not name {name}" for name in PAPERS if name not in known]
    if papers.is_whole_run:
        faults += [f"{name} is gone" for name in known if name not in here]
    refuse(faults)
    return f"{len(here)} files; {CHECKSUMS} itself has SHA-256 {file_sha256(path)}"


def published_files_are_all_here(papers: Papers) -> str:
    """NotHere with the names of those that are published and were not looked at."""
    papers.path(CHECKSUMS)
    absent = [name for name in read_checksums(papers.folder) if not papers.has(name)]
    if absent:
        raise NotHere(f"{', '.join(absent)} not here")
    return ""


def exported_images_are_the_images(papers: Papers) -> str:
    """Every PNG in `images/` has the pixels and the class that `images.npz` says, and none is
    missing.
    """
    archive, folder = papers.path("images.npz"), papers.folder / "images"
    if not folder.is_dir():
        raise NotHere("images/ is not here")
    fault = fault_of_export(archive, folder)
    refuse([fault] if fault else [])
    return ""


CHECKS: tuple[tuple[str, Callable[[Papers], str]], ...] = (
    ("every stage ended", all_stages_ended),
    ("files of the stages are unchanged", files_are_their_stages),
    ("each stage rests on the one before", stages_rest_on_one_another),
    ("published files are unchanged", published_files_are_unchanged),
    ("published files are all here", published_files_are_all_here),
    ("images/ is images.npz", exported_images_are_the_images),
    ("the ledger is whole", agreement.the_ledger_is_whole),
    (NOISE_CHECK, agreement.the_noise_was_secure),
    ("epsilon, counted again", agreement.epsilon_holds),
    ("the statement agrees with the ledger", agreement.the_statement_is_the_ledgers),
    ("the statement in words agrees", agreement.the_page_is_the_statement),
    ("the model card agrees", agreement.the_card_is_the_statements),
    ("the query's receipt agrees", agreement.the_receipt_is_the_ledgers),
    ("the moments agree", agreement.the_moments_are_the_ledgers),
    ("the settings agree", agreement.settings_are_the_ledgers),
    ("the record agrees", agreement.the_record_is_the_accounts),
)


def _answer(what: str, check: Callable[[Papers], str], papers: Papers) -> Check:
    try:
        return Check(what, "ok", check(papers))
    except NotHere as missing:
        return Check(what, "not made", _short(str(missing)))
    except (Broken, UserError, jinja2.TemplateError) as fault:
        return Check(what, "FAILED", _short(str(fault)))
    except UNREADABLE as error:
        logger.debug("%s", what, exc_info=True)
        return Check(what, "FAILED", _short(f"cannot be read ({type(error).__name__}: {error})"))


def _needs_whole_run(papers: Papers) -> None:
    if not papers.is_whole_run:
        raise NotHere("stages/ is not here")


def _changed(papers: Papers, hashes: dict[str, str]) -> list[str]:
    return [*_changes(papers, hashes)]


def _changes(papers: Papers, hashes: dict[str, str]) -> Iterator[str]:
    for name, digest in hashes.items():
        path = inside(papers.folder, name)
        if not path.exists():
            yield f"{name} is gone"
        elif file_sha256(path) != digest:
            yield f"{name} was changed"


def _short(text: str) -> str:
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."
