"""One hypothesis profile for the whole suite; `HYPOTHESIS_PROFILE=thorough` searches for longer."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# before numpy is loaded: small products gain nothing by a second thread, which spins where other processes run
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# no deadline: the machine is shared, and a slow example is not a wrong one
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("presize", _COMMON, max_examples=20)
settings.register_profile("ci", _COMMON, max_examples=20, derandomize=True)
settings.register_profile("thorough", _COMMON, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "presize"))
