"""Stages 1 to 3: train the query network on public images, ask the private query, select public
classes.

Only `ask_query` touches the sensitive set, and only through `semantic_query`, which charges the
ledger.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from privimage.classifiers.query_network import (
    QueryNetwork,
    accuracy,
    new_query_network,
    train_query_network,
)
from privimage.diffusion.generate import sample_grid
from privimage.files.durable import json_bytes, write_json_durably
from privimage.privacy.ledger import charge_answer
from privimage.privacy.query import QUERY, query_receipt, semantic_query
from privimage.run_folder import manifest
from privimage.run_folder.budget import refuse_lost_answer
from privimage.run_folder.checkpoint import save_weights
from privimage.run_folder.private_folder import read_private, write_private
from privimage.run_folder.run import Run, plain, public_set, save_picture
from privimage.semantics.selection import (
    Selection,
    select_at_random,
    select_by_masking,
    select_by_matching,
)
from privimage.stages import known_networks

CLASSES_SHOWN, IMAGES_SHOWN = 8, 6  # of a label, and of each of these


def query_network_inputs(run: Run) -> dict[str, Any]:
    return {
        "public": public_set(run.config, run.sets),
        "network": plain(run.config.query_network),
        "seed": run.config.seed,
    }


def train_network(run: Run) -> list[str]:
    """Train on nine tenths of the public set; report the accuracy on the rest. One that an earlier
    run trained from the same images, settings and seed is taken instead.
    """
    public = run.sets.public
    order = torch.from_numpy(np.random.default_rng([run.config.seed, 1]).permutation(len(public)))
    held_out, training = order[: len(public) // 10], order[len(public) // 10 :]
    torch.manual_seed(run.config.seed)
    network = untrained_query_network(run, public.num_classes)
    files, inputs = [known_networks.WEIGHTS, known_networks.FACTS], query_network_inputs(run)
    is_known = run.world.is_leader and known_networks.recall(run, inputs, network)
    if run.world.broadcast_flag(is_known):
        return files
    train_query_network(
        network,
        public.images[training],
        public.labels[training],
        run.config.query_network,
        seed=run.config.seed,
        device=run.device,
        context=run.training("query_network", shared=True),
    )
    if not run.world.is_leader:
        return []
    share = accuracy(
        network,
        public.images[held_out],
        public.labels[held_out],
        batch_size=1000,
        device=run.device,
    )
    save_weights(run.shared / known_networks.WEIGHTS, network.state_dict(), insecure=False)
    facts = {"public_validation_accuracy": share, "num_classes": public.num_classes}
    write_json_durably(run.shared / known_networks.FACTS, facts)
    known_networks.keep(run, inputs)
    return files


def untrained_query_network(run: Run, num_classes: int) -> QueryNetwork:
    num_channels = run.sets.sensitive.num_channels
    network = new_query_network(run.config.query_network, num_classes, num_channels=num_channels)
    return network.to(run.device)


def trained_query_network(run: Run) -> QueryNetwork:
    """The classifier that the first stage left, on every process."""
    facts: dict[str, Any] = {}
    if run.world.is_leader:
        facts = json.loads((run.shared / "query_network.json").read_text())
    network = untrained_query_network(run, run.world.broadcast(facts)["num_classes"])
    run.load_weights(run.shared / "query_network.safetensors", network)
    return network.eval()


def query_inputs(run: Run) -> dict[str, Any]:
    if run.config.selection.strategy != "semantic":
        return {"strategy": "no query"}
    return {
        "query_network": manifest.results(run.shared, "query_network"),
        "sensitive": run.data_id,
        "classes_per_image": run.config.selection.classes_per_label,
        "noise_multiplier": run.config.privacy.query_noise_multiplier,
        "insecure": run.source.insecure,
    }


def ask_query(run: Run) -> list[str]:
    """Release the noisy histogram with its receipt; nothing is asked for the other strategies.

    A copy lies in `private/` before the charge, so that no crash can take a paid answer away, and
    the same images are never asked twice.
    """
    if run.config.selection.strategy != "semantic":
        return []
    noisy = kept_answer(run) if run.world.is_leader else None
    if run.world.broadcast_flag(noisy is None):
        noisy = ask(run)
    if noisy is None or not run.world.is_leader:
        return []
    charge_answer(run.ledger, QUERY)
    receipt = query_receipt(
        run.sets.sensitive,
        classes_per_image=run.config.selection.classes_per_label,
        noise_multiplier=run.config.privacy.query_noise_multiplier,
        source=run.source,
        data_id=run.data_id,
    )
    answer = {
        "receipt": receipt,
        "labels": run.sets.sensitive.class_names,
        "public_classes": run.sets.public.class_names,
        "noisy_histogram": noisy.tolist(),
    }
    write_json_durably(run.folder / "query" / "answer.json", answer)
    run.progress("query", 1, 1)
    return ["query/answer.json"]


def rests_on_insecure_query(run: Run) -> bool:
    """Whether the noise of the answer came from a seed: all that follows from it carries that."""
    found = manifest.read(run.folder, "query") or {"inputs": {}}
    return found["inputs"].get("insecure", False)  # without a query there is no noise


def ask(run: Run) -> Tensor:
    """The noisy histogram, asked and paid for; RunFolderError if it was paid for before."""
    if run.world.is_leader:
        refuse_lost_answer(run.folder, run.ledger, "query")

    def keep(noisy: Tensor) -> None:
        kept = {"inputs": query_inputs(run), "noisy_histogram": noisy.tolist()}
        write_private(_kept(run), json_bytes(kept))

    return semantic_query(
        trained_query_network(run),
        run.sets.sensitive,
        num_public_classes=run.sets.public.num_classes,
        classes_per_image=run.config.selection.classes_per_label,
        noise_multiplier=run.config.privacy.query_noise_multiplier,
        ledger=run.ledger,
        source=run.source,
        device=run.device,
        keep=keep,
        world=run.world,
    )


def kept_answer(run: Run) -> Tensor | None:
    """The answer to this very question that an interrupted process left, or None.

    One that is damaged counts as none: if it was paid for, `ask` refuses to ask again. One that
    is a link or another user's is a RunFolderError.
    """
    content = read_private(_kept(run)) or b""
    try:
        kept = json.loads(content)
        if kept["inputs"] != query_inputs(run):
            return None
        return torch.tensor(kept["noisy_histogram"], dtype=torch.float64)
    except (ValueError, LookupError, TypeError):
        return None


def _kept(run: Run) -> Path:
    return run.folder / "private" / "query_answer.json"


def selection_inputs(run: Run) -> dict[str, Any]:
    return {
        "query": manifest.results(run.folder, "query"),
        "selection": plain(run.config.selection),
        "labels": list(run.sets.sensitive.class_names),
        "public": public_set(run.config, run.sets),
        "seed": run.config.seed,
    }


def select(run: Run) -> list[str]:
    """Choose the public classes and show them."""
    if not run.world.is_leader:
        return []
    selection = choose(run)
    labels, names = run.sets.sensitive.class_names, run.sets.public.class_names
    chosen = {
        label: [names[c] for c in classes]
        for label, classes in zip(labels, selection, strict=False)
    }
    document = {"strategy": run.config.selection.strategy, "classes": chosen, "indices": selection}
    write_json_durably(run.folder / "query" / "selection.json", document)
    if not selection:
        return ["query/selection.json"]
    save_picture(run.folder / "query" / "chosen_classes.png", chosen_classes_picture(run))
    return ["query/selection.json", "query/chosen_classes.png"]


def choose(run: Run) -> Selection:
    """One list of public classes a label; empty when the strategy chooses none."""
    config, num_labels = run.config.selection, run.sets.sensitive.num_classes
    if config.strategy == "random":
        return select_at_random(
            num_labels,
            run.sets.public.num_classes,
            config.classes_per_label,
            seed=run.config.seed,
        )
    if config.strategy != "semantic":
        return []
    answer = json.loads((run.folder / "query" / "answer.json").read_text())
    noisy = torch.tensor(answer["noisy_histogram"], dtype=torch.float64)
    rule = {"masking": select_by_masking, "matching": select_by_matching}[config.assignment]
    return rule(noisy, config.classes_per_label)


def read_selection(run: Run) -> Selection:
    return json.loads((run.folder / "query" / "selection.json").read_text())["indices"]


def chosen_classes_picture(run: Run) -> Image.Image:
    """Public images only: a row a label, some pictures of each of its classes."""
    public, selection = run.sets.public, read_selection(run)
    indices, rows = [], []
    for label, classes in enumerate(selection):
        for c in classes[:CLASSES_SHOWN]:
            members = (public.labels == c).nonzero().flatten()[:IMAGES_SHOWN]
            indices.append(members)
            rows += [label] * len(members)
    names = tuple(
        f"{label}: {' '.join(public.class_names[c] for c in classes[:CLASSES_SHOWN])}"
        for label, classes in zip(run.sets.sensitive.class_names, selection, strict=True)
    )
    images = public.images[torch.cat(indices)]
    per_row = IMAGES_SHOWN * max(len(classes[:CLASSES_SHOWN]) for classes in selection)
    return sample_grid(images, torch.tensor(rows), names, per_class=per_row)
