"""PrivImage in one file: handwritten digits are the private images, rendered glyphs are public.

About a minute on two cores. Leaves all that the run released in runs/example, and says how accurate
a classifier is on real digits that has seen synthetic ones only. Repeat it: it continues.
"""

import torch

import privimage
from privimage.classifiers.downstream import classify_with
from privimage.data.preparation import Preparation
from privimage.data.sources import load_image_set
from privimage.settings.config import EvaluationConfig

grey = Preparation(image_size=8, color="grey")
private = load_image_set("digits", "train", preparation=grey)
real_test = load_image_set("digits", "test", preparation=grey)

# what may be known of the private images is declared; everything else leaves with noise only
result = privimage.synthesize(
    private,
    public="glyphs",
    epsilon=10,
    folder="runs/example",
    class_names=tuple("0123456789"),
    public_size=1437,
    image_size=8,
    color="grey",
    settings={
        "query_network.epochs": 3,
        "selection.classes_per_label": 3,
        "privacy.query_noise_multiplier": 8,
        "privacy.num_steps": 30,
        "pretrain.num_images": 40_000,
        "sampling.num_images": 1000,
        "sampling.num_steps": 25,
    },
)

for digit, glyphs in result.record["selection"]["classes"].items():
    print(digit, "<-", *glyphs)
accuracy = classify_with(
    "cnn",
    result.images.images,
    result.images.labels,
    test=real_test,
    config=EvaluationConfig(horizontal_flip=False, cnn_width=8, cnn_epochs=10, cnn_batch_size=64),
    seed=0,
    device=torch.device("cpu"),
)
print(f"epsilon {result.ledger.reserved_epsilon('rdp'):.3f}; on real digits {accuracy:.1%}")
