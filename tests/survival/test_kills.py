"""kill -9 at random moments of a whole run: what is there afterwards, and where it ends."""

import hashlib
import json
import random
from collections import Counter

import pytest

from artifact.claims.arms import resolve_arms
from artifact.claims.registry import find_claim
from tests.survival.killed_runs import check_books, run_until

PRODUCTS = (
    "query_network.safetensors",
    "pretrained.safetensors",
    "model.safetensors",
    "images.npz",
    "metrics.json",
)


def hashes(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in PRODUCTS}


def moments(events, *, num, seed):
    """`num` random times of an uninterrupted run, in order, as (event, seconds after it).

    At most a second after it: another run may be faster.
    """
    generator = random.Random(seed)
    start, end = events[0][0], events[-1][0]
    for at in sorted(generator.uniform(start, end) for _ in range(num)):
        time, event = max((e for e in events if e[0] <= at), key=lambda e: e[0])
        yield event, min(at - time, 1.0)


def kill_and_finish(settings, folder, events, *, num_kills, seed):
    """Returns how many kills there were, and how many in each stage; the run is then complete."""
    kills, stages = 0, Counter()
    for event, delay in moments(events, num=num_kills, seed=seed):
        outcome = run_until(settings, folder, event=event, delay=delay)
        assert outcome.error is None
        kills += not outcome.finished
        stages[event[0]] += 1
        check_books(folder)
    assert run_until(settings, folder).finished
    check_books(folder)
    return kills, stages


def check_record(folder, *, steps):
    record = json.loads((folder / "record.json").read_text())
    assert record["privacy"]["steps"] == steps
    assert record["privacy"]["epsilon"] <= record["privacy"]["target_epsilon"]
    charged = {
        event["name"]: event["charged"]
        for event in json.loads((folder / "ledger.json").read_text())["events"]
    }
    assert charged == {"semantic_query": 1, "dp_sgd": steps}
    found = json.loads((folder / "finetune.json").read_text())
    assert found["steps_charged"] == steps
    return found["steps_taken"]


def check_survival(settings, folder, *, num_kills, num_stages, seed):
    """Kill an insecure and a secure run; the first ends with the bytes of an undisturbed one."""
    steps = settings["privacy"]["num_steps"]
    seeded = settings | {"privacy": settings["privacy"] | {"insecure_for_reproduction": True}}
    whole = run_until(seeded, folder / "whole")
    assert whole.finished, whole.error
    kills, stages = kill_and_finish(
        seeded, folder / "seeded", whole.events, num_kills=num_kills, seed=seed
    )
    assert kills >= 0.9 * num_kills
    assert len(stages) >= num_stages
    assert check_record(folder / "seeded", steps=steps) == steps
    assert hashes(folder / "seeded") == hashes(folder / "whole")
    print(f"seeded: {kills} kills in {dict(stages)}, all products the same bytes")

    kills, stages = kill_and_finish(
        settings, folder / "secure", whole.events, num_kills=num_kills, seed=seed + 1
    )
    assert kills >= 0.9 * num_kills
    taken = check_record(folder / "secure", steps=steps)
    print(f"secure: {kills} kills in {dict(stages)}, {steps - taken} of {steps} steps lost")
    # a kill takes away the step under way and what was done since the last state; one that was
    # meant for the end of pre-training may fall into the first steps
    assert max(1, steps - 2 * stages["finetune"] - 2) <= taken <= steps


@pytest.mark.slow
def test_a_toy_run_survives_five_kills(toy_settings, tmp_path):
    more = {"privacy": toy_settings["privacy"] | {"num_steps": 40}}
    check_survival(toy_settings | more, tmp_path, num_kills=5, num_stages=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_demo_survives_a_dozen_kills(tmp_path):
    config = resolve_arms(find_claim("kick_the_tires"), "smoke", seed=0)["selected"]
    settings = config.to_dict()
    # its networks and its images, at about a quarter of its length
    settings["query_network"]["epochs"] = 2
    settings["pretrain"]["num_images"] = 16_000
    settings["privacy"]["num_steps"] = 30
    settings["sampling"]["num_images"] = 500
    settings["evaluation"] |= {"real_ceiling": False, "cnn_epochs": 3, "frechet_num_images": 500}
    settings["performance"] |= {
        "num_threads": 1,
        "precision": "float32",
        "strategy": "folded",  # five times as fast as the loop here
        "micro_batch_size": 48,
        "compile": False,
    }
    check_survival(settings, tmp_path, num_kills=12, num_stages=2, seed=2)
