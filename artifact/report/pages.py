"""The pages that are written from the registry of claims: claims/README.md and the appendices.

Claims, settings, times, needs and expected results come from the same files that the command line
reads, so pages and program cannot disagree; the prose around them is in `templates`. A test holds
both files to what this gives. `python -m artifact.report.pages` writes them again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artifact.assets.inventory import FID_WEIGHTS
from artifact.claims.records import find_records
from artifact.claims.registry import Claim, Setting, claims_root, load_claims
from artifact.judging.compare import compare
from artifact.judging.criteria import Check, Verdict
from artifact.judging.expected import ExpectedSetting, load_expected
from artifact.judging.wording import arm_title, ordering_text
from artifact.report.latex import tex_templates
from privimage.files.durable import write_durably
from privimage.release.documents import markdown_templates

TEMPLATES = Path(__file__).parent / "templates"
PAGES = {
    "claims/README.md": "claims.md.j2",
    "docs/ARTIFACT-APPENDIX.md": "appendix.md.j2",
    "docs/ARTIFACT-APPENDIX.tex": "appendix.tex.j2",
}
IMAGE = "privimage"
NOTHING_BUT_EXECUTES = "nothing but that it executes"


@dataclass(frozen=True)
class Experiment:
    """One claim at one setting, as the pages show it; `number` counts through all of them."""

    number: int
    claim: Claim
    name: str
    expected: ExpectedSetting | None

    @property
    def setting(self) -> Setting:
        return self.claim.settings[self.name]

    @property
    def command(self) -> str:
        """For a machine where the bundle is installed."""
        return f"artifact run {self.claim.id} --setting {self.name}"

    @property
    def docker_command(self) -> str:
        """For the container; without a network where no image sets are needed."""
        needs = self.setting.needs
        options = "" if needs.all_data else "--network none "
        options += "--gpus all " if needs.gpu_memory_gib else ""
        return (
            f'docker run --rm {options}-v "$PWD/runs:/runs" -v "$PWD/data:/data" {IMAGE} '
            f"run {self.claim.id} --setting {self.name} --out /runs"
        )

    @property
    def time(self) -> str:
        """What the machine takes, and which machine that is."""
        return f"{self.setting.compute_minutes} on {self.setting.compute_minutes.hardware}"

    @property
    def gpu(self) -> str:
        needed = self.setting.needs.gpu_memory_gib
        return f"{needed:g} GiB" if needed else "none"

    @property
    def images(self) -> str:
        """What a run reads that is or is not part of the bundle."""
        if self.setting.calculation is not None:
            return "none"
        return ", ".join(self.setting.needs.all_data) or "bundled"

    @property
    def fetched(self) -> tuple[str, ...]:
        """What must be got before; FID needs weights that are not part of the bundle either."""
        data = self.setting.needs.all_data
        measures_fid = "metrics.fid" in self.claim.measures
        return (*data, FID_WEIGHTS) if data and measures_fid else data

    @property
    def arms(self) -> str:
        return ", ".join(map(arm_title, self.setting.arms))

    @property
    def judged_by(self) -> str:
        """In a few words, for a table."""
        if not self.setting.judged:
            return NOTHING_BUT_EXECUTES
        parts = [] if self.expected is None else ["expected values"]
        if self.claim.orderings:
            parts.append("orderings of arms")
        return " and ".join(parts) or "nothing: no expected values are recorded"

    @property
    def checks(self) -> tuple[Check, ...]:
        """All that a run is judged by; empty where only its execution counts."""
        if not self.setting.judged:
            return ()
        return compare(self.claim, self.name, records=[], expected=self.expected).checks

    @property
    def main_checks(self) -> list[Check]:
        """Those of the main arm, and what no single arm has."""
        return [check for check in self.checks if check.arm in ("", self.setting.main_arm)]

    @property
    def verdict(self) -> Verdict:
        """What is to be expected: what our own recorded runs got, where there are any."""
        root = claims_root().parent / "expected_results" / "reference_runs"
        records = find_records(root, self.claim.id, self.name)
        if records:
            return compare(self.claim, self.name, records=records, expected=self.expected).verdict
        return Verdict.INCONCLUSIVE if self.expected is None else Verdict.PASS

    @property
    def needs_in_brief(self) -> str:
        return ", ".join([*(["GPU"] if self.setting.needs.gpu_memory_gib else []), *self.fetched])

    @property
    def result_in_brief(self) -> str:
        """What must come out, with one of the checks: a value of the main arm, if there is one."""
        if not self.setting.judged:
            return "runs to its end"
        if not self.checks:
            return "stands beside the paper's in the report"
        verdict = f"{self.verdict.value} of {len(self.checks)}"
        if self.expected is None:
            verdict = "INCONCLUSIVE at best"
        shown = next((check for check in self.main_checks if check.arm), self.main_checks[0])
        return f"{verdict}; {shown.subject}: {shown.expected}"


def render(claims: dict[str, Claim]) -> dict[str, str]:
    """The text of every page, by its path in the repository."""
    everything = experiments_of(claims)
    papers = [e for e in everything if not e.claim.is_addition]  # the form has room for no more
    markdown, latex = markdown_templates(TEMPLATES), tex_templates(TEMPLATES)
    pages = {}
    for page, name in PAGES.items():
        is_form = page.endswith(".tex")
        template = (latex if is_form else markdown).get_template(name)
        pages[page] = template.render(_values(papers if is_form else everything))
    return pages


def _values(experiments: list[Experiment]) -> dict[str, Any]:
    by_claim: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        by_claim.setdefault(experiment.claim.id, []).append(experiment)
    return {
        "by_claim": by_claim,
        "experiments": experiments,
        "image": IMAGE,
        "ordering_text": ordering_text,
        "needs_gpu": [e for e in experiments if e.setting.needs.gpu_memory_gib],
        "anywhere": [e for e in experiments if not e.setting.needs.gpu_memory_gib],
    }


def experiments_of(claims: dict[str, Claim]) -> list[Experiment]:
    """All claims at all settings: the paper's first, and of these the quickest judged result."""
    ordered = sorted(claims.values(), key=_time_to_result)
    pairs = [(claim, name) for claim in ordered for name in claim.settings]
    expected = {claim.id: load_expected(claim) for claim in ordered}
    return [
        Experiment(number, claim, name, expected[claim.id].get(name))
        for number, (claim, name) in enumerate(pairs, start=1)
    ]


def _time_to_result(claim: Claim) -> tuple[bool, bool, float, str]:
    first = claim.setting(claim.first_setting)
    return claim.is_addition, not first.judged, first.compute_minutes.minutes, claim.id


def main() -> None:
    """Write the pages beside the registry that they come from."""
    for page, text in render(load_claims()).items():
        path = claims_root().parent / page
        write_durably(path, text.encode())
        print(path)


if __name__ == "__main__":
    main()
