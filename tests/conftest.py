"""Shape annotations of the library are checked by beartype here, and only here."""

import torch
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (the hook below looks it up by name)

hook = install_import_hook("privimage", "tests.typecheck.check")
torch.set_num_threads(1)
