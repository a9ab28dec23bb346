"""What a training is given by the run around it; by itself it needs none of this."""

from dataclasses import dataclass
from pathlib import Path

from privimage.machine.processes import ALONE, World
from privimage.run_folder.checkpoint import NOT_KEPT, Checkpoint
from privimage.run_folder.runlog import Progress, Stop, never, silent


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """Where state and log are kept, who watches, and which processes share the work.

    `precision` is that of a classifier: float32, bfloat16, or auto, as `performance.precision` is.
    An interrupted training continues from its checkpoint. `should_stop` may end it after any step.
    Every process of `world` calls a training alike; the rest is the leader's.
    """

    checkpoint: Checkpoint = NOT_KEPT
    stats: Path | None = None
    progress: Progress = silent
    should_stop: Stop = never
    world: World = ALONE
    precision: str = "float32"


BY_ITSELF = TrainingContext()
