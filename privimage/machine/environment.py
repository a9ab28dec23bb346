"""Where a run took place: versions, device, processor, date. Nothing that identifies a person or
a path.
"""

import datetime
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Facts for a record, so that numbers can be read beside the machine that made them."""
    name = _processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "numpy": version("numpy"),
        "pillow": version("pillow"),
        "opacus": version("opacus"),
        "dp_accounting": version("dp-accounting"),
        "device": device.type,
        "device_name": name,
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
