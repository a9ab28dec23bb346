"""Query networks kept on the disk: the next run on the same published set need not train one.

A network is named by a hash of all that it depends on: the public images, its settings, the seed
and this code. Only networks of published sets are kept, since a folder may be private. The query
has the same guarantee whichever network it asks.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from torch import nn

from privimage.data.cache import default_cache_dir
from privimage.data.sources import NAMED_SOURCES
from privimage.errors import DataInvalidError, RunFolderError
from privimage.files.durable import json_bytes, write_durably
from privimage.release.record import code_identity
from privimage.run_folder.checkpoint import load_weights
from privimage.run_folder.run import Run

logger = logging.getLogger(__name__)
WEIGHTS, FACTS = "query_network.safetensors", "query_network.json"


def default_place() -> Path | None:
    """In the user's cache folder."""
    return default_cache_dir() / "query_networks"


def recall(run: Run, inputs: dict[str, Any], network: nn.Module) -> bool:
    """Put a known network's files into the run, and its weights into `network`; False if there is
    none that can be used.
    """
    place = _place(run, inputs)
    if place is None or not (place / FACTS).is_file():
        return False
    try:
        facts = json.loads((place / FACTS).read_bytes())
        weights = (place / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != facts.pop("sha256"):
            raise DataInvalidError(f"{place / WEIGHTS} is not what was kept")
        write_durably(run.shared / WEIGHTS, weights)
        load_weights(run.shared / WEIGHTS, network)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, DataInvalidError) as error:
        logger.warning("the query network in %s is trained anew: %s", place, error)
        return False
    write_durably(run.shared / FACTS, json_bytes(facts))
    logger.info("the query network is that of an earlier run, in %s", place)
    return True


def keep(run: Run, inputs: dict[str, Any]) -> None:
    """Keep the network that the run has just trained; a failure is only logged."""
    place = _place(run, inputs)
    if place is None:
        return
    weights = (run.shared / WEIGHTS).read_bytes()
    facts = json.loads((run.shared / FACTS).read_bytes())
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_durably(place / WEIGHTS, weights)
        facts["sha256"] = hashlib.sha256(weights).hexdigest()
        write_durably(place / FACTS, json_bytes(facts))  # last: it says that the other is there
    except (OSError, RunFolderError) as error:
        logger.warning("the query network is not kept for the next run: %s", error)


def _place(run: Run, inputs: dict[str, Any]) -> Path | None:
    """The folder of this network; None where none is kept: for other sets, and in a rehearsal."""
    is_published = run.config.data.public in NAMED_SOURCES
    if run.known_networks is None or not is_published or run.config.stage_seconds is not None:
        return None
    named_by = {"code": code_identity()["sha256"], **inputs}
    key = hashlib.sha256(json.dumps(named_by, sort_keys=True).encode()).hexdigest()
    return run.known_networks / key[:32]
