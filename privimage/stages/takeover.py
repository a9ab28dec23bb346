"""Whether a donor's stages are those that this run would have made; asked before any work.

What each stage rests on, by the donor's manifest, must be what it would rest on here, with the
donor's own files as the stages before it: so strategy, clip norm and all other settings agree, and
the files form a chain. The images may bear a name under another key. An answer, a model or images
whose noise had a seed are taken over by no run that promises anything; a donor that does not say
how its noise was drawn, or contradicts itself, is refused. Private: the sensitive images are read,
to compare their name under the donor's key, where that is there.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from privimage.data.image_set import ImageSet
from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.plain_files import inside, read_bounded
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import LedgerTerms, PrivacyLedger
from privimage.privacy.moments import MOMENTS
from privimage.privacy.query import QUERY
from privimage.privacy.rng import RandomSource
from privimage.release.image_files import images_are_insecure
from privimage.run_folder import manifest
from privimage.run_folder.budget import CHARGED
from privimage.run_folder.checkpoint import weights_are_insecure
from privimage.run_folder.donor import Donor
from privimage.run_folder.run import ImageSets, Run
from privimage.settings.config import RunConfig
from privimage.stages.order import STAGES

SHOWN = 80  # characters of a value in a message
CALIBRATED_WITHIN = 0.01  # another machine or version may calibrate a little otherwise
KEY_BYTES = 2**10
ANSWER = "query/answer.json"
NOTHING = "nothing"


def check_takeover(
    donor: Donor,
    config: RunConfig,
    sets: ImageSets,
    plan: Mapping[str, Mechanism],
    source: RandomSource,
    *,
    folder: Path,
    shared: Path | None,
) -> None:
    """RunFolderError or DataInvalidError unless all that is taken over may be used in this run."""
    for theirs, mine in ((donor.folder, folder), (donor.shared, shared or folder)):
        if theirs is not None and theirs.resolve() == mine.resolve():
            raise RunFolderError(f"{mine} is to take over its own stages; use a new run folder")
    check_randomness(donor, source)
    check_account(donor, config, plan, source)
    check_settings(donor, config, sets, plan, source, network_at=shared or folder)
    check_products(donor, config)
    check_images(donor, sets.sensitive)


def check_randomness(donor: Donor, source: RandomSource) -> None:
    """Results that rest on noise with a seed say so everywhere, and serve no run that promises."""
    # without a query there is no noise
    asked = {stage: donor.made_from(stage).get("insecure", False) for stage in ("query", "moments")}
    query = asked["query"]
    model = donor.made_from("finetune").get("insecure") if donor.brings_ledger else query
    ledger = donor.ledger().to_dict().get("insecure")
    # where it is said, what, and what is due
    found = [(f"stages/{stage}.json", said, said) for stage, said in asked.items()]
    if asked_query(donor):
        found.append((ANSWER, receipt_of(donor).get("insecure"), query))
    if donor.brings_ledger:
        found += [("stages/finetune.json", model, model), ("ledger.json", ledger, model)]
    else:
        made = {"query": asked_query(donor), "moments": asked_moments(donor)}
        did = [stage for stage, is_made in made.items() if is_made and donor.did(stage)]
        found += [("ledger.json", ledger, asked[stage]) for stage in did]
    for stage in donor.stages[1:] if donor.gives("query_network") else donor.stages:
        due = {"selection": query, "pretrain": query, "moments": asked["moments"]}.get(stage, model)
        for name in donor.needed(stage):
            read = {".safetensors": weights_are_insecure, ".npz": images_are_insecure}
            if says := read.get(Path(name).suffix):
                found.append((name, says(inside(donor.folder, name)), due))
    wrong = [where for where, said, due in found if said is not due or type(said) is not bool]
    if any(asked.values()) and not ledger:
        wrong.append("ledger.json")  # what rests on such an answer was accounted for as secure
    if wrong:
        raise DataInvalidError(
            f"{donor.folder} does not say, or contradicts itself, whether its noise was drawn from "
            f"a fixed seed, in {', '.join(wrong)}; take over a folder as a run of this version "
            "left it"
        )
    if (any(asked.values()) or model) and not source.insecure:
        raise RunFolderError(
            f"the noise of {donor.folder} was drawn from a fixed seed, so nothing that rests on it "
            "has a guarantee; take over from a run with secure randomness, or set "
            "privacy.insecure_for_reproduction: true for a run without a guarantee"
        )


def check_account(
    donor: Donor, config: RunConfig, plan: Mapping[str, Mechanism], source: RandomSource
) -> None:
    """The donor has paid for what is taken over, as this run would have."""
    ledger = donor.ledger()
    for stage, name in CHARGED.items():
        if not donor.gives(stage) or name not in plan:
            continue
        if not _is_as_planned(ledger.reserved.get(name), plan[name]):
            raise RunFolderError(
                f"{stage} of {donor.folder} was made with {name} as {ledger.reserved.get(name)}, "
                f"and the settings say {plan[name]}; take over what was made with these settings"
            )
        charged = (manifest.read(donor.folder, stage) or {}).get("charged", 0)
        if not 0 < charged <= ledger.charged(name):
            raise DataInvalidError(
                f"{donor.folder}: {stage} rests on {charged} uses of {name}, and its ledger knows "
                f"{ledger.charged(name)}; copy manifest and ledger again"
            )
    if donor.brings_ledger:
        _check_terms(donor, ledger, config, source)
        if ledger.reserved.keys() != plan.keys():
            raise RunFolderError(
                f"{donor.folder} has spent on {', '.join(ledger.reserved)}, and these settings "
                f"on {', '.join(plan)}; take over what was made with these settings"
            )


def _is_as_planned(spent: Mechanism | None, planned: Mechanism) -> bool:
    if spent is None:
        return False
    same_but_noise = dataclasses.replace(spent, noise_multiplier=planned.noise_multiplier)
    return same_but_noise == planned and math.isclose(
        spent.noise_multiplier, planned.noise_multiplier, rel_tol=CALIBRATED_WITHIN
    )


def _check_terms(
    donor: Donor, ledger: PrivacyLedger, config: RunConfig, source: RandomSource
) -> None:
    """The ledger becomes this run's: it holds this very promise, and keeps it."""
    where, found, privacy = donor.folder / "ledger.json", ledger.to_dict(), config.privacy
    expected = LedgerTerms(
        epsilon=privacy.epsilon,
        delta=privacy.delta,
        accountant=privacy.accountant,
        data_id=name_of_images(donor),
        random_source=source,
    )
    refuse_other(expected.to_dict() | {"events": []}, found | {"events": []}, where=str(where))
    if not ledger.epsilon(privacy.accountant) <= privacy.epsilon:
        raise DataInvalidError(f"{where} has spent more than its promise; do not trust it")
    steps, charged = donor.document("finetune.json").get("steps_taken"), ledger.charged(DP_SGD)
    if type(steps) is not int or not 0 <= steps <= charged:
        raise DataInvalidError(
            f"{donor.folder}: finetune.json tells of {_shown(steps)} steps, and the ledger of "
            f"{charged}; copy both again"
        )


