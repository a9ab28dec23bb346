"""The epsilon of a ledger, counted again by two libraries beside our own RDP accountant.

Opacus and dp-accounting sum the series of Mironov, Talwar and Zhang (2019, section 3.3), where
`accounting.py` integrates numerically: a fault in one is not one in the others. PLD is not counted
again, since it is dp-accounting's own. Nothing here is private.
"""

import warnings
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant

from privimage.errors import BudgetError
from privimage.privacy.accounting import RDP_ORDERS, Mechanism, rdp_epsilon
from privimage.privacy.ledger import PrivacyLedger

# Each at the orders that it computes well: above 1024 both overflow or slow down, and between
# whole orders dp-accounting rounds up.
OPACUS_ORDERS = tuple(order for order in RDP_ORDERS if order <= 1024)
DP_ACCOUNTING_ORDERS = tuple(order for order in OPACUS_ORDERS if order.is_integer())
TOLERANCE = 1e-6  # relative; at the same orders all three agree to 1e-7


def second_opinions(ledger: PrivacyLedger) -> dict[str, dict[str, Any]]:
    """What each library counts for all that is reserved, and what we count at the same orders.

    BudgetError if a library refutes the promise: its epsilon is above what was promised, and not
    for want of orders, since it is above ours at its orders, too.
    """
    terms, mechanisms = ledger.to_dict(), tuple(ledger.reserved.values())
    promised, delta = terms["epsilon"], terms["delta"]
    opinions = {}
    for name, count, orders in (
        ("opacus", _by_opacus, OPACUS_ORDERS),
        ("dp-accounting", _by_dp_accounting, DP_ACCOUNTING_ORDERS),
    ):
        library, epsilon = f"{name} {version(name)}", count(mechanisms, delta)
        ours = rdp_epsilon(mechanisms, delta=delta, allowed=orders)
        if not epsilon <= max(promised, ours) * (1 + TOLERANCE):
            raise BudgetError(
                f"{library} counts a total epsilon of {epsilon:.5g} (delta {delta:g}), where "
                f"{promised:g} is promised and {ours:.5g} counted here; use and release nothing "
                "of this run, and report its settings and the versions of both"
            )
        opinions[name] = {"counted_by": library, "epsilon": epsilon, "ours_at_its_orders": ours}
    return opinions


@lru_cache(maxsize=16)
def _by_opacus(mechanisms: Sequence[Mechanism], delta: float) -> float:
    analysis, rdp = _opacus_analysis(), np.zeros(len(OPACUS_ORDERS))
    for m in mechanisms:
        rdp += analysis.compute_rdp(
            q=m.sampling_rate,
            noise_multiplier=m.noise_multiplier,
            steps=m.count,
            orders=OPACUS_ORDERS,
        )
    with warnings.catch_warnings():
        # a hint that more orders would be tighter; the figure is a bound all the same
        warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
        epsilon, _ = analysis.get_privacy_spent(orders=OPACUS_ORDERS, rdp=rdp, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=16)
def _by_dp_accounting(mechanisms: Sequence[Mechanism], delta: float) -> float:
    accountant = RdpAccountant(DP_ACCOUNTING_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    for m in mechanisms:
        once = PoissonSampledDpEvent(m.sampling_rate, GaussianDpEvent(m.noise_multiplier))
        accountant.compose(once, m.count)
    return float(accountant.get_epsilon(delta))


@cache
def _opacus_analysis() -> ModuleType:
    """Opacus' module of RDP without the package around it, which would set up the logging and the
    warnings of the whole process, and needs a second to import.
    """
    package = find_spec("opacus")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "accountants" / "analysis" / "rdp.py"
    spec = spec_from_file_location("opacus_rdp_analysis", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
