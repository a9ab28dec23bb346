"""Public weights whose papers were altered or damaged: opened as what they are, or refused."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privimage.run_folder.public_weights import MODEL, open_public_weights
from privimage.stages.starting_weights import check_shapes
from tests.fuzz.damage import altered, attempt, damaged, examples, memory_bounded
from tests.fuzz.test_records import holding

MANIFESTS = ("stages/pretrain.json", "stages/query_network.json")


@pytest.fixture(scope="module")
def folder(public_weights, tmp_path_factory):
    return shutil.copytree(public_weights.folder, tmp_path_factory.mktemp("fuzz") / "weights")


def opened(folder):
    """What they are taken for; None if they are refused."""

    def read():
        found = open_public_weights(folder)
        check_shapes(found)
        return found

    with memory_bounded():
        found, refusal = attempt(read)
    assert refusal is None or (len(refusal) < 1000 and str(folder) in refusal)
    return found


@pytest.mark.parametrize("name", MANIFESTS)
@examples(150)
@given(data=st.data())
def test_altered_manifests_are_refused_or_still_describe_the_files(
    folder, public_weights, name, data
):
    document = json.loads((folder / name).read_text())
    with holding(folder / name, json.dumps(data.draw(altered(document))).encode()):
        found = opened(folder)
    if found is not None:
        assert found.files == public_weights.files
        assert found.network == public_weights.network
        assert found.image_size == public_weights.image_size


@pytest.mark.parametrize("name", [*MANIFESTS, "query_network.json", MODEL])
@examples(40)
@given(data=st.data())
def test_damaged_files_are_refused(folder, public_weights, name, data):
    original = (folder / name).read_bytes()
    content = data.draw(damaged(original))
    with holding(folder / name, content):
        found = opened(folder)
    if found is not None and name not in MANIFESTS:
        assert content == original
