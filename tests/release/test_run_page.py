"""`privimage show`: what is on the page, what is not, and where it may lie."""

import base64
import hashlib
import html
import io
import json
import re
import shutil
import stat
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from privimage.errors import ConfigError, DataInvalidError, RunFolderError
from privimage.release.checksums import CHECKSUMS, read_checksums, write_checksums
from privimage.release.image_files import load_images, save_images
from privimage.release.run_page import PAGE, page_of, write_run_page
from privimage.release.verify import verify_run

HOSTILE = '</h3><script>alert(1)</script><img src="http://j/x" onerror=alert(2)>\x1b[2J\u202e" z="'


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished / "run", tmp_path / "run")


@pytest.fixture
def published(run, tmp_path):
    """What a stranger gets of it."""
    folder = tmp_path / "published"
    for name in (*read_checksums(run), CHECKSUMS):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def page(finished):
    return page_of(finished / "run")


class Elements(HTMLParser):
    """Every element with its attributes, and whether all that were opened are closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def values(self, name):
        return [attrs[name] for _, attrs in self.found if name in attrs]


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def words(text):
    """What a reader sees of the page."""
    text = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())


def test_the_page_has_the_promise_images_classes_curves_scores_and_files(page, finished):
    said, statement = words(page), json.loads((finished / "run/privacy_statement.json").read_text())
    spent = statement["spent"]
    assert f"({spent['epsilon']:.4f}, 0.0001)-differentially private for adding or removing" in said
    assert "by RDP accounting" in said
    assert "All 15 checks that were made hold" in said
    for line in statement["not_covered"]:
        assert line.replace("`", "").split(". ")[0] in said
    selection = json.loads((finished / "run/query/selection.json").read_text())
    chosen = re.findall(r'<span class="chip">(.*?)<small>', page)
    assert [*map(html.unescape, chosen)] == [n for c in selection["classes"].values() for n in c]
    assert page.count('class="tile"') == 40  # 4 of each of 10 classes, which are all there are
    assert page.count('<path class="line"') == 3
    assert "cnn accuracy" in said
    assert hashlib.sha256((finished / "run" / CHECKSUMS).read_bytes()).hexdigest() in said
    assert "FAILED" not in said
    assert 'role="alert"' not in page


def test_the_pictures_are_the_images_that_the_run_drew_first(page, finished):
    drawn = load_images(finished / "run/images.npz")
    shown = re.findall(r'class="tile"><img src="data:image/png;base64,([^"]*)"', page)
    order = [i for label in range(10) for i in np.flatnonzero(drawn.labels.numpy() == label)]
    for content, place in zip(shown, order, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert np.array_equal(np.asarray(picture), drawn.images[place, 0].numpy())


def test_the_page_is_one_file_that_asks_nobody_for_anything(page):
    elements = Elements(page)
    assert elements.open == []
    sources = elements.values("src") + elements.values("href")
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources)
    assert not {"link", "iframe", "object", "form", "base"} & {tag for tag, _ in elements.found}
    assert "url(" not in page
    assert not re.search(r"https?:", page)
    assert {*elements.values("href")} <= {f"#{place}" for place in elements.values("id")}


def test_no_script_or_style_but_the_two_of_the_page_may_run(page):
    (policy,) = [p for p in Elements(page).values("content") if p.startswith("default-src 'none'")]
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not [name for _, attrs in Elements(page).found for name in attrs if name[:2] == "on"]


def test_every_picture_says_in_words_what_it_is(page):
    pictures = [attrs for tag, attrs in Elements(page).found if tag == "img" and "src" in attrs]
    assert all(len(attrs["alt"]) > 10 for attrs in pictures)
    assert all(attrs["aria-label"] for tag, attrs in Elements(page).found if tag == "svg")


def test_sketches_are_shown_where_drawing_begins_with_them(finished_with_moments):
    page = page_of(finished_with_moments)
    assert "Sketches: what drawing begins with" in page
    assert "moments query" in page


def test_a_hostile_name_is_text_wherever_it_stands(published):
    drawn = load_images(published / "images.npz")
    names = (HOSTILE, *drawn.class_names[1:])
    images = [drawn.images]
    save_images(published / "images.npz", images, drawn.labels, names, insecure=False)
    chosen = {HOSTILE: [HOSTILE, "a"]}
    edit(published / "query/selection.json", lambda d: d.update(strategy=HOSTILE, classes=chosen))
    card = published / "model_card.md"
    card.write_text(f"# Model card: {HOSTILE}\n" + card.read_text())
    stated = json.loads((published / "privacy_statement.json").read_text())
    stated |= {"notes": [HOSTILE], "not_covered": [f"`{HOSTILE}`"], "unit": HOSTILE}
    stated["released"]["model.safetensors"] = stated["code"]["version"] = HOSTILE
    stated["mechanisms"][0]["released"] = HOSTILE
    (published / "privacy_statement.json").write_text(json.dumps(stated))
    write_checksums(published, stated["released"])
    page = page_of(published)
    elements = Elements(page)
    assert page.count("alert(1)") > 8
    assert [tag for tag, _ in elements.found].count("script") == 1
    assert {*elements.values("src")} == {s for s in elements.values("src") if s[:5] == "data:"}
    assert not {name for _, attrs in elements.found for name in attrs} & {"onerror", "z"}
    assert not {"\x1b", "\u202e"} & {*page}
    assert elements.open == []


def test_what_was_published_gives_the_page_of_the_whole_run_but_for_checks(run, published):
    def without_checks(page):
        page = re.sub(r"<details><summary><span class=\"ok\">.*?</details>", "", page, flags=re.S)
        return page.splitlines()

    assert without_checks(page_of(published)) == without_checks(page_of(run))


def test_nothing_that_is_kept_back_is_on_the_page(run):
    record = json.loads((run / "record.json").read_text())
    record["environment"]["device_name"] = "a machine of the owner"
    (run / "record.json").write_text(json.dumps(record))
    public, own = page_of(run), page_of(run, for_owner=True)
    settings = html.escape((run / "config.yaml").read_text(), quote=False)
    for secret in ("a machine of the owner", " MiB<", "evaluate_on: digits", 'id="costs"'):
        assert secret not in public
    assert "a machine of the owner" in own
    assert " MiB<" in own
    assert "Not for publication." in own
    assert settings.splitlines()[3] in own
    for name in ("data_key", "private/data"):
        assert name not in own


def test_curves_of_a_run_that_must_not_tell_its_end_stay_with_the_owner(run):
    edit(run / "privacy_statement.json", lambda d: d["released"].pop("stats.jsonl"))
    edit(run / "privacy_statement.json", lambda d: d["released"].pop("query/answer.json"))
    assert "<svg" not in page_of(run)
    assert "noisy count of votes" not in page_of(run)
    assert "<svg" in page_of(run, for_owner=True)


def test_a_seed_is_a_loud_warning_whichever_file_tells_of_it(run):
    edit(run / "ledger.json", lambda d: d.update(insecure=True))
    page = words(page_of(run))
    assert "NO GUARANTEE. Do not release anything" in page
    assert "not to be relied on" in page
    assert "No picture on this page" not in page
    (broken,) = re.findall(r"is not what it says.*?\((.*?)\)", page)
    assert "the noise was secure" not in broken  # it has a warning of its own
    assert "This one promises nothing" in page
    assert "differentially private for adding" not in page


def test_a_run_that_is_not_what_it_says_is_called_that(run, caplog):
    (run / "samples.png").write_bytes(b"another picture")
    page = words(page_of(run))
    assert "This run is not what it says. 2 of 16 checks failed" in page
    assert "published files are unchanged" in page
    assert "is not what it says: ['files of the stages are unchanged'" in caplog.text


def test_files_that_are_not_here_leave_their_parts_out(published):
    for name in ("images.npz", "model.safetensors", "stats.jsonl", "query/selection.json"):
        (published / name).unlink()
    page = words(page_of(published))
    assert "images.npz is not here" in page
    assert "no curves" in page
    assert "Public classes behind them" not in page


def test_the_page_disturbs_neither_hashes_nor_checks_and_is_the_same_again(run, published):
    for folder, for_owner in ((run, False), (run, True), (published, False)):
        before = verify_run(folder)
        place = write_run_page(folder, for_owner=for_owner)
        content = place.read_bytes()
        assert verify_run(folder) == before
        assert not [check for check in before if check.answer == "FAILED"]
        assert write_run_page(folder, for_owner=for_owner).read_bytes() == content
    assert (published / PAGE).is_file()


def test_what_is_kept_back_lies_in_private_and_is_closed_to_others(run):
    place = write_run_page(run, for_owner=True)
    assert place == run / "private" / PAGE
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert not (run / PAGE).exists()


def test_a_file_that_is_no_page_is_not_overwritten(run, tmp_path):
    other = tmp_path / "mine.html"
    other.write_text("<!doctype html>\n<p>mine")
    with pytest.raises(RunFolderError, match="is no page of this command"):
        write_run_page(run, other)
    assert other.read_text() == "<!doctype html>\n<p>mine"
    (run / PAGE).write_text("mine")
    with pytest.raises(RunFolderError, match="is no page of this command"):
        write_run_page(run)
    assert write_run_page(run, tmp_path / "new/page.html").is_file()


@pytest.mark.parametrize("name", ["images/000.html", "query/page.html", "model_card.html", "."])
def test_a_page_among_the_files_of_the_run_is_refused(run, name):
    with pytest.raises(ConfigError, match=r"is a folder|lies among the files"):
        write_run_page(run, run / name)


def test_a_link_in_the_place_of_the_page_is_not_followed(run, tmp_path):
    target = write_run_page(run, tmp_path / "target.html")
    (run / PAGE).symlink_to(target)
    with pytest.raises(DataInvalidError, match="is a link"):
        write_run_page(run)


def test_a_folder_without_a_finished_run_is_an_error(run, published, tmp_path):
    (run / "record.json").unlink()
    for folder in (run, tmp_path / "nowhere", tmp_path):
        with pytest.raises(RunFolderError, match="holds no finished run"):
            write_run_page(folder)
    with pytest.raises(RunFolderError, match="leave out --private"):
        write_run_page(published, for_owner=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("mechanisms"),
        lambda d: d.update(spent={"epsilon": "<b>"}),
        lambda d: d.update(released=["../x"]),
        lambda d: d.update(public_size="many"),
    ],
)
def test_documents_that_no_run_wrote_are_named_and_nothing_is_left(published, change):
    edit(published / "privacy_statement.json", change)
    with pytest.raises(DataInvalidError):
        write_run_page(published)
    assert not (published / PAGE).exists()
