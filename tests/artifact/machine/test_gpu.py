import pytest

from artifact.machine import gpu
from artifact.machine.gpu import driver_problem, survey_gpus
from tests.artifact.fake_nvml import BIG, GIB, INSTANCE, SMALL, FakeNvml


def test_two_different_gpus_are_listed_with_their_free_memory():
    nvml = FakeNvml([BIG, SMALL])
    survey = survey_gpus(nvml)
    assert [(g.name, g.free_bytes // GIB) for g in survey.gpus] == [("H100", 70), ("T4", 3)]
    assert (survey.driver, survey.problem) == ("580.65.06", None)
    assert not nvml.is_open


@pytest.mark.parametrize("options", [{"as_bytes": True}, {"has_v2": False}])
def test_bytes_and_the_old_memory_query_are_understood(options):
    assert survey_gpus(FakeNvml([BIG], **options)) == survey_gpus(FakeNvml([BIG]))


def test_under_mig_the_instances_count_and_not_the_gpu():
    survey = survey_gpus(FakeNvml([BIG], instances=[INSTANCE]))
    assert [(g.uuid, g.mig_of) for g in survey.gpus] == [(INSTANCE[1], BIG[1])]


def test_a_gpu_in_mig_mode_without_instances_says_how_to_cut_one():
    survey = survey_gpus(FakeNvml([BIG], instances=[]))
    assert survey.gpus == ()
    assert "has no instance" in (survey.problem or "")
    assert "nvidia-smi mig" in survey.remedy


@pytest.mark.parametrize(
    ("code", "cause", "remedy"),
    [
        (12, "no NVIDIA driver library", "--gpus all"),
        (9, "driver is not loaded", "reboot"),
        (4, "no permission", "/dev/nvidia*"),
        (18, "differ in version", "reboot"),
        (999, "code 999", "nvidia-smi"),
    ],
)
def test_every_error_of_nvml_comes_with_a_remedy(code, cause, remedy):
    survey = survey_gpus(FakeNvml(fails=code))
    assert survey.gpus == ()
    assert cause in (survey.problem or "")
    assert remedy in survey.remedy


@pytest.mark.parametrize(("code", "cause"), [(15, "fallen off the bus"), (4, "no permission")])
def test_a_gpu_that_does_not_answer_hides_no_other(code, cause):
    survey = survey_gpus(FakeNvml([BIG, SMALL], mute={0: code}))
    assert [g.name for g in survey.gpus] == ["T4"]
    assert (survey.problem or "").startswith("GPU 0 does not answer: ")
    assert cause in (survey.problem or "")
    assert survey.remedy


def test_a_driver_without_gpus_is_a_problem():
    assert "shows no GPU" in (survey_gpus(FakeNvml()).problem or "")


def test_the_deprecated_package_is_named(monkeypatch):
    monkeypatch.setattr(gpu.importlib, "import_module", lambda name: FakeNvml([BIG]))
    monkeypatch.setattr(gpu, "packages_distributions", lambda: {"pynvml": ["pynvml"]})
    survey = survey_gpus()
    assert "deprecated package pynvml" in (survey.problem or "")
    assert "pip uninstall pynvml" in survey.remedy


def test_a_missing_package_is_named(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(gpu.importlib, "import_module", refuse)
    assert survey_gpus().remedy == "pip install nvidia-ml-py"


@pytest.mark.parametrize(
    ("driver", "cuda", "is_old"),
    [
        ("580.65.06", "13.0", False),
        ("575.1", "13.0", True),
        ("525.60", "12.8", False),
        ("520.61", "12.1", True),
        ("450.36", "11.8", False),
    ],
)
def test_old_drivers_are_recognised_by_the_cuda_version(driver, cuda, is_old):
    assert (driver_problem(driver, cuda) is not None) == is_old


def test_a_gpu_is_chosen_by_the_start_of_its_uuid_and_an_instance_by_all_of_it():
    assert survey_gpus(FakeNvml([BIG])).gpus[0].choice == "CUDA_VISIBLE_DEVICES=GPU-00000001"
    instance = survey_gpus(FakeNvml([BIG], instances=[INSTANCE])).gpus[0]
    assert instance.choice == f"CUDA_VISIBLE_DEVICES={INSTANCE[1]}"
