import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from PIL import Image

import artifact
from artifact.claims.records import ClaimRecord, write_record
from artifact.judging.expected import expected_path
from artifact.report.document import write_report
from privimage.errors import DataInvalidError, UserError
from privimage.machine.terminal.plain_text import escaped

EXPECTED = {
    "seeds": [0],
    "hardware": "a CPU",
    "values": [
        {
            "metric": "metrics.cnn_accuracy",
            "arm": "good",
            "better": "higher",
            "mean": 0.9,
            "low": 0.8,
            "high": 0.95,
            "source": "five runs of ours",
        }
    ],
    "orderings": [],
    "selection": [],
}
LEDGER = {
    "epsilon": 10.0,
    "events": [
        {
            "name": "dp_sgd",
            "noise_multiplier": 4.25,
            "sampling_rate": 0.1,
            "reserved": 60,
            "charged": 42,
        }
    ],
}


@pytest.fixture
def out(toy, tmp_path, record):
    """A run of the toy claim with everything that a pipeline leaves."""
    folder = tmp_path / "runs/toy/smoke/seed0"
    write_record(folder / "record.json", record())
    for arm in ("good", "plain"):
        (folder / arm / "query").mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / arm / "samples.png")
        (folder / arm / "ledger.json").write_text(json.dumps(LEDGER))
        line = {"stage": "pretrain", "step": 1, "loss": 1.0}
        (folder / arm / "stats.jsonl").write_text(json.dumps(line))
    Image.new("L", (8, 8)).save(folder / "good/query/chosen_classes.png")
    (folder / "good/privacy_statement.md").write_text("# Statement\n\n- not covered: tuning\n")
    expected_path("toy").parent.mkdir()
    document = {"claim": "toy", "settings": {"smoke": EXPECTED}}
    expected_path("toy").write_text(yaml.safe_dump(document))
    return tmp_path / "runs"


def reports(out, toy, **options):
    return [path.read_text() for path in write_report(out, claims={"toy": toy}, **options)[:2]]


def test_both_reports_show_verdict_expected_obtained_ledger_statement_and_machine(out, toy):
    for text in reports(out, toy):
        for part in (
            "PASS",
            "0.9 (0.8 to 0.95)",
            "five runs of ours",
            "dp_sgd",
            "60",
            "not all",
            "a CPU",
        ):
            assert part in text
        assert "not covered: tuning" in text


def test_the_html_is_one_file_that_asks_nobody_for_anything(out, toy):
    html, _ = reports(out, toy)
    sources = re.findall(r'(?:src|href)="([^"#][^"]*)"', html)
    # two sample grids, the chosen classes, the curves
    assert len(sources) == 4
    assert all(source.startswith("data:image/") for source in sources)
    assert "<script" not in html
    assert "url(" not in html


def test_the_pictures_of_the_markdown_are_where_it_says(out, toy):
    _, markdown = reports(out, toy)
    paths = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert len(paths) == 3
    assert all((out / path).is_file() for path in paths)


def test_what_comes_from_a_record_cannot_change_the_page(out, toy, record):
    hostile = record()
    hostile.environment["device_name"] = "<script>alert(1)</script>"
    hostile.arms["good"]["selection"]["classes"] = {"0": ["<img src=x>"]}
    write_record(out / "toy/smoke/seed0/record.json", hostile)
    html, _ = reports(out, toy)
    assert "<script" not in html
    assert "<img src=x>" not in html


@pytest.mark.parametrize(
    "name",
    ["samples.png", "query/chosen_classes.png", "ledger.json", "privacy_statement.md", "query"],
)
def test_no_file_of_another_place_gets_into_a_report(out, toy, tmp_path, name):
    place = out / "toy/smoke/seed0/good" / name
    place.rename(tmp_path / "private")
    place.symlink_to(tmp_path / "private")
    with pytest.raises(DataInvalidError, match="is a link"):
        reports(out, toy)


