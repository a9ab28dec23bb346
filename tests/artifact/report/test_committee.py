import dataclasses
import hashlib
import re

import pytest

from artifact.claims.records import write_record
from artifact.claims.registry import claims_root, load_claims
from artifact.report.committee import badge, committee_lines
from artifact.report.document import write_report
from artifact.report.pages import experiments_of

CLAIMS = load_claims(claims_root())
SHIPPED = claims_root().parent / "expected_results/reference_runs"
LINES = {(x.experiment.claim.id, x.experiment.name): x for x in
         committee_lines(SHIPPED, CLAIMS, out=SHIPPED)}  # fmt: skip
BADGES = {(e.claim.id, e.name): badge(e) for e in experiments_of(CLAIMS)}


@pytest.fixture
def page(toy, tmp_path, record):
    """Of a claim that was run, and of another that was not."""
    (tmp_path / "runs").mkdir()
    write_record(tmp_path / "runs/toy/smoke/seed0/record.json", record())
    other = dataclasses.replace(toy, id="other", title="Another")
    return write_report(tmp_path / "runs", claims={"toy": toy, "other": other})[2]


def rows(page):
    """The cells of each line by the number of its experiment, as text."""
    found = re.findall(r"<tr>.*?</tr>", page.read_text(), re.S)[1:]
    cells = [[re.sub(r"<[^>]+>", " ", c) for c in re.split("<td", row)[1:]] for row in found]
    return [[" ".join(cell.partition(">")[2].split()) for cell in row] for row in cells]


def test_a_line_goes_from_the_claim_to_its_command_time_verdict_and_record(page):
    record = page.parent / "toy/smoke/seed0/record.json"
    (line,) = (row for row in rows(page) if "A toy" in row[0])
    assert line[2] == "artifact run toy --setting smoke"
    assert "2 min †" in line[4]
    assert line[5].startswith("INCONCLUSIVE")  # nothing is expected of it
    assert hashlib.sha256(record.read_bytes()).hexdigest()[:8] in line[6]
    (target,) = re.findall(r'href="(toy[^"]+)"', page.read_text())
    assert (page.parent / target).samefile(record)


def test_a_claim_without_a_record_says_so_and_has_no_verdict(page):
    (line,) = (row for row in rows(page) if "Another" in row[0])
    assert line[5:] == ["not run here", "–"]


def test_every_experiment_of_the_appendix_has_a_line_under_its_number():
    text = (claims_root().parent / "docs/ARTIFACT-APPENDIX.md").read_text()
    numbered = re.findall(r"^\*\*\(E(\d+)\) (\w+), (\w+)\*\*", text, re.M)
    assert [(n, c, s) for n, c, s in numbered] == [
        (str(line.experiment.number), claim, setting) for (claim, setting), line in LINES.items()
    ]


def test_shipped_records_have_their_verdicts_and_all_their_seeds():
    line = LINES["kick_the_tires", "smoke"]
    assert (line.verdict, line.checks) == ("PASS", "14 of 14 checks")
    assert [one.seed for one in line.evidence] == [0, 1, 2, 3, 4, 5, 6]
    assert line.folder == "kick_the_tires/smoke"
    assert LINES["table_cifar10", "full"].verdict == ""


@pytest.mark.parametrize(
    ("claim", "setting", "expected"),
    [
        ("table_cifar10", "full", "Reproduced"),
        ("privacy_budget", "smoke", "Reproduced"),  # computed at the paper's size
        ("selection_matters", "cpu", "Reproduced, scaled down"),
        ("kick_the_tires", "smoke", "Reproduced, scaled down"),
        ("table_cifar10", "smoke", "Functional"),  # nothing but that it executes
        ("privacy_audit", "smoke", "Functional"),  # the paper has no number for it
        ("table_fashion_mnist", "cpu", "Functional"),  # not in the paper
    ],
)
def test_a_command_supports_the_badge_that_its_judgement_reaches(claim, setting, expected):
    assert BADGES[claim, setting] == expected


def test_what_a_record_of_a_stranger_says_stays_text_and_seeded_noise_is_named(
    toy, tmp_path, record
):
    strange = record()
    strange.environment["device_name"] = "<script>alert(1)</script>\x1b[2J"
    for arm in strange.arms.values():
        arm["insecure"] = True
    write_record(tmp_path / "toy/smoke/seed0.json", strange)
    text = write_report(tmp_path, claims={"toy": toy})[2].read_text()
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "seeded noise" in text
