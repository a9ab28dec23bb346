"""`privimage show`: what a finished run promises and released, as one HTML page that asks
nobody for anything.

The page holds only what the privacy statement lists as published, so it may go with it; whoever has
no more than the published files makes the same page. With `for_owner` it tells what stays with the
owner, too: times, memory, machine and settings. Then it says so, and lies in `private/` of the run.
All files are read as a stranger's: each text is escaped, and the page forbids all but its own few
lines of script.
"""

import base64
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.files.durable import file_sha256, write_durably
from privimage.files.plain_files import inside, open_plain
from privimage.machine.terminal.progress import duration
from privimage.release import agreement
from privimage.release.checksums import CHECKSUMS, published_files
from privimage.release.documents import TEMPLATES, html_templates
from privimage.release.embedded import png_uri
from privimage.release.image_files import load_images
from privimage.release.model_card import told_by_card
from privimage.release.papers import STATEMENT, Broken, Papers
from privimage.release.shown_images import shown_classes, shown_width
from privimage.release.statement import assumption, largest_guess_rate
from privimage.release.training_curves import AXIS, read_stats, training_curves
from privimage.release.verify import NOISE_CHECK, UNREADABLE, verify_run
from privimage.run_folder.checkpoint import about_weights
from privimage.run_folder.private_folder import private_folder

logger = logging.getLogger(__name__)
PAGE = "page.html"
MARK = b"<!doctype html>\n<!-- privimage show -->"  # how a page of ours begins
MOST_LABELS, MOST_CHOSEN = 200, 50  # of a stranger's selection


def write_run_page(folder: Path, out: Path | None = None, *, for_owner: bool = False) -> Path:
    """Write the page of a finished run, or of what was published of one, and return its place.

    That is `page.html` in the folder, or in its `private/` with `for_owner`, where no hash covers
    it. An earlier page is replaced. RunFolderError for a folder without a finished run, and for a
    file at `out` that is no such page; ConfigError for any other place in the folder;
    DataInvalidError for documents that no run wrote.
    """
    _refuse_unfinished(folder, for_owner=for_owner)
    place = _place(folder, out, for_owner=for_owner)
    page = page_of(folder, for_owner=for_owner).encode()
    if for_owner and out is None:
        private_folder(folder)
    write_durably(place, page, mode=0o600 if for_owner else 0o644)
    return place


def page_of(folder: Path, *, for_owner: bool = False) -> str:
    """The page as HTML; the same run gives the same bytes."""
    checks, papers = verify_run(folder), Papers(folder)
    templates = html_templates(TEMPLATES)
    try:
        about = _published(papers, for_owner=for_owner)
        about |= _kept_back(papers) if for_owner else {"costs": None}
        # a run that admits its seed is what it says, and has a warning of its own
        broken = [c.what for c in checks if c.answer == "FAILED" and c.what != NOISE_CHECK]
        style = templates.get_template("run_page.css.j2").render(about)
        script = templates.get_template("run_page.js.j2").render()
        page = templates.get_template("run_page.html.j2").render(
            about,
            checks=checks,
            broken=broken,
            style=Markup(style),  # of our own making: numbers alone are put in
            script=Markup(script),
            allowed={"style": _hash_of(style), "script": _hash_of(script)},
        )
    except (*UNREADABLE, Broken, jinja2.TemplateError) as error:
        if isinstance(error, DataInvalidError):
            raise
        raise DataInvalidError(
            f"the documents of {folder} are not as this version writes them ({error}); "
            "`privimage verify` says more"
        ) from error
    if about["no_guarantee"]:
        logger.warning("NO GUARANTEE: %s", about["no_guarantee"])
    if broken:
        logger.warning("%s is not what it says: %s; see privimage verify", folder, broken)
    return page


def _refuse_unfinished(folder: Path, *, for_owner: bool) -> None:
    is_run, is_done = (folder / "stages").is_dir(), (folder / "record.json").is_file()
    if not (folder / STATEMENT).is_file() or (is_run and not is_done):
        raise RunFolderError(
            f"{folder} holds no finished run; give the folder of one, or of what was published of "
            "one, or repeat the command that makes it"
        )
    if for_owner and not (is_run and is_done):
        raise RunFolderError(
            f"{folder} has only what was published of a run; leave out --private, or give the "
            "run folder itself"
        )


