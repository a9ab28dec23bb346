"""What a DP-SGD step costs beside an ordinary one, in images/s and memory.

    python bench/dp_step.py [--images 8] [--copies 8] [--size 32] [--threads 2] [--device cuda]

Ordinary steps clip nothing: they are the floor. Peers: Opacus's hooks with one gradient a copy,
which is what the published scripts do, Opacus's functorch mode, and vmap over images. With
--original PATH the engine in a checkout of the paper's artifact is measured too. The rows are
clipped sums without noise and optimiser, which cost all of them the same.
"""

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Row, interleaved, median, parser, publish, report, seconds_per_call, spread
from opacus import GradSampleModule
from paper_network import Examples, paper_network, random_examples
from torch.func import functional_call, grad, vmap

from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.loss import denoising_loss
from privimage.gradients.engine import Engine
from privimage.gradients.mean_gradient import MeanGradient
from privimage.machine.hardware import Compute
from privimage.privacy.clipping import ClippedGradientSum

CLIP_NORM = 1e-3
EAGER = {
    "ordinary, float32": ("ordinary", "float32"),
    "ordinary, bfloat16": ("ordinary", "bfloat16"),
    "ordinary over workers, float32": ("ordinary over workers", "float32"),
    "ordinary over workers, bfloat16": ("ordinary over workers", "bfloat16"),
    "loop, float32": ("loop", "float32"),
    "loop, bfloat16": ("loop", "bfloat16"),
    "folded, float32": ("folded", "float32"),
    "folded, bfloat16": ("folded", "bfloat16"),
    "vmap over images, float32": ("vmap", "float32"),
    "Opacus hooks, a gradient a copy, float32": ("hooks", "float32"),
    "Opacus functorch, a gradient a copy, float32": ("functorch", "float32"),
}
COMPILED = {
    "ordinary, bfloat16, compiled": ("ordinary", "bfloat16"),
    "loop, bfloat16, compiled": ("loop", "bfloat16"),
    "folded, bfloat16, compiled": ("folded", "bfloat16"),
}
FLOOR, ORIGINAL_STYLE = "ordinary, float32", "Opacus hooks, a gradient a copy, float32"


def main() -> None:
    options_of = parser(__doc__)
    for name, default in {"images": 8, "copies": 8, "size": 32, "threads": 2, "calls": 2}.items():
        options_of.add_argument(f"--{name}", type=int, default=default)
    options_of.add_argument("--compiled", action="store_true", help="compiled rows too (minutes)")
    options_of.add_argument("--only", default="", help="the rows that this expression finds")
    options_of.add_argument("--original", type=Path, help="a checkout of the paper's artifact")
    options = options_of.parse_args()
    if options.variant:
        run_variant(options)
        return
    every = [*EAGER, *(COMPILED if options.compiled else {})]
    shared = (FLOOR, ORIGINAL_STYLE)  # all others are held against these
    variants = [name for name in every if name in shared or re.search(options.only, name)]
    if options.original:
        variants.append("the original artifact's engine, float32")
    found = interleaved(__file__, variants, rounds=options.rounds, options=sys.argv[1:])
    show(found, options)


def run_variant(options: Any) -> None:
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    denoiser = paper_network(options.size, device)
    examples = random_examples(options.images, options.copies, options.size, device)
    name = options.variant
    if name.startswith("the original"):
        step = original_step(options.original, denoiser, examples)
    else:
        kind, precision = (EAGER | COMPILED)[name]
        step = step_of(kind, precision, name in COMPILED, denoiser, examples, options)
    times = seconds_per_call(step, device=device, calls=options.calls)
    gpu_mib = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    report(seconds=times, gpu_mib=gpu_mib, **ceiling(device))


