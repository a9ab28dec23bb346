import pytest
import yaml

from artifact.claims import claims_root, find_claim, load_claim, load_claims
from privimage.config import load_config
from privimage.errors import ConfigError


def write(tmp_path, document, folder="toy"):
    path = tmp_path / folder / "claim.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(document))
    return path


def test_all_faults_of_a_claim_are_reported_together_with_their_paths(tmp_path, toy_document):
    smoke = toy_document["settings"]["smoke"]
    smoke["main_arm"] = "best"
    smoke["needs"]["vram"] = 3
    smoke["compute_minutes"] = {"hardware": "a laptop", "measured": 1, "extrapolated": 2}
    toy_document["measures"]["metrics.fid"] = "smaller"
    del toy_document["title"]
    with pytest.raises(ConfigError) as error:
        load_claim(write(tmp_path, toy_document))
    for part in (
        "settings.smoke.needs.vram: unknown",
        "settings.smoke.compute_minutes.measured, extrapolated: give one",
        "title: missing",
    ):
        assert part in str(error.value)


def test_an_ordering_of_arms_that_do_not_exist_is_a_fault(tmp_path, toy_document):
    toy_document["orderings"][0]["second"] = "bad"
    with pytest.raises(ConfigError, match=r"orderings\[0\]: no arm 'bad' in settings.smoke"):
        load_claim(write(tmp_path, toy_document))


def test_main_arm_and_directions_are_checked(tmp_path, toy_document):
    toy_document["settings"]["smoke"]["main_arm"] = "best"
    with pytest.raises(ConfigError, match="main_arm is best; allowed are good, plain"):
        load_claim(write(tmp_path, toy_document))
    toy_document["settings"]["smoke"]["main_arm"] = "good"
    toy_document["measures"]["metrics.fid"] = "smaller"
    with pytest.raises(ConfigError, match="'smaller'; allowed are higher, lower, exact"):
        load_claim(write(tmp_path, toy_document, "other"))


def test_a_claim_is_named_like_its_folder(tmp_path, toy_document):
    with pytest.raises(ConfigError, match="'toy', but the folder is 'table'"):
        load_claim(write(tmp_path, toy_document, "table"))


def test_an_unknown_claim_gets_the_nearest_name(toy):
    with pytest.raises(ConfigError, match="did you mean toy"):
        find_claim("tooy")
    with pytest.raises(ConfigError, match="no setting 'full'; allowed are smoke"):
        toy.setting("full")


def test_a_registry_without_claims_says_where_it_looked(tmp_path):
    with pytest.raises(ConfigError, match="PRIVIMAGE_CLAIMS"):
        load_claims(tmp_path)


def test_every_shipped_claim_has_valid_settings_in_every_arm():
    for claim in load_claims(claims_root()).values():
        for setting in claim.settings.values():
            for overrides in setting.arms.values():
                config = load_config(setting.config, {"name": claim.id, **overrides})
                assert config.name == claim.id


def test_every_shipped_claim_has_a_script_that_runs_it():
    for claim in load_claims(claims_root()):
        script = claims_root() / claim / "run.sh"
        assert f"artifact run {claim} " in script.read_text()
        assert script.stat().st_mode & 0o111
