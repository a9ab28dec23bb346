"""Extractors: the names they carry, where Inception comes from, and that it is pytorch-fid's."""

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from pytorch_fid import inception as fid
from torch import Tensor, nn

from privimage.classifiers.query_network import QueryNetwork
from privimage.data.places import default_data_root, find_inception
from privimage.data.public.pinned_files import INCEPTION
from privimage.errors import DataInvalidError, DataMissingError
from privimage.evaluation import features
from privimage.evaluation.features import (
    Extractor,
    extract_statistics,
    inception_extractor,
    query_network_extractor,
)

CPU = torch.device("cpu")


def images(num: int, *, num_channels: int = 1, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (num, num_channels, size, size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture
def empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIVIMAGE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file in the layout of the published weights, with random values, and its SHA-256."""
    torch.manual_seed(0)
    network = features._fid_inception()
    for parameter in network.parameters():
        if parameter.dim() == 4:  # convolutions that keep the scale of what passes through them
            nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("weights") / INCEPTION.name
    torch.save(network.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_query_network_features_are_those_of_the_network_and_never_called_fid():
    network = QueryNetwork(3, num_channels=1, widths=(4, 6), blocks=(1, 1), block="basic")
    extractor = query_network_extractor(network, device=CPU)
    assert (extractor.name, extractor.metric) == ("query_network", "frechet_query_network")
    batch = images(5)
    expected = network.features(batch.float() / 127.5 - 1)
    torch.testing.assert_close(extractor(batch), expected)
    assert extractor.dims == 6
    torch.testing.assert_close(extractor(batch[:2]), expected[:2])  # no statistics of the batch
    assert not extractor(batch).requires_grad


def test_statistics_do_not_depend_on_the_batch_size():
    pixels = Extractor("query_network", 64, CPU, lambda x: x.flatten(1))
    parts = extract_statistics(images(50).split(7), pixels)
    whole = extract_statistics([images(50)], pixels)
    torch.testing.assert_close(parts.covariance, whole.covariance)
    torch.testing.assert_close(parts.mean, whole.mean)
    assert parts.num == whole.num == 50


@pytest.mark.parametrize("place", ["data", "hub/checkpoints"])
def test_weights_are_found_in_the_data_folder_and_in_torchs_cache(empty_folders, place):
    path = empty_folders / place / INCEPTION.name
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_inception(default_data_root()) == path


def test_found_weights_with_other_content_are_an_error(empty_folders):
    path = empty_folders / "data" / INCEPTION.name
    path.parent.mkdir()
    path.write_bytes(b"not the weights")
    digest = hashlib.sha256(b"not the weights").hexdigest()
    with pytest.raises(DataInvalidError, match=f"SHA-256 is {digest}, not 6726825d0af5"):
        inception_extractor(path, device=CPU)


def test_no_digit_of_the_digest_may_differ(random_weights):
    path, sha256 = random_weights
    other = sha256[:-1] + ("0" if sha256[-1] != "0" else "1")
    for digest in (other, sha256[:8], ""):
        with pytest.raises(DataInvalidError, match=f"SHA-256 is {sha256}"):
            inception_extractor(path, device=CPU, sha256=digest)


def test_what_was_checked_is_what_is_parsed(random_weights, monkeypatch):
    path, sha256 = random_weights
    read, parsed = Path.read_bytes, torch.load

    def swapped(file, **options):
        monkeypatch.setattr(Path, "read_bytes", lambda self: b"swapped")
        monkeypatch.setattr(Path, "open", lambda *args, **named: pytest.fail("read again"))
        assert hashlib.sha256(file.read()).hexdigest() == sha256
        file.seek(0)
        return parsed(file, **options)

    monkeypatch.setattr(torch, "load", swapped)
    assert inception_extractor(path, device=CPU, sha256=sha256).metric == "fid"
    monkeypatch.setattr(Path, "read_bytes", read)


def test_a_named_file_that_is_missing_is_an_error(empty_folders):
    with pytest.raises(DataMissingError, match=INCEPTION.name):
        inception_extractor(empty_folders / "elsewhere.pth", device=CPU)


def test_content_is_checked_before_it_is_parsed(random_weights, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("was parsed"))
    with pytest.raises(DataInvalidError):
        inception_extractor(random_weights[0], device=CPU)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_inception_features_are_those_of_pytorch_fid(random_weights, monkeypatch, num_channels):
    path, sha256 = random_weights
    extractor = inception_extractor(path, device=CPU, sha256=sha256)
    assert (extractor.metric, extractor.dims) == ("fid", 2048)

    weights = torch.load(path, weights_only=True)
    monkeypatch.setattr(fid, "load_state_dict_from_url", lambda *args, **kwargs: weights)
    reference = fid.InceptionV3().eval()
    batch = images(1, num_channels=num_channels)
    expected = reference((batch / 255).expand(-1, 3, -1, -1))[0].flatten(1)
    torch.testing.assert_close(extractor(batch), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-2


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "code.pth"
    torch.save({"fc.weight": os.getcwd}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(pickle.UnpicklingError):
        inception_extractor(path, device=CPU, sha256=sha256)


def test_weights_of_another_layout_are_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(RuntimeError, match="Missing key"):
        inception_extractor(path, device=CPU, sha256=sha256)