def check_settings(
    donor: Donor,
    config: RunConfig,
    sets: ImageSets,
    plan: Mapping[str, Mechanism],
    source: RandomSource,
    *,
    network_at: Path,
) -> None:
    """Each stage rests on what it would rest on here, and on the donor's stages before it."""
    if donor.gives("query_network"):  # nothing here needs the public images: they may be absent
        sets = dataclasses.replace(sets, public_sha256=_claimed_public(donor))
    if donor.shared or manifest.exists(donor.folder, "query_network"):
        network_at = donor.home("query_network")
    name_of_images(donor)
    there = Run(
        config=config,
        sets=sets,
        folder=donor.folder,
        shared=network_at,
        ledger=donor.ledger(),
        source=source,
    )
    for stage in STAGES:
        if not donor.gives(stage.name):
            continue
        expected, found = stage.inputs(there), donor.made_from(stage.name)
        if stage.name == "query" and QUERY in plan:
            receipt = receipt_of(donor)
            # the name is under another key, and `check_randomness` has judged the noise
            expected |= {"sensitive": receipt.get("data_id"), "insecure": found.get("insecure")}
            if not expected["query_network"]:  # public, and not here to be compared
                expected["query_network"] = found.get("query_network")
            told = ("noise_multiplier", "classes_per_image")
            given = {name: receipt.get(name) for name in told}
            refuse_other({n: expected[n] for n in told}, given, where=f"{donor.folder / ANSWER}")
        if stage.name == "moments" and MOMENTS in plan:  # as with the query
            expected |= {name: found.get(name) for name in ("sensitive", "insecure")}
        if config.stage_seconds is not None:
            found.pop("stage_seconds", None)  # a rehearsal may rest on what took another time
        refuse_other(expected, found, where=f"{stage.name} of {donor.folder}")


