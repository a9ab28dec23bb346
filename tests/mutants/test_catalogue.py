"""The catalogue of planted faults fits the code as it is, and so does the way a part is chosen."""

import ast

import pytest

from privimage.errors import ConfigError, UserError
from tests.mutants.__main__ import INTACT, Row, chosen, copy_with, failing_test, part_numbers
from tests.mutants.catalogue import ROOT, Edit, Mutant, mutated_files, part_of, read_catalogue

CATALOGUE = read_catalogue()
NEVER_MISSING = {
    "gradient-noise-halved",
    "no-noise-on-biases",
    "layer-left-out-of-the-norm",
    "shuffled-batches",
    "query-noise-divided-by-sqrt-2",
    "noise-from-a-constant-seed",
}
FAULT = Mutant(
    "fault", "", released=True, tests=(), edits=(Edit("privimage/errors.py", "exit_code = 2", ""),)
)


def test_there_are_many_mutants_and_no_name_is_there_twice():
    names = [mutant.id for mutant in CATALOGUE]
    assert len(names) == len(set(names)) >= 60


def test_the_faults_that_everybody_fears_are_among_them_and_change_what_is_released():
    assert {mutant.id for mutant in CATALOGUE if mutant.released} >= NEVER_MISSING


@pytest.mark.parametrize("mutant", CATALOGUE, ids=lambda mutant: mutant.id)
def test_a_mutant_is_one_change_of_the_code_that_still_compiles(mutant):
    texts = mutated_files(mutant)  # every text stands once
    for name, text in texts.items():
        before = ast.dump(ast.parse((ROOT / name).read_text()))
        assert ast.dump(ast.parse(text)) != before, name
    assert mutant.tests
    assert all((ROOT / path).is_file() for path in mutant.tests)
    assert mutant.what


@pytest.mark.parametrize("text", ["", "class ", "no such words"])
def test_a_text_that_does_not_stand_once_is_an_error(text):
    edits = (Edit("privimage/errors.py", text, "other"),)
    with pytest.raises(ConfigError, match=r"stands \d+ times in privimage/errors.py"):
        mutated_files(Mutant("lost", "", released=True, tests=(), edits=edits))


def test_edits_of_one_file_are_made_one_after_the_other():
    edits = (
        Edit("privimage/errors.py", "exit_code = 2", "exit_code = 77"),
        Edit("privimage/errors.py", "exit_code = 77", "exit_code = 78"),
    )
    texts = mutated_files(Mutant("two", "", released=True, tests=(), edits=edits))
    assert "exit_code = 78" in texts["privimage/errors.py"]


def test_the_parts_are_all_mutants():
    parts = [part_of(CATALOGUE, number, 7) for number in range(1, 8)]
    assert sorted(m.id for part in parts for m in part) == sorted(m.id for m in CATALOGUE)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for number in (0, 8):
        with pytest.raises(ConfigError, match="from 1 to 7"):
            part_of(CATALOGUE, number, 7)


def test_a_part_is_named_by_numbers_or_chosen_by_the_commit():
    assert part_numbers("2/20") == (2, 20)
    number, parts = part_numbers("commit/20")
    assert parts == 20
    assert 1 <= number <= 20
    assert part_numbers("commit/20") == (number, parts)
    for wrong in ("2", "0/0", "a/3", "2/20/1", "commit/"):
        with pytest.raises(UserError, match="give K/N"):
            part_numbers(wrong)


def test_the_intact_code_goes_first_and_a_part_is_tried_without_it():
    assert [m.id for m in chosen(["shuffled-batches"], None)] == [INTACT, "shuffled-batches"]
    assert len(chosen([], None)) == len(CATALOGUE) + 1
    assert INTACT not in {m.id for m in chosen([], "1/2")}
    assert [m.id for m in chosen(["shuffled-batches"], "1/1")] == ["shuffled-batches"]
    with pytest.raises(UserError, match="no mutant is called nobody"):
        chosen(["nobody"], None)


@pytest.mark.parametrize(
    ("name", "test", "claim", "is_right"),
    [
        (INTACT, "", "", True),
        (INTACT, "", None, True),
        (INTACT, "a::b", "", False),
        (INTACT, "", "bound", False),
        ("fault", "a::b", "bound", True),
        ("fault", "a::b", None, True),
        ("fault", "", "bound", False),
        ("fault", "a::b", "", False),
    ],
)
def test_a_fault_must_be_caught_by_all_that_were_asked_and_the_intact_code_by_nothing(
    name, test, claim, is_right
):
    mutant = Mutant(name, "", released=True, tests=(), edits=())
    assert Row(mutant, test, claim, 1.0).is_as_it_must_be is is_right


@pytest.mark.slow
def test_a_fault_is_seen_by_a_test_in_its_copy_and_the_code_itself_stays_as_it_is(tmp_path):
    before = (ROOT / "privimage/errors.py").read_text()
    with copy_with(FAULT) as copy:
        (copy / "tests/test_planted.py").write_text(
            "from privimage.errors import UserError\n\n\n"
            "def test_a():\n    assert UserError.__mro__\n\n\n"
            "def test_b():\n    assert UserError.exit_code == 2\n"
        )
        assert failing_test(copy, ["tests/test_planted.py"]) == "tests/test_planted.py::test_b"
        (copy / "tests/test_planted.py").write_text("def test_a(): pass\n")
        assert failing_test(copy, ["tests/test_planted.py"]) == ""
        (copy / "tests/test_planted.py").write_text("def test_a(: pass\n")
        with pytest.raises(UserError, match="the tests do not run"):
            failing_test(copy, ["tests/test_planted.py"])
    assert (ROOT / "privimage/errors.py").read_text() == before
