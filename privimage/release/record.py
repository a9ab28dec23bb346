"""What a finished run says of itself: the record for machines, privacy statement and model card
for people.

Metrics, budget, selection, times, memory and environment. Statement and card may be published. The
record may not where the images are private: times and memory of the query and of DP-SGD depend on
them, as do scores on real images. A reported epsilon is that of what the ledger has reserved, never
the configuration's, and not that of what was charged, which may depend on run times.
"""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from privimage.diffusion.build import num_parameters
from privimage.files.durable import write_durably, write_json_durably
from privimage.machine.environment import describe_environment
from privimage.privacy.counted_again import second_opinions
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY, query_sensitivity
from privimage.release.checksums import CHECKSUMS, write_checksums
from privimage.release.model_card import model_card
from privimage.release.statement import (
    Circumstances,
    Release,
    privacy_statement,
    statement_markdown,
)
from privimage.run_folder.run import Run
from privimage.settings.description import assumed_facts

RECORD_FORMAT = 1
MEASURED = ("seconds", "peak_memory_mib", "peak_gpu_memory_mib")
# what of a run folder follows from charged results or public data alone
RELEASED = {
    "model.safetensors": "weights of the generator, averaged over the steps",
    "pretrained.safetensors": "weights before fine-tuning, from public images alone but for the "
    "choice of classes; averaged in `pretrained_ema.safetensors`",
    "images.npz": "synthetic images with their labels, and `images/` and `samples.png` from it",
    "query/answer.json": "the noisy histogram of public classes",
    "query/moments.safetensors": "noisy moments of each label; `query/sketches.png` from them",
    "query/selection.json": "the chosen public classes, and pictures of them from the public set",
    "stats.jsonl": "norms of noisy gradients, losses of public images; by step, without times",
    "ledger.json": "every use of the sensitive images",
    "model_card.md": "what the model is; its scores on real images, if any, are not covered",
    CHECKSUMS: "the hashes of all these files, for `sha256sum --check` and `privimage verify`",
}
WRITTEN_LAST = ("model_card.md", CHECKSUMS)


def make_record(run: Run, measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Metrics, budget, selection, times and environment of a finished run: no image, label or
    un-noised answer, but times and memory, which follow the private sample.
    """
    config, public = run.config, run.sets.public_if_loaded
    return {
        "format": RECORD_FORMAT,
        "name": config.name,
        "seed": config.seed,
        "insecure": run.source.insecure,
        "metrics": json.loads((run.folder / "metrics.json").read_text()),
        "privacy": _privacy(run),
        "selection": json.loads((run.folder / "query/selection.json").read_text()),
        "model": {"num_parameters": num_parameters(run.config, run.sets.sensitive)},
        "data": {
            "sensitive": run.sets.sensitive.source,
            "public": config.data.public,
            "public_sha256": public.fingerprint() if public else None,
            "real_test": run.sets.real_test.source if run.sets.real_test else None,
        },
        "timings_seconds": {stage: found["seconds"] for stage, found in measured.items()},
        **_peaks(measured),
        "taken_over": run.donor.entry if run.donor else None,
        **({"start_from": run.start_from.identity} if run.start_from else {}),
        "stopped_early": config.stage_seconds is not None,
        "environment": describe_environment(run.device) | {"precision": run.compute.precision},
    }


def write_statement(run: Run) -> None:
    """The privacy statement beside the results, in JSON and in words, the model card, and the
    hashes of all that is released.
    """
    statement = privacy_statement(run.ledger, circumstances(run))
    write_json_durably(run.folder / "privacy_statement.json", statement)
    write_durably(run.folder / "privacy_statement.md", statement_markdown(statement).encode())
    write_durably(run.folder / "model_card.md", model_card(run, statement).encode())
    write_checksums(run.folder, statement["released"])


def circumstances(run: Run) -> Circumstances:
    """What the statement needs and the ledger does not hold."""
    config, size = run.config, run.sets.sensitive.public_size
    votes, evaluated = config.selection.classes_per_label, run.sets.real_test is not None
    query = Release(
        "a histogram of public classes with Gaussian noise in every cell, empty ones included",
        query_sensitivity(votes),
        f"One image changes {votes} cells by 1, so the histogram by the square root of {votes}.",
    )
    moments = Release(
        "for each label a noisy count and noisy sums of clipped coordinates and of their products",
        1.0,
        "The coordinates of each image are clipped to the norm 1, and count, sums and products "
        "weighted so that one image moves all of them together by 1 at most.",
    )
    sgd = Release(
        "a noisy gradient per step; weights, their average and images follow from it",
        config.privacy.clip_norm,
        "The gradient of each image is clipped to the clip norm before it is added to the sum.",
        taken=steps_taken(run),
    )
    return Circumstances(
        releases={QUERY: query, MOMENTS: moments, DP_SGD: sgd},
        files={
            name: what
            for name, what in RELEASED.items()
            if name in WRITTEN_LAST or (run.folder / name).exists()
        },
        clip_norm=config.privacy.clip_norm,
        noise_multiplicity=config.finetune.noise_multiplicity,
        public_size=size,
        assumed=assumed_facts(config.data, public_size=size),
        expected_batch_size=config.privacy.sampling_rate * size,
        code=code_identity(),
        evaluated_on_real_images=evaluated,
        compared_with_real_training=evaluated and config.evaluation.real_ceiling,
        taken_over=run.donor.entry if run.donor else None,
        start_from=run.start_from.identity if run.start_from else None,
    )


def steps_taken(run: Run) -> int:
    """How many charged steps are in the model."""
    return json.loads((run.folder / "finetune.json").read_text())["steps_taken"]


def code_identity() -> dict[str, str]:
    """The package's version, and SHA-256 over its sources: the same wherever they lie."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.j2")]):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    try:
        number = version("privimage")
    except PackageNotFoundError:
        number = "(not installed)"
    return {"version": number, "sha256": digest.hexdigest()}


def _privacy(run: Run) -> dict[str, Any]:
    promised, ledger = run.config.privacy, run.ledger
    query, sgd = ledger.reserved.get(QUERY), ledger.reserved[DP_SGD]
    moments = ledger.reserved.get(MOMENTS)
    taken = steps_taken(run) if ledger.charged(DP_SGD) == sgd.count else None
    return {
        "epsilon": ledger.reserved_epsilon(promised.accountant),
        "epsilon_rdp": ledger.reserved_epsilon("rdp"),
        "epsilon_pld": ledger.reserved_epsilon("pld"),
        "counted_again": second_opinions(ledger),
        "target_epsilon": promised.epsilon,
        "delta": promised.delta,
        "accountant": promised.accountant,
        "query_noise_multiplier": query.noise_multiplier if query else None,
        **({"moments_noise_multiplier": moments.noise_multiplier} if moments else {}),
        "sgd_noise_multiplier": sgd.noise_multiplier,
        "sampling_rate": sgd.sampling_rate,
        "steps": sgd.count,
        **({} if taken is None else {"steps_taken": taken}),
        "clip_norm": promised.clip_norm,
    }


def _peaks(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """`peak_memory_mib` and `peak_gpu_memory_mib` by stage, as far as they are known."""
    peaks: dict[str, dict[str, float]] = {}
    for name in MEASURED[1:]:
        found = {stage: values[name] for stage, values in measured.items() if name in values}
        peaks |= {name: found} if found else {}
    return peaks
