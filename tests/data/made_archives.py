"""Archives in the official layouts of ImageNet and CelebA, with a few tiny images each."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

# WordNet id: (words, the number of the development kit, sizes of the training images). Among the
# margins are all remainders by 4, for at 3 torchvision crops elsewhere than a floor division.
SYNSETS = {
    "n03126707": ("crane", 1, [(20, 23), (40, 30), (24, 24)]),
    "n02012849": ("crane", 2, [(21, 20), (33, 31)]),
    "n01440764": ("tench, Tinca tinca", 3, [(47, 20), (20, 26), (20, 25), (90, 70)]),
}
WNIDS = sorted(SYNSETS)
VAL_IDS = [3, 1, 2, 2, 1]  # ILSVRC2012_ID of the validation images 1 to 5
CELEBA = {  # name: (partition, Male)
    "000001.jpg": (0, -1),
    "000002.jpg": (0, 1),
    "000003.jpg": (1, 1),
    "000004.jpg": (2, 1),
    "000005.jpg": (0, -1),
    "000006.jpg": (2, -1),
}


def jpeg(size: tuple[int, int], seed: int, mode: str = "RGB") -> bytes:
    """An image of large blots, as a JPEG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
    image.save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def imagenet_images() -> dict[str, list[bytes]]:
    """By WordNet id: the training images, one of them grey, one CMYK; under `val`: the others."""
    images = {}
    for number, (wnid, (_, _, sizes)) in enumerate(SYNSETS.items()):
        modes = {0: "L", 1: "CMYK"} if wnid == "n01440764" else {}
        images[wnid] = [
            jpeg(size, 100 * number + i, modes.get(i, "RGB")) for i, size in enumerate(sizes)
        ]
    images["val"] = [jpeg((30 + n, 27), 900 + n) for n in range(len(VAL_IDS))]
    return images


def make_imagenet(folder: Path) -> Path:
    """The three archives; the validation images are not in the order of their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    images = imagenet_images()
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for wnid in SYNSETS:
            named = {f"{wnid}_{i}.JPEG": image for i, image in enumerate(images[wnid])}
            _add(outer, f"{wnid}.tar", tar(named))
    named = {f"ILSVRC2012_val_{n:08d}.JPEG": image for n, image in enumerate(images["val"], 1)}
    backwards = dict(reversed(named.items()))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(backwards))
    _make_devkit(folder / "ILSVRC2012_devkit_t12.tar.gz")
    return folder


def make_celeba(folder: Path) -> Path:
    """The zip file and the two lists, spaced as the official ones are."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", "")
        for name, image in celeba_images().items():
            archive.writestr(f"img_align_celeba/{name}", image)
    rows = [f"{name} {part}\n" for name, (part, _) in CELEBA.items()]
    (folder / "list_eval_partition.txt").write_text("".join(rows))
    rows = [f"{name} {-male:2d} {male:2d} -1\n" for name, (_, male) in CELEBA.items()]
    head = f"{len(CELEBA)}\nSmiling Male Young \n"
    (folder / "list_attr_celeba.txt").write_text(head + "".join(rows))
    return folder


def celeba_images() -> dict[str, bytes]:
    return {name: jpeg((178, 218), seed) for seed, name in enumerate(CELEBA)}


def _make_devkit(path: Path) -> None:
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    synsets = np.zeros((len(SYNSETS) + 1, 1), dtype=[(name, object) for name in fields.split()])
    for row, (wnid, (words, number, sizes)) in enumerate(SYNSETS.items()):
        synsets[row, 0] = (number, wnid, words, "a gloss", 0, [], 0, len(sizes))
    synsets[-1, 0] = (1001, "n00001740", "entity", "all that is", 3, [1, 2, 3], 1, 0)
    savemat(meta := io.BytesIO(), {"synsets": synsets})
    truth = "".join(f"{number}\n" for number in VAL_IDS)
    data = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(path, "w:gz") as kit:
        _add(kit, f"{data}/meta.mat", meta.getvalue())
        _add(kit, f"{data}/ILSVRC2012_validation_ground_truth.txt", truth.encode())


def tar(files: dict[str, bytes]) -> bytes:
    """An uncompressed archive of these files."""
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        for name, content in files.items():
            _add(archive, name, content)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
