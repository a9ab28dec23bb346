import pytest
import yaml

from artifact.claims import arms
from artifact.claims.arms import resolve_arms
from artifact.claims.registry import claims_root, find_claim, load_claim, load_claims
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


SETTINGS = [
    pytest.param(claim, name, id=f"{claim.id}/{name}")
    for claim in load_claims(claims_root()).values()
    for name, setting in claim.settings.items()
    if setting.calculation is None
]


@pytest.mark.parametrize(("claim", "setting"), SETTINGS)
def test_every_shipped_setting_is_valid_in_every_arm(claim, setting):
    for arm, config in resolve_arms(claim, setting, seed=3).items():
        assert config.name == f"{claim.id}/{setting}/{arm}"
        assert config.seed == 3


@pytest.mark.parametrize(("claim", "setting"), SETTINGS)
def test_an_arm_differs_from_its_donor_in_the_budget_alone(claim, setting):
    configs = resolve_arms(claim, setting, seed=0)
    for arm, donor in claim.setting(setting).donors.items():
        ours, theirs = configs[arm].to_dict(), configs[donor].to_dict()
        for config in (ours, theirs):
            del config["name"], config["privacy"]["epsilon"]
        assert ours == theirs


@pytest.mark.parametrize(("claim", "setting"), SETTINGS)
def test_the_name_of_an_arm_and_its_epsilon_agree(claim, setting):
    for arm, config in resolve_arms(claim, setting, seed=0).items():
        name, _, epsilon = arm.partition("_")
        assert name != "epsilon" or config.privacy.epsilon == float(epsilon)


def test_every_smoke_setting_runs_where_no_image_set_is(monkeypatch):
    monkeypatch.setattr(arms, "missing_assets", lambda names: dict.fromkeys(names, "absent"))
    for claim in load_claims(claims_root()).values():
        setting = claim.settings.get("smoke")
        if setting is None or setting.calculation is not None:
            continue
        for config in resolve_arms(claim, "smoke", seed=0).values():
            used = {config.data.sensitive, config.data.public, config.data.evaluate_on}
            assert used <= {"digits", "glyphs"}, claim.id
        assert not setting.needs.data


def test_a_recipe_lies_below_the_settings_own_sections(tmp_path, toy_document):
    (tmp_path / "recipes").mkdir()
    recipe = {"privacy": {"epsilon": 1.0, "delta": 1e-5}, "selection": {"classes_per_label": 2}}
    (tmp_path / "recipes" / "short.yaml").write_text(yaml.safe_dump(recipe))
    overrides = {"recipe": "short", "config": {"privacy": {"epsilon": 5.0}}}
    toy_document["settings"]["smoke"] |= overrides
    path = write(tmp_path, toy_document)
    config = load_claim(path).setting("smoke").config
    assert config == recipe | {"privacy": {"epsilon": 5.0, "delta": 1e-5}}
    toy_document["settings"]["smoke"]["recipe"] = "long"
    path.write_text(yaml.safe_dump(toy_document))
    with pytest.raises(ConfigError, match="recipe: 'long'; there are short"):
        load_claim(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"donors": {"good": "plain"}}, "donors.good: 'plain'; name an arm that stands before it"),
        ({"calculation": "sums"}, "calculation goes without config"),
        ({"arms": {"good": {}, "../plain": {}}}, "arms: '../plain'; name an arm with letters"),
        ({"arms": {"good": {}, "..": {}}}, "arms: '..'; name an arm with letters"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(tmp_path, toy_document, changes, message):
    toy_document["settings"]["smoke"] |= changes
    with pytest.raises(ConfigError, match=message):
        load_claim(write(tmp_path, toy_document))


def test_every_shipped_claim_has_a_script_that_runs_it():
    for claim in load_claims(claims_root()):
        script = claims_root() / claim / "run.sh"
        assert f"artifact run {claim} " in script.read_text()
        assert script.stat().st_mode & 0o111
