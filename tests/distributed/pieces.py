"""What the tests of several processes run in each of them; results go back as plain values."""

import copy
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from privimage.classifiers.query_network import QueryNetwork, train_query_network
from privimage.classifiers.synced_norm import synced
from privimage.data.image_set import ImageSet
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import generate_images
from privimage.diffusion.unet import UNet
from privimage.evaluation import evaluate
from privimage.evaluation.features import extract_statistics, query_network_extractor
from privimage.gradients.engine import Engine
from privimage.machine.processes import World
from privimage.privacy.accounting import Mechanism
from privimage.privacy.dp_sgd import DP_SGD
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.query import semantic_query
from privimage.privacy.rng import insecure_source
from privimage.run_folder.public_weights import open_public_weights
from privimage.run_folder.training_context import TrainingContext
from privimage.settings.config import (
    EvaluationConfig,
    FinetuneConfig,
    PretrainConfig,
    SamplingConfig,
    TrainingConfig,
    load_config,
)
from privimage.stages.pipeline import follow_pipeline, run_pipeline
from privimage.training import finetune as module
from privimage.training.finetune import finetune
from privimage.training.pretrain import pretrain
from tests.ledgers import ledger_terms
from tests.networks import small_unet

CPU = torch.device("cpu")
Values = dict[str, Any]


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    network = Denoiser(UNet(small_unet()))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def images(num: int = 21) -> ImageSet:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (num, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(num) % 3, ("a", "b", "c"), "test", num)


def network() -> QueryNetwork:
    torch.manual_seed(0)
    return QueryNetwork(3, num_channels=1, widths=(4, 8), blocks=(1, 1), block="basic")


def ledger(source: Any) -> PrivacyLedger:
    return PrivacyLedger.create(None, ledger_terms(epsilon=1e9, random_source=source))


def numpy(weights: dict[str, torch.Tensor]) -> Values:
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


def transfers(world: World) -> Values:
    """Every way of telling and summing, on values that name their process."""
    rank = world.rank
    total = [torch.full((2, 3), 1.0 + rank), torch.tensor([10.0 * rank])]
    world.all_reduce_(total)
    on_leader = [torch.tensor([1, 2 + rank])]
    world.reduce_to_leader_(on_leader)
    mixed = [torch.full((2,), rank), torch.full((3,), rank + 0.5)]
    world.broadcast_(mixed)
    sent = [
        world.send_to_leader(torch.full((2,), rank), sender=sender) for sender in range(world.size)
    ]
    received = [
        world.send_from_leader(torch.full((2,), rank), receiver=receiver)
        for receiver in range(world.size)
    ]
    world.barrier()
    return {
        "received": received[rank].tolist(),
        "total": [t.tolist() for t in total],
        "on_leader": on_leader[0].tolist(),
        "mixed": [t.tolist() for t in mixed],
        "sent": [t.tolist() for t in sent],
        "told": world.broadcast({"who": rank, "rows": torch.arange(3)})["who"],
        "agreed": world.broadcast_flag(rank == 0),
        "rows": [world.rows(num) for num in (0, 1, 7, 8)],
    }


def batch_norm(world: World) -> Values:
    """A batch norm over all processes beside torch's over the whole batch, in float64."""
    torch.manual_seed(0)
    x = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    weights = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    plain = nn.BatchNorm2d(3).double()
    nn.init.normal_(plain.weight)
    ours = synced(copy.deepcopy(plain), world)
    mine = world.rows(len(x))
    whole, part = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
    expected, found = plain(whole), ours(part)
    (expected.square() * weights).sum().backward()
    (found.square() * weights[mine]).sum().backward()
    gradients = [p.grad for p in ours.parameters() if p.grad is not None]
    world.all_reduce_(gradients)
    assert whole.grad is not None
    assert part.grad is not None
    pairs = [(expected[mine], found), (whole.grad[mine], part.grad)]
    pairs += [(e.grad, f) for e, f in zip(plain.parameters(), gradients, strict=True)]
    pairs += list(zip(plain.buffers(), ours.buffers(), strict=True))
    return {"errors": [float((e - f).abs().max()) if len(e) else 0.0 for e, f in _double(pairs)]}


def _double(pairs: list) -> list:
    return [(e.detach().double().reshape(-1), f.detach().double().reshape(-1)) for e, f in pairs]


def classifier(world: World) -> Values:
    trained = network()
    everyone = images(40)
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.jsonl"
        train_query_network(
            trained,
            everyone.images,
            everyone.labels,
            TrainingConfig(epochs=2, batch_size=10, learning_rate=0.01, augment_shift=1),
            seed=0,
            device=CPU,
            context=TrainingContext(stats=stats, world=world),
        )
        losses = [json.loads(line)["loss"] for line in stats.read_text().splitlines()]
    return numpy(trained.state_dict()) | {"losses": np.array(losses)}


def pretrained(world: World) -> Values:
    model = denoiser()
    config = PretrainConfig(num_images=30, batch_size=10, learning_rate=1e-3)
    context = TrainingContext(world=world)
    pretrain(model, images(), config, conditional=True, seed=0, context=context)
    return numpy(model.state_dict())


