"""Arrays of your own in the place of `images` and `labels`: all that is needed."""

from sklearn.datasets import load_digits

import privimage

pixels, labels = load_digits(return_X_y=True)
images = (pixels * 15).astype("uint8").reshape(-1, 8, 8)  # number, height, width
quick = {"privacy.num_steps": 10, "pretrain.num_images": 10_000, "sampling.num_images": 500}
result = privimage.synthesize(
    images, labels, public="glyphs", epsilon=10, folder="runs/in_memory", settings=quick
)
print(result.images.images.shape, result.statement["spent"], result.statement["assumed_public"])
