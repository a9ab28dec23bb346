"""How the machine is used: worker threads of one compute thread each, and bfloat16.

On a CPU, independent pieces side by side beat threads inside one convolution: nothing waits for
the slowest part of every layer. On a GPU there is one worker, and the device does the rest. What
is computed depends on neither, up to rounding.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar, get_args

import torch

from privimage.machine.limits import num_cpus

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Piece = TypeVar("Piece")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Compute:
    """How a network is run: over how many workers, in which precision, compiled or not."""

    num_workers: int = 1
    precision: str = "float32"
    compiled: bool = False


class Workers:
    """`num` threads, each computing with one thread; a single worker is the caller itself, with
    all its threads. Autograd and autocast modes are a thread's own: set them inside the function.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._pool = None
        if num > 1:
            self._pool = ThreadPoolExecutor(num, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
        """Results in the order of the pieces; the first exception is raised."""
        if self._pool is None:
            return [function(piece) for piece in pieces]
        return list(self._pool.map(function, pieces))

    def shares(self, num_items: int) -> list[slice]:
        """One contiguous slice a worker, as equal as can be; no empty ones."""
        bounds = [num_items * i // self.num for i in range(self.num + 1)]
        return [slice(a, b) for a, b in pairwise(bounds) if b > a]


def usual_device() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_num_workers(device: torch.device, num_threads: int = 0) -> int:
    """One worker a core (or a thread that may be used) on a CPU, one on a GPU."""
    return 1 if device.type == "cuda" else num_threads or usable_cores()


def usable_cores() -> int:
    """The cores that this process may run on, by its affinity and a container's quota; its share
    where torchrun started several processes on this machine.
    """
    return max(1, num_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster here, rather than emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def resolved_precision(wanted: str, device: torch.device) -> str:
    """`wanted`, or for "auto" bfloat16 where it is native and float32 elsewhere."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_native_bfloat16(device) else "float32"


def resident(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images on the GPU, as uint8, where they take at most a quarter of its free memory."""
    if device.type != "cuda" or images.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
        return images
    return images.to(device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bfloat16 for convolutions and matrix products inside; the weights stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
