"""Which engine is fastest on this machine, for this network and these image sizes: it is timed.

The timing runs on made-up examples of the shape of the real ones, before any of those is read. So
it can touch neither the ledger nor an image, and what it finds out is public.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from privimage.errors import ConfigError
from privimage.gradients import folded
from privimage.gradients.engine import Engine
from privimage.machine import memory
from privimage.machine.hardware import default_num_workers, resolved_precision
from privimage.machine.limits import available_ram_bytes
from privimage.privacy.clipping import ClippedGradientSum, Examples
from privimage.settings.config import PerformanceConfig

logger = logging.getLogger(__name__)
_MICRO_BATCHES = {"cpu": (8, 48), "cuda": (16, 64, 256)}  # above, a CPU gains no more
_COMPILING_PAYS_AFTER_SECONDS = 1800.0  # it takes a minute or two, and gains a few percent or more


def choose_engine(
    losses_of: Callable[..., Tensor],
    model: nn.Module,
    examples_of: Callable[[int], Examples],
    *,
    num_images: int,
    batch_size: int,
    wanted: PerformanceConfig,
) -> Engine:
    """The fastest engine for `num_images` gradients in batches of about `batch_size`.

    `examples_of(n)` makes up n examples. What `wanted` fixes is taken as it is: a strategy other
    than "auto", a micro-batch size above 0, a `compile` that is not None; where nothing is left
    open, nothing is timed. A pass that would not fit into memory is not tried. Compiling is tried
    when the rest would take over half an hour, and kept if it gains.
    """
    device = next(model.parameters()).device
    precision = resolved_precision(wanted.precision, device)
    workers = default_num_workers(device, wanted.num_threads)
    share = max(1, -(-batch_size // workers))
    candidates = [
        Engine(name, min(size, share), workers, precision, bool(wanted.compile))
        for name, size in _open_choices(model, wanted.strategy, wanted.micro_batch_size)
    ]
    candidates = list(dict.fromkeys(candidates))  # sizes above the share are the same
    if len(candidates) == 1 and wanted.compile is not None:
        return candidates[0]
    seconds_of = partial(_seconds_per_image, losses_of, model, examples_of)
    timed, bytes_an_image = [], 0.0  # of a folded pass, as the one before took them
    for engine in candidates:
        if engine.pass_size * workers * bytes_an_image > available_ram_bytes():
            logger.info("%s is not tried: there is too little memory", engine)
            break
        try:
            seconds, grown = memory.with_growth(partial(seconds_of, engine), device)
            timed.append((seconds, engine))
            if engine.strategy == "folded" and device.type == "cpu":  # a GPU says so by itself
                bytes_an_image = grown / (engine.pass_size * workers)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break  # the next one is larger still
        except ConfigError as error:  # it mixes examples
            if engine == candidates[-1] and not timed:
                raise
            logger.warning("%s is not used: %s", engine, error)
        if len(timed) > 2 and timed[-1][0] > timed[-2][0]:
            break
    seconds, best = min(timed, key=lambda pair: pair[0])
    if wanted.compile is None and seconds * num_images > _COMPILING_PAYS_AFTER_SECONDS:
        seconds, best = _compiled_if_faster(seconds_of, seconds, best)
    logger.info("per-image gradients: %s, %.1f images/s", best, 1 / seconds)
    return best


def _compiled_if_faster(
    seconds_of: Callable[[Engine], float], seconds: float, engine: Engine
) -> tuple[float, Engine]:
    """Seconds per image and engine, compiled or not; a compiler that fails is only logged."""
    compiled = replace(engine, compiled=True)
    try:
        compiled_seconds = seconds_of(compiled)
    except RuntimeError as error:  # no C++ compiler on the machine, for instance
        logger.warning("not compiled: %s", str(error).strip().splitlines()[0])
        return seconds, engine
    return min((seconds, engine), (compiled_seconds, compiled), key=lambda pair: pair[0])


def _open_choices(
    model: nn.Module, strategy: str, micro_batch_size: int
) -> Iterator[tuple[str, int]]:
    if strategy == "loop" or (strategy == "auto" and not folded.supports(model)):
        yield "loop", 1
        return
    if strategy == "auto":
        yield "loop", 1
    device = next(model.parameters()).device.type
    for size in (micro_batch_size,) if micro_batch_size else _MICRO_BATCHES[device]:
        yield "folded", size


def _seconds_per_image(
    losses_of: Callable[..., Tensor],
    model: nn.Module,
    examples_of: Callable[[int], Examples],
    engine: Engine,
) -> float:
    """Timed on a micro-batch for every worker; ConfigError if the network mixes examples."""
    size = engine.micro_batch_size if engine.strategy == "folded" else 2
    examples = examples_of(size * engine.num_workers)
    sum_of = ClippedGradientSum(losses_of, model, clip_norm=1.0, engine=engine)
    sum_of.check_independence(examples_of(sum_of.images_at_once))  # warms up, too
    seconds = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        sum_of(examples)
        if sum_of.device.type == "cuda":
            torch.cuda.synchronize(sum_of.device)
        seconds = min(seconds, time.perf_counter() - started)
    return seconds / (size * engine.num_workers)
