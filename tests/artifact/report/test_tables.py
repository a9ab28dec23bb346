import dataclasses

import pytest

from artifact.claims.records import ClaimRecord
from artifact.claims.registry import claims_root, load_claim
from artifact.judging.compare import compare
from artifact.judging.expected import ExpectedSetting, ExpectedValue
from artifact.report.tables import (
    Cell,
    CellTable,
    computed_tables,
    privacy_rows,
    published_numbers,
    stage_table,
)

TABLE = load_claim(claims_root() / "table_cifar10" / "claim.yaml")
CELEBA = load_claim(claims_root() / "table_celeba64" / "claim.yaml")


@pytest.fixture
def run(arm):
    def make(seed=0, *, arms=("epsilon_10", "epsilon_5"), accuracy=0.6, data="cifar10", **metrics):
        made = {name: arm(accuracy, **metrics) for name in arms}
        for each in made.values():
            each["data"]["sensitive"] = data
        return ClaimRecord("table_cifar10", "full", seed, made, {}, 1.0)

    return make


def paper_table(*arguments) -> CellTable:
    table = published_numbers(*arguments)
    assert table is not None
    return table


def cell(table: CellTable, row: str, column: int) -> Cell:
    return next(cells for title, cells in table.rows if title == row)[column]


def test_the_table_has_the_papers_rows_and_columns(run):
    table = paper_table(TABLE, "full", [run()], [])
    assert table.head == ("", "ε = 10", "ε = 5", "ε = 1")
    assert [title for title, _ in table.rows] == [
        "Logistic regression accuracy, %",
        "MLP accuracy, %",
        "CNN accuracy, %",
        "FID",
    ]
    assert [title for title, _ in paper_table(CELEBA, "full", [run()], []).rows] == ["FID"]


def test_a_cell_has_ours_over_the_seeds_and_the_others_beside_it(run):
    records = [run(0, fid=30.0), run(1, accuracy=0.7, fid=31.0)]
    table = paper_table(TABLE, "full", records, [])
    cnn = cell(table, "CNN accuracy, %", 0)
    # .6 and .7: mean .65, standard deviation .1 / sqrt(2)
    assert (cnn.text, cnn.beside) == ("65.0 ± 7.1", ("paper 68.8", "DPImageBench 78.4"))
    assert cell(table, "FID", 1).beside == ("paper 27.6",)
    assert cell(table, "FID", 0).text == "30.5 ± 0.7"
    not_run = cell(table, "FID", 2)
    assert (not_run.text, not_run.beside) == ("–", ("paper 29.8",))


def test_only_the_full_setting_says_that_it_is_judged_against_the_paper(run):
    full = paper_table(TABLE, "full", [run()], [])
    smoke = paper_table(TABLE, "smoke", [run(data="digits")], [])
    assert "judged against the paper's" in full.notes[0]
    assert "Only setting full is judged" in smoke.notes[0]
    assert "digits here, in place of cifar10" in smoke.notes[1]
    assert not any("in place of" in note for note in full.notes)


def test_a_cell_carries_the_verdict_of_its_check(run):
    band = ExpectedValue("metrics.fid", "epsilon_5", "lower", "x", mean=27.6, low=26, high=29)
    expected = ExpectedSetting((), "x", (band,), (), ())
    records = [run(fid=35.0)]
    checks = compare(TABLE, "full", records=records, expected=expected).checks
    table = paper_table(TABLE, "full", records, checks)
    assert (cell(table, "FID", 1).verdict, cell(table, "FID", 0).verdict) == ("FAIL", "")


def test_a_claim_that_is_no_table_of_the_paper_has_none(toy, record):
    assert published_numbers(toy, "smoke", [record()], []) is None


def test_numbers_of_a_benchmark_stand_beside_a_set_that_the_paper_has_not(run):
    claim = load_claim(claims_root() / "table_fashion_mnist" / "claim.yaml")
    record = dataclasses.replace(run(data="fashion_mnist"), claim=claim.id, setting="cpu")
    table = paper_table(claim, "cpu", [record], [])
    assert table.head == ("", "ε = 10")
    assert dict(table.rows)["CNN accuracy, %"][0].beside == ("DPImageBench 87.1",)
    assert len(table.notes) == 1
    assert "settings of its own" in table.notes[0]


def test_computed_values_stand_beside_the_expected_ones_grouped_by_what_was_computed(toy):
    metrics = {"good": {"size": 1754499}, "plain": {"share": 7.6}}
    arms = {name: {"insecure": False, "metrics": values} for name, values in metrics.items()}
    record = ClaimRecord("toy", "smoke", 0, arms, {}, 1.0)
    size = ExpectedValue(
        "metrics.size", "good", "exact", "x", mean=1754499, low=1754499, high=1754499
    )
    claim = dataclasses.replace(toy, orderings=())
    expected = ExpectedSetting((), "x", (size,), (), ())
    checks = compare(claim, "smoke", records=[record], expected=expected).checks
    tables = computed_tables([record], checks)
    assert [table.head for table in tables] == [("", "Size"), ("", "Share")]
    good = tables[0].rows[0][1][0]
    assert (good.text, good.beside, good.verdict) == ("1,754,499", ("1,754,499",), "PASS")
    assert tables[1].rows[0][1][0].beside == ()


def test_every_stage_has_its_time_and_the_highest_memory_of_the_seeds(record):
    first, second = record(0), record(1)
    for each, peak in ((first, 800), (second, 900)):
        each.arms["good"]["peak_memory_mib"] = {"pretrain": peak}
    first.arms["good"]["peak_gpu_memory_mib"] = {"pretrain": 2000}
    table = stage_table(["good", "plain"], [first, second])
    assert table is not None
    rows = dict(table.rows)
    assert rows["pretrain"][0].text == "3.0"
    assert rows["pretrain"][0].beside == ("900 MiB · GPU 2,000 MiB",)
    assert rows["query network"][0].beside == ()
    assert rows["all stages"][0].text == "5.0"
    assert rows["all stages"][1].beside == ()
    assert stage_table(["good"], []) is None


def test_the_budget_is_told_from_the_record_alone(record):
    rows = privacy_rows(["good", "plain"], [record()])
    assert ["ε PLD", "9.5", "9.5"] in rows
    assert privacy_rows(["good"], []) == []
