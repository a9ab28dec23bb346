"""PrivImage in one file: handwritten digits are the private images, rendered glyphs are public.

About a minute and a half on two cores; ends with example.png and the accuracy on real digits.
"""

import torch

from privimage.classifiers.downstream import UtilityConfig, classify_with
from privimage.classifiers.query_network import QueryNetwork, train_query_network
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.diffusion.denoiser import Denoiser
from privimage.diffusion.generate import generate_images, sample_grid
from privimage.diffusion.unet import UNet, UNetConfig
from privimage.privacy.accounting import Mechanism, calibrate_noise_multiplier
from privimage.privacy.ledger import PrivacyLedger
from privimage.privacy.query import query_mechanism, semantic_query
from privimage.privacy.rng import secure_source
from privimage.semantics.selection import public_subset, select_by_matching
from privimage.settings.config import FinetuneConfig, PretrainConfig, PrivacyConfig
from privimage.training.finetune import finetune
from privimage.training.pretrain import pretrain

torch.manual_seed(0)
cpu = torch.device("cpu")
size, classes_per_label = 8, 3

# two image sets: one may be looked at; of the other nothing is public but what is declared
preparation = Preparation(image_size=size, color="grey")
public = load_image_set("glyphs", "train", preparation=preparation)
private = load_image_set("digits", "train", preparation=preparation, classes=tuple("0123456789"))
private = private.with_public_size(1437)
real_test = load_image_set("digits", "test", preparation=preparation)

# the promise, and what it leaves for DP-SGD after the query
plan = PrivacyConfig(
    epsilon=10,
    delta=1e-4,
    query_noise_multiplier=8,
    sampling_rate=0.2,
    num_steps=40,
    clip_norm=1e-3,
)
query = query_mechanism(plan.query_noise_multiplier)
noise_multiplier = calibrate_noise_multiplier(
    [query], sampling_rate=plan.sampling_rate, count=plan.num_steps,
    epsilon=plan.epsilon, delta=plan.delta, accountant=plan.accountant,
)  # fmt: skip
source = secure_source()
ledger = PrivacyLedger.create(
    None,
    epsilon=plan.epsilon,
    delta=plan.delta,
    accountant=plan.accountant,
    data_id="digits",
    random_source=source,
)
ledger.reserve("semantic_query", query)
ledger.reserve("dp_sgd", Mechanism(noise_multiplier, plan.sampling_rate, plan.num_steps))

# 1. a classifier of the public images   2. the private query   3. the public subset
network = QueryNetwork(
    public.num_classes, num_channels=1, widths=(32, 64), blocks=(1, 1), block="basic"
)
train_query_network(
    network, public.images, public.labels, epochs=3, batch_size=128, learning_rate=0.1,
    momentum=0.9, weight_decay=5e-4, horizontal_flip=False, augment_shift=1, seed=0, device=cpu,
)  # fmt: skip
noisy = semantic_query(
    network, private, num_public_classes=public.num_classes, classes_per_image=classes_per_label,
    noise_multiplier=plan.query_noise_multiplier, ledger=ledger, source=source, device=cpu,
)  # fmt: skip
selection = select_by_matching(noisy, classes_per_label)
for name, classes in zip(private.class_names, selection, strict=True):
    print(name, "<-", *(public.class_names[c] for c in classes))

# 4. pre-train on the subset   5. fine-tune with DP-SGD
denoiser = Denoiser(UNet(UNetConfig(size, 1, 10, 16, (1, 2), 1, (4,))))
subset = public_subset(public, selection, private.class_names)
settings = PretrainConfig(64_000, 128, 3e-3, ema_rate=0.995, horizontal_flip=False)
pretrain(denoiser, subset, settings, conditional=True, seed=0).copy_to(denoiser)
tuning = FinetuneConfig(learning_rate=2e-3, noise_multiplicity=4, ema_rate=0.9)
finetune(
    denoiser, private, tuning, plan, ledger=ledger, source=source, seed=0
).average.copy_to(denoiser)  # fmt: skip

# 6. sample   7. measure
images, labels = generate_images(
    denoiser.eval(), num_images=1000, num_classes=10, sampler="ddim", num_steps=25, batch_size=500,
    generator=torch.Generator().manual_seed(0), device=cpu,
)  # fmt: skip
sample_grid(images, labels, private.class_names, per_class=10).save("example.png")
accuracy = classify_with(
    "cnn", images, labels, real_test.images, real_test.labels, num_classes=10,
    config=UtilityConfig(0, cpu, False, cnn_width=8, cnn_epochs=10, cnn_batch_size=64),
)  # fmt: skip
print(f"spent epsilon {ledger.reserved_epsilon('rdp'):.3f}; accuracy on real digits {accuracy:.1%}")
