"""Secrets in text that a server wrote: hidden once, where that text enters the program, and on the cluster itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nemodeploy.core.observation import RunDirectory
from nemodeploy.values import Secret

MASK = "********"
SHORTEST = 4  # a shorter one would blacken half the log

# Shell text, in a run directory: `mask` copies its input with every line of a secret's value replaced by stars, and
# blanks up to its length, so that places in a file stay what they were; a last line without an end gets none. It ends
# with 9 where it replaced nothing. The values come from secrets.env, in which each stands as shlex.quote writes it.
MASK_FUNCTION = rf"""
mask() {{
  [ -s secrets.env ] && [ -f secrets.env ] || {{ cat; return 9; }}
  {{ cat; echo; }} | LC_ALL=C awk '
    NR == FNR {{
      sub(/^[A-Za-z_][A-Za-z0-9_]*=/, ""); gsub(/\047"\047"\047/, "\001"); gsub(/\047/, ""); gsub(/\001/, "\047")
      if (length($0) >= {SHORTEST}) words[++count] = $0
      next
    }}
    {{
      for (i = 1; i <= count; i++) {{
        stars = words[i]; gsub(/./, " ", stars); done = ""; rest = $0
        stars = substr("{MASK}", 1, length(stars)) substr(stars, {len(MASK) + 1})
        while (stars != words[i] && (at = index(rest, words[i]))) {{
          done = done substr(rest, 1, at - 1) stars; rest = substr(rest, at + length(stars)); found = 1
        }}
        $0 = done rest
      }}
      printf "%s%s", (FNR > 1 ? "\n" : ""), $0
    }}
    END {{ exit found ? 0 : 9 }}
  ' secrets.env -
}}
"""
# Shell text, in a run directory: its secrets go, from its logs, too. A log is overwritten in place and is never shorter
# in between, so that a reader who follows it misses nothing; one that has changed meanwhile is emptied first.
FORGET_SECRETS = f"""\
if [ -f secrets.env ]; then
{MASK_FUNCTION}
  for log in epochs/*/logs/*.log ./*.log; do
    [ -f "$log" ] && [ ! -L "$log" ] || continue
    mask <"$log" >secrets.masked || continue
    [ "$(wc -c <secrets.masked)" -eq "$(wc -c <"$log")" ] || : >"$log"
    cat secrets.masked 1<>"$log"
  done
  rm -f secrets.masked secrets.env
fi
"""


def lines_of(secrets: Iterable[Secret]) -> tuple[str, ...]:
    """What is to be hidden: every line of every value, the longest first."""
    lines = {line for secret in secrets for line in secret.reveal().splitlines() if len(line) >= SHORTEST}
    return tuple(sorted(lines, key=len, reverse=True))


def hide(text: str, hidden: Iterable[str]) -> str:
    """A text without them."""
    for line in hidden:
        text = text.replace(line, MASK)
    return text


def hide_in(directory: RunDirectory, hidden: tuple[str, ...]) -> RunDirectory:
    """A run directory whose words of server and submitter hold none."""
    health = directory.health
    return replace(
        directory,
        health=replace(health, said=hide(health.said, hidden)) if health else None,
        answer=hide(directory.answer, hidden),
        submit_error=hide(directory.submit_error, hidden),
    )
