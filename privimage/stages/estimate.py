"""What a run will cost on this machine, before it begins: time and memory of every stage.

Each stage's own code runs for about a second on made-up images of the right shape, and its pace is
multiplied by what the settings ask for. Nothing goes in but shapes, classes, the public size, and
the number of real test images where there are some; the result is for the owner's eyes. An
estimate: compiling, other programs and a laptop's heat are not foreseen.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from privimage.classifiers.downstream import (
    ClassifierKind,
    pixel_classifier,
    pixels_as_rows,
    train_cnn,
)
from privimage.classifiers.query_network import (
    QueryNetwork,
    accuracy,
    new_query_network,
    train_query_network,
)
from privimage.data.image_set import ImageSet, made_up_images
from privimage.diffusion.build import new_denoiser
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import generate_images
from privimage.diffusion.loss import denoising_loss
from privimage.diffusion.sampler import num_calls
from privimage.evaluation.evaluate import MOST_FOR_CLASSIFIERS
from privimage.gradients.engine_choice import choose_engine
from privimage.machine import memory
from privimage.machine.hardware import usable_cores
from privimage.privacy.clipping import ClippedGradientSum
from privimage.privacy.dp_sgd import noisy_mean_gradient
from privimage.privacy.rng import secure_source
from privimage.run_folder.run import ImageSets, compute_of, device_of
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import RunConfig
from privimage.training.finetune import made_up_examples
from privimage.training.pretrain import pretrain

SECONDS = 1.0  # how long a stage is timed, but for one that needs more for three steps
FEWEST_STEPS = 3
IMAGES_AT_ONCE = 64  # a worker: more at once change the pace of a network no further
# until they converge, about: 100 to 330 and 215 to 300 on digits, letters and CIFAR-10
USUAL_ITERATIONS: dict[ClassifierKind, int] = {"logistic_regression": 200, "mlp": 250}
STARTING_SECONDS = 5.0  # imports, opening the folder, the record


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """All that the cost of a run depends on beside its settings; public but for the last."""

    num_channels: int
    num_labels: int
    public_size: int  # of the sensitive set
    num_public: int
    num_public_classes: int
    num_test: int = 0  # real images that the results are compared with
    has_query_network: bool = False  # one is there already, in public weights

    @classmethod
    def of(cls, sets: ImageSets, *, has_query_network: bool = False) -> "Numbers":
        """Those of loaded sets."""
        return cls(
            num_channels=sets.sensitive.num_channels,
            num_labels=sets.sensitive.num_classes,
            public_size=sets.sensitive.public_size,
            num_public=len(sets.public),
            num_public_classes=sets.public.num_classes,
            num_test=len(sets.real_test) if sets.real_test else 0,
            has_query_network=has_query_network,
        )


@dataclass(frozen=True)
class Cost:
    """Seconds, and the peaks of the resident memory, where the kernel tells it, and of a GPU's."""

    seconds: float
    peak_mib: int | None = None
    peak_gpu_mib: int | None = None


