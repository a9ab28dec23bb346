import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import typer
import yaml

from artifact import cli
from artifact.claims.registry import load_claims
from artifact.exit_codes import ExitCode

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCUMENT = (ROOT / "docs/container.md").read_text()
SCRIPTS = (
    "deploy/entrypoint.sh",
    "deploy/slurm.sbatch",
    "deploy/slurm-nodes.sbatch",
    "tests/container/check.sh",
    "tests/distributed/two_hosts.sh",
    ".ci/run",
)
JOB = [*yaml.safe_load_all((ROOT / "deploy/kubernetes-job.yaml").read_text())]
NODES = [*yaml.safe_load_all((ROOT / "deploy/kubernetes-nodes.yaml").read_text())]
TRAINING_JOB = yaml.safe_load((ROOT / "deploy/pytorchjob.yaml").read_text())


def documented_commands():
    """The lines of all code blocks, a continued line being one."""
    for block in re.findall(r"```\n(.*?)```", DOCUMENT, re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def documented_runs():
    """(claim, setting) of every line `artifact run CLAIM --setting SETTING`."""
    for line in documented_commands():
        if line.startswith("artifact run "):
            _, _, claim, _, setting = shlex.split(line)
            yield claim, setting


@pytest.mark.parametrize("path", SCRIPTS)
def test_scripts_parse_and_can_be_executed(path):
    subprocess.run(["bash", "-n", ROOT / path], check=True)
    assert (ROOT / path).stat().st_mode & 0o111 or path.endswith(".sbatch")


def test_documented_commands_parse():
    commands = "\n".join(documented_commands())
    subprocess.run(["bash", "-n"], input=commands, text=True, check=True)


@pytest.mark.parametrize("path", ["README.md", "deploy/entrypoint.sh"])
def test_the_four_commands_are_the_same_wherever_they_stand(path):
    four = [line for line in documented_commands() if "docker" in line][:4]
    lines = [line.strip() for line in (ROOT / path).read_text().splitlines()]
    start = lines.index(four[0])
    assert lines[start : start + 4] == four


@pytest.mark.parametrize("document", [*JOB, *NODES], ids=lambda document: document["kind"])
def test_kubernetes_documents_satisfy_the_strict_schema(document):
    kubernetes_validate.validate(document, "1.31", strict=True)


def test_every_claim_has_its_line_for_a_machine_without_a_gpu_and_every_line_its_setting():
    claims = load_claims()
    runs = [*documented_runs()]
    assert {(claim.id, claim.first_setting) for claim in claims.values()} <= {*runs}
    for claim, setting in runs:
        assert setting in claims[claim].settings


def test_the_job_and_the_batch_file_run_claims_that_exist():
    arguments = JOB[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    batch = (ROOT / "deploy/slurm.sbatch").read_text()
    found = re.search(r"claim=\$\{1:-(\w+)\} setting=\$\{2:-(\w+)\}", batch)
    assert found
    claims = load_claims()
    for claim, setting in ((arguments[1], arguments[3]), found.groups()):
        assert setting in claims[claim].settings


def test_jobs_on_several_machines_agree_with_themselves_and_run_a_claim_that_exists():
    job = next(document for document in NODES if document["kind"] == "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    arguments = container["args"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 2
    assert "--nnodes=2" in arguments
    assert f"--nproc-per-node={container['resources']['limits']['nvidia.com/gpu']}" in arguments
    worker = TRAINING_JOB["spec"]["pytorchReplicaSpecs"]["Worker"]
    pod = worker["template"]["spec"]
    assert worker["replicas"] == TRAINING_JOB["spec"]["elasticPolicy"]["maxReplicas"] == 2
    gpus = pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert int(TRAINING_JOB["spec"]["nprocPerNode"]) == gpus
    # the operator's own schema is not at hand: its pods are held against that of a Job
    as_job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "pods"}}
    template = {"spec": pod | {"restartPolicy": worker["restartPolicy"]}}
    kubernetes_validate.validate(as_job | {"spec": {"template": template}}, "1.31", strict=True)
    batch = (ROOT / "deploy/slurm-nodes.sbatch").read_text()
    found = re.search(r"claim=\$\{1:-(\w+)\} setting=\$\{2:-(\w+)\}", batch)
    assert found
    claims = load_claims()
    for command in (arguments, pod["containers"][0]["args"]):
        start = command.index("run")
        assert command[start + 3] in claims[command[start + 1]].settings
    assert found[2] in claims[found[1]].settings


def test_compose_runs_without_privileges_and_reserves_a_gpu_only_where_asked():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert {volume.split(":")[1] for volume in service["volumes"]} == {
            "/runs",
            "/data",
            "/cache",
        }
    assert "deploy" not in services["artifact"]
    assert services["gpu"]["profiles"] == ["gpu"]


def test_any_builder_of_the_last_years_builds_the_image():
    bases = re.findall(r"^(?:ARG BASE=|FROM )(\S+)", DOCKERFILE, re.MULTILINE)
    assert bases == ["debian:bookworm-slim", "${BASE}", "python", "python", "${BASE}", "runtime"]
    assert "# syntax" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
    # the older builder makes every stage, so all of them must succeed without an argument
    assert "--target" not in (ROOT / "Makefile").read_text()


def test_the_source_is_the_last_thing_that_enters_the_image():
    last_stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"^COPY (.*)$", last_stage, re.MULTILINE) == [
        "--from=packages /opt/venv /opt/venv",
        "--from=source /opt/privimage .",
    ]
    assert re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) == [
        "requirements.txt ./",
        ". .",
    ]


