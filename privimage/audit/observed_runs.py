"""What real runs really used: the whole method, watched from outside.

Two runs of the same settings and seed, the first one interrupted and continued. Noise is so large
that the gradients in it cannot be seen, so that all that is released must look like noise of the
deviation that the ledger states. Sensitive and public images are the bundled digits.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from torch import Tensor, nn

from privimage.audit.moments_checks import weighted_moments
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.moments import MOMENTS, Moments
from privimage.privacy.query import QUERY
from privimage.run_folder.budget import privacy_plan
from privimage.settings.config import RunConfig, load_config
from privimage.stages.pipeline import run_pipeline

NUM_DIGITS, STEPS, INTERRUPTED_AT = 1437, 12, 5
# spelled out here: what the audit observes does not follow the settings of tests or examples
SETTINGS: dict[str, Any] = {
    "name": "audit",
    "data": {"sensitive": "digits", "public": "digits", "image_size": 8, "color": "grey"},
    # noise of thousands of deviations, so that 7 clipped gradients are nothing beside it
    "privacy": {
        "epsilon": 0.002,
        "delta": 1e-5,
        "query_noise_multiplier": 4000.0,
        "sampling_rate": 0.005,
        "num_steps": STEPS,
        "clip_norm": 1.0,  # so long that a gradient without noise would move the weights visibly
    },
    "query_network": {
        "widths": [4],
        "blocks": [1],
        "block": "basic",
        "epochs": 1,
        "batch_size": 256,
        "learning_rate": 0.05,
    },
    "selection": {"classes_per_label": 1},
    "moments": {"noise_multiplier": 4000.0, "num_components": 16},
    "network": {
        "base_channels": 8,
        "channel_multipliers": [1, 2],
        "attention_resolutions": [4],
        "blocks_per_level": 1,
        "dropout": 0.1,
    },
    "pretrain": {"num_images": 64, "batch_size": 32, "learning_rate": 1e-4},
    "finetune": {"learning_rate": 3e-4, "noise_multiplicity": 2},
    "sampling": {"num_images": 10, "num_steps": 2, "batch_size": 10},
    "evaluation": {"cnn_width": 4, "cnn_epochs": 1, "cnn_batch_size": 10},
    "performance": {
        "device": "cpu",
        "num_threads": 1,
        "strategy": "folded",
        "micro_batch_size": 4,
        "compile": False,
    },
}
# what the calibration is held to: accountant, epsilon, delta, multipliers of the query and of the
# moments, rate, steps
PROMISES = (
    ("pld", 2.0, 1e-5, 8.0, 6.0, 0.3, 10),
    ("rdp", 1.0, 1e-5, 20.0, 25.0, 0.05, 50),
    ("rdp", 10.0, 1e-6, 3.0, 4.0, 0.01, 1000),
)


class Interrupted(Exception):
    """What ends the first run in its middle."""


@dataclass(frozen=True)
class ObservedRun:
    """Releases in deviations of their noise, as the ledger on the disk has it, and its charges."""

    steps: list[dict[str, Tensor]]
    histogram: Tensor
    moments: Tensor
    late_charges: int  # releases that came before their charge was on the disk
    uncharged: int  # releases beyond the charges
    other_plan: int  # entries of the ledger that are not what the settings ask for
    other_lines: int  # of the log of DP-SGD, that do not follow from releases and settings
    weights_off: float  # as `_weights_off` has it; of an interrupted run 0, for steps may be lost


def observe(folder: Path, *, seed: int, interrupted: bool) -> ObservedRun:
    """One run in `folder`, with noise from the operating system."""
    config = load_config({**SETTINGS, "seed": seed})
    seen: dict[str, Any] = {"steps": [], "late": 0}

    def watch(steps_so_far: int, gradient: dict[str, Tensor]) -> None:
        seen["late"] += _charged(folder, DP_SGD) < steps_so_far
        seen["steps"].append({name: value.clone() for name, value in gradient.items()})
        if interrupted and len(seen["steps"]) == INTERRUPTED_AT:
            raise Interrupted

    answers, moments = [], []
    try:
        run_pipeline(config, folder, on_release=watch)
    except Interrupted:
        answers.append(_answer(folder))
        moments.append(_moments(folder))
        run_pipeline(config, folder, on_release=watch)
    answers.append(_answer(folder))
    moments.append(_moments(folder))
    weights_off = 0.0 if interrupted else _weights_off(config, folder, seen["steps"])
    return _observed(config, folder, seen, answers, moments, weights_off)


def excess_epsilon() -> float:
    """By how much the noise of a plan exceeds its promise, as another library accounts for it; as a
    share of the promise. The plan's own accountant may be looser, never tighter.
    """
    excesses = []
    for accountant, epsilon, delta, query, moments, rate, steps in PROMISES:
        promise = {
            "accountant": accountant,
            "epsilon": epsilon,
            "delta": delta,
            "query_noise_multiplier": query,
            "sampling_rate": rate,
            "num_steps": steps,
        }
        asked = {f"privacy.{key}": value for key, value in promise.items()}
        config = load_config(SETTINGS, asked | {"moments.noise_multiplier": moments})
        multiplier = privacy_plan(config).mechanisms[DP_SGD].noise_multiplier
        account = PLDAccountant() if accountant == "pld" else RdpAccountant()
        account.compose(GaussianDpEvent(query))
        account.compose(GaussianDpEvent(moments))
        sampled = PoissonSampledDpEvent(rate, GaussianDpEvent(multiplier))
        account.compose(SelfComposedDpEvent(sampled, steps))
        excesses.append(account.get_epsilon(delta) / epsilon - 1)
    return max(excesses)


def _observed(
    config: RunConfig,
    folder: Path,
    seen: dict[str, Any],
    answers: list[Tensor],
    moments: list[Tensor],
    weights_off: float,
) -> ObservedRun:
    plan, stated = privacy_plan(config).mechanisms, _mechanisms(folder)
    expected_batch = stated[DP_SGD].sampling_rate * NUM_DIGITS
    unit = config.privacy.clip_norm * stated[DP_SGD].noise_multiplier / expected_batch
    votes = math.sqrt(config.selection.classes_per_label) * stated[QUERY].noise_multiplier
    asked_again = any(not torch.equal(answer, answers[0]) for answer in answers)
    summed_again = any(not torch.equal(sums, moments[0]) for sums in moments)
    return ObservedRun(
        steps=[{name: value / unit for name, value in step.items()} for step in seen["steps"]],
        histogram=answers[0] / votes,
        moments=moments[0] / stated[MOMENTS].noise_multiplier,
        late_charges=seen["late"],
        uncharged=max(0, len(seen["steps"]) - _charged(folder, DP_SGD))
        + max(0, 1 + asked_again - _charged(folder, QUERY))
        + max(0, 1 + summed_again - _charged(folder, MOMENTS)),
        other_plan=sum(stated.get(name) != mechanism for name, mechanism in plan.items()),
        other_lines=_other_lines(folder, seen["steps"], expected_batch),
        weights_off=weights_off,
    )


def _other_lines(folder: Path, steps: list[dict[str, Tensor]], expected_batch: float) -> int:
    """A line may tell the step, the images expected so far, and the released gradient's norm."""
    others = 0
    for line in (folder / "stats.jsonl").read_text().splitlines():
        told = json.loads(line)
        if told["stage"] != "finetune":
            continue
        values = torch.cat([value.flatten() for value in steps[told["step"] - 1].values()])
        norm = told.pop("noisy_gradient_norm", math.nan)
        public = {
            "stage": "finetune",
            "step": told["step"],
            "images": round(told["step"] * expected_batch),
        }
        others += told != public or not math.isclose(norm, float(values.norm()), rel_tol=1e-4)
    return others