class Pace:
    """Watches a training's steps and ends it when their pace is known."""

    def __init__(self, config: RunConfig) -> None:
        self._ends: list[float] = []
        self.context = TrainingContext(
            progress=self.step,
            should_stop=self.is_known,
            precision=config.performance.precision,
        )

    def step(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else it only takes orders
        self._ends.append(time.perf_counter())

    def is_known(self) -> bool:
        """The first step warms up and does not count."""
        return len(self._ends) > FEWEST_STEPS and self._ends[-1] - self._ends[0] > SECONDS

    @property
    def seconds(self) -> float:
        """Of one step."""
        ends = self._ends
        return median(b - a for a, b in pairwise(ends))


@lru_cache(maxsize=4)
def estimate(
    config: RunConfig, facts: Numbers, *, only: tuple[str, ...] | None = None
) -> dict[str, Cost]:
    """The cost of every stage that takes time, in their order, or of the named ones; a rehearsal's
    is what it allows. The same question is not timed again.
    """
    torch.set_num_threads(config.performance.num_threads or usable_cores())
    memory.keep_freed_blocks()  # as the run will
    device, strategy = device_of(config), config.selection.strategy
    network = new_query_network(
        config.query_network, facts.num_public_classes, num_channels=facts.num_channels
    ).to(device)
    # sketches and lower noise levels change no pace
    plain, few = replace(config, moments=None), made_up(facts, config, num=facts.num_labels)
    denoiser = new_denoiser(plain, few).to(device)
    works: dict[str, Callable[[], float]] = {
        "query_network": lambda: _query_network(network, config, facts),
        "query": lambda: facts.public_size * _seconds_per_answer(network, config, facts),
        "pretrain": lambda: _pretrain(denoiser, config, facts),
        "finetune": lambda: _finetune(denoiser, config, facts),
        "generate": lambda: _generate(denoiser, config),
        "evaluate": lambda: _evaluate(network, config, facts),
    }
    if facts.has_query_network:
        del works["query_network"]
    if strategy != "semantic":
        del works["query"]
    if strategy == "none":
        del works["pretrain"]
    if not facts.num_test:
        del works["evaluate"]
    limit = config.stage_seconds
    costs = {}
    for stage, work in works.items():
        if only is not None and stage not in only:
            continue
        was_reset = memory.reset_peaks(device)
        with memory.explained(stage):  # the run itself would come to the same end
            seconds = work()
        if limit is not None and stage in ("query_network", "pretrain", "finetune"):
            seconds = min(seconds, limit)
        peaks = memory.peaks_mib(device, was_reset=was_reset)
        costs[stage] = Cost(seconds, peaks.get("peak_memory_mib"), peaks.get("peak_gpu_memory_mib"))
    memory.give_back_freed_blocks()  # else they would count as those of the run's first stages
    return costs


def total_seconds(costs: dict[str, Cost]) -> float:
    """Of the whole run."""
    return STARTING_SECONDS + sum(cost.seconds for cost in costs.values())


def _query_network(network: QueryNetwork, config: RunConfig, facts: Numbers) -> float:
    """Training on nine tenths of the public images, and the accuracy on the rest."""
    wanted, held_out = config.query_network, facts.num_public // 10
    num_steps = wanted.epochs * max(1, (facts.num_public - held_out) // wanted.batch_size)
    images = made_up(facts, config, num=4 * wanted.batch_size, classes=facts.num_public_classes)
    pace = Pace(config)
    train_query_network(
        network,
        images.images,
        images.labels,
        replace(wanted, epochs=max(wanted.epochs, 10_000)),  # the pace ends it
        seed=0,
        device=device_of(config),
        context=pace.context,
    )
    return num_steps * pace.seconds + held_out * _seconds_per_answer(network, config, facts)


def _seconds_per_answer(network: QueryNetwork, config: RunConfig, facts: Numbers) -> float:
    """One image through the query network: for the query, and for the Frechet distance."""
    images = made_up(facts, config, num=500, classes=facts.num_public_classes)
    answer = partial(
        accuracy, network, images.images, images.labels, batch_size=500, device=device_of(config)
    )
    return _seconds_of(answer) / len(images)


def _pretrain(denoiser: Denoiser, config: RunConfig, facts: Numbers) -> float:
    pace = Pace(config)
    pretrain(
        denoiser,
        made_up(facts, config, num=4 * config.pretrain.batch_size),
        replace(config.pretrain, num_images=10_000 * config.pretrain.batch_size),
        conditional=config.data.conditional,
        seed=0,
        compute=compute_of(config),
        context=pace.context,
    )
    return -(-config.pretrain.num_images // config.pretrain.batch_size) * pace.seconds


def _finetune(denoiser: Denoiser, config: RunConfig, facts: Numbers) -> float:
    """Choosing the engine, then rounds of clipped gradients, and the noise of every step."""
    privacy, wanted = config.privacy, config.performance
    batch_size = max(1, round(privacy.sampling_rate * facts.public_size))
    examples_of = partial(made_up_examples, denoiser.eval(), config.finetune)
    started = time.perf_counter()
    engine = choose_engine(
        denoising_loss,
        denoiser,
        examples_of,
        num_images=privacy.num_steps * batch_size,
        batch_size=batch_size,
        wanted=replace(wanted, compile=bool(wanted.compile)),  # else tried, which takes minutes
    )
    choosing = time.perf_counter() - started
    sum_of = ClippedGradientSum(
        denoising_loss, denoiser, clip_norm=privacy.clip_norm, engine=engine
    )
    round_size = sum_of.images_at_once * engine.num_workers
    nothing = {n: torch.zeros_like(p, dtype=torch.float64) for n, p in denoiser.named_parameters()}
    noise = partial(
        noisy_mean_gradient,
        nothing,
        source=secure_source(),
        clip_norm=privacy.clip_norm,
        noise_multiplier=1.0,
        expected_batch_size=float(batch_size),
    )
    # the last round of a step is filled up: half a round more, on the average
    rounds = batch_size / round_size + 0.5
    a_round = _seconds_of(lambda: sum_of(examples_of(round_size)), is_warm=True)
    return choosing + privacy.num_steps * (rounds * a_round + _seconds_of(noise))


def _generate(denoiser: Denoiser, config: RunConfig) -> float:
    wanted, compute = config.sampling, compute_of(config)
    num_images = min(wanted.batch_size, wanted.num_images, IMAGES_AT_ONCE * compute.num_workers)
    draw = partial(
        generate_images,
        denoiser,
        replace(wanted, num_images=num_images, num_steps=2, batch_size=num_images),
        generator=torch.Generator(device_of(config)).manual_seed(0),
        compute=replace(compute, compiled=False),
    )

    a_call = _seconds_of(draw) / num_images / num_calls(wanted.sampler, 2)
    return wanted.num_images * num_calls(wanted.sampler, wanted.num_steps) * a_call


def _evaluate(network: QueryNetwork, config: RunConfig, facts: Numbers) -> float:
    """Features of all images, and the three classifiers; the real ceiling asks for both again."""
    wanted = config.evaluation
    per_answer = _seconds_per_answer(network, config, facts)
    seconds = 0.0
    numbers = [config.sampling.num_images]
    numbers += [facts.public_size] * wanted.real_ceiling
    for num_images in numbers:
        seconds += (min(num_images, wanted.frechet_num_images) + facts.num_test) * per_answer
        if not config.data.conditional:
            continue
        num_images = min(num_images, MOST_FOR_CLASSIFIERS)
        few = made_up(facts, config, num=min(num_images, 2000))
        pace = Pace(config)
        train_cnn(
            few.images,
            few.labels,
            num_classes=facts.num_labels,
            config=replace(wanted, cnn_epochs=10_000),
            seed=0,
            device=device_of(config),
            context=pace.context,
        )
        per_epoch = max(1, num_images // wanted.cnn_batch_size)
        seconds += wanted.cnn_epochs * per_epoch * pace.seconds
        for kind, iterations in USUAL_ITERATIONS.items():
            seconds += iterations * _iteration_seconds(kind, few) * num_images / len(few)
    return seconds


def _iteration_seconds(kind: ClassifierKind, images: ImageSet) -> float:
    pixels, labels = pixels_as_rows(images.images), images.labels.numpy()
    times = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of not having converged
        for iterations in (1, 6):
            started = time.perf_counter()
            pixel_classifier(kind, seed=0, max_iter=iterations).fit(pixels, labels)
            times.append(time.perf_counter() - started)
    return (times[1] - times[0]) / 5


def made_up(facts: Numbers, config: RunConfig, *, num: int, classes: int = 0) -> ImageSet:
    """Random images of the run's shape, of its labels or of so many classes."""
    return made_up_images(
        num,
        num_channels=facts.num_channels,
        image_size=config.data.image_size,
        num_classes=classes or facts.num_labels,
    )


def _seconds_of(work: Callable[[], Any], *, is_warm: bool = False) -> float:
    """Of one call: the median of some, after one that warms up."""
    if not is_warm:
        work()
    times = []
    while not times or (len(times) < 20 and sum(times) < SECONDS):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times)