def packages_of(index, folder):
    """What the image's first step for packages leaves: torch.txt and hashed.txt."""
    shutil.copy(ROOT / "requirements.txt", folder)
    stage = DOCKERFILE.split("AS packages")[1]
    (step, *_) = re.findall(r"^RUN (.*?[^\\])$", stage, re.M | re.S)
    environment = {**os.environ, "CPU_INDEX": index}
    subprocess.run(["sh", "-euc", step], cwd=folder, env=environment, check=True)
    return [(folder / name).read_text() for name in ("torch.txt", "hashed.txt")]


def test_without_an_index_every_package_is_held_to_its_hash(tmp_path):
    assert packages_of("", tmp_path) == ["", (ROOT / "requirements.txt").read_text()]


def test_with_a_cpu_index_torch_is_held_to_its_version_and_all_but_cuda_to_its_hash(tmp_path):
    torch, hashed = packages_of("address", tmp_path)
    assert [line.partition("==")[0] for line in torch.splitlines()] == ["torch", "torchvision"]
    whole = re.split(r"\n(?=[^ #])", (ROOT / "requirements.txt").read_text().rstrip())[1:]
    kept = re.split(r"\n(?=[^ #])", hashed.rstrip())[1:]
    dropped = {entry.partition("==")[0] for entry in whole if entry not in kept}
    assert [entry for entry in whole if entry in kept] == kept
    assert {"torch", "torchvision", "triton"} <= dropped
    others = dropped - {"torch", "torchvision", "triton"}  # what torch's wheel for CUDA wants
    assert all(name.startswith(("cuda-", "nvidia-")) for name in others)
    assert "nvidia-ml-py" not in dropped
    left = {entry.partition("==")[0] for entry in kept}
    assert not [n for n in left if re.match("triton|cuda|nvidia", n) and n != "nvidia-ml-py"]


def test_a_cpu_image_without_its_index_is_refused_at_once():
    for given in ("", "CPU_INDEX=address"):
        command = ["make", "--dry-run", "image", "TARGET=cpu", *given.split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode == 0) == bool(given)
        assert ("--build-arg CPU_INDEX=address" in done.stdout) == bool(given)
        assert ("TARGET=cpu needs CPU_INDEX=ADDRESS" in done.stderr) == (not given)
    assert "--retries 0" in DOCKERFILE
    assert not re.search(r"\w://", DOCKERFILE)  # whose address the project does not choose


def test_only_named_parts_of_the_checkout_enter_the_image():
    first, *rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert first == "*"
    for rule in rules:
        assert not rule.startswith("!") or (ROOT / rule[1:]).exists()
    assert not {"!tests", "!runs", "!out", "!.git"} & {*rules}


def test_the_label_names_the_version_of_the_project():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.findall(r'^version = (".*")', project, re.MULTILINE)
    assert version == re.findall(r'image\.version=(".*?")', DOCKERFILE)


def test_the_labels_say_what_the_image_is_and_where_it_comes_from():
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\S+)="(.*)"', DOCKERFILE))
    given = {"base.name": "BASE", "created": "CREATED", "revision": "REVISION", "source": "SOURCE"}
    assert {name: value for name, value in labels.items() if "$" in value} == {
        name: f"${{{argument}}}" for name, argument in given.items()
    }
    assert {*labels} == {*given, "title", "description", "version", "licenses"}
    stage = DOCKERFILE.split("AS runtime")[1].split("\nFROM ")[0]
    after_the_last_layer = stage[stage.rindex("\nRUN ") :]
    for argument in given.values():  # a label that changes must not make a layer anew
        assert f"\nARG {argument}" in after_the_last_layer


@pytest.mark.parametrize(
    ("revision", "commit", "date"),
    [("abc 2026-01-02T03:04:05+00:00\n", "abc", "2026-01-02T03:04:05+00:00"), (None, None, None)],
)
def test_the_image_is_labelled_with_the_commit_where_it_is_known(tmp_path, revision, commit, date):
    shutil.copy(ROOT / "Makefile", tmp_path)
    if revision:
        (tmp_path / "REVISION").write_text(revision)
    command = ["make", "--dry-run", "image", "BASE=debian@sha256:12"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    words = done.stdout.decode().split()
    assert f"REVISION={commit or 'unknown'}" in words
    assert f"CREATED={date or 'unknown'}" in words
    assert "BASE=debian@sha256:12" in words


@pytest.mark.parametrize("goal", ["demo", "smoke"])
@pytest.mark.parametrize(("status", "last"), [(0, "compare"), (1, "compare"), (5, "run")])
def test_a_mismatch_gets_its_report_and_is_said_last_and_a_failed_run_ends_all(
    tmp_path, goal, status, last
):
    called = tmp_path / "called"
    fake = tmp_path / "artifact"
    fake.write_text(f'#!/bin/sh\necho "$1" >>{called}\n[ "$1" = report ] || exit {status}\n')
    fake.chmod(0o755)
    command = ["make", "--silent", "--old-file=setup", goal, f"BIN={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
    assert (done.returncode == 0) == (status == 0)
    commands = called.read_text().split()
    assert commands[-1] == last
    assert ("report" in commands) == (status < 2)


def test_a_job_does_not_repeat_what_would_end_in_the_same_way():
    (rule,) = JOB[1]["spec"]["podFailurePolicy"]["rules"]
    transient = {ExitCode.PASS, ExitCode.RUN_FAILED}
    assert {*rule["onExitCodes"]["values"]} == {*ExitCode} - transient


def test_the_container_check_calls_every_command():
    # a program of that name in the image would be run in its place
    names = typer.main.get_command(cli.app).list_commands(None)  # type: ignore[attr-defined]
    checked = (ROOT / "tests/container/check.sh").read_text()
    found = re.search(r"for command in (.*); do", checked)
    assert found
    assert {*found[1].split()} == {*names}
