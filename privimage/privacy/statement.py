"""What a run guarantees, in JSON and in words for whoever must approve a release.

Every figure comes from the ledger; the clip norm is repeated for the record. Holds nothing private.
It also says what the guarantee does not cover, because that is the part that people assume.
"""

import math
from typing import Any

from privimage.privacy.ledger import PrivacyLedger

FORMAT = 1
NOT_COVERED = (
    "Other runs on the same images: each has its own ledger, and their epsilons add up.",
    "Choices made by looking at the sensitive images: settings, class names and the public image "
    "set are taken to be public.",
    "The published size of the image set, the size of its images and the names of its classes, "
    "which the method uses as public facts.",
    "Several images of one person: the unit is one image, and n images of one person are protected "
    "by about n times this epsilon.",
    "The images of the public set, which are used without any protection.",
    "Side channels: run times, memory, temporary files and logs of the machine, and floating-point "
    "effects beyond those that the noise generator removes.",
)
REAL_EVALUATION = (
    "Scores computed with real test images: they are exact, concern those images, and are not "
    "counted in this budget."
)
LABEL_FREQUENCIES = (
    "Class frequencies of the sensitive images are never asked for; images are generated in equal "
    "numbers for all classes."
)


def privacy_statement(
    ledger: PrivacyLedger, *, clip_norm: float, evaluated_on_real_images: bool
) -> dict[str, Any]:
    """The statement as JSON-able values: target, spent, mechanisms, what is not covered."""
    record = ledger.to_dict()
    not_covered = [*NOT_COVERED, *([REAL_EVALUATION] if evaluated_on_real_images else [])]
    return {
        "format": FORMAT,
        "guarantee": not record["insecure"],
        "insecure": record["insecure"],
        "random_source": record["random_source"],
        "unit": record["unit"],
        "adjacency": record["adjacency"],
        "target": {name: record[name] for name in ("epsilon", "delta", "accountant")},
        "spent": {
            "epsilon": ledger.epsilon(record["accountant"]),
            "epsilon_rdp": ledger.epsilon("rdp"),
            "epsilon_pld": ledger.epsilon("pld"),
            "delta": record["delta"],
        },
        "mechanisms": [_mechanism(event) for event in record["events"]],
        "clip_norm": clip_norm,
        "data_id": record["data_id"],
        "not_covered": not_covered,
        "notes": [LABEL_FREQUENCIES],
    }


def statement_markdown(statement: dict[str, Any]) -> str:
    """The statement as a page of plain words."""
    target, spent = statement["target"], statement["spent"]
    rows = "\n".join(
        f"| {m['name']} | {m['noise_multiplier']:.6g} | {m['sampling']} "
        f"| {m['charged']} of {m['reserved']} |"
        for m in statement["mechanisms"]
    )
    return f"""# Privacy statement

{_verdict(statement)}

- Promised: epsilon {target["epsilon"]:g} at delta {target["delta"]:g}, accounted by
  {target["accountant"].upper()}.
- Spent so far: epsilon {spent["epsilon_rdp"]:.4f} by RDP, {spent["epsilon_pld"]:.4f} by PLD. Both
  are upper bounds for everything below together.
- Unit: {statement["unit"]}. Two image sets are neighbours if one is the other with one image
  added or removed.
- Random numbers: {_source(statement)}

## What was computed from the sensitive images

| mechanism | noise multiplier | sampling | uses charged |
|---|---|---|---|
{rows}

A noise multiplier is the standard deviation of the Gaussian noise divided by the most that one
image can change the result; for gradients that is the clip norm, {statement["clip_norm"]:g}. Uses
are recorded before their result is used.

## What is not covered

{_bullets(statement["not_covered"])}

## Notes

{_bullets(statement["notes"])}
- The image set is named in the ledger by a keyed hash: `{statement["data_id"]}`.
"""


def largest_guess_rate(*, epsilon: float, delta: float) -> float:
    """The best success rate of anyone guessing whether one image was used, from even odds.

    (e^epsilon + delta) / (e^epsilon + 1): Kairouz, Oh and Viswanath 2015, with equal error weights.
    """
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def _verdict(statement: dict[str, Any]) -> str:
    spent = statement["spent"]
    if statement["insecure"]:
        return (
            "**NO GUARANTEE.** The noise of this run comes from a fixed seed, for reproduction. "
            "Whoever knows the seed can remove it. Do not release anything of this run if its "
            "images are sensitive; the figures below are what a run with secure randomness would "
            "have."
        )
    rate = 100 * largest_guess_rate(epsilon=spent["epsilon"], delta=spent["delta"])
    return (
        "The model and the generated images of this run are "
        f"({spent['epsilon']:.4f}, {spent['delta']:g})-differentially private. Someone who sees "
        "them, knows all other images and guesses whether one given image was used is right at "
        f"most {rate:.3f} % of the time (50 % is a coin)."
    )


def _mechanism(event: dict[str, Any]) -> dict[str, Any]:
    rate = event["sampling_rate"]
    sampling = "all images" if rate == 1 else f"Poisson, each image with probability {rate:.6g}"
    return {**event, "sampling": sampling}


def _source(statement: dict[str, Any]) -> str:
    if statement["insecure"]:
        return "a FIXED SEED (insecure, for reproduction only)."
    return "the operating system's cryptographic generator."


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
