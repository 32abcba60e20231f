"""The shell texts of a submission, and what their answers mean.

`root` and directories are shell text, quoted already. `submit/go` is made by `mkdir` just before sbatch runs: whoever
makes it is the only one who may run it. `active`, or `after.OLD` behind it, is made by `ln -sT`: the only lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nemodeploy.core import sections
from nemodeploy.core.masking import FORGET_SECRETS
from nemodeploy.values import Token

RECEIPT_WITHIN_S = 180
NOT_WRITABLE, TAKEN = 73, 75
NOT_OURS, NO_RECEIPT, NO_LEASE = 3, 4, 5

# Shell text: `live` becomes the token that has the name of the deployment in `$d`; empty when none has.
FOLLOW_LINKS = """\
live=$(readlink "$d/active")
while [ -n "$live" ] && next=$(readlink "$d/after.$live"); do live=$next; done
"""
# Shell text: print the receipt, if there is one yet.
READ_RECEIPT = f"""\
[ -e submit/sbatch.rc ] || exit {NO_RECEIPT}
head -c 4096 submit/sbatch.rc; echo out; head -c 4096 submit/sbatch.out; echo; echo err; head -c 8192 submit/sbatch.err
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """How submit.sh ended, and what it said; `status` None: it has not ended, or nobody has run it.

    `ours` False: the token does not have the name, so it may not be submitted. `by_us`: this very call ran submit.sh.
    """

    status: int | None = None
    out: str = ""
    error: str = ""
    ours: bool = True
    by_us: bool = False


def take_script(root: str, token: Token, files: Mapping[str, str], after: Token | None) -> str:
    """Make the run directory, fill it, and take the name. Status TAKEN prints the token that has it."""
    uploads = "".join(sections.here_document(name, text) for name, text in files.items())
    return f"""\
set -u; umask 077; exec 2>&1
root={root}; d=$root/deployments/{token.name}; t={token}; proven={after or "none"}
mkdir -p "$d" "$root/archive" && chmod 700 "$root/deployments" "$root/archive" "$d" || exit {NOT_WRITABLE}
mkdir "$d/$t" "$d/$t/submit" && cd "$d/$t" || exit {NOT_WRITABLE}
# This call may have been held up on its way while another one withheld the token and archived it.
[ ! -e "$root/archive/$t" ] || {{ echo "$t was taken back"; cd /; rm -rf "$d/$t"; exit {NOT_WRITABLE}; }}
{uploads}
for file in {" ".join(files)}; do
  [ -s "$file" ] || {{ echo "$file was not written"; cd /; rm -rf "$d/$t"; exit {NOT_WRITABLE}; }}
done
{FOLLOW_LINKS}
if [ -z "$live" ]; then
  ln -sT "$t" "$d/active" && exit 0
elif [ "$live" = "$proven" ] || [ ! -d "$d/$live" ]; then
  # Exactly one successor can be made for a token, so two clients cannot both follow it.
  if ln -sT "$t" "$d/after.$live"; then
    ln -sT "$t" "$d/active.$t" && mv -T "$d/active.$t" "$d/active"
    if cd "$d/$live" 2>/dev/null; then
{FORGET_SECRETS}
      mv "$d/$live" "$root/archive/"
    fi
    exit 0
  fi
fi
cd /; rm -rf "$d/$t"
{FOLLOW_LINKS}
[ -n "$live" ] || {{ echo "no symbolic link can be made in $d"; exit {NOT_WRITABLE}; }}
echo "$live"; exit {TAKEN}
"""


def receipt_script(directory: str, token: Token) -> str:
    """For a token that has its name: run submit.sh detached unless somebody has, wait for its receipt, and print it."""
    return f"""\
cd {directory} 2>/dev/null || exit {NOT_OURS}
ours=$(readlink ../active ../after.* 2>/dev/null | while read -r live; do [ "$live" != {token} ] || echo yes; done)
[ -n "$ours" ] || exit {NOT_OURS}
{submit_once_script(token)}"""


