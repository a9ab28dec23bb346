"""What a wheel takes along besides code, so that an installed `artifact` has its claims.

`pyproject.toml` names the class; setuptools calls it. In a checkout, and so in an editable
installation, the files stay where they are: `artifact.claims.registry.bundle_root` looks in both.
"""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

TAKEN_ALONG = ("claims/**/*.yaml", "expected_results/**/*.yaml", "expected_results/**/*.json")
TAKEN_ALONG += ("bench/results/dp_step_cpu_*.json",)  # what extrapolated times rest on


class WithBundle(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in TAKEN_ALONG:
            for path in Path().glob(pattern):
                target = Path(self.build_lib, "artifact", "bundle", path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