def step_of(
    kind: str, precision: str, compiled: bool, denoiser: Denoiser, examples: Examples, options: Any
) -> Callable[[], object]:
    workers = 1 if options.device == "cuda" else options.threads
    if kind.startswith("ordinary"):
        compute = Compute(workers if "workers" in kind else 1, precision, compiled)
        gradient_of = MeanGradient(denoising_loss, denoiser, compute=compute)
        return lambda: gradient_of(examples)
    if kind in ("hooks", "functorch"):
        return opacus_step(denoiser, examples, kind)
    if kind == "vmap":
        return vmap_step(denoiser, examples)
    size = max(1, options.images // workers)
    engine = Engine(kind, size, workers, precision, compiled)
    sum_of = ClippedGradientSum(denoising_loss, denoiser, clip_norm=CLIP_NORM, engine=engine)
    return lambda: sum_of(examples)


def opacus_step(denoiser: Denoiser, examples: Examples, mode: str) -> Callable[[], None]:
    """Per-copy gradients, averaged over the copies, clipped and summed."""
    hooked = GradSampleModule(denoiser, force_functorch=mode == "functorch")
    parameters: list[Any] = list(hooked.parameters())  # Opacus adds an attribute to them
    num_images, copies = examples[2].shape

    def step() -> None:
        hooked.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            denoising_loss(hooked, *examples).mean().backward()
        averaged = [p.grad_sample.view(num_images, copies, *p.shape).mean(1) for p in parameters]
        factor = factors(averaged)
        for parameter, gradient in zip(parameters, averaged, strict=True):
            parameter.grad = torch.einsum("i,i...->...", factor, gradient)
            parameter.grad_sample = None

    return step


def vmap_step(denoiser: Denoiser, examples: Examples) -> Callable[[], None]:
    weights = {name: p.detach() for name, p in denoiser.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], *example: torch.Tensor) -> torch.Tensor:
        batch = [t[None] for t in example]
        return denoising_loss(lambda *a: functional_call(denoiser, weights, a), *batch).sum()

    gradients_of = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0))

    def step() -> None:
        gradients = list(gradients_of(weights, *examples).values())
        factor = factors(gradients)
        for gradient in gradients:
            torch.einsum("i,i...->...", factor, gradient)

    return step


def factors(gradients: list[torch.Tensor]) -> torch.Tensor:
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
    return (CLIP_NORM / (norms + 1e-6)).clamp(max=1.0)


def original_step(path: Path, denoiser: Denoiser, examples: Examples) -> Callable[[], None]:
    """The artifact's own fork of the hooks, found in its fine-tuning folder."""
    folder = next(path.rglob("opacus/grad_sample/grad_sample_module.py"), None)
    if folder is None:
        sys.exit(f"{path} holds no opacus/grad_sample; give a checkout of the paper's artifact")
    for module in [name for name in sys.modules if name.split(".")[0] == "opacus"]:
        del sys.modules[module]
    sys.path.insert(0, str(folder.parents[2]))
    from opacus.grad_sample import GradSampleModule as OriginalModule

    globals()["GradSampleModule"] = OriginalModule
    return opacus_step(denoiser, examples, "hooks")


def ceiling(device: torch.device) -> dict[str, float]:
    """FLOP/s that a large matrix product reaches here, which no step can exceed."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(2048, 2048, device=device).to(dtype)
        times = seconds_per_call(lambda a=a: a @ a, device=device, calls=5)
        found[f"matmul_flops_{name}"] = 2 * 2048**3 / min(times)
    return found


def flops_per_step(options: Any) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    cpu = torch.device("cpu")
    with FlopCounterMode(display=False) as counter:
        examples = random_examples(1, 1, options.size, cpu)
        denoising_loss(paper_network(options.size, cpu), *examples).sum().backward()
    return counter.get_total_flops() * options.images * options.copies


def show(found: dict[str, list[Row]], options: Any) -> None:
    floor, hooks = (median(found[name], "seconds") for name in (FLOOR, ORIGINAL_STYLE))
    memory = "gpu_mib" if options.device == "cuda" else "peak_mib"
    flops = flops_per_step(options)
    rows = []
    for name, results in found.items():
        seconds, (low, high) = median(results, "seconds"), spread(results, "seconds")
        precision = "bfloat16" if "bfloat16" in name else "float32"
        reached = flops / seconds / median(results, f"matmul_flops_{precision}")
        rows.append([
            name, f"{options.images / seconds:.2f}", f"{seconds / floor:.2f}",
            f"{hooks / seconds:.2f}", f"{low:.2f} to {high:.2f}",
            f"{median(results, memory):,.0f}", f"{reached:.0%}",
        ])  # fmt: skip
    columns = ["step", "images/s", "time against ordinary float32", "speed against Opacus hooks"]
    columns += ["s, fastest to slowest", "peak MiB", "of the matrix-product ceiling"]
    size, device = options.size, options.device
    title = f"DP-SGD step: {options.images} images x {options.copies} copies at {size} pixels"
    publish(
        f"dp_step_{device}_{size}px_b{options.images}_k{options.copies}_{options.threads}threads",
        title=f"{title}, {device}, {options.threads} threads", columns=columns, rows=rows,
        settings=vars(options) | {"original": str(options.original)}, figures=found,
        device=torch.device(device),
    )  # fmt: skip


if __name__ == "__main__":
    main()
