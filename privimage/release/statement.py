"""What a run guarantees, in JSON and in words for whoever must approve a release.

Every figure of the budget comes from the ledger, and all that is reserved counts as spent: how much
of it was charged may depend on run times, and these on the images that were drawn. What the ledger
does not hold is told by the caller (`Circumstances`) and is public. Holds nothing private. It also
says what the guarantee does not cover, because that is the part that people assume.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from privimage.privacy.counted_again import second_opinions
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.moments import MOMENTS
from privimage.release.documents import filled_in

FORMAT = 3
NOT_COVERED = (
    "Other runs on the same images: each has its own ledger, and their epsilons and deltas add up, "
    "also those of runs whose results were thrown away.",
    "Choices made by looking at the sensitive images or at earlier results from them: settings, "
    "number of steps and the public image set are taken to follow from public knowledge, and so "
    "is the choice to publish this run and not another.",
    "Several images of one person: the unit is one image, and n images of one person are protected "
    "by n times this epsilon at best, with a larger delta.",
    "The images of the public set, which are used without any protection; a sensitive image that "
    "is in it as well is not protected.",
    "Side channels: run times, memory, temporary files, the dates of files and the machine's own "
    "logs. Times and peak memory depend on the number of images drawn, and so does what hangs on a "
    "time: where a clock ends a training, and which steps a crash takes away.",
    "Floating point: noise has its law exactly, and sums are exact: nothing is lost to rounding "
    "(docs/noise.md). What is trusted: the operating system's random numbers, and that libraries "
    "compute one image's gradient without regard to the others of a batch, which is tried on "
    "made-up images before the work, on a GPU to 1e-4 of the clip norm. Time is not constant.",
)
REAL_EVALUATION = (
    "Scores computed with real test images: they are exact, concern those images, and are not "
    "counted in this budget."
)
REAL_CEILING = (
    "Scores of classifiers trained on the sensitive images themselves, for comparison: they are "
    "exact and are not counted in this budget."
)
MONITORING = (
    "No loss, score or picture of sensitive images is computed or written down during training, "
    "and no state of the model is chosen by one."
)
LABEL_FREQUENCIES = (
    "Class frequencies of the sensitive images are never asked for; images are generated in equal "
    "numbers for all classes."
)
NOISY_FREQUENCIES = (
    "Class frequencies of the sensitive images are released with noise, among the moments; images "
    "are generated in equal numbers for all classes."
)
KEPT_BACK = (
    "`private/` holds the key that names the images, and what of them was left out; it must never "
    "leave",
    "`record.json` and `stages/` tell times and memory, which depend on the number of images, and "
    "of those drawn",
    "`config.yaml` and `record.json` name the place of the images, and `record.json` and "
    "`metrics.json` hold scores on real images where there are any",
)

ENDED_EARLY = (
    "Where this run ended: not all reserved uses were made. The figures are those of all of them, "
    "made or not, but how many were made hangs on run times, and so on the number of images drawn: "
    "that number is not protected, and weights and images may show it."
)
SHOW_THE_END = ("ledger.json", "stats.jsonl")
END_KEPT_BACK = "`ledger.json` and `stats.jsonl` tell where this run ended"


@dataclass(frozen=True)
class Release:
    """What one mechanism of the ledger gives out at each use, and why its sensitivity holds.

    `sensitivity` is the L2 norm of the most that adding or removing one image changes before
    noise is added. `taken` is how many charged uses are in what was released, if that is known.
    """

    what: str
    sensitivity: float
    reason: str
    taken: int | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a statement needs beside the ledger; all of it public."""

    releases: Mapping[str, Release]  # by the mechanism's name in the ledger
    files: Mapping[str, str]  # what may be published, in words
    clip_norm: float
    noise_multiplicity: int
    public_size: int
    assumed: Sequence[str]  # facts that were taken from the sensitive images, in words
    expected_batch_size: float
    code: Mapping[str, str]  # version and SHA-256 of the sources
    evaluated_on_real_images: bool
    compared_with_real_training: bool
    taken_over: str | None = None  # the entry, if stages come from another run
    start_from: Mapping[str, Any] | None = None  # what names the public weights, if there are any