def _claimed_public(donor: Donor) -> str:
    claimed = donor.made_from("query_network").get("public")
    sha256 = claimed.get("sha256") if isinstance(claimed, dict) else None
    if not (isinstance(sha256, str) and manifest.SHA256.fullmatch(sha256)):
        raise DataInvalidError(
            f"{donor.home('query_network')} does not say on which public images its query network "
            "was trained; take over a folder as a run of this version left it"
        )
    return sha256


def check_products(donor: Donor, config: RunConfig) -> None:
    """Every stage left all that it leaves under these settings."""
    strategy = config.selection.strategy
    lacks_last = {"query": strategy != "semantic", "selection": strategy in ("all", "none")}
    asks_moments = config.moments is not None
    for stage in donor.stages:
        products = manifest.PRODUCTS[stage]
        expected = products[:-1] if lacks_last.get(stage) else products
        if stage == "moments" and not asks_moments:
            expected = ()
        left = manifest.results(donor.home(stage), stage)
        if left.keys() != {*expected}:
            raise DataInvalidError(
                f"{stage} of {donor.home(stage)} left {', '.join(left) or NOTHING}, and these "
                f"settings give {', '.join(expected) or NOTHING}; copy the folder again"
            )


def check_images(donor: Donor, sensitive: ImageSet) -> None:
    """The donor's images are this run's; that can be seen only beside the key that names them."""
    names = {}
    if asked_query(donor) and donor.did("query"):
        names[ANSWER] = receipt_of(donor).get("data_id")
    if asked_moments(donor) and donor.did("moments"):
        names["stages/moments.json"] = donor.made_from("moments")["sensitive"]
    if names or (donor.brings_ledger and donor.did("finetune")):
        names["ledger.json"] = name_of_images(donor)
    key = inside(donor.folder, "private/data_key")
    if names and key.exists():
        content = read_bounded(key, max_bytes=KEY_BYTES)
        names["this run"] = sensitive.fingerprint(content)
    if len({*names.values()}) > 1:
        told = ", ".join(f"{where} {_shown(name)}" for where, name in names.items())
        raise RunFolderError(
            f"{donor.folder} rests on other images than this run, or on several sets (data_id: "
            f"{told}); take over from a run on the same images"
        )


def asked_query(donor: Donor) -> bool:
    """Whether the donor's answer rests on sensitive images."""
    return ANSWER in manifest.results(donor.folder, "query")


def asked_moments(donor: Donor) -> bool:
    """Whether the donor's moments rest on sensitive images; without them there are none."""
    return "sensitive" in donor.made_from("moments")


def receipt_of(donor: Donor) -> dict[str, Any]:
    """What the donor's answer says of how it was released."""
    receipt = donor.document(ANSWER).get("receipt")
    if not isinstance(receipt, dict):
        raise DataInvalidError(f"{donor.folder / ANSWER} holds no receipt; give a complete run")
    return receipt


def name_of_images(donor: Donor) -> str:
    """The keyed hash in the donor's ledger; it goes into statements, so it is nothing else."""
    name = donor.ledger().to_dict().get("data_id")
    if not (isinstance(name, str) and manifest.SHA256.fullmatch(name)):
        raise DataInvalidError(f"{donor.folder / 'ledger.json'} names no images; copy it again")
    return name


def refuse_other(expected: dict[str, Any], found: dict[str, Any], *, where: str) -> None:
    """RunFolderError that names the first value by its dotted path that is not as expected."""
    ours, theirs = dict(_flat(expected)), dict(_flat(found))
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        values = [_shown(side[name]) if name in side else NOTHING for side in (theirs, ours)]
        if (name in ours) != (name in theirs) or ours[name] != theirs[name]:
            raise RunFolderError(
                f"{where} has {_shown(name)} {values[0]}, and this run {values[1]}; take over what "
                "was made with the same settings"
            )


def _flat(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted path; an empty mapping is a value."""
    if not isinstance(values, dict) or not values:
        yield path, values
        return
    for name, value in values.items():
        yield from _flat(value, f"{path}.{name}" if path else name)


def _shown(value: Any) -> str:
    return json.dumps(value)[:SHOWN]  # no control character of a stranger's reaches the terminal
