"""Every way a command can end other than well.

    NemodeployError                  1   a bug, unless a subclass says otherwise
    ├── BadInput                     2   nothing was sent anywhere
    ├── AuthenticationFailed        10
    │   ├── PersonWanted            10   the main thread may ask
    │   └── HostKeyRejected         10
    ├── ClusterUnreachable          11   transient; nothing was submitted
    │   └── ForwardingRefused       11   the site lets nobody through to its nodes
    ├── PreflightFailed             12
    ├── SubmissionRefused           20
    ├── JobEnded                    30   the job ended before READY
    ├── QueueTimeout                31
    ├── StartupTimeout              32
    ├── CancelledByUser             40   verified gone
    ├── OutcomeUnknown              50   transient; a job may be alive
    └── InterruptedBeforeSubmission 130

The number is the process's exit code. Codes 30 to 40 are raised only after the job is verified gone.
"""

from __future__ import annotations

from typing import ClassVar


class NemodeployError(Exception):
    """Something a user is told in words: what happened, and what to type next."""

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", token: str = "", detail: tuple[str, ...] = ()) -> None:
        """Keep the message (what, where), the hint (what to do), the token concerned, and lines of evidence."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.token = token
        self.detail = detail


class BadInput(NemodeployError):
    """What was asked for cannot be meant; nothing was sent anywhere."""

    exit_code = 2


class AuthenticationFailed(NemodeployError):
    """The login host refused every key that was offered."""

    exit_code = 10


class PersonWanted(AuthenticationFailed):
    """A code or a passphrase is wanted, and the thread that connects may not ask for it; the main thread may."""


class HostKeyRejected(AuthenticationFailed):
    """The login host's key is unknown, or is not the one that was recorded."""


class ClusterUnreachable(NemodeployError):
    """No connection, or it broke before anything was submitted."""

    exit_code = 11
    transient = True


class ForwardingRefused(ClusterUnreachable):
    """The login host answered, and refuses to forward connections at all."""


class PreflightFailed(NemodeployError):
    """The cluster cannot run this deployment as it stands."""

    exit_code = 12


class SubmissionRefused(NemodeployError):
    """Slurm said no, in its own words."""

    exit_code = 20


class JobEnded(NemodeployError):
    """The job ended before its server had answered."""

    exit_code = 30


class QueueTimeout(NemodeployError):
    """The job waited for nodes longer than allowed, or waits for something that never comes."""

    exit_code = 31


class StartupTimeout(NemodeployError):
    """The server took longer to answer than its budget, without progress."""

    exit_code = 32


class CancelledByUser(NemodeployError):
    """The user took it back, and the job is verified gone."""

    exit_code = 40


class OutcomeUnknown(NemodeployError):
    """A job may be alive; the message names the token and the command that settles it."""

    exit_code = 50
    transient = True


class InterruptedBeforeSubmission(NemodeployError):
    """Interrupted before anything was submitted."""

    exit_code = 130