@pytest.mark.parametrize("said", [True, "no"])
def test_a_ledger_that_says_insecure_is_believed_whatever_the_record_says(out, toy, said):
    path = out / "toy/smoke/seed0/good/ledger.json"
    assert all("from a seeded source" not in text for text in reports(out, toy))
    path.write_text(json.dumps(LEDGER | {"insecure": said}))
    assert all("from a seeded source" in text for text in reports(out, toy))


def test_a_run_that_stopped_early_is_reported_with_what_it_has(out, toy, record):
    write_record(out / "toy/smoke/seed0/record.json", record(plain=None))
    for text in reports(out, toy):
        assert "Not finished:" in text
    (out / "toy/smoke/seed0/record.json").unlink()
    (out / "toy/smoke/seed0/good/ledger.json").write_text("{half")
    for text in reports(out, toy):
        assert "NOT RUN" in text
        assert "good, plain" in text


def test_what_was_not_run_is_listed_with_its_command(tmp_path, toy):
    (tmp_path / "runs").mkdir()
    for text in reports(tmp_path / "runs", toy):
        assert "Nothing has been run yet" in text
        assert "artifact run toy --setting smoke" in text
        assert "2 min †" in text


def test_seeded_noise_is_shown_as_no_guarantee(out, toy, record):
    insecure = record()
    insecure.arms["good"]["insecure"] = True
    write_record(out / "toy/smoke/seed0/record.json", insecure)
    for text in reports(out, toy):
        assert "No privacy guarantee" in text


def test_several_seeds_are_shown_as_mean_and_spread_and_real_images_beside_them(out, toy, record):
    other = record(1, good=0.8)
    other.arms["good"]["metrics"]["real_cnn_accuracy"] = 0.97
    write_record(out / "toy/smoke/seed1/record.json", other)
    _, markdown = reports(out, toy)
    # mean of 0.9 and 0.8; their standard deviation is 0.1 / sqrt(2)
    assert "| CNN accuracy ↑ | 0.85 ± 0.071 | 0.5 | 0.97 |" in markdown


def test_shipped_records_alone_make_a_report_without_pictures(tmp_path, toy, record):
    shipped = tmp_path / "shipped"
    (shipped / "toy/smoke").mkdir(parents=True)
    for seed in range(2):
        write_record(shipped / f"toy/smoke/seed{seed}.json", record(seed, good=0.8 + seed / 10))
    for text in reports(tmp_path / "new/out", toy, records=shipped):
        assert "0.85 ± 0.071" in text
        assert "ε PLD" in text
        assert "Synthetic images" not in text
        assert "Not finished" not in text


def test_the_pictures_of_run_folders_elsewhere_are_found_from_the_report(out, tmp_path, toy):
    _, markdown = reports(tmp_path / "deep/er", toy, records=out)
    paths = re.findall(r"!\[[^]]*\]\(([^)]*)\)", markdown)
    assert len(paths) == 3
    assert all((tmp_path / "deep/er" / path).is_file() for path in paths)


def test_a_folder_without_records_is_refused_where_records_were_asked_for(tmp_path, toy):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no record of any claim"):
        write_report(tmp_path / "out", claims={"toy": toy}, records=tmp_path / "empty")


def test_the_report_of_shipped_records_never_imports_torch(tmp_path):
    root = Path(artifact.__file__).parents[1]
    program = (
        "import sys; from artifact.cli import main; "
        f"sys.argv = ['artifact', 'report', '--from', {str(root)!r} "
        f"+ '/expected_results/reference_runs', '--out', {str(tmp_path)!r}]; "
        "import atexit; atexit.register(lambda: print('torch' in sys.modules)); main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(tmp_path / "report.html"),
        str(tmp_path / "report.md"),
        str(tmp_path / "committee.html"),
        "False",
    ]


