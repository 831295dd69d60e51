"""The errors of boig: one root, user errors apart from infrastructure errors.

Each error says three things: the value that was met, the rule it breaks, the remedy. A user error
(a recipe, a posts file, a store that forbids writing) fails a task at once, exit code 2; an
infrastructure error (a lost node, a store that is away) is worth another attempt, exit code 1.
Errors travel between Ray processes, so each one pickles whole.
"""

from __future__ import annotations

from typing import Any


class BoigError(Exception):
    """Root of every error that boig raises on purpose.

    Args:
        value: what was met, such as ``seed: -1`` or a URI.
        rule: what it had to be, such as ``must be at least 0``.
        remedy: what the reader can do about it.
    """

    is_user_error = False

    def __init__(self, value: object, rule: str, remedy: str) -> None:
        super().__init__(value, rule, remedy)
        # As text: what was met may not pickle, or be of a class that another process cannot import.
        self.value = str(value)
        self.rule = rule
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.value}: {self.rule}; {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, self.rule, self.remedy)


class UserError(BoigError, ValueError):
    """The input is wrong; the same input fails again, so nothing retries it."""

    is_user_error = True


class InfrastructureError(BoigError, RuntimeError):
    """Something outside the input failed; another attempt may succeed."""


class RecipeError(UserError):
    """A recipe that does not validate, or settings that do not go together."""


class InputError(UserError):
    """Input data that cannot be read as what it claims to be."""


class StorePermissionError(UserError, PermissionError):
    """The store answers, and refuses this identity."""


class NotFoundInStoreError(UserError, FileNotFoundError):
    """A URI that must exist does not."""


class CorruptError(UserError):
    """A file differs from its manifest, or a folder has no committed manifest."""


class StoreUnavailableError(InfrastructureError, ConnectionError):
    """The store does not answer."""


class FencedError(InfrastructureError):
    """This attempt was fenced off by a newer one and must publish nothing."""


class TrainingDivergedError(UserError):
    """A loss or a reward that is not finite: training stops on all ranks before the step."""


class ScorerError(InfrastructureError):
    """A reward scorer failed, timed out, or returned a wrong count or a value that is not
    finite."""


class EndpointError(InfrastructureError, ConnectionError):
    """A service outside the cluster, such as a language model's endpoint, does not answer."""


class ClusterError(InfrastructureError):
    """Ray cannot be reached, or cannot place what a recipe asks for."""


class PreemptedError(InfrastructureError):
    """The machine of a training is about to go; the training has saved its state and ends."""


def named(name: str, user: bool) -> type[BoigError]:
    """The class of an error that another process has left by its name; for one that is not boig's,
    the kind that it counts as."""
    # A file names it, so it may be anything that stands in this module, or nothing.
    error_class = globals().get(name)
    if isinstance(error_class, type) and issubclass(error_class, BoigError):
        return error_class
    return UserError if user else InfrastructureError
