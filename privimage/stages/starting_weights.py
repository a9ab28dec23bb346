"""A run that starts from public weights: do they fit it, and how its network begins with them.

The public model takes no label. All of its weights are taken, and the label table, which it lacks,
begins at zero: the network begins as the public model, whatever the label, and pre-training on the
chosen classes tells labels apart (docs/method.md, 5). All is public and asked before any work.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from privimage.classifiers.query_network import new_query_network
from privimage.diffusion.build import new_denoiser
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.errors import ConfigError, DataInvalidError, UserError
from privimage.files.plain_files import inside
from privimage.run_folder.checkpoint import about_weights
from privimage.run_folder.public_weights import MODEL, QUERY_NETWORK, REMEDY, PublicWeights
from privimage.run_folder.run import ImageSets, Run, public_set
from privimage.settings.config import RunConfig, plain_values

LABEL_TABLE = "unet.label_embedding.weight"


def check_start(start: PublicWeights, config: RunConfig, sets: ImageSets) -> None:
    """Both checks that follow."""
    check_networks(start, config)
    check_public_set(start, config, sets)


def check_networks(start: PublicWeights, config: RunConfig) -> None:
    """ConfigError that names the first setting in which public weights do not fit this run;
    DataInvalidError if they are not of the networks that their manifests name.
    """
    color = {1: "grey", 3: "rgb"}.get(start.num_channels, "neither grey nor rgb")
    size, data = start.image_size, config.data
    _refuse_unlike(start, "image size", size, data.image_size, f"give --image-size {size}")
    _refuse_unlike(start, "colour", color, data.color, f"give --color {color}")
    for section in ("network", "query_network"):
        ours = plain_values(getattr(config, section))
        for name, value in plain_values(getattr(start, section)).items():
            setting = f"{section}.{name}"
            _refuse_unlike(start, setting, value, ours[name], f"give --set {setting}={value}")
    check_shapes(start)


def check_public_set(start: PublicWeights, config: RunConfig, sets: ImageSets) -> None:
    """ConfigError unless the run has the very public images that the weights were trained on."""
    found, name = public_set(config, sets), start.public["name"]
    same = f"give --public the very images that the weights were trained on ({name})"
    _refuse_unlike(start, "public set", name, found["name"], same)
    num_classes = sets.public.num_classes
    _refuse_unlike(start, "number of public classes", start.num_classes, num_classes, same)
    sha256 = start.public["sha256"]
    _refuse_unlike(start, "SHA-256 of the public images", sha256, found["sha256"], same)


def check_shapes(start: PublicWeights) -> None:
    """DataInvalidError unless the files hold the networks that their manifests name; nothing of
    that size is allocated.
    """
    shape = {"image_size": start.image_size, "num_channels": start.num_channels}
    try:
        with torch.device("meta"):
            network = UNetConfig(num_classes=0, **shape, **dataclasses.asdict(start.network))
            model = Denoiser(UNet(network))
            query_network = new_query_network(
                start.query_network, start.num_classes, num_channels=start.num_channels
            )
    except (UserError, ArithmeticError, RuntimeError) as error:
        raise DataInvalidError(f"{start.folder} describes no network; {REMEDY}") from error
    for name, wanted in ((MODEL, model), (QUERY_NETWORK, query_network)):
        _, found = about_weights(inside(start.folder, name))
        if found != _shapes(wanted):
            raise DataInvalidError(
                f"{start.folder / name} holds weights of another network than its manifest says; "
                f"{REMEDY}"
            )


def starting_denoiser(run: Run) -> Denoiser:
    """The network with which pre-training begins, the same on every process: as the seed makes it,
    or as the public weights are.
    """
    denoiser = new_denoiser(run.config, run.sets.sensitive).to(run.device)
    if run.world.broadcast_flag(run.start_from is not None):
        if run.start_from is not None:
            begin_with(denoiser, run.start_from)
        run.world.broadcast_(list(denoiser.state_dict().values()))
    return denoiser


def begin_with(denoiser: Denoiser, start: PublicWeights) -> None:
    """Put the public model's weights into `denoiser`, whose label table, if any, becomes zero."""
    own = denoiser.state_dict()
    table = {LABEL_TABLE: torch.zeros_like(own[LABEL_TABLE])} if LABEL_TABLE in own else {}
    denoiser.load_state_dict(start.model_weights() | table)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _refuse_unlike(start: PublicWeights, what: str, theirs: Any, ours: Any, remedy: str) -> None:
    if theirs != ours:
        raise ConfigError(
            f"{start.folder} does not fit this run: {what} {theirs} there and {ours} here; "
            f"{remedy}, or start from weights that `privimage pretrain` made for this"
        )
