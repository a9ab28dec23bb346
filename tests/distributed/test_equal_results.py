"""Several processes compute what one does, up to rounding, from the same draws and charges."""

import json
from functools import cache

import numpy as np
import pytest
from safetensors.numpy import load_file

from privimage.errors import DataInvalidError
from privimage.settings.config import load_config
from privimage.stages.pipeline import run_pipeline
from tests.distributed.processes import in_processes

SIZES = (1, 2, 4)
SEVERAL = 3  # an odd number: parts differ in size, and there is more than one follower
results = cache(in_processes)  # for tests that look at several sides of the same launch


def leaders(piece, *arguments):
    """What the leader of one process and of several gets."""
    return [results(piece, size, *arguments)[0] for size in (1, SEVERAL)]


def assert_close(found, expected, *, relative):
    for name, value in expected.items():
        scale = np.abs(value).max() + 1e-12
        assert np.abs(found[name] - value).max() <= relative * scale, name


def test_processes_sum_tell_and_send():
    for size in SIZES:
        ranks = range(size)
        parts = in_processes("transfers", size)
        for rank, found in enumerate(parts):
            assert found["total"] == [[[sum(ranks) + size] * 3] * 2, [10.0 * sum(ranks)]]
            assert found["mixed"] == [[0, 0], [0.5] * 3]
            assert found["told"] == 0
            assert found["received"] == [0, 0]
            assert found["agreed"] is True
            if rank == 0:
                assert found["on_leader"] == [size, 2 * size + sum(ranks)]
                assert found["sent"] == [[sender] * 2 for sender in ranks]
        for which, num in enumerate((0, 1, 7, 8)):
            covered = [row for part in parts for row in range(num)[part["rows"][which]]]
            assert covered == list(range(num))


def test_batch_norm_over_processes_equals_that_of_the_whole_batch():
    for size in SIZES:
        for found in in_processes("batch_norm", size):
            assert max(found["errors"]) < 1e-7  # running statistics are kept in float32 by torch


def test_the_query_network_does_not_depend_on_the_number_of_processes():
    one, *others = leaders("classifier")
    for found in others:
        assert_close(found, one, relative=1e-4)


def test_all_processes_end_with_the_same_query_network():
    first, *others = results("classifier", SEVERAL)
    for found in others:
        assert_close(found, first, relative=0)


def test_pretraining_does_not_depend_on_the_number_of_processes():
    one, *others = leaders("pretrained")
    for found in others:
        assert_close(found, one, relative=1e-4)


def test_the_query_counts_every_image_once_and_adds_noise_once():
    one, *others = leaders("query")
    for found in others:
        np.testing.assert_array_equal(found["noisy"], one["noisy"])
        assert found["charged"] == 1
    for follower in results("query", SEVERAL)[1:]:  # un-noised counts meet on the leader alone
        assert not follower["noisy"].any()
        assert follower["charged"] == 0


@pytest.mark.parametrize("strategy", ["loop", "folded"])
@pytest.mark.parametrize("rate", [0.05, 0.5, 1.0])
def test_dp_sgd_draws_the_same_sample_and_sums_the_same_gradients(rate, strategy):
    one, *others = leaders("finetuned", rate, strategy)
    assert one["charged"] == 3
    for found in others:
        assert found["drawn"] == one["drawn"]
        assert found["ledger"] == one["ledger"]
        # of the first step: afterwards the weights differ by rounding
        assert_close({"sum": found["sums"][0]}, {"sum": one["sums"][0]}, relative=1e-6)
        assert_close(found["weights"], one["weights"], relative=1e-4)


def test_followers_draw_nothing_charge_nothing_and_see_no_sum():
    for follower in results("finetuned", SEVERAL, 0.5, "loop")[1:]:
        assert follower["drawn"] == follower["sums"] == []
        assert follower["charged"] == 0


def test_all_processes_end_with_the_same_private_model():
    first, *others = results("finetuned", SEVERAL, 0.5, "loop")
    for found in others:
        assert_close(found["weights"], first["weights"], relative=0)


def test_images_do_not_depend_on_the_number_of_processes():
    one, *others = leaders("generated")
    for found in others:
        np.testing.assert_array_equal(found["images"], one["images"])
        np.testing.assert_array_equal(found["labels"], one["labels"])


def test_statistics_of_parts_are_those_of_the_union():
    nums = (2, 3, 21)
    for num, one, found in zip(nums, *leaders("statistics", nums), strict=True):
        assert found["num"] == one["num"] == num
        np.testing.assert_allclose(found["mean"], one["mean"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found["covariance"], one["covariance"], rtol=1e-5, atol=1e-9)


def test_the_distance_of_dealt_images_is_that_of_one_process():
    one, found = leaders("distances", ((21, 100), (21, 9), (3, 2)))
    assert min(one) > 0
    assert found == pytest.approx(one, rel=1e-4)


def test_a_whole_run_has_the_same_ledger_bytes(toy_settings, tmp_path):
    toy_settings["privacy"]["insecure_for_reproduction"] = True
    folders = tmp_path / "1", tmp_path / "2"
    records = [
        run_pipeline(load_config(toy_settings), folders[0]),
        in_processes("whole_run", 2, toy_settings, folders[1])[0],
    ]
    names = [json.loads((folder / "ledger.json").read_text())["data_id"] for folder in folders]
    one, two = ((folder / "ledger.json").read_text() for folder in folders)
    assert one.replace(names[0], names[1]) == two  # each run has its own key for the name
    one, two = ((folder / "finetune.json").read_bytes() for folder in folders)
    assert one == two
    one, two = (record["metrics"] for record in records)
    assert one.keys() == two.keys()
    assert two["frechet_query_network"] == pytest.approx(one["frechet_query_network"], rel=1e-2)


def test_all_processes_begin_with_the_public_weights(toy_settings, public_weights, tmp_path):
    toy_settings["selection"]["strategy"] = "random"  # which no noise can change
    folders = tmp_path / "1", tmp_path / "2"
    run_pipeline(load_config(toy_settings), folders[0], start_from=public_weights)
    in_processes("whole_run", 2, toy_settings, folders[1], public_weights.folder)
    one, two = (load_file(folder / "pretrained.safetensors") for folder in folders)
    for name, value in one.items():
        assert np.abs(two[name] - value).max() <= 1e-4, name


def test_other_images_on_another_machine_are_refused(toy_settings, tmp_path):
    with pytest.raises(DataInvalidError, match="1 of 2 processes read other images"):
        in_processes("run_with_other_images", 2, toy_settings, tmp_path)
