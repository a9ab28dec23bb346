import numpy as np
import pytest
from PIL import Image

from privimage.release.export import export_images


def archive(path, num_images, *, channels=3):
    pixels = np.arange(num_images * channels * 16, dtype=np.uint8).reshape(-1, channels, 4, 4)
    labels = np.arange(num_images) % 2
    np.savez(path, images=pixels, labels=labels, class_names=np.array(["a cat", "../dog"]))
    return pixels


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_a_file_of_the_same_pixels_in_the_folder_of_its_class(tmp_path, channels):
    pixels = archive(tmp_path / "images.npz", 5, channels=channels)
    assert export_images(tmp_path / "images.npz", tmp_path / "out") == 5
    files = sorted((tmp_path / "out").rglob("*.png"), key=lambda path: path.name)
    assert [path.name for path in files] == [f"{number:06}.png" for number in range(5)]
    for number, path in enumerate(files):
        found = np.asarray(Image.open(path)).reshape(4, 4, channels).transpose(2, 0, 1)
        assert np.array_equal(found, pixels[number])
    # a name with separators makes no folder elsewhere
    assert {path.parent.name for path in files} == {"a cat", "_2e__2e__2f_dog"}


def test_a_smaller_export_leaves_nothing_of_the_larger_one_and_no_other_file_is_touched(tmp_path):
    for number in (6, 4):
        archive(tmp_path / "images.npz", number)
        export_images(tmp_path / "images.npz", tmp_path / "out")
        (tmp_path / "out" / "a cat" / "my notes.png").touch()
    found = {path.name for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"000000.png", "000001.png", "000002.png", "000003.png", "my notes.png"}


def test_classes_whose_names_are_written_alike_keep_folders_of_their_own(tmp_path):
    names, pixels = np.array(["a/b", "a_2f_b"]), np.zeros((4, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.array([0, 1, 0, 1]), class_names=names)
    export_images(tmp_path / "x.npz", tmp_path / "out")
    found = {folder.name: len([*folder.iterdir()]) for folder in (tmp_path / "out").iterdir()}
    assert found == {"a_2f_b": 2, "a_2f_b (1)": 2}