def privacy_statement(ledger: PrivacyLedger, about: Circumstances) -> dict[str, Any]:
    """The statement as JSON-able values: target, spent, mechanisms, what is not covered.

    BudgetError, and no statement, if another library counts more than was promised.
    """
    record, ended_early = ledger.to_dict(), _ended_early(ledger)
    return {
        "format": FORMAT,
        "guarantee": not record["insecure"],
        "insecure": record["insecure"],
        "random_source": record["random_source"],
        "unit": record["unit"],
        "adjacency": record["adjacency"],
        "target": {name: record[name] for name in ("epsilon", "delta", "accountant")},
        "spent": {
            "epsilon": ledger.reserved_epsilon(record["accountant"]),
            "epsilon_rdp": ledger.reserved_epsilon("rdp"),
            "epsilon_pld": ledger.reserved_epsilon("pld"),
            "delta": record["delta"],
        },
        "counted_again": second_opinions(ledger),
        "mechanisms": [_mechanism(e, about.releases[e["name"]]) for e in record["events"]],
        "clip_norm": about.clip_norm,
        "noise_multiplicity": about.noise_multiplicity,
        "public_size": about.public_size,
        "assumed_public": list(about.assumed),
        "expected_batch_size": about.expected_batch_size,
        "released": {
            name: what
            for name, what in about.files.items()
            if not (ended_early and name in SHOW_THE_END)
        },
        "kept_back": [*KEPT_BACK, *[END_KEPT_BACK] * ended_early],
        "data_id": record["data_id"],
        "code": dict(about.code),
        "taken_over": about.taken_over,
        **({"start_from": dict(about.start_from)} if about.start_from else {}),
        "not_covered": [*_not_covered(about), *[ENDED_EARLY] * ended_early],
        "notes": [
            MONITORING,
            NOISY_FREQUENCIES if MOMENTS in ledger.reserved else LABEL_FREQUENCIES,
            *_taken_over(about.taken_over),
            *_start_from(about.start_from),
        ],
    }


def statement_markdown(statement: dict[str, Any]) -> str:
    """The statement as a page of plain words, with a place to sign."""
    spent = statement["spent"]
    rate = largest_guess_rate(epsilon=spent["epsilon"], delta=spent["delta"])
    return filled_in("privacy_statement.md", **statement, guess_rate=rate)


def assumption(facts: Sequence[str]) -> str:
    """What the promise takes for granted of public facts, in one or two sentences."""
    if not facts:
        return (
            "Number, classes, size and colours of the sensitive images were declared and not taken "
            "from them. An image that does not fit is left out; nothing public tells of it."
        )
    listed = " and ".join(filter(None, [", ".join(facts[:-1]), facts[-1]]))
    return (
        f"Taken from the sensitive images and assumed to be public: {listed}. Declare these facts "
        "(`privimage synthesize --describe`) to leave nothing to assume."
    )


def largest_guess_rate(*, epsilon: float, delta: float) -> float:
    """The best success rate of anyone guessing whether one image was used, from even odds.

    (e^epsilon + delta) / (e^epsilon + 1): Kairouz, Oh and Viswanath 2015, with equal error weights.
    """
    return min(1.0, (1 + delta * math.exp(-epsilon)) / (1 + math.exp(-epsilon)))


def _mechanism(event: dict[str, Any], release: Release) -> dict[str, Any]:
    rate = event["sampling_rate"]
    sampling = "all images" if rate == 1 else f"Poisson, each image with probability {rate:.6g}"
    told = {} if release.taken is None else {"taken": release.taken}
    uses = f"{event['charged']} of {event['reserved']}"
    if event["charged"] < event["reserved"]:  # how many depends on run times: not to be told
        event, told = {name: event[name] for name in event if name != "charged"}, {}
        uses = f"up to {event['reserved']}"
    return {
        **event,
        **told,
        "uses": uses,
        "released": release.what,
        "sampling": sampling,
        "sensitivity_l2": release.sensitivity,
        "sensitivity_reason": release.reason,
        "noise_standard_deviation": release.sensitivity * event["noise_multiplier"],
    }


def _ended_early(ledger: PrivacyLedger) -> bool:
    """Whether something that is reserved was not used."""
    return any(m.count > ledger.charged(name) for name, m in ledger.reserved.items())


def _not_covered(about: Circumstances) -> list[str]:
    public = (
        f"Public facts that the method uses: the published size of the image set "
        f"({about.public_size}), the size and colours of its images, the names of its classes. "
        + assumption(about.assumed)
    )
    scores = [REAL_EVALUATION] * about.evaluated_on_real_images
    ceiling = [REAL_CEILING] * about.compared_with_real_training
    return [public, *NOT_COVERED, *scores, *ceiling]


def _start_from(weights: Mapping[str, Any] | None) -> list[str]:
    if weights is None:
        return []
    public, files = weights["public"], weights["files"]
    hashes = ", ".join(f"`{name}` `{files[name]}`" for name in sorted(files))
    return [
        "The training began from public weights. Nothing is charged for them, because their "
        f"manifests say that they were trained on the public set `{public['name']}` alone, whose "
        f"images have the SHA-256 `{public['sha256']}`; nothing here covers a sensitive image that "
        f"was used for them all the same. Their files have the SHA-256 {hashes}."
    ]


def _taken_over(entry: str | None) -> list[str]:
    if entry is None:
        return []
    if entry == "pretrained":
        return [
            "What queries answered was taken over from another run and is charged here as well; "
            "what else that run released is in its own ledger, and which public facts it assumed "
            "in its own statement."
        ]
    return [
        "The private model was made by another run with the same settings, whose ledger this is; "
        "the code is this run's. Which public facts that run assumed is in its own statement."
    ]
