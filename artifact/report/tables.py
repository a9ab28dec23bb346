"""Tables of a report as rows of text: the first row is the head, the first column names the row.

A `Cell` is what was obtained, with what others found or expect beside it; a template shows the
rest smaller. Numbers are means over the seeds that were run, with their standard deviation.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from artifact.claims.paper_results import MAIN_TABLE, PublishedTable, published_table
from artifact.claims.records import ClaimRecord
from artifact.claims.registry import Claim
from artifact.judging.criteria import Check
from artifact.judging.epsilons import AGAINST_PAPER, PAPER_METHOD, arm_epsilons
from artifact.judging.wording import arm_title, is_accuracy, metric_title, number

ARROWS = {"higher": " ↑", "lower": " ↓", "exact": ""}
REAL = "real_"  # prefix of the same metric for real images
BENCHMARK, BENCHMARK_METHOD = "dpimagebench", "privimage"
BENCHMARK_METRICS = {"fid": "fid", "cnn_accuracy": "accuracy"}
BENCHMARK_NOTE = (
    "DPImageBench has settings of its own (a network of 3.8 million parameters, 60,000 images); "
    "its accuracy is the mean of three other classifiers."
)
PRIVACY = ("epsilon_rdp", "epsilon_pld", "target_epsilon", "delta", "query_noise_multiplier")
PRIVACY += ("sgd_noise_multiplier", "sampling_rate", "steps", "clip_norm")


@dataclass(frozen=True)
class Cell:
    """What was obtained, what stands beside it, and the verdict if it was judged."""

    text: str
    beside: tuple[str, ...] = ()
    verdict: str = ""


@dataclass(frozen=True)
class CellTable:
    """A head, and rows of a title and its cells. Notes are sentences under the table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    notes: tuple[str, ...] = ()


def metric_rows(
    claim: Claim, arms: Sequence[str], records: Sequence[ClaimRecord]
) -> list[list[str]]:
    """Every metric by arm, and for real images where that was measured."""
    names = dict.fromkeys(
        name
        for record in records
        for arm in record.arms.values()
        for name in arm["metrics"]
        if not name.startswith(REAL) and not name.endswith("num_images")
    )
    with_real = any(
        REAL + name in arm["metrics"] for r in records for arm in r.arms.values() for name in names
    )
    rows = [["", *map(arm_title, arms), *["real images"] * with_real]]
    for name in names:
        arrow = ARROWS.get(claim.measures.get(f"metrics.{name}", "exact"), "")
        cells = [_text(records, arm, f"metrics.{name}") for arm in arms]
        if with_real:
            cells.append(_text(records, arms[0], f"metrics.{REAL}{name}"))
        rows.append([metric_title(f"metrics.{name}") + arrow, *cells])
    for path in ("privacy.epsilon", "privacy.sgd_noise_multiplier", "model.num_parameters"):
        cells = [_text(records, arm, path) for arm in arms]
        rows.append([metric_title(path), *cells, *["–"] * with_real])
    return rows if records else []


def published_numbers(
    claim: Claim, setting: str, records: Sequence[ClaimRecord], checks: Sequence[Check]
) -> CellTable | None:
    """The claim's columns of the paper's main table, or of a benchmark that has more image sets:
    metrics by epsilon, ours and theirs.
    """
    dataset = claim.published_as or claim.benchmarked_as
    if dataset is None or not records:
        return None
    paper, benchmark = published_table(MAIN_TABLE), published_table(BENCHMARK)
    arms = {epsilon: arm for arm, epsilon in arm_epsilons(claim.setting(setting)).items()}
    epsilons, names = paper.epsilons(PAPER_METHOD), paper.metrics(dataset)
    if claim.published_as is None:
        epsilons = tuple(e for e in benchmark.epsilons(BENCHMARK_METHOD) if e in arms)
        known = benchmark.metrics(dataset)
        names = tuple(ours for ours, theirs in BENCHMARK_METRICS.items() if theirs in known)
    verdicts = {(check.metric, check.arm): check.verdict.value for check in checks}
    rows, with_benchmark = [], False
    for name in names:
        metric, cells = f"metrics.{name}", []
        for epsilon in epsilons:
            arm = arms.get(epsilon, "")
            theirs = [
                ("paper", _published(paper, PAPER_METHOD, dataset, name, epsilon)),
                ("DPImageBench", _benchmark_value(benchmark, dataset, name, epsilon)),
            ]
            beside = tuple(f"{who} {value:g}" for who, value in theirs if value is not None)
            with_benchmark = with_benchmark or theirs[1][1] is not None
            scale = 100 if is_accuracy(metric) else 1
            ours = _text(records, arm, metric, digits=1, scale=scale)
            cells.append(Cell(ours, beside, verdicts.get((metric, arm), "")))
        unit = ", %" if is_accuracy(metric) else ""
        rows.append((f"{metric_title(metric)}{unit}", tuple(cells)))
    head = ("", *(f"ε = {epsilon:g}" for epsilon in epsilons))
    notes = () if claim.published_as is None else _paper_notes(claim, setting, records)
    notes += (BENCHMARK_NOTE,) * with_benchmark
    return CellTable(head, tuple(rows), notes)


