"""The shipped table of published numbers, and what is refused in such a file."""

import math

import pytest
import yaml

from artifact.claims.paper_results import load_published, published_table
from artifact.claims.registry import claims_root
from privimage.errors import ConfigError

SHIPPED = claims_root().parent / "expected_results" / "published.yaml"
TABLE = {
    "source": "a paper",
    "columns": ["cifar10.cnn_accuracy", "cifar10.fid"],
    "rows": [{"method": "ours", "epsilon": 10, "values": [68.8, None]}],
}


def write(tmp_path, **changes):
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump({"paper": {**TABLE, **changes}}))
    return path


@pytest.mark.parametrize(
    ("method", "dataset", "metric", "epsilon", "value"),
    [
        ("privimage_d", "cifar10", "cnn_accuracy", 10, 68.8),
        ("privimage_d", "cifar10", "fid", 1, 29.8),
        ("dpsda", "celeba64", "fid", 5, 49.4),
        ("dpgan", "cifar10", "logistic_regression_accuracy", 1, 16.2),
        ("real_data", "cifar10", "mlp_accuracy", math.inf, 45.7),
        ("real_data", "celeba32", "fid", math.inf, None),
    ],
)
def test_the_main_table_holds_the_printed_numbers(method, dataset, metric, epsilon, value):
    table = published_table(path=SHIPPED)
    assert table.value(method, dataset, metric=metric, epsilon=epsilon) == value


def test_every_private_method_of_the_main_table_has_every_cell_at_three_epsilons():
    table = published_table(path=SHIPPED)
    assert table.metrics("cifar10") == (
        "logistic_regression_accuracy",
        "mlp_accuracy",
        "cnn_accuracy",
        "fid",
    )
    private = [method for method in table.methods if table.epsilons(method)[0] < math.inf]
    assert len(private) == 9
    for method in private:
        assert table.epsilons(method) == (10.0, 5.0, 1.0)
        for dataset in ("cifar10", "celeba32", "celeba64"):
            for metric in table.metrics(dataset):
                for epsilon in (10, 5, 1):
                    assert table.value(method, dataset, metric=metric, epsilon=epsilon) is not None


def test_dpimagebench_has_its_own_tables():
    tables = load_published(SHIPPED)
    assert all(table.source for table in tables.values())
    bench = tables["dpimagebench"]
    assert bench.value("privimage", "cifar10", metric="accuracy", epsilon=1) == 74.5
    assert bench.value("dp_lora", "cifar10", metric="fid", epsilon=10) == 27.8
    by_epsilon = tables["dpimagebench_epsilons"]
    assert by_epsilon.value("privimage", "fashion_mnist", metric="fid", epsilon=0.2) == 29.0


def test_a_cell_that_is_not_in_the_table_is_refused_with_what_there_is():
    table = published_table(path=SHIPPED)
    with pytest.raises(ConfigError, match=r"no published fid of pate .* methods are privimage_d,"):
        table.value("pate", "cifar10", metric="fid", epsilon=10)
    with pytest.raises(ConfigError, match="epsilons of dpsda are 10, 5, 1"):
        table.value("dpsda", "cifar10", metric="fid", epsilon=2)
    with pytest.raises(ConfigError, match="no published table 'pate'; there are paper, dpimage"):
        published_table("pate", path=SHIPPED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": " "}, "source is ' '; say where"),
        ({"columns": ["fid", "cifar10.fid"]}, "'fid'; write it as SET.METRIC"),
        ({"columns": ["cifar10.fid"]}, r"rows\[0\].values: 2 numbers for 1 columns"),
        ({"rows": TABLE["rows"] * 2}, "ours at epsilon 10 is there twice"),
        ({"rows": [{**TABLE["rows"][0], "epsilon": 0}]}, r"rows\[0\].epsilon is 0"),
        ({"rows": [{**TABLE["rows"][0], "values": ["x", 1]}]}, "is 'x'; give a number"),
        ({"rows": [{"method": "ours", "epsilon": 1}]}, r"paper.rows\[0\].values: missing"),
        ({"note": "x"}, "paper.note: unknown"),
    ],
)
def test_a_faulty_table_is_refused_with_its_path(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_published(write(tmp_path, **changes))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"published\.yaml: cannot be read"):
        load_published(tmp_path / "published.yaml")
