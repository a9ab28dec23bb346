"""Synthetic images on the disk: found again after an interruption, and never all in memory."""

from functools import partial

import numpy as np
import pytest
import torch

from privimage.data.own import npz
from privimage.errors import DataInvalidError, RunFolderError
from privimage.evaluation.evaluate import frechet_to_real
from privimage.evaluation.features import Extractor
from privimage.release.image_files import ImageParts, load_images, save_images
from privimage.run_folder.checkpoint import Checkpoint
from tests.data.own.test_array_folder import anonymous_mib

CPU = torch.device("cpu")


def batches(num: int, size: int = 4) -> list[torch.Tensor]:
    """`num` batches of `size` images, each with its number in every pixel."""
    values = torch.arange(num * size).view(num, size, 1, 1, 1)
    return list(values.expand(num, size, 1, 4, 4).to(torch.uint8))


def parts_in(folder, *, of="these images") -> ImageParts:
    return ImageParts(lambda name: Checkpoint(folder / f"{name}.pt", belongs_to=of))


def fill(parts: ImageParts, images: list[torch.Tensor]) -> ImageParts:
    for batch in images:
        parts.add(batch)
    return parts


def test_parts_come_back_in_order_also_from_another_process(tmp_path):
    fill(parts_in(tmp_path), batches(3))
    found = parts_in(tmp_path)
    assert found.num_images == 12
    assert torch.equal(torch.cat([*found]), torch.cat(batches(3)))
    assert parts_in(tmp_path, of="others").num_images == 0


def test_a_damaged_part_is_drawn_again_and_later_ones_of_another_cut_are_not_mixed_in(tmp_path):
    fill(parts_in(tmp_path), batches(4))
    (tmp_path / "part000001.pt").write_bytes(b"damaged")
    again = parts_in(tmp_path)
    assert again.num_images == 4
    again.add(torch.cat(batches(3)[1:]))  # as two processes would cut it: what was part 2 is in it
    assert parts_in(tmp_path).num_images == 12
    assert torch.equal(torch.cat([*again]), torch.cat(batches(3)))


def test_a_part_that_is_damaged_in_use_is_named(tmp_path):
    parts = fill(parts_in(tmp_path), batches(2))
    (tmp_path / "part000001.pt").write_bytes(b"damaged")
    with pytest.raises(DataInvalidError, match="repeat the command"):
        list(parts)


def save(path, num: int) -> torch.Tensor:
    images = torch.cat(batches(num))
    save_images(path, batches(num), torch.arange(len(images)) % 2, ("a", "b"), insecure=False)
    return images


def test_anybody_can_read_the_file_with_numpy(tmp_path):
    images = save(tmp_path / "images.npz", 3)
    with np.load(tmp_path / "images.npz", allow_pickle=False) as arrays:
        assert arrays["images"].dtype == np.uint8
        assert np.array_equal(arrays["images"], images.numpy())
        assert arrays["labels"].tolist() == [0, 1] * 6
        assert arrays["class_names"].tolist() == ["a", "b"]


def test_the_same_images_make_the_same_bytes_and_no_other_file(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / f"{name}.npz", 2)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert len([*tmp_path.iterdir()]) == 2


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    save(tmp_path / "images.npz", 2)
    before = (tmp_path / "images.npz").read_bytes()

    def full():
        yield batches(1)[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(RunFolderError, match="No space left on device"):
        save_images(tmp_path / "images.npz", full(), torch.zeros(8).long(), ("a",), insecure=False)
    assert (tmp_path / "images.npz").read_bytes() == before
    assert len([*tmp_path.iterdir()]) == 1


def test_a_foreign_file_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", pixels=np.zeros(3))
    with pytest.raises(DataInvalidError, match=r"other\.npz lacks images"):
        load_images(tmp_path / "other.npz")
    (tmp_path / "none.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataInvalidError, match=r"none\.npz"):
        load_images(tmp_path / "none.npz")


def test_neither_drawing_nor_writing_nor_measuring_holds_the_images(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "MAPPED_FROM_BYTES", 2**20)
    shape, num = (4096, 3, 32, 32), 16  # 192 MiB
    generator = torch.Generator().manual_seed(0)
    draw = partial(torch.randint, 256, shape, dtype=torch.uint8, generator=generator)
    mean = Extractor("query_network", 3, CPU, lambda images: images.mean((2, 3)))
    draw()
    before = anonymous_mib()
    parts = fill(parts_in(tmp_path), [])
    for _ in range(num):
        parts.add(draw())
        assert anonymous_mib() - before < 100
    labels = torch.arange(num * shape[0]) % 10
    save_images(tmp_path / "images.npz", parts, labels, tuple("0123456789"), insecure=False)
    assert anonymous_mib() - before < 100
    found = load_images(tmp_path / "images.npz")
    assert len(found) == num * shape[0]
    assert frechet_to_real(found.images.split(500), found, mean) < 1e-9
    assert anonymous_mib() - before < 100