def computed_tables(records: Sequence[ClaimRecord], checks: Sequence[Check]) -> list[CellTable]:
    """What a calculation found, beside what is expected; arms that have the same values share."""
    by_place = {(check.metric, check.arm): check for check in checks}
    groups: dict[tuple[str, ...], list[str]] = {}
    for arm, values in (records[-1].arms if records else {}).items():
        groups.setdefault(tuple(values["metrics"]), []).append(arm)
    tables = []
    for names, arms in groups.items():
        rows = []
        for arm in arms:
            cells = []
            for name in names:
                check = by_place.get((f"metrics.{name}", arm))
                expected = check.expected.split(" (")[0] if check else ""  # without its tolerance
                beside = (expected.removesuffix(" exactly"),) if check else ()
                text = check.obtained if check else _text(records, arm, f"metrics.{name}")
                cells.append(Cell(text, beside, check.verdict.value if check else ""))
            rows.append((arm_title(arm), tuple(cells)))
        head = ("", *(metric_title(f"metrics.{name}") for name in names))
        tables.append(CellTable(head, tuple(rows)))
    return tables


def stage_table(arms: Sequence[str], records: Sequence[ClaimRecord]) -> CellTable | None:
    """Seconds of each stage by arm, with the highest memory that it took where that is known."""
    stages = dict.fromkeys(
        stage for r in records for arm in r.arms.values() for stage in arm["timings_seconds"]
    )
    if not stages:
        return None
    rows = []
    for stage in stages:
        cells = []
        for arm in arms:
            seconds = _text(records, arm, f"timings_seconds.{stage}", digits=1)
            cells.append(Cell(seconds, _peaks(records, arm, (stage,))))
        rows.append((stage.replace("_", " "), tuple(cells)))
    totals = tuple(Cell(_total(records, arm), _peaks(records, arm, (*stages,))) for arm in arms)
    head = ("seconds", *map(arm_title, arms))
    return CellTable(head, (*rows, ("all stages", totals)))


def privacy_rows(arms: Sequence[str], records: Sequence[ClaimRecord]) -> list[list[str]]:
    """The budget of each arm, as its record has it; for a report without run folders."""
    known = [arm for arm in arms if any(record.entry(arm, "privacy") for record in records)]
    rows = [["", *map(arm_title, known)]]
    for name in PRIVACY:
        cells = [_text(records, arm, f"privacy.{name}") for arm in known]
        if any(cell != "–" for cell in cells):
            rows.append([metric_title(f"privacy.{name}"), *cells])
    return rows if known else []


def _paper_notes(claim: Claim, setting: str, records: Sequence[ClaimRecord]) -> tuple[str, ...]:
    judged = (
        "it is judged against the paper's."
        if setting == AGAINST_PAPER
        else f"the others are for orientation. Only setting {AGAINST_PAPER} is judged against the "
        "paper."
    )
    notes = [f"Ours stands first; {judged}"]
    sets = {record.entry(arm, "data.sensitive") for record in records for arm in record.arms}
    if others := sorted(str(name) for name in sets - {claim.published_as, None}):
        notes.append(
            f"Ours are of {', '.join(others)} here, in place of {claim.published_as}: the two "
            "cannot be compared."
        )
    return tuple(notes)


def _benchmark_value(
    table: PublishedTable, dataset: str, name: str, epsilon: float
) -> float | None:
    if name not in BENCHMARK_METRICS:
        return None
    return _published(table, BENCHMARK_METHOD, dataset, BENCHMARK_METRICS[name], epsilon)


def _published(
    table: PublishedTable, method: str, dataset: str, name: str, epsilon: float
) -> float | None:
    """The number as printed, or None where the table has no such cell."""
    if name not in table.metrics(dataset) or epsilon not in table.epsilons(method):
        return None
    return table.value(method, dataset, metric=name, epsilon=epsilon)


def _peaks(records: Sequence[ClaimRecord], arm: str, stages: Sequence[str]) -> tuple[str, ...]:
    """The highest memory of these stages over all seeds, on one line; nothing if unknown."""
    peaks = []
    for section, where in (("peak_memory_mib", ""), ("peak_gpu_memory_mib", "GPU ")):
        found = [r.value(arm, f"{section}.{stage}") for r in records for stage in stages]
        known = [value for value in found if value is not None]
        peaks += [f"{where}{max(known):,.0f} MiB"] if known else []
    return (" · ".join(peaks),) if peaks else ()


def _total(records: Sequence[ClaimRecord], arm: str) -> str:
    totals = [sum(r.arms[arm]["timings_seconds"].values()) for r in records if arm in r.arms]
    return f"{statistics.fmean(totals):.1f}" if totals else "–"


def _text(
    records: Sequence[ClaimRecord],
    arm: str,
    path: str,
    *,
    digits: int | None = None,
    scale: float = 1,
) -> str:
    """The mean over the seeds, with the standard deviation if there are several; – if unknown."""
    found = [record.value(arm, path) for record in records]
    values = [scale * value for value in found if value is not None]
    if not values:
        return "–"

    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(set(values)) > 1 else None
    if digits is not None:
        return f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")
    return number(mean) + (f" ± {number(float(f'{spread:.2g}'))}" if spread is not None else "")