def test_a_claim_that_computes_has_its_values_and_no_empty_sections(tmp_path, toy):
    setting = dataclasses.replace(toy.settings["smoke"], config={}, calculation="x")
    claim = dataclasses.replace(toy, settings={"smoke": setting}, orderings=())
    sections = ("privacy", "selection", "model", "data", "timings_seconds")
    arm = {"format": 1, "insecure": False, "metrics": {"size": 42}} | {s: {} for s in sections}
    folder = tmp_path / "runs/toy/smoke"
    folder.mkdir(parents=True)
    write_record(folder / "seed0.json", ClaimRecord("toy", "smoke", 0, {"good": arm}, {}, 1.0))
    for text in reports(tmp_path / "runs", claim):
        assert "Computed values" in text
        assert "42" in text
        assert "Not computed here" in text
        for absent in ("results by arm", "Privacy", "Time and memory", "Synthetic", "continues"):
            assert absent not in text


def test_several_claims_are_listed_first_with_their_verdicts(out, toy, record):
    other = dataclasses.replace(toy, id="other", title="Another")
    folder = out / "other/smoke"
    folder.mkdir(parents=True)
    run = dataclasses.replace(record(), claim="other")
    write_record(folder / "seed0.json", run)
    html, markdown, _ = write_report(out, claims={"toy": toy, "other": other})
    assert 'href="#other-smoke"' in html.read_text()
    assert 'id="other-smoke"' in html.read_text()
    assert "| Another | smoke | 1 | INCONCLUSIVE |" in markdown.read_text()


HOSTILE = (
    "</td><script>alert(1)</script> | `x` [y](javascript:z) ![i](http://j) **b** \x1b[2J\u202e"
)


def hostile_run(out, record, text):
    """A run of a stranger: `text` wherever a record, a statement or a ledger may hold any."""
    run = record()
    run.environment[text], run.environment["device_name"] = text, text
    run.arms["good"]["selection"]["classes"] = {text: [text, f"a\n{text}"]}
    run.arms["good"]["metrics"][text] = 0.5
    run.arms["good"]["timings_seconds"][text] = 1.0
    run.arms["good"]["data"]["sensitive"] = text
    write_record(out / "toy/smoke/seed0/record.json", run)
    folder = out / "toy/smoke/seed0/good"
    statement = f"# {text}\n\n{text}\n\n- {text}\n\n| a | b |\n|---|---|\n| {text} | b |\n"
    (folder / "privacy_statement.md").write_text(statement)
    ledger = LEDGER | {"events": [LEDGER["events"][0] | {"name": text}]}
    (folder / "ledger.json").write_text(json.dumps(ledger))


def test_what_comes_from_a_stranger_is_text_in_both_reports(out, toy, record):
    hostile_run(out, record, HOSTILE)
    html, markdown = reports(out, toy)
    for text in (html, markdown):
        assert "alert" in text
        assert not {"\x1b", "\u202e"} & {*text}
    assert "<script" not in html
    page = MarkdownIt("commonmark", {"html": True}).enable("table").parse(markdown)
    parts = [part for token in page for part in (token, *(token.children or ()))]
    assert not {"html_block", "html_inline", "link_open"} & {part.type for part in parts}
    pictures = [part.attrs["src"] for part in parts if part.type == "image"]
    assert len(pictures) == 3
    assert all((out / source).is_file() for source in pictures)


def test_a_strangers_names_leave_the_markdown_in_its_form(out, toy, record):
    forms = []
    for text in ("name", "name | <b> `c` [d](e) # f"):
        hostile_run(out, record, text)
        # a page of its own: a bar in a name has to be escaped where it is written
        statement = out / "toy/smoke/seed0/good/privacy_statement.md"
        statement.write_text(
            f"# {escaped(text)}\n\n| a | b |\n|---|---|\n| {escaped(text)} | b |\n"
        )
        _, markdown = reports(out, toy)
        tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
        forms.append([token.type for token in tokens])
        assert text in "".join(p.content for token in tokens for p in token.children or ())
    assert forms[0] == forms[1]
