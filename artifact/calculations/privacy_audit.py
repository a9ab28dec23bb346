"""The empirical audit of this bundle's code: a lower bound on epsilon from each attack (SPEC A.6).

Every attack runs the real `finetune` or `semantic_query` at a promise of EPSILON, with noise from
the operating system, so no two audits are alike. Beside it stands a control: the same attack where
EPSILON does not hold, which it must see. Images are canaries and bundled digits: nothing private.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from privimage.canaries import audit_gradients, audit_inputs, audit_query, audit_set_size
from privimage.config import PrivacyConfig
from privimage.hardware import Workers, usable_cores
from privimage.privacy.accounting import calibrate_noise_multiplier
from privimage.privacy.audit import AuditResult
from privimage.privacy.per_example import Engine
from privimage.privacy.rng import secure_source

EPSILON, DELTA = 2.0, 1e-5
CONTROL_EPSILON = 40.0  # an attack that is not blind finds more than EPSILON here
INPUTS_CONTROL_EPSILON = 1e5  # the finished model alone tells much less
ENGINE = Engine("folded", micro_batch_size=48)


def audit_metrics(_: Path, seed: int = 0) -> dict[str, dict[str, float]]:
    """Claimed epsilon and lower bound of every attack and its control, by arm.

    `seed` is that of the auditor's coins; the noise has none.
    """
    attacks = {
        "gradients": partial(attack_gradients, EPSILON),
        "gradients_control": partial(attack_gradients, CONTROL_EPSILON),
        "set_size": partial(attack_set_size, publish_size=False),
        "set_size_control": partial(attack_set_size, publish_size=True),
        "query": partial(attack_query, EPSILON),
        "query_control": partial(attack_query, CONTROL_EPSILON),
        "inputs": partial(attack_inputs, EPSILON),
        "inputs_control": partial(attack_inputs, INPUTS_CONTROL_EPSILON),
    }
    # small tensors: side by side with a thread each, never several threads in one operation
    workers = Workers(max(2, usable_cores()))
    results = workers.map(lambda attack: attack(seed=seed), attacks.values())
    return {arm: asdict(result) for arm, result in zip(attacks, results, strict=True)}


def attack_gradients(epsilon: float, *, seed: int) -> AuditResult:
    """On every gradient that DP-SGD releases."""
    plan = audit_plan(epsilon, sampling_rate=0.5, num_steps=8, clip_norm=1e-3)
    return audit_gradients(
        plan, num_canaries=2000, source=secure_source(), seed=seed, engine=ENGINE
    )


def attack_set_size(*, publish_size: bool, seed: int) -> AuditResult:
    """On the scale of DP-SGD's noise."""
    plan = audit_plan(EPSILON, sampling_rate=0.9, num_steps=8, clip_norm=1e-3)
    return audit_set_size(
        plan,
        num_runs=300,
        publish_size=publish_size,
        source=secure_source(),
        seed=seed,
        engine=ENGINE,
    )


def attack_query(epsilon: float, *, seed: int) -> AuditResult:
    """On the noisy histogram."""
    plan = audit_plan(epsilon, sampling_rate=0.5, num_steps=1, clip_norm=1e-3)
    return audit_query(
        plan, num_canaries=2000, classes_per_image=2, source=secure_source(), seed=seed
    )


def attack_inputs(epsilon: float, *, seed: int) -> AuditResult:
    """On the finished model."""
    plan = audit_plan(epsilon, sampling_rate=0.5, num_steps=400, clip_norm=1e-2)
    return audit_inputs(plan, num_canaries=160, source=secure_source(), seed=seed, engine=ENGINE)


def audit_plan(
    epsilon: float, *, sampling_rate: float, num_steps: int, clip_norm: float
) -> PrivacyConfig:
    """The whole epsilon for whichever mechanism is attacked: query or DP-SGD, never both."""
    query = calibrate_noise_multiplier(
        (), sampling_rate=1.0, count=1, epsilon=epsilon, delta=DELTA, accountant="rdp"
    )
    return PrivacyConfig(
        epsilon=epsilon,
        delta=DELTA,
        query_noise_multiplier=query,
        sampling_rate=sampling_rate,
        num_steps=num_steps,
        clip_norm=clip_norm,
    )
