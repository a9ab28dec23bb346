import re
import shlex
import shutil

import pytest

from artifact.claims.registry import claims_root, load_claims
from artifact.judging.criteria import Verdict
from artifact.report.pages import experiments_of, main, render

CLAIMS = load_claims(claims_root())
PAGES = render(CLAIMS)
MARKDOWN = {page: text for page, text in PAGES.items() if page.endswith(".md")}
EXPERIMENTS = [
    pytest.param(experiment, id=f"{experiment.claim.id}/{experiment.name}")
    for experiment in experiments_of(CLAIMS)
]


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_are_what_the_registry_gives(page):
    text = (claims_root().parent / page).read_text()
    assert text == PAGES[page], f"{page} is out of date; run: python -m artifact.report.pages"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_claim_and_setting_has_its_two_command_lines_on_both_pages(experiment):
    for text in MARKDOWN.values():
        assert experiment.command in text
        assert experiment.docker_command in text


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_container_gets_a_gpu_or_a_network_only_where_it_has_a_use_for_it(experiment):
    words = shlex.split(experiment.docker_command)
    assert ("--gpus" in words) == (experiment.setting.needs.gpu_memory_gib > 0)
    assert ("--network" in words) == (not experiment.setting.needs.data)
    if experiment.name == "smoke":
        assert "none" in words


def test_every_command_line_on_the_pages_names_a_claim_and_setting_that_exist():
    lines = re.findall(r"run (\w+) --setting (\w+)", "".join(MARKDOWN.values()))
    assert len(lines) >= 4 * len(EXPERIMENTS)
    for claim, setting in lines:
        CLAIMS[claim].setting(setting)


def test_every_time_on_the_pages_says_whether_it_was_measured():
    for experiment in experiments_of(CLAIMS):
        mark = "★" if experiment.setting.compute_minutes.measured is None else "†"
        assert f" {mark} on " in experiment.time


def test_the_appendix_has_the_sections_that_the_committee_asks_for():
    appendix = PAGES["docs/ARTIFACT-APPENDIX.md"]
    for section in (
        "Abstract",
        "Security, privacy and ethical concerns",
        "How to access",
        "Hardware dependencies",
        "Software dependencies",
        "Benchmarks",
        "Installation",
        "Basic test",
        "Major claims",
        "Experiments",
        "Notes on reusability",
        "What is not supported",
    ):
        assert re.search(rf"^#+ A[.\d]+ {section}$", appendix, re.MULTILINE), section


def test_the_verdict_that_is_announced_is_that_of_the_recorded_runs():
    announced = {(e.claim.id, e.name): e.verdict for e in experiments_of(CLAIMS)}
    assert announced["kick_the_tires", "smoke"] is Verdict.PASS
    # docs/reviewing.md: by a hair
    assert announced["budget_curve", "cpu"] is Verdict.INCONCLUSIVE
    assert announced["budget_curve", "quick"] is Verdict.INCONCLUSIVE  # nothing is recorded
    assert announced["model_size", "smoke"] is Verdict.PASS
    assert "verdict INCONCLUSIVE of 14 checks" in MARKDOWN["docs/ARTIFACT-APPENDIX.md"]


def test_an_experiment_without_expected_values_is_judged_by_its_orderings_alone(toy):
    (experiment,) = experiments_of({toy.id: toy})
    assert experiment.judged_by == "orderings of arms"
    assert [check.expected for check in experiment.main_checks] == ["good > plain"]


def test_the_command_writes_the_pages_beside_the_registry(tmp_path, monkeypatch, capsys):
    root = claims_root()
    shutil.copytree(root, tmp_path / "claims", ignore=shutil.ignore_patterns("*.md"))
    shutil.copytree(root.parent / "expected_results", tmp_path / "expected_results")
    monkeypatch.setenv("PRIVIMAGE_CLAIMS", str(tmp_path / "claims"))
    main()
    assert {page: (tmp_path / page).read_text() for page in PAGES} == PAGES
    assert capsys.readouterr().out.split() == [str(tmp_path / page) for page in PAGES]
