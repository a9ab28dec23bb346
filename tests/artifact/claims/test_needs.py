import dataclasses

import pytest

from artifact.claims.needs import GIB, Machine, all_assets, settings_here, unmet_data, unmet_needs
from artifact.claims.registry import Needs

ROOMY = Machine(ram_bytes=64 * GIB, disk_bytes=500 * GIB, gpu_free_bytes=70 * GIB)


@pytest.fixture
def setting(toy):
    """A setting that needs all there is."""
    needs = Needs(ram_gib=4, disk_gib=1, gpu_memory_gib=24, data=("cifar10", "inception"))
    return dataclasses.replace(toy.setting("smoke"), needs=needs)


def test_needs_are_held_against_what_is_free(setting):
    small = Machine(3 * GIB, 2 * GIB, 0, gpu_problem="no driver: load it")
    assert unmet_needs(setting, small) == [
        "needs 24 GiB of GPU memory, 0.0 are free (no driver: load it)",
        "needs 4 GiB of memory, 3.0 are free",
    ]
    assert unmet_needs(setting, Machine(4 * GIB, GIB, 24 * GIB)) == []


def test_a_fault_of_the_machine_stops_every_setting(setting):
    broken = dataclasses.replace(ROOMY, faults=("torch: broken; make setup",))
    assert unmet_needs(setting, broken) == ["torch: broken; make setup"]


def test_missing_data_comes_with_its_remedy_and_fid_weights_are_no_reason_to_refuse(setting):
    missing = {"cifar10": "artifact fetch cifar10", "inception": "artifact fetch inception"}
    machine = dataclasses.replace(ROOMY, missing_data=missing)
    assert unmet_data(setting, machine) == ["needs cifar10: artifact fetch cifar10"]
    assert unmet_needs(setting, machine) == []


def test_every_setting_is_said_to_run_here_or_what_it_lacks(toy):
    rows = list(settings_here({"toy": toy}, Machine(GIB, 0, 0)))
    assert rows == [("toy/smoke", "WARN", "needs 0.001 GiB of disk, 0.0 are free")]
    rows = list(settings_here({"toy": toy}, Machine(GIB, GIB, 0)))
    assert rows == [("toy/smoke", "OK", "2 min † on a laptop")]


def test_a_setting_without_its_data_names_it(toy, setting):
    claim = dataclasses.replace(toy, settings={"smoke": setting})
    machine = dataclasses.replace(ROOMY, missing_data={"cifar10": "artifact fetch cifar10"})
    assert list(settings_here({"toy": claim}, machine)) == [("toy/smoke", "WARN", "needs cifar10")]


def test_the_weights_of_fid_are_always_looked_for(toy, setting):
    assert all_assets({"toy": toy}) == {"inception"}
    both = dataclasses.replace(toy, settings={"smoke": setting})
    assert all_assets({"toy": both}) == {"inception", "cifar10"}
