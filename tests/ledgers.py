"""The terms of a ledger, for tests that care about one of them or about none."""

from typing import Any

from privimage.privacy.ledger import LedgerTerms
from privimage.privacy.rng import secure_source


def ledger_terms(**changes: Any) -> LedgerTerms:
    usual = {
        "epsilon": 10.0,
        "delta": 1e-5,
        "accountant": "rdp",
        "data_id": "a1b2",
        "random_source": secure_source(),
    }
    return LedgerTerms(**(usual | changes))