def query(world: World) -> Values:
    source = insecure_source(0, insecure_for_reproduction=True)
    book = ledger(source)
    noisy = semantic_query(
        network().eval(),
        images(),
        num_public_classes=3,
        classes_per_image=1,
        noise_multiplier=0.5,
        ledger=book,
        source=source,
        batch_size=4,
        device=CPU,
        world=world,
    )
    return {"noisy": noisy.numpy(), "charged": book.charged("semantic_query")}


def finetuned(world: World, rate: float, strategy: str) -> Values:
    """Three steps of DP-SGD; what was drawn and the un-noised sums are noted on the way."""
    source = insecure_source(0, insecure_for_reproduction=True)
    book, model = ledger(source), denoiser()
    book.reserve(DP_SGD, Mechanism(0.5, rate, 3))
    drawn: list[torch.Tensor] = []
    sums: list[np.ndarray] = []
    sample, noisy_mean = module.poisson_sample, module.noisy_mean_gradient

    def noted_sample(*args: Any, **settings: Any) -> Any:
        drawn.append(sample(*args, **settings))
        return drawn[-1]

    def noted_mean(total: Any, **settings: Any) -> Any:
        sums.append(torch.cat([part.flatten() for part in total.values()]).numpy().copy())
        return noisy_mean(total, **settings)

    def told_to_all(tensors: Any) -> None:
        raise AssertionError("a sum without noise is told to every process")

    module.poisson_sample, module.noisy_mean_gradient = noted_sample, noted_mean
    world.all_reduce_ = told_to_all
    try:
        finetune(
            model,
            images(),
            FinetuneConfig(learning_rate=1e-3, noise_multiplicity=2),
            clip_norm=0.01,
            ledger=book,
            source=source,
            seed=0,
            engine=Engine(strategy, micro_batch_size=4),
            context=TrainingContext(world=world),
        )
    finally:
        module.poisson_sample, module.noisy_mean_gradient = sample, noisy_mean
    return {
        "drawn": [indices.tolist() for indices in drawn],
        "sums": sums,
        "weights": numpy(model.state_dict()),
        "charged": book.charged(DP_SGD),
        "ledger": str(book.to_dict()),
    }


def generated(world: World) -> Values:
    found, labels = generate_images(
        denoiser(),
        SamplingConfig(num_images=23, num_steps=3, batch_size=4),
        generator=torch.Generator().manual_seed(0),
        world=world,
    )
    return {"images": found.numpy(), "labels": labels.numpy()}


def statistics(world: World, nums: tuple[int, ...]) -> list[Values]:
    """Of sets of so many images."""
    extractor = query_network_extractor(network(), device=CPU)
    of_all = []
    for num in nums:
        own = images(num).images[world.rows(num)].split(5)
        found = extract_statistics(own, extractor, world=world)
        of_all.append(
            {"mean": found.mean.numpy(), "covariance": found.covariance.numpy(), "num": found.num}
        )
    return of_all


def distances(world: World, cases: tuple[tuple[int, int], ...]) -> list[float]:
    return [_distance(world, num, most) for num, most in cases]


def _distance(world: World, num: int, most: int) -> float:
    """Frechet distance of images that the leader alone has, at most `most` of them."""
    evaluate.BATCH_SIZE = 4
    real = images(30)
    synthetic = images(num) if world.is_leader else None
    metrics = evaluate.evaluate(
        synthetic,
        real_test=real,
        real_train=None,
        network=network(),
        config=EvaluationConfig(frechet_num_images=most),
        with_classifiers=False,
        seed=0,
        device=CPU,
        context=TrainingContext(world=world),
    )
    assert metrics["frechet_num_images"] == min(num, most)
    return metrics["frechet_query_network"]


def whole_run(
    world: World, settings: dict[str, Any], folder: Path, start_from: Path | None = None
) -> Values:
    config = load_config(settings)
    if not world.is_leader:
        follow_pipeline(config, folder, world=world)
        return {}
    start = None if start_from is None else open_public_weights(start_from)
    return run_pipeline(config, folder, world=world, start_from=start)


def run_that_stops(
    world: World, settings: dict[str, Any], folder: Path, who: int, step: int
) -> Values:
    """Process `who` stops itself (SIGSTOP) in fine-tuning, with `step` charged and not yet done."""
    examples = module.noisy_examples

    def stopping(*args: Any, **now: Any) -> Any:
        if world.rank == who and now["step"] == step:
            os.kill(os.getpid(), signal.SIGSTOP)
        return examples(*args, **now)

    module.noisy_examples = stopping
    return whole_run(world, settings, folder)


def run_with_other_images(world: World, settings: dict[str, Any], folder: Path) -> Values:
    """A follower whose sensitive images are public ones."""
    if not world.is_leader:
        settings = settings | {"data": settings["data"] | {"sensitive": "glyphs"}}
        settings["data"]["evaluate_on"] = None
    return whole_run(world, settings, folder)
