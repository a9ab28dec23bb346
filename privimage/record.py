"""What a finished run says of itself: the record for machines, the privacy statement for people.

Metrics, budget, selection, times, memory and environment. Everything in it is public or was
released through the ledger; a reported epsilon is the ledger's, never the configuration's.
"""

import json
from typing import Any

from privimage.durable import write_durably, write_json_durably
from privimage.environment import describe_environment
from privimage.privacy.statement import privacy_statement, statement_markdown
from privimage.semantics.query import QUERY
from privimage.stages import Run, num_parameters
from privimage.training.finetune import DP_SGD

RECORD_FORMAT = 1
MEASURED = ("seconds", "peak_memory_mib", "peak_gpu_memory_mib")


def make_record(run: Run, measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Metrics, budget, selection, times and environment of a finished run; nothing private."""
    config, ledger = run.config, run.ledger
    sgd, public = ledger.reserved[DP_SGD], run.sets.public_if_loaded
    privacy = {
        "epsilon": ledger.epsilon(config.privacy.accountant),
        "epsilon_rdp": ledger.epsilon("rdp"),
        "epsilon_pld": ledger.epsilon("pld"),
        "target_epsilon": config.privacy.epsilon,
        "delta": config.privacy.delta,
        "accountant": config.privacy.accountant,
        "query_noise_multiplier": ledger.reserved[QUERY].noise_multiplier
        if QUERY in ledger.reserved
        else None,
        "sgd_noise_multiplier": sgd.noise_multiplier,
        "sampling_rate": sgd.sampling_rate,
        "steps": ledger.charged(DP_SGD),
        "clip_norm": config.privacy.clip_norm,
    }
    return {
        "format": RECORD_FORMAT,
        "name": config.name,
        "seed": config.seed,
        "insecure": run.source.insecure,
        "metrics": json.loads((run.folder / "metrics.json").read_text()),
        "privacy": privacy,
        "selection": json.loads((run.folder / "query/selection.json").read_text()),
        "model": {"num_parameters": num_parameters(run)},
        "data": {
            "sensitive": run.sets.sensitive.source,
            "public": config.data.public,
            "public_sha256": public.fingerprint() if public else None,
            "real_test": run.sets.real_test.source if run.sets.real_test else None,
        },
        "timings_seconds": {stage: found["seconds"] for stage, found in measured.items()},
        **_peaks(measured),
        "taken_over": run.donor.entry if run.donor else None,
        "stopped_early": config.stage_seconds is not None,
        "environment": describe_environment(run.device) | {"precision": run.compute.precision},
    }


def write_statement(run: Run) -> None:
    """The privacy statement beside the results, in JSON and in words."""
    statement = privacy_statement(
        run.ledger,
        clip_norm=run.config.privacy.clip_norm,
        evaluated_on_real_images=run.sets.real_test is not None,
    )
    write_json_durably(run.folder / "privacy_statement.json", statement)
    write_durably(run.folder / "privacy_statement.md", statement_markdown(statement).encode())


def _peaks(measured: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """`peak_memory_mib` and `peak_gpu_memory_mib` by stage, as far as they are known."""
    peaks: dict[str, dict[str, float]] = {}
    for name in MEASURED[1:]:
        found = {stage: values[name] for stage, values in measured.items() if name in values}
        peaks |= {name: found} if found else {}
    return peaks