def _weights_off(config: RunConfig, folder: Path, steps: list[dict[str, Tensor]]) -> float:
    """How far the model lies from what the releases alone make of the pre-trained weights (Adam and
    the average, replayed), as a share of the way that it went: it may rest on nothing else.
    """
    start = safetensors.torch.load_file(folder / "pretrained.safetensors")
    model = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: nn.Parameter(start[name].clone()) for name in steps[0]}
    average = {name: start[name].clone() for name in steps[0]}
    optimizer = torch.optim.Adam(weights.values(), lr=config.finetune.learning_rate)
    for num, step in enumerate(steps):
        rate = min(config.finetune.ema_rate, (1 + num) / (10 + num))
        for name, weight in weights.items():
            weight.grad = step[name]
        optimizer.step()
        for name, weight in weights.items():
            average[name] = rate * average[name] + (1 - rate) * weight.detach()
    off = max(float((model[name] - average[name]).abs().max()) for name in average)
    return off / max(float((model[name] - start[name]).abs().max()) for name in average)


def _events(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "ledger.json").read_text())["events"]


def _mechanisms(folder: Path) -> dict[str, Mechanism]:
    return {
        event["name"]: Mechanism(
            event["noise_multiplier"], event["sampling_rate"], event["reserved"]
        )
        for event in _events(folder)
    }


def _charged(folder: Path, name: str) -> int:
    return sum(event["charged"] for event in _events(folder) if event["name"] == name)


def _answer(folder: Path) -> Tensor:
    answer = json.loads((folder / "query" / "answer.json").read_text())
    return torch.tensor(answer["noisy_histogram"], dtype=torch.float64)


def _moments(folder: Path) -> Tensor:
    found = safetensors.torch.load_file(folder / "query" / "moments.safetensors")
    return weighted_moments(Moments(*(found[name] for name in Moments._fields)))
