"""How often a controller is asked: what somebody waits for soon at first, then a watcher's share of its time."""

SOON_S = (1.0, 1.0, 2.0, 4.0)  # so at 0, 1, 2, 4 and 8 s
WATCHER_S = 15.0  # four questions a minute
RENEWALS_A_LEASE = 5  # so that one that fails is none


def in_short(seconds: float) -> str:
    """`40 s`, `12 min`, `2.5 h`: for what is not known exactly."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
