import re
import shutil
import subprocess

import pytest

from artifact.claims.registry import claims_root, load_claims
from artifact.report.latex import TITLES, lead, tex, title_faults
from artifact.report.pages import experiments_of, render

PAGE = "docs/ARTIFACT-APPENDIX.tex"
MOST_PAGES = 2  # the form says so
CLAIMS = load_claims(claims_root())
APPENDIX = render(CLAIMS)[PAGE]


def test_the_appendix_has_the_titles_of_the_form_in_their_order():
    assert title_faults(APPENDIX) == []


def test_a_title_that_is_missing_changed_or_moved_is_named():
    without = APPENDIX.replace(r"\subsubsection{Basic Test}", "")
    assert title_faults(without) == ["missing: Basic Test"]
    other = APPENDIX.replace("{Basic Test}", "{Basic test}")
    assert title_faults(other) == ["missing: Basic Test", "not of the form: Basic test"]
    lines = [rf"\{level}{{{title}}}" for level, title in TITLES]
    assert title_faults("\n".join(lines)) == []
    assert title_faults("\n".join(reversed(lines))) == ["not in the order of the form"]


def test_every_claim_and_experiment_of_the_paper_is_there_with_its_numbers():
    experiments = [e for e in experiments_of(CLAIMS) if not e.claim.is_addition]
    assert all(claim.id not in APPENDIX for claim in CLAIMS.values() if claim.is_addition)
    for number in range(1, len({e.claim.id for e in experiments}) + 1):
        assert f"(C{number})" in APPENDIX
    for experiment in experiments:
        (row,) = re.findall(rf"^\(E{experiment.number}\) & .*$", APPENDIX, re.M)
        for value in (
            experiment.claim.id,
            experiment.name,
            experiment.setting.compute_minutes,
            experiment.result_in_brief,
        ):
            assert tex(value) in row
    kick_the_tires = next(e for e in experiments if e.claim.id == "kick_the_tires")
    assert kick_the_tires.result_in_brief.startswith(f"PASS of {len(kick_the_tires.checks)}; ")


def test_text_is_made_safe_for_tex_and_an_unknown_character_is_an_error():
    assert tex("50 % of a_b & {c}, ≤ 1 †") == r"50 \% of a\_b \& \{c\}, $\leq$ 1 \dag{}"
    assert tex("--setting") == "-{}-{}setting"
    assert APPENDIX.isascii()
    with pytest.raises(ValueError, match=r"no TeX is known for '漢'"):
        tex("a 漢")


def test_a_long_statement_is_cut_between_sentences_and_never_within_one():
    text = "FID is 6.8 % lower. It says so: Here is more. And more."
    assert lead(text, most=300) == text
    assert lead(text, most=35) == "FID is 6.8 % lower. It says so."
    assert lead(text, most=1) == "FID is 6.8 % lower."


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_appendix_fits_the_pages_of_the_form(tmp_path):
    (tmp_path / "appendix.tex").write_text(APPENDIX)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "appendix.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    found = re.search(r"Output written on appendix\.pdf \((\d+) pages", done.stdout)
    assert found
    assert int(found[1]) <= MOST_PAGES
    assert "Overfull" not in done.stdout
