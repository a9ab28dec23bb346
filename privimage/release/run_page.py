"""One page to look at a run: its images, the chosen public classes, curves, promise and costs.

A single HTML file that needs no network. Public: it holds only what the privacy statement lists as
released, so it may go where the images go. What a run keeps back (times, scores on real images,
the place of the images) is on it only if its owner asks, and then the page says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.files.durable import write_durably
from privimage.files.plain_files import inside, read_bounded
from privimage.machine.terminal.plain_text import printable
from privimage.release.documents import TEMPLATES
from privimage.release.image_files import load_images
from privimage.release.papers import STATEMENT, Papers
from privimage.release.pictures import curve, pixels_uri, png_uri, points_of, read_stats

PAGE, OWNERS_PAGE = "page.html", "private/page.html"
MARK = '<meta name="generator" content="privimage show">'
MOST_CLASSES, IMAGES_A_CLASS = 30, 16
CURVES = (  # stage, entry, title
    ("query_network", "loss", "Query network: loss on public images"),
    ("pretrain", "loss", "Pre-training: loss on public images"),
    ("finetune", "noisy_gradient_norm", "DP-SGD: norm of the noisy gradient"),
)


@dataclass(frozen=True)
class Shown:
    """The images of one class that are on the page, as data URIs, of so many."""

    name: str
    images: tuple[str, ...]
    num_images: int
    chosen: tuple[str, ...]  # public classes, in the order of their votes


def write_run_page(run: Path, out: Path | None = None, *, for_owner: bool = False) -> Path:
    """Write the page of a finished run, or of what was published of one, and return its path.

    By default it lies in the run's folder, that for the owner in its `private/`. RunFolderError
    where there is no finished run, ConfigError if another file is in the way.
    """
    papers = Papers(run)
    if not (papers.has(STATEMENT) and papers.has("images.npz")):
        raise RunFolderError(
            f"{run} holds no finished run; give the folder that was named by --out, or what was "
            f"published of one, with {STATEMENT} and images.npz"
        )
    if for_owner and not papers.has("record.json"):
        raise RunFolderError(
            f"{run} holds no record: what its owner alone may see is not here; leave --private out"
        )
    out = out or run / (OWNERS_PAGE if for_owner else PAGE)
    check_place(out)
    text = rendered(papers, for_owner=for_owner)
    write_durably(out, text.encode(), mode=0o600 if for_owner else 0o644)
    return out


def check_place(out: Path) -> None:
    """ConfigError unless nothing is there or an earlier page, or if its folder is missing."""
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent} is not a folder; make it, or name another --out")
    if not (out.exists() or out.is_symlink()):
        return
    try:
        is_page = MARK.encode() in read_bounded(out, max_bytes=2**28)
    except (OSError, DataInvalidError):
        is_page = False
    if not is_page:
        raise ConfigError(f"{out} is there already and is no page of a run; name another --out")


def rendered(papers: Papers, *, for_owner: bool) -> str:
    """The page's text. Every value is escaped, and control characters are made visible."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    statement = papers.statement
    try:
        released = set(statement["released"])
        values = {
            "mark": Markup(MARK),
            "statement": statement,
            "classes": list(classes_of(papers, released)),
            "pictures": list(pictures_of(papers, released)),
            "curves": list(curves_of(papers, released)),
            "record": papers.document("record.json") if for_owner else None,
            "settings": papers.text("config.yaml") if for_owner else "",
            "hidden_classes": max(0, num_classes(papers) - MOST_CLASSES),
        }
        return environment.get_template("run_page.html.j2").render(values)
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise DataInvalidError(
            f"{papers.folder}: its documents lack what every run writes; copy the folder again"
        ) from error


def num_classes(papers: Papers) -> int:
    return load_images(papers.path("images.npz")).num_classes


def classes_of(papers: Papers, released: set[str]) -> Iterator[Shown]:
    """The first images of every class, up to the number of classes that a page bears."""
    images = load_images(papers.path("images.npz"))
    chosen: dict[str, list[str]] = {}
    if "query/selection.json" in released and papers.has("query/selection.json"):
        chosen = papers.document("query/selection.json").get("classes") or {}
    for label, name in enumerate(images.class_names[:MOST_CLASSES]):
        rows = (images.labels == label).nonzero().flatten()
        yield Shown(
            name,
            tuple(pixels_uri(images.images[row].numpy()) for row in rows[:IMAGES_A_CLASS]),
            len(rows),
            tuple(chosen.get(name, ())),
        )


def pictures_of(papers: Papers, released: set[str]) -> Iterator[tuple[str, str]]:
    """(caption, data URI) of what the selection and the sketches were drawn as."""
    for document, picture, caption in (
        ("query/selection.json", "query/chosen_classes.png", "The chosen public classes"),
        ("query/moments.safetensors", "query/sketches.png", "Sketches, with which drawing begins"),
    ):
        uri = png_uri(inside(papers.folder, picture)) if document in released else None
        if uri:
            yield caption, uri


def curves_of(papers: Papers, released: set[str]) -> Iterator[tuple[str, Markup, str]]:
    """(title, SVG, in words) of every training that reported."""
    path = inside(papers.folder, "stats.jsonl")
    lines = read_stats(path) if "stats.jsonl" in released else []
    for stage, entry, title in CURVES:
        points = points_of(lines, stage, entry)
        if len(points) > 1:
            (first, begin), (last, end) = points[0], points[-1]
            yield title, curve(points), f"step {first:g} to {last:g}: {begin:.3g} to {end:.3g}"
