"""PrivImage: differentially private synthetic images by diffusion models with semantic-aware
pre-training.

`synthesize`, `load` and `pretrain` are the library for people with images of their own; they are
imported when they are first asked for, since they bring torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privimage.api import SyntheticImages, load, pretrain, synthesize
    from privimage.data.image_set import ImageSet
    from privimage.privacy.plan import PrivacyPlan

__all__ = ["ImageSet", "PrivacyPlan", "SyntheticImages", "load", "pretrain", "synthesize"]
_PLACES = {
    "ImageSet": "privimage.data.image_set",
    "PrivacyPlan": "privimage.privacy.plan",
    "SyntheticImages": "privimage.api",
    "load": "privimage.api",
    "pretrain": "privimage.api",
    "synthesize": "privimage.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
