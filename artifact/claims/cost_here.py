"""What a setting will take on this machine, before it runs.

The stages of every arm are timed for a moment on made-up images (`privimage.stages.estimate`); what
arms share, or take over from each other, counts once.
"""

from artifact.claims.estimates import SHARED_BY_ALL, TAKEN_OVER
from artifact.claims.registry import Claim
from privimage.settings.config import RunConfig
from privimage.stages.estimate import STARTING_SECONDS, Cost, Numbers, estimate
from privimage.stages.pipeline import load_image_sets


def seconds_here(claim: Claim, setting: str, configs: dict[str, RunConfig]) -> dict[str, float]:
    """By arm; DataMissingError where image sets are not at hand."""
    known: dict[str, dict[str, Cost]] = {}
    seconds = {}
    for arm, config in configs.items():
        key = _what_costs(config)
        if key not in known:
            known[key] = estimate(config, Numbers.of(load_image_sets(config)))
        not_done = {SHARED_BY_ALL} if seconds else set()
        if arm in claim.setting(setting).donors:
            not_done |= set(TAKEN_OVER)
        done = (cost.seconds for stage, cost in known[key].items() if stage not in not_done)
        seconds[arm] = STARTING_SECONDS + sum(done)
    return seconds


def _what_costs(config: RunConfig) -> str:
    """Arms of one budget or another, or of one seed or another, cost the same."""
    settings = config.to_dict()
    del settings["name"], settings["seed"]
    for name in ("epsilon", "delta", "query_noise_multiplier", "insecure_for_reproduction"):
        del settings["privacy"][name]
    return repr(settings)