def submit_once_script(token: Token) -> str:
    """In a run directory: the same for one that needs no name."""
    return f"""\
if mkdir submit/go 2>/dev/null; then
  # Not a word before sbatch is on its way: with nobody left to read it, it would end this shell right here.
  one_shot='
    sh ./submit.sh "$PWD" "$1" >submit/out.new 2>submit/sbatch.err; status=$?
    mv submit/out.new submit/sbatch.out; echo "$status" >submit/rc.new; mv submit/rc.new submit/sbatch.rc
  '
  # What a shell starts in the background is deaf to INT for good, with all its children; only bash can undo that.
  # A session of its own: an interrupt at a terminal on this host is not for sbatch.
  alone='(trap - INT; exec $(command -v setsid) nohup sh -c "$@") </dev/null >/dev/null 2>&1 &'
  shell=$(command -v bash) && shell="$shell --norc" || shell=sh
  $shell -c "$alone" \\
    detached "$one_shot" one-shot {token}
  echo by us
fi
waited=0
until [ -e submit/sbatch.rc ] || [ -e submit/withheld ] || [ "$waited" -ge {RECEIPT_WITHIN_S * 20} ]; do
  sleep 0.05
  waited=$((waited + 1))
done
{READ_RECEIPT}"""


def parse_receipt(status: int, text: str) -> Receipt:
    """What `receipt_script` printed."""
    if status == NOT_OURS:
        return Receipt(ours=False)
    text = text.lstrip("\n")
    by_us = text.startswith("by us\n")
    number, _, rest = text.removeprefix("by us\n").partition("\nout\n")
    out, _, error = rest.partition("\nerr\n")
    return Receipt(status=int(number) if number.strip().isdigit() else None, out=out, error=error, by_us=by_us)


def withhold_script(directory: str) -> str:
    """Make `submit/go` so that nobody can submit any more; status 0 is proof that nothing was submitted."""
    return (
        f"umask 077; mkdir -p {directory}/submit && cd {directory} || exit 1\n"
        "[ ! -e submit/withheld ] || exit 0\n"
        "mkdir submit/go 2>/dev/null && touch submit/withheld revoked\n"
    )


def remove_script(root: str, token: Token) -> str:
    """Delete what is left of a token that is not up. After the last one of a name its directory goes, too, all at once:
    whoever takes the name at that very moment is refused, or finds no run directory to submit from."""
    return f"""\
cd {root}/archive 2>/dev/null && rm -rf ./{token}
cd {root}/deployments/{token.name} 2>/dev/null || exit 0
! readlink active after.* 2>/dev/null | grep -qx {token} || [ ! -e {token} ] || exit 1
rm -rf ./{token}
d=.
{FOLLOW_LINKS}
set -- nd-*
[ "$live" = {token} ] && [ ! -e "$1" ] && cd .. && mv -T {token.name} ../archive/.{token} && rm -rf ../archive/.{token}
exit 0
"""


def lease_files(ttl_s: int | None, nonce: str) -> dict[str, str]:
    """`lease`: the seconds that the job waits for a change, and a word that is new each time; without `ttl_s` there is
    none. `renewed`: the word of the last renewal. That file says, too, that the job reads it."""
    return {"renewed": f"{nonce}\n"} | ({} if ttl_s is None else {"lease": f"{ttl_s} {nonce}\n"})


def renew_script(directory: str, nonce: str, ttl_s: int | None) -> str:
    """Renew the lease for the same time, or for `ttl_s` seconds; prints the seconds. Status NO_LEASE: it has none;
    any other but 0: it could not be written.

    A renewal for the same time writes `renewed` only, so it cannot undo what `keep` makes of `lease` meanwhile. A job
    of an older version has no such file and reads `lease` only: there the renewal writes that one.
    """
    same = f"""\
there() {{ [ -f lease ] || exit {NO_LEASE}; read -r ttl _ <lease || exit 2; }}
there
if [ -f renewed ]; then put renewed {nonce}; there; else put lease "$ttl {nonce}"; fi
"""
    other = f'ttl={ttl_s}; put lease "$ttl {nonce}"\n'
    return (
        f"umask 077; exec 2>&1; cd {directory} || exit 2\n"
        f'put() {{ echo "$2" >"$1.{nonce}" && mv -f "$1.{nonce}" "$1" || {{ rm -f "$1.{nonce}"; exit 2; }}; }}\n'
        f"{same if ttl_s is None else other}"
        'echo "$ttl"\n'
    )
