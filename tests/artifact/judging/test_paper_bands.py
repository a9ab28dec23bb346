import dataclasses

import pytest

from artifact.claims.registry import claims_root, load_claim
from artifact.judging.expected import expected_path, load_expected
from artifact.judging.paper_bands import expected_from_paper
from artifact.judging.reference import write_expected
from privimage.errors import UserError

NAMES = ("table_cifar10", "table_celeba32", "table_celeba64")
TABLES = {name: load_claim(claims_root() / name / "claim.yaml") for name in NAMES}


@pytest.mark.parametrize(("name", "num_bands"), [(NAMES[0], 12), (NAMES[1], 3), (NAMES[2], 3)])
def test_every_cell_of_the_papers_table_is_expected_and_can_be_read(name, num_bands, tmp_path):
    claim = TABLES[name]
    path = expected_path(name, tmp_path)
    write_expected(path, claim, "full", expected_from_paper(claim, "full"))
    values = load_expected(claim, tmp_path)["full"].values
    assert len([value for value in values if not value.is_firm]) == num_bands
    assert {v.arm: v.at_most for v in values if v.at_most} == {
        "epsilon_10": 10.0,
        "epsilon_5": 5.0,
        "epsilon_1": 1.0,
    }


def test_a_number_without_a_spread_gets_five_percent_in_the_unit_of_our_records():
    section = expected_from_paper(TABLES["table_cifar10"], "full")
    cells = {(value["metric"], value["arm"]): value for value in section["values"]}
    cnn = cells["metrics.cnn_accuracy", "epsilon_5"]
    # 69.4 %, and 5 % of it is 3.47 points
    assert (cnn["low"], cnn["mean"], cnn["high"]) == (0.6593, 0.694, 0.7287)
    fid = cells["metrics.fid", "epsilon_1"]
    assert (fid["low"], fid["mean"], fid["high"]) == (28.31, 29.8, 31.29)
    assert fid["key"]["metrics.frechet_num_images"] == 5000
    assert "printed as 29.8" in fid["source"]
    assert "USENIX Security 2024" in fid["source"]


def test_only_the_full_setting_of_a_table_is_judged_by_the_paper(toy):
    for claim, setting in ((TABLES["table_cifar10"], "smoke"), (toy, "smoke")):
        with pytest.raises(UserError, match="give recorded runs with --records"):
            expected_from_paper(claim, setting)
    with pytest.raises(UserError, match="not judged by the paper's table"):
        expected_from_paper(dataclasses.replace(toy, published_as="cifar10"), "smoke")
