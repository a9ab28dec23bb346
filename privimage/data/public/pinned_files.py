"""The published files that image sets and weights come from: names, checksums, addresses, and the
check of a file against them.

Checksums are those that torchvision holds. The publisher of the Inception weights gives only eight
hex digits of their SHA-256, by custom in the file's name; the whole digest and the size are those
that projects which use the file have written down, independently of each other and in agreement.
MD5 tells a damaged file from a whole one, and no more: anyone who constructs two files of one MD5
can pass one off as the other.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from privimage.errors import DataInvalidError, DataMissingError
from privimage.files.plain_files import open_plain

Progress = Callable[[str, int, int], None]  # stage, done, total
BLOCK_BYTES = 1 << 20
MB = 10**6


@dataclass(frozen=True)
class PublishedFile:
    """A file as published, with its whole digest; `folder` is where it is kept."""

    name: str
    digest: str
    algorithm: Literal["md5", "sha256"] = "md5"
    num_bytes: int | None = None  # where it is known for certain: tells a cut one at once
    urls: tuple[str, ...] = ()
    folder: str = ""

    @property
    def checksum(self) -> str:
        """For people: the kind and the value."""
        kind = "MD5" if self.algorithm == "md5" else "SHA-256"
        return f"{kind} {self.digest}"


def _idx_files(folder: str, addresses: tuple[str, ...], *digests: str) -> tuple[PublishedFile, ...]:
    names = [
        f"{stem}-{kind}-ubyte.gz"
        for stem in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    return tuple(
        PublishedFile(name, digest, urls=tuple(a + name for a in addresses), folder=folder)
        for name, digest in zip(names, digests, strict=True)
    )


def _cifar_file(name: str, digest: str) -> PublishedFile:
    return PublishedFile(name, digest, urls=(f"https://www.cs.toronto.edu/~kriz/{name}",))


INCEPTION = PublishedFile(
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    algorithm="sha256",
    num_bytes=95_628_359,
    urls=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
    ),
)
DOWNLOADS = {
    "cifar10": (_cifar_file("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
    "cifar100": (_cifar_file("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),),
    "fashion_mnist": _idx_files(
        "FashionMNIST/raw",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "mnist": _idx_files(
        "MNIST/raw",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "inception": (INCEPTION,),
}
IMAGENET_TRAIN = PublishedFile(
    "ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", num_bytes=147_897_477_120
)
IMAGENET_VAL = PublishedFile(
    "ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", num_bytes=6_744_924_160
)
IMAGENET_DEVKIT = PublishedFile("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")
CELEBA_IMAGES = PublishedFile(
    "img_align_celeba.zip", "00d2c5bc6d35e252742224ab0c1e8fcb", num_bytes=1_443_490_838
)
CELEBA_SPLITS = PublishedFile("list_eval_partition.txt", "d32c9cbf5e040fd4025c592c306e6668")
CELEBA_ATTRIBUTES = PublishedFile("list_attr_celeba.txt", "75e246fa4810816ffd6ee81facbd244c")


def check_file(file: PublishedFile, path: Path, *, on_progress: Progress | None = None) -> None:
    """DataInvalidError if `path` is cut off or another file, DataMissingError if there is none."""
    try:
        size = path.stat().st_size
        if file.num_bytes is not None and size != file.num_bytes:
            _refuse_size(path, size, file.num_bytes)
        digest = hashlib.new(file.algorithm, usedforsecurity=False)
        with open_plain(path) as content:
            while block := content.read(BLOCK_BYTES):
                digest.update(block)
                if on_progress:
                    on_progress(f"checking {file.name} (MB)", content.tell() // MB, size // MB)
    except OSError as error:
        raise DataMissingError(
            f"{path} cannot be read ({error.strerror}); put {file.name} there ({file.checksum})"
        ) from error
    if digest.hexdigest() != file.digest:
        raise DataInvalidError(
            f"{path} is not the published file, or is damaged: its {file.algorithm.upper()} is "
            f"{digest.hexdigest()}, published is {file.digest}; fetch the file again"
        )


def _refuse_size(path: Path, size: int, published: int) -> None:
    what = "is cut off" if size < published else "is not the published file"
    remedy = "continue or repeat its download" if size < published else "fetch the file again"
    raise DataInvalidError(f"{path} {what}: {size:,} bytes of {published:,}; {remedy}")
