from __future__ import annotations

from hypothesis import settings

# A busy machine is no failing test.
settings.register_profile("ckptdiff", deadline=None)
settings.load_profile("ckptdiff")
