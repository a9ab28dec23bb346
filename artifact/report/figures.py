"""Pictures for the report, as data URIs so that the report is one file.

Curves come from `stats.jsonl`: losses of public images, and the norm of the noisy gradient in
fine-tuning, which is released through the ledger. There is no loss of private images to draw.
Results over epsilon come from the records.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from artifact.judging.epsilons import Line
from artifact.judging.wording import arm_title
from privimage.release.pictures import Lines, points_of

PANELS = (  # stage, entry, title; one panel each
    ("query_network", "loss", "Query network: loss on public images"),
    ("pretrain", "loss", "Pre-training: loss on public images"),
    ("finetune", "noisy_gradient_norm", "DP fine-tuning: norm of the noisy gradient"),
)
COLORS = ("#1f5fa8", "#c8611b", "#5b8c3e", "#8a5aa8", "#6b7280")  # the first is the main arm's
INK, FAINT, GREY = "#30363d", "#e3e6ea", "#9aa3ad"


def curves_uri(stats: Mapping[str, Lines]) -> str | None:
    """An SVG with a panel for each stage that reported, and a line for each arm; None without."""
    panels = [panel for panel in PANELS if any(points_of(s, *panel[:2]) for s in stats.values())]
    if not panels:
        return None
    figure = Figure(figsize=(4.2 * len(panels), 2.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    handles: dict[str, Any] = {}
    for axis, (stage, entry, title) in zip(axes, panels, strict=True):
        for i, (arm, lines) in enumerate(stats.items()):
            points = points_of(lines, stage, entry)
            if points:
                color = COLORS[min(i, len(COLORS) - 1)]
                width = 1.8 if i == 0 else 1.2
                handles[arm] = axis.plot(*zip(*points, strict=True), color=color, lw=width)[0]
        _style(axis, title, x_label="step")
        _log_loss_axis(axis)
    if len(handles) > 1:
        names = [arm_title(arm) for arm in handles]
        figure.legend(
            handles.values(), names, loc="outside lower center", ncols=len(names), frameon=False
        )
    return _svg_uri(figure)


def epsilons_uri(panels: Mapping[str, Sequence[Line]]) -> str | None:
    """An SVG with a panel for each title; bars are one standard deviation over the seeds."""
    if not panels:
        return None
    figure = Figure(figsize=(min(4.2 * len(panels), 10.5), 3.1), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        colors = iter(COLORS)
        for line in lines:
            style = _paper_style() if line.is_paper else {"color": next(colors), "lw": 1.6}
            epsilons, means, spreads = zip(*line.points, strict=True)
            bars = spreads if any(spreads) else None
            axis.errorbar(
                epsilons, means, bars, label=line.label, marker="o", ms=4, capsize=3, **style
            )
        _style(axis, title, x_label="ε")
        _epsilon_axis(axis, sorted({point[0] for line in lines for point in line.points}))
        handles, labels = axis.get_legend_handles_labels()
        if len(handles) > 1:  # the paper's lines look alike: one entry
            entries = dict(zip(labels, handles, strict=True))
            axis.legend(entries.values(), entries.keys(), fontsize=8, frameon=False)
    return _svg_uri(figure)


def _svg_uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def _paper_style() -> dict[str, Any]:
    return {"color": GREY, "lw": 1.2, "ls": "--", "zorder": 1}


def _epsilon_axis(axis: Axes, epsilons: Sequence[float]) -> None:
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(epsilons))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.margins(x=0.08, y=0.15)


def _log_loss_axis(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _style(axis: Axes, title: str, *, x_label: str) -> None:
    axis.set_title(title, fontsize=9.5, color=INK, loc="left")
    axis.set_xlabel(x_label, fontsize=8.5, color=INK)
    axis.tick_params(labelsize=8, colors=INK, length=0)
    axis.grid(axis="y", color=FAINT)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(FAINT)
