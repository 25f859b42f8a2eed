"""Which signal asks a container to end: what its image says (OCI image-spec's StopSignal), else SIGTERM (pure)."""

from __future__ import annotations

import re
import signal

REALTIME = re.compile(r"RT(?:MIN(?:\+(\d{1,2}))?|MAX(?:-(\d{1,2}))?)")


def stop_signal(text: str) -> int:
    """The number of "SIGTERM", "TERM", "15", "SIGRTMIN+3", in any case.

    SIGTERM for what is no signal: an image can't be mended here, and a container that isn't asked is killed.
    """
    name = text.strip().upper().removeprefix("SIG")
    if name.isdecimal():
        number = int(name)
    elif match := REALTIME.fullmatch(name):
        above, below = match.groups()
        number = signal.SIGRTMIN + int(above or 0) if name.startswith("RTMIN") else signal.SIGRTMAX - int(below or 0)
    else:
        number = int(getattr(signal, f"SIG{name}", signal.SIGTERM)) if name.isalnum() else int(signal.SIGTERM)
    return int(number) if 0 < number < signal.NSIG else int(signal.SIGTERM)