def _place(folder: Path, out: Path | None, *, for_owner: bool) -> Path:
    """Where the page goes; an error, before any work, if something else would be lost there."""
    own = inside(folder, f"private/{PAGE}" if for_owner else PAGE)
    place = own if out is None else out
    if place.is_dir():
        raise ConfigError(f"{place} is a folder; name a file in it")
    if place.resolve() != own.resolve() and place.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{place} lies among the files of the run, where it could pass for one of them; leave "
            f"--out away for {own}, or choose a place outside of {folder}"
        )
    if os.path.lexists(place) and not _is_page(place):
        raise RunFolderError(f"{place} is no page of this command; choose another --out")
    return place


def _is_page(path: Path) -> bool:
    try:
        with open_plain(path) as file:
            return file.read(len(MARK)) == MARK
    except OSError:
        return False


def _published(papers: Papers, *, for_owner: bool) -> dict[str, Any]:
    """What every page shows. A file is opened only if the statement lists it as published: where
    a run ended, and so its curves, may have to stay with its owner.
    """
    statement = papers.statement
    public = {*published_files(papers.folder, statement["released"])}

    def path(name: str) -> Path | None:
        return papers.path(name) if name in public else None

    card = papers.text("model_card.md") if path("model_card.md") else ""
    title, scores = told_by_card(card)
    drawn = load_images(archive) if (archive := path("images.npz")) else None
    weights = path("model.safetensors")
    about = (about_weights(weights)[0] if weights else None) or {}
    stats = papers.folder / "stats.jsonl" if for_owner else path("stats.jsonl")
    pictures = {name: path(f"query/{name}.png") for name in ("chosen_classes", "sketches")}
    sums = inside(papers.folder, CHECKSUMS)
    return {
        "statement": statement,
        "title": title or "a run",
        "no_guarantee": _no_guarantee(papers),
        "guess_rate": largest_guess_rate(
            epsilon=statement["spent"]["epsilon"], delta=statement["spent"]["delta"]
        ),
        "assumption": assumption(statement["assumed_public"]),
        "drawn": drawn,
        "classes": shown_classes(drawn) if drawn else [],
        "width": shown_width(drawn.image_size) if drawn else 1,
        "selection": _selection(papers, public) if path("query/selection.json") else None,
        "pictures": {name: found and png_uri(found) for name, found in pictures.items()},
        "curves": training_curves(read_stats(stats)) if stats else [],
        "axis": AXIS,
        "has_stats": stats is not None,
        "scores": scores,
        "network": about.get("network", {}),
        "files": [*_files(papers, statement["released"])],
        "sums": file_sha256(sums) if sums.is_file() else None,
    }


def _kept_back(papers: Papers) -> dict[str, Any]:
    """Times, memory, machine and settings: they follow the private sample, and the owner's paths
    are among them.
    """
    record = papers.document("record.json")
    memory = record.get("peak_memory_mib", {})
    stages = record["timings_seconds"].items()
    costs = [(stage, _time(seconds), memory.get(stage)) for stage, seconds in stages]
    return {
        "costs": costs,
        "whole": _time(sum(seconds for _, seconds in stages)),
        "environment": record["environment"],
        "settings": papers.text("config.yaml"),
    }


def _no_guarantee(papers: Papers) -> str | None:
    """Why nothing is promised, from statement, ledger, weights and images; None if it is."""
    try:
        agreement.the_noise_was_secure(papers)
    except Broken as fault:
        return str(fault)
    return None if papers.statement["guarantee"] is True else "its statement gives no guarantee"


def _selection(papers: Papers, public: set[str]) -> dict[str, Any]:
    """The public classes of each label, with their noisy votes where there was a vote."""
    found = papers.document("query/selection.json")
    votes: dict[tuple[str, str], float] = {}
    if found["strategy"] == "semantic" and "query/answer.json" in public:
        answer = papers.document("query/answer.json")
        for label, row in zip(answer["labels"], answer["noisy_histogram"], strict=True):
            cells = zip(answer["public_classes"], row, strict=True)
            votes |= {(label, name): float(count) for name, count in cells}
    labels = [*found["classes"].items()][:MOST_LABELS]
    return {
        "strategy": found["strategy"],
        "has_votes": bool(votes),
        "classes": {
            label: [(name, votes.get((label, name))) for name in names[:MOST_CHOSEN]]
            for label, names in labels
        },
    }


def _files(papers: Papers, released: dict[str, str]) -> Iterable[tuple[str, str, str]]:
    """Name, what it is, and how large, of all that is published."""
    for name, what in released.items():
        path = inside(papers.folder, name)
        yield name, what, _size(path.stat().st_size) if path.is_file() else "not here"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)


def _size(num_bytes: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} B"


def _hash_of(text: str) -> str:
    """The hash by which a browser knows the only script, or style, that the page allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
