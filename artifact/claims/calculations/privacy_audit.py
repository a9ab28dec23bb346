"""The empirical audit of this bundle's code: direct checks of what it releases, and attacks on it.

The checks come first; then attacks that see every release of DP-SGD and of the query give a lower
bound on epsilon, at each of the promises. Noise is the operating system's, so no two audits are
alike; the seed is that of the auditor's coins and made-up images. Nothing here is private.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from privimage.audit.attacks import guess_dp_sgd, guess_query
from privimage.audit.bounds import judge_guesses
from privimage.audit.checks import (
    empty_step_p_value,
    largest_moves,
    query_moves,
    sample_p_values,
)
from privimage.audit.moments_checks import moments_moves
from privimage.audit.noise_tests import noise_p_values
from privimage.audit.observed_runs import ObservedRun, excess_epsilon, observe
from privimage.audit.sums import exact_sums
from privimage.audit.two_processes import largest_difference
from privimage.machine.hardware import usable_cores
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier
from privimage.privacy.rng import secure_source

DELTA = 1e-5
RATE, STEPS = 0.9, 2  # of the DP-SGD that is attacked
CLASSES_PER_IMAGE = 2
RUNS_AT_ONCE = 250
# promise: runs of DP-SGD and of the query. So many keep the bound above .7 of a promise of 2
SMOKE_RUNS = {2: (12_000, 16_000)}
CPU_RUNS = {1: (16_000, 40_000), 2: (12_000, 16_000), 5: (4_000, 8_000)}
Metrics = dict[str, dict[str, float]]


def audit_metrics(_: Path, seed: int = 0) -> Metrics:
    """All checks, and the attacks on a promise of 2, by arm."""
    return check_metrics(seed) | attack_metrics(SMOKE_RUNS, seed)


def wide_audit_metrics(_: Path, seed: int = 0) -> Metrics:
    """All checks, and the attacks on promises of 1, 2 and 5."""
    return check_metrics(seed) | attack_metrics(CPU_RUNS, seed)


def check_metrics(seed: int) -> Metrics:
    """What is wrong with noise, sample, sensitivity, processes and ledger: by arm."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors
    try:
        with TemporaryDirectory() as folder:
            runs = [
                observe(Path(folder) / str(run), seed=seed, interrupted=run == 0)
                for run in range(2)
            ]
        sample = {**sample_p_values(secure_source()), "empty": empty_step_p_value(secure_source())}
        return {
            "noise": _named(noise_p_values([run.steps for run in runs]), "p_of_{}"),
            "query_noise": _named(query_noise(runs), "p_of_{}"),
            "moments_noise": _named(moments_noise(runs), "p_of_{}"),
            "sample": _named(sample, "p_of_{}"),
            "sensitivity": largest_moves(seed)
            | query_moves(seed)
            | moments_moves(seed)
            | exact_sums(seed),
            "processes": {"largest_difference": largest_difference(seed)},
            "ledger": ledger_faults(runs),
            "weights": {"largest_difference": max(run.weights_off for run in runs)},
        }
    finally:
        torch.set_num_threads(threads)


def query_noise(runs: list[ObservedRun]) -> dict[str, float]:
    """P-values of the noisy histograms: all cells, those that nobody can have voted for too."""
    return noise_p_values([[{"cells": run.histogram} for run in runs]])


def moments_noise(runs: list[ObservedRun]) -> dict[str, float]:
    """P-values of the noisy moments: counts, sums and products of every label."""
    return noise_p_values([[{"moments": run.moments} for run in runs]])


def ledger_faults(runs: list[ObservedRun]) -> dict[str, float]:
    """What the ledgers of the runs do not say, and epsilon beyond the promise."""
    return {
        "late_charges": float(sum(run.late_charges for run in runs)),
        "uncharged": float(sum(run.uncharged for run in runs)),
        "other_plan": float(sum(run.other_plan for run in runs)),
        "other_lines": float(sum(run.other_lines for run in runs)),
        "excess_epsilon": max(0.0, excess_epsilon()),
    }


def attack_metrics(num_runs: dict[int, tuple[int, int]], seed: int) -> Metrics:
    """What the attacks show of each promise, on all cores."""
    found: Metrics = {}
    # processes of their own, for small tensors spend their time in Python
    with ProcessPoolExecutor(
        max(1, usable_cores()), mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        for epsilon, (steps_runs, query_runs) in num_runs.items():
            dp_sgd = mechanism_of(epsilon, rate=RATE, count=STEPS)
            query = mechanism_of(epsilon, rate=1.0, count=1)
            ask = partial(_query_guesses, query, seed)
            for arm, mechanism, guess, runs in (
                ("dp_sgd", dp_sgd, partial(_dp_sgd_guesses, dp_sgd, seed), steps_runs),
                ("query", query, ask, query_runs),
            ):
                correct = sum(pool.map(guess, _parts(runs)))
                result = judge_guesses(mechanism, correct=correct, runs=runs, delta=DELTA)
                found[f"{arm}_{epsilon}"] = asdict(result)
    return found


def mechanism_of(epsilon: float, *, rate: float, count: int) -> Mechanism:
    """One with the whole promise to itself, accounted for as tightly as can be."""
    multiplier = calibrate_noise_multiplier(
        (), sampling_rate=rate, count=count, epsilon=epsilon, delta=DELTA, accountant="pld"
    )
    return Mechanism(multiplier, rate, count)


def _dp_sgd_guesses(mechanism: Mechanism, seed: int, runs: range) -> int:
    return guess_dp_sgd(mechanism, runs, source=secure_source(), seed=seed)


def _query_guesses(mechanism: Mechanism, seed: int, runs: range) -> int:
    return guess_query(
        mechanism, runs, classes_per_image=CLASSES_PER_IMAGE, source=secure_source(), seed=seed
    )


def _parts(runs: int) -> list[range]:
    return [range(start, min(start + RUNS_AT_ONCE, runs)) for start in range(0, runs, RUNS_AT_ONCE)]


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _named(values: dict[str, float], pattern: str) -> dict[str, float]:
    return {pattern.format(name): float(value) for name, value in values.items()}
