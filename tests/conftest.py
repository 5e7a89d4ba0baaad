from __future__ import annotations

import signal
import sys
from collections import defaultdict

import pytest
from hypothesis import settings

# A busy machine is no failing test.
settings.register_profile("ckptdiff", deadline=None)
settings.load_profile("ckptdiff")

# Under nohup or in a shell's background these are ignored, which what the tests start would inherit: a test would wait
# for ever for a program that it has stopped. A handler is not inherited.
for name in ("SIGINT", "SIGHUP"):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test that is marked `one_in(N)` each N-th is run by default, the others are `long`."""
    seen: dict[str, int] = defaultdict(int)
    for item in items:
        marker = item.get_closest_marker("one_in")
        if marker is not None:
            kind = item.nodeid.partition("[")[0]
            if seen[kind] % marker.args[0]:
                item.add_marker(pytest.mark.long)
            seen[kind] += 1


def pytest_runtest_teardown() -> None:
    """torch 2.4 cannot tell its default device any more once it was set, and set back."""
    context = getattr(sys.modules.get("torch"), "_GLOBAL_DEVICE_CONTEXT", None)
    if getattr(context, "device_context", context) is None and context is not None:
        del context.device_context
