"""Features for the Frechet distance: Inception's, a query network's, and what `judged_sets.py` has.

Only distances of the Inception features of Heusel et al. (2017) may be called FID; an extractor's
name carries that into the reports. Nothing here goes online: pytorch-fid's port of Inception is
read from a local file and checked. The paper's artifact used NVIDIA's port: expect small
differences.
"""

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from privimage.classifiers.query_network import QueryNetwork
from privimage.data.image_set import to_model_range
from privimage.data.public.pinned_files import INCEPTION
from privimage.errors import DataInvalidError, DataMissingError
from privimage.evaluation.frechet import FeatureStatistics
from privimage.machine.processes import ALONE, World


@dataclass(frozen=True)
class Extractor:
    """A map from images to feature vectors, with the name that its distances must carry."""

    name: Literal["inception", "query_network", "public_classifier", "pixels"]
    dims: int
    device: torch.device
    features_of: Callable[[Tensor], Tensor]  # from [-1, 1], on `device`

    @property
    def metric(self) -> str:
        """What a Frechet distance of these features is called in a record."""
        return "fid" if self.name == "inception" else f"frechet_{self.name}"

    @torch.no_grad()
    def __call__(
        self, images: UInt8[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature"]:
        return self.features_of(to_model_range(images.to(self.device))).float()


def query_network_extractor(network: QueryNetwork, *, device: torch.device) -> Extractor:
    """The last features of the public classifier; the network is put into evaluation mode."""
    network.to(device).eval()
    return Extractor("query_network", network.feature_size, device, network.features)


def public_classifier_extractor(network: QueryNetwork, *, device: torch.device) -> Extractor:
    """The same of a network that served no query: what it measures has another name."""
    return replace(query_network_extractor(network, device=device), name="public_classifier")


def inception_extractor(
    weights: Path, *, device: torch.device, sha256: str = INCEPTION.digest
) -> Extractor:
    """The FID features. A file that is missing or has other content is an error, never passed
    over.
    """
    network = _load_inception(weights, sha256).to(device).eval()

    def features_of(x: Tensor) -> Tensor:
        x = x.expand(-1, 3, -1, -1)  # grey becomes three equal channels
        return network(F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False))

    return Extractor("inception", 2048, device, features_of)


def extract_statistics(
    batches: Iterable[UInt8[Tensor, "_ channel height width"]],
    extractor: Extractor,
    *,
    world: World = ALONE,
) -> FeatureStatistics:
    """Statistics of all images, however they are cut into batches and over processes.

    Each process of `world` gives its own; the union is on the leader, on the others their part.
    Memory is that of one batch.
    """
    parts = (FeatureStatistics.of(extractor(batch)) for batch in batches if len(batch))
    own = reduce(FeatureStatistics.merge, parts, _none(extractor.dims))
    world.barrier()
    union = own
    for sender in range(1, world.size):
        mean = world.send_to_leader(own.mean, sender=sender)
        covariance = world.send_to_leader(own.covariance, sender=sender)
        num = world.send_to_leader(torch.tensor([own.num]), sender=sender)
        if world.is_leader:
            union = union.merge(FeatureStatistics(mean, covariance, int(num)))
    return union


def _none(dims: int) -> FeatureStatistics:
    zeros = torch.zeros(dims, dtype=torch.float64)
    return FeatureStatistics(zeros, torch.outer(zeros, zeros), 0)


def _load_inception(path: Path, sha256: str) -> nn.Module:
    """Checks the bytes before anything of them is parsed, then parses tensors only.

    The file is read once: what was checked is what is parsed, whoever writes to it meanwhile.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataMissingError(
            f"Inception weights {path}: cannot be read ({error.strerror}); "
            f"put {INCEPTION.name} of the pytorch-fid releases there"
        ) from error
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataInvalidError(
            f"Inception weights {path}: SHA-256 is {digest}, not {sha256}; delete the file and "
            f"fetch {INCEPTION.name} of the pytorch-fid releases again"
        )
    network = _fid_inception()
    network.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    network.add_module("fc", nn.Identity())  # the features are what the last layer would get
    return network


def _fid_inception() -> nn.Module:
    """Inception v3 as TensorFlow's FID has it: its own pooling in nine of the mixed blocks."""
    # a second to import, for those who have the weights alone
    from pytorch_fid import inception as fid_blocks
    from torchvision.models.inception import Inception3

    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    replacements = {
        "Mixed_5b": fid_blocks.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": fid_blocks.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": fid_blocks.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": fid_blocks.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": fid_blocks.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": fid_blocks.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": fid_blocks.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": fid_blocks.FIDInceptionE_1(1280),
        "Mixed_7c": fid_blocks.FIDInceptionE_2(2048),
    }
    for name, block in replacements.items():
        setattr(network, name, block)
    return network
