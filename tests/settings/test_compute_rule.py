"""The numbers that fill a given time, from paces that are made up here."""

from dataclasses import replace

import pytest

from privimage.errors import ConfigError
from privimage.settings.compute_rule import (
    MOST_EPOCHS,
    MOST_OF_THE_SET,
    MOST_SHOWN,
    MOST_STEPS,
    NUM_STEPS,
    RESERVE,
    Paces,
    allotted,
    least_hours,
)

PACES = Paces(anyway=20.0, epoch=30.0, shown_image=0.01, clipped_image=0.05, synthetic_image=0.02)
SET = {"public_size": 60_000, "num_labels": 10}


def seconds_of(chosen, paces=PACES, public_size=60_000):
    clipped = chosen["privacy.num_steps"] * chosen["privacy.sampling_rate"] * public_size
    return (
        paces.anyway
        + chosen["query_network.epochs"] * paces.epoch
        + chosen["pretrain.num_images"] * paces.shown_image
        + clipped * paces.clipped_image
        + chosen["sampling.num_images"] * paces.synthetic_image
    )


@pytest.mark.parametrize("hours", [0.2, 0.5, 1, 2, 6])
@pytest.mark.parametrize("slower", [0.5, 1, 3])
def test_the_numbers_fill_the_time(hours, slower):
    paces = replace(
        PACES, shown_image=slower * PACES.shown_image, clipped_image=slower * PACES.clipped_image
    )
    took = seconds_of(allotted(3600 * hours, paces, **SET), paces)
    assert took == pytest.approx((1 - RESERVE) * 3600 * hours, rel=0.03)


def test_more_time_never_gives_less_of_anything():
    before = allotted(600, PACES, **SET)
    for seconds in (900, 1800, 3600, 7200, 50_000, 500_000):
        now = allotted(seconds, PACES, **SET)
        assert all(now[name] >= before[name] for name in before)
        before = now


def test_numbers_end_where_more_would_gain_nothing():
    chosen = allotted(10_000_000, PACES, **SET)
    assert chosen == {
        "query_network.epochs": MOST_EPOCHS,
        "pretrain.num_images": MOST_SHOWN,
        "privacy.num_steps": MOST_STEPS,
        "privacy.sampling_rate": MOST_OF_THE_SET,
        "sampling.num_images": 50_000,
    }


def test_a_small_set_gets_more_steps_rather_than_larger_batches():
    chosen = allotted(6000, PACES, public_size=2_000, num_labels=2)
    assert chosen["privacy.sampling_rate"] == MOST_OF_THE_SET
    assert chosen["privacy.num_steps"] > NUM_STEPS
    assert chosen["sampling.num_images"] <= 2_000


def test_what_is_set_by_hand_is_paid_for_first():
    by_hand = replace(PACES, anyway=PACES.anyway + 600, shown_image=0.0)
    free, rest = (allotted(3600, paces, **SET) for paces in (PACES, by_hand))
    assert rest["privacy.sampling_rate"] > free["privacy.sampling_rate"]
    took = seconds_of(rest | {"pretrain.num_images": 0}, by_hand)
    assert took == pytest.approx((1 - RESERVE) * 3600, rel=0.03)


@pytest.mark.parametrize("public_size", [20, 2_000, 60_000])
@pytest.mark.parametrize("epoch", [0.1, 30.0, 3000.0])
def test_a_time_that_is_too_short_names_the_shortest(public_size, epoch):
    paces, of = replace(PACES, epoch=epoch), {"public_size": public_size, "num_labels": 2}
    least = least_hours(paces, **of)
    allotted(3600 * least, paces, **of)
    with pytest.raises(ConfigError, match=f"too short for these .* give {least:.1g} or more"):
        allotted(3600 * least / 4, paces, **of)
