"""Do ledger, privacy statement, model card, settings and record of a run say the same, and does the
account add up? One function a check; `verify.py` calls them.

A check returns a few words on what it found right. It raises Broken for a contradiction and NotHere
where a document is missing. Nothing private is read, and no image.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import safetensors

from privimage.errors import BudgetError
from privimage.privacy.accounting import Accountant
from privimage.privacy.counted_again import second_opinions
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import (
    ADJACENCY,
    EVENT_KEYS,
    LARGEST_MULTIPLIER,
    SMALLEST_MULTIPLIER,
    UNIT,
)
from privimage.privacy.ledger import FORMAT as LEDGER_FORMAT
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY
from privimage.release.image_files import images_are_insecure
from privimage.release.papers import LEDGER, STATEMENT, TARGET, Broken, Papers, refuse
from privimage.release.record import code_identity
from privimage.release.statement import statement_markdown
from privimage.run_folder import manifest
from privimage.run_folder.budget import CHARGED
from privimage.run_folder.checkpoint import weights_are_insecure
from privimage.run_folder.public_weights import MODEL
from privimage.settings.config import load_config

TOLERANCE = 1e-6  # relative: releases of the accounting libraries differ in the last digits
LARGEST_EPSILON = 1000.0  # by RDP; PLD of more takes memory without end, and promises nothing
MOMENTS_FILE = "query/moments.safetensors"
WEIGHTS = (
    "model.safetensors",
    "pretrained.safetensors",
    "pretrained_ema.safetensors",
    MOMENTS_FILE,
)
CARD_PROMISE = re.compile(r"^Weights and images are \((\S+), (\S+)\)-differentially private", re.M)
PAGE_PROMISE = re.compile(
    r"^What this run releases .*\((\S+), (\S+)\)-differentially private", re.M
)
ANSWER, CARD, PAGE = "query/answer.json", "model_card.md", "privacy_statement.md"


def the_ledger_is_whole(papers: Papers) -> str:
    """Nothing half done, and no fewer charges than the finished stages rest on."""
    papers.path(LEDGER)
    ledger = papers.ledger
    terms = ledger.to_dict()
    wanted = {"format": LEDGER_FORMAT, "unit": UNIT, "adjacency": ADJACENCY}
    faults = [f"its {name} is {terms[name]!r}" for name in wanted if terms[name] != wanted[name]]
    if any(papers.folder.glob(f".{LEDGER}.after-*")):
        faults.append("a charge was interrupted; repeat the command that made the run")
    for stage, mechanism in CHARGED.items():
        before = (manifest.read(papers.folder, stage) or {}).get("charged", 0)
        if mechanism in ledger.reserved and ledger.charged(mechanism) < before:
            faults.append(
                f"it has {ledger.charged(mechanism)} uses of {mechanism} and {stage} rests on "
                f"{before}: it is an older copy, or a charge was taken out"
            )
    refuse(faults)
    return ", ".join(f"{name} {ledger.charged(name)} of {m.count}" for name, m in _reserved(papers))


def the_noise_was_secure(papers: Papers) -> str:
    """No document, weight file or image file says that a seed made the noise."""
    terms = papers.account.to_dict()
    said: dict[str, Any] = {"the account": terms["insecure"]}
    if papers.has(STATEMENT):
        said[STATEMENT] = papers.statement["insecure"]
    if papers.has(ANSWER):
        said[ANSWER] = papers.document(ANSWER)["receipt"]["insecure"]
    said |= {name: weights_are_insecure(papers.path(name)) for name in WEIGHTS if papers.has(name)}
    if papers.has("images.npz"):
        said["images.npz"] = images_are_insecure(papers.path("images.npz"))
    seeded = [name for name, insecure in said.items() if insecure is not False]
    if terms["random_source"] != "os":
        seeded.append(f"the random source {terms['random_source']!r}")
    if seeded:
        raise Broken(
            f"a fixed seed made the noise, so there is NO GUARANTEE: so say {', '.join(seeded)}"
        )
    return "from the operating system's generator"


def epsilon_holds(papers: Papers) -> str:
    """Both accountants, and two libraries, over all that is reserved: within the promise, and what
    the statement says was spent.
    """
    ledger, terms = papers.account, papers.account.to_dict()
    for name, m in _reserved(papers):  # before anything is counted: other noise takes days
        if not SMALLEST_MULTIPLIER <= m.noise_multiplier <= LARGEST_MULTIPLIER:
            raise Broken(f"{name} has a noise multiplier of {m.noise_multiplier:g}")
    counted: dict[Accountant, float] = {"rdp": ledger.reserved_epsilon("rdp")}
    if not counted["rdp"] <= LARGEST_EPSILON:
        raise Broken(f"epsilon is {counted['rdp']:.4g} by RDP, which promises nothing")
    counted["pld"] = ledger.reserved_epsilon("pld")
    spent = counted[terms["accountant"]]
    faults = []
    if not spent <= terms["epsilon"] * (1 + TOLERANCE):
        faults.append(f"{spent:.5g} is spent, and {terms['epsilon']:g} promised")
    try:
        opinions = second_opinions(ledger)
    except BudgetError as error:
        faults, opinions = [*faults, str(error)], {}
    if papers.has(STATEMENT):
        figures = {f"epsilon_{name}": value for name, value in counted.items()}
        figures |= {"epsilon": spent, "delta": terms["delta"]}
        faults += _differences(papers.statement["spent"], figures, "the statement's")
        for name, opinion in opinions.items():
            told = papers.statement["counted_again"][name]
            faults += _differences(told, {"epsilon": opinion["epsilon"]}, f"the statement's {name}")
    refuse(faults)
    return (
        f"RDP {counted['rdp']:.4f}, PLD {counted['pld']:.4f} at delta {terms['delta']:g}; promised "
        f"{terms['epsilon']:g} by {terms['accountant'].upper()}"
    )


def the_statement_is_the_ledgers(papers: Papers) -> str:
    """Promise, images, randomness and every event are those of the ledger."""
    statement, terms = papers.statement, papers.account.to_dict()
    papers.path(LEDGER)
    names = ("unit", "adjacency", "random_source", "insecure", "data_id")
    faults = _differences(statement, {name: terms[name] for name in names}, "the statement's")
    faults += _differences(
        statement["target"], {name: terms[name] for name in TARGET}, "the statement's"
    )
    if statement["guarantee"] is not (not terms["insecure"]):
        faults.append("the statement's guarantee is not what its randomness allows")
    told = {mechanism["name"]: mechanism for mechanism in statement["mechanisms"]}
    events = {event["name"]: event for event in terms["events"]}
    if [mechanism["name"] for mechanism in statement["mechanisms"]] != [*events]:
        faults.append(
            f"the statement tells of {', '.join(told) or 'no use'} of the images, and the ledger "
            f"of {', '.join(events) or 'none'}"
        )
    for name in told.keys() & events.keys():
        ended = events[name]["charged"] == events[name]["reserved"]
        keys = EVENT_KEYS if ended else EVENT_KEYS - {"charged"}  # which is not told otherwise
        faults += _differences(told[name], {key: events[name][key] for key in keys}, name)
        deviation = told[name]["sensitivity_l2"] * told[name]["noise_multiplier"]
        faults += _differences(told[name], {"noise_standard_deviation": deviation}, name)
    if not terms["delta"] * statement["public_size"] < 1:
        faults.append("delta is not below one over the number of images")
    refuse(faults)
    return f"{len(events)} uses of the images, the same in both"


def the_page_is_the_statement(papers: Papers) -> str:
    """The statement in words is the one in JSON, by the letter where this version wrote it."""
    statement, page = papers.statement, papers.text(PAGE)
    if statement["code"]["sha256"] == code_identity()["sha256"]:
        if page != statement_markdown(statement):
            raise Broken(f"{PAGE} is not {STATEMENT} in words")
        return "the same by the letter"
    refuse(_promises(page, PAGE_PROMISE, statement, PAGE))
    return "figures only, for another version wrote it"


def the_card_is_the_statements(papers: Papers) -> str:
    """Epsilon, delta, size and name of the images on the model card."""
    card, statement = papers.text(CARD), papers.statement
    faults = _promises(card, CARD_PROMISE, statement, CARD)
    for line in (
        f"{statement['public_size']:,} images (the published size)",
        f"keyed hash `{statement['data_id']}`",
        f"{statement['target']['accountant'].upper()} accounting",
        *_weights_named(statement),
    ):
        if line not in card and not (statement["insecure"] and "accounting" in line):
            faults.append(f"{CARD} does not say {line!r}")
    refuse(faults)
    return "the same figures"


def the_receipt_is_the_ledgers(papers: Papers) -> str:
    """What stands beside the answer of the query is what was accounted."""
    receipt, account = papers.document(ANSWER)["receipt"], papers.account
    if QUERY not in account.reserved:
        raise Broken(f"{ANSWER} is an answer of a query that the account does not know")
    wanted = {"noise_multiplier": account.reserved[QUERY].noise_multiplier}
    if papers.has(STATEMENT):
        statement = papers.statement
        sensitivity = _mechanism(statement, QUERY)["sensitivity_l2"]
        wanted |= {"public_size": statement["public_size"], "sensitivity_l2": sensitivity}
        wanted["sensitivity_l2"] = math.sqrt(receipt["classes_per_image"])
        if not _same(sensitivity, wanted["sensitivity_l2"]):
            raise Broken("the statement has another sensitivity of the query than its receipt")
        if statement["taken_over"] is None:  # else the key of the run that asked names the images
            wanted["data_id"] = account.to_dict()["data_id"]
    refuse(_differences(receipt, wanted, "the receipt's"))
    return "noise, sensitivity and images"


def the_moments_are_the_ledgers(papers: Papers) -> str:
    """The noise that the moments say they have is the one that was accounted."""
    account = papers.account
    if MOMENTS not in account.reserved:
        if not papers.has(MOMENTS_FILE):
            return "none were asked for"
        raise Broken(f"{MOMENTS_FILE} holds answers that the account does not know")
    try:
        with safetensors.safe_open(papers.path(MOMENTS_FILE), "np") as file:
            told = float(file.get_tensor("noise_multiplier"))
    except (OSError, safetensors.SafetensorError, ValueError, TypeError) as error:
        raise Broken(f"{MOMENTS_FILE} cannot be read") from error
    wanted = {"noise_multiplier": account.reserved[MOMENTS].noise_multiplier}
    refuse(_differences({"noise_multiplier": told}, wanted, "the moments'"))
    return "the same noise"


def settings_are_the_ledgers(papers: Papers) -> str:
    """`config.yaml` and `finetune.json`: the training that was asked for is the one accounted."""
    config, account = load_config(papers.path("config.yaml")), papers.account
    terms, privacy = account.to_dict(), config.privacy
    faults = _differences(
        dataclasses.asdict(privacy) | {"insecure": privacy.insecure_for_reproduction},
        {name: terms[name] for name in (*TARGET, "insecure")},
        "the settings'",
    )
    asks = config.selection.strategy == "semantic"
    wanted = {DP_SGD: {"sampling_rate": privacy.sampling_rate, "reserved": privacy.num_steps}}
    if asks:
        wanted[QUERY] = {"noise_multiplier": privacy.query_noise_multiplier}
    if config.moments is not None:
        wanted[MOMENTS] = {"noise_multiplier": config.moments.noise_multiplier}
    events = {event["name"]: event for event in terms["events"]}
    if events.keys() != wanted.keys():
        faults.append(f"the settings ask for {', '.join(wanted)}, the account has {[*events]}")
    for name in events.keys() & wanted.keys():
        faults += _differences(events[name], wanted[name], name)
    if papers.has(STATEMENT):
        statement, sgd = papers.statement, _mechanism(papers.statement, DP_SGD)
        clip_norm = {"clip_norm": privacy.clip_norm}
        faults += _differences(statement, clip_norm, "the statement's")
        faults += _differences(sgd, {"sensitivity_l2": privacy.clip_norm}, "the statement's")
        if "taken" in sgd and papers.has("finetune.json"):
            taken = papers.document("finetune.json")["steps_taken"]
            faults += _differences(sgd, {"taken": taken}, "the statement's")
    refuse(faults)
    return "the same noise, steps and promise"


def the_record_is_the_accounts(papers: Papers) -> str:
    """`record.json` reports the epsilon of the account."""
    record, account = papers.document("record.json"), papers.account
    terms = account.to_dict()
    wanted = {
        "epsilon": account.reserved_epsilon(terms["accountant"]),
        "epsilon_rdp": account.reserved_epsilon("rdp"),
        "epsilon_pld": account.reserved_epsilon("pld"),
        "target_epsilon": terms["epsilon"],
        "delta": terms["delta"],
        "accountant": terms["accountant"],
    }
    faults = _differences(record["privacy"], wanted, "the record's")
    faults += _differences(record, {"insecure": terms["insecure"]}, "the record's")
    if papers.has(STATEMENT) and record.get("start_from") != papers.statement.get("start_from"):
        faults.append("the record and the statement name other public weights")
    refuse(faults)
    return "the same figures"


def _weights_named(statement: dict[str, Any]) -> list[str]:
    """What the card says of the public weights that the run started from, if there are any."""
    if "start_from" not in statement:
        return []
    weights = statement["start_from"]
    hashes = weights["public"]["sha256"], weights["files"][MODEL]
    return [f"`{digest}`" for digest in hashes]


def _reserved(papers: Papers) -> Iterable[tuple[str, Any]]:
    return papers.account.reserved.items()


def _mechanism(statement: dict[str, Any], name: str) -> dict[str, Any]:
    found = [mechanism for mechanism in statement["mechanisms"] if mechanism["name"] == name]
    if len(found) != 1:
        raise Broken(f"the statement does not tell of {name}")
    return found[0]


def _promises(
    text: str, promise: re.Pattern[str], statement: dict[str, Any], name: str
) -> list[str]:
    """Faults of the epsilon and delta that a page names; none where it withdraws the guarantee."""
    if statement["insecure"]:
        return [] if "NO GUARANTEE" in text else [f"{name} does not say that there is no guarantee"]
    spent, found = statement["spent"], promise.findall(text)
    wanted = (f"{spent['epsilon']:.4f}", f"{spent['delta']:g}")
    if found == [wanted]:
        return []
    return [f"{name} promises {found or 'nothing'}, and the statement ({', '.join(wanted)})"]


def _differences(told: dict[str, Any], wanted: dict[str, Any], whose: str) -> list[str]:
    """One sentence for each value that is not as wanted."""
    return [
        f"{whose} {name} is {told.get(name)!r}, where {value!r} is right"
        for name, value in wanted.items()
        if not _same(told.get(name), value)
    ]


def _same(told: Any, value: Any) -> bool:
    numbers = (int, float)
    if type(told) in numbers and type(value) in numbers:
        return math.isclose(told, value, rel_tol=TOLERANCE)
    return type(told) is type(value) and told == value
