from __future__ import annotations

import signal

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
