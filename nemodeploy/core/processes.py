"""One process of a host, for ever: its id, its start in clock ticks since boot, and the boot's own id."""

from __future__ import annotations

# Shell functions: `start_of PID`, and `same PID START BOOT`, whether that very process is alive (its name in stat may
# hold spaces); `boot` is this boot's.
SAME = r"""
boot=$(cat /proc/sys/kernel/random/boot_id)
start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
same() { [ "$3" = "$boot" ] && [ "$(start_of "$1")" = "$2" ]; }
"""
