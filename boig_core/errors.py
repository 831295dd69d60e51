"""The errors of boig: one root, user errors apart from infrastructure errors.

Each error says three things: the value that was met, the rule it breaks, the remedy. A user error
(a recipe, a posts file, a store that forbids writing) fails a task at once, exit code 2; an
infrastructure error (a lost node, a store that is away) is worth another attempt, exit code 1.
Errors travel between Ray processes, so each one pickles whole. What was met may come from a
stranger: shown, its control characters are written out.
"""

from __future__ import annotations

from typing import Any

from boig_core.escapes import visible


class BoigError(Exception):
    """Root of every error that boig raises on purpose. Remedy: do what the last part of the message
    says, after the semicolon.

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
        return visible(f"{self.value}: {self.rule}; {self.remedy}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.value, self.rule, self.remedy)


class UserError(BoigError, ValueError):
    """The input is wrong: a recipe, data or a setting; the same input fails again, so nothing
    retries it (exit code 2). Remedy: mend what the message names, then start the task or command
    again."""

    is_user_error = True


class InfrastructureError(BoigError, RuntimeError):
    """Something outside the input failed, such as a machine or a service; Airflow tries again,
    since another attempt may succeed (exit code 1). Remedy: where all attempts failed, see in the
    log what was away, bring it back, and start again."""


class RecipeError(UserError):
    """A recipe does not validate, or its settings do not go together or with a model. Remedy:
    change the field that the message names; `boig recipe check` shows whether the recipe then
    validates."""


class PolicyError(UserError):
    """A recipe or a param asks for what this installation's policy does not allow. Remedy: ask for
    less, or have the operator change the line of the policy that the message names; `boig policy
    check` shows everything that a recipe asks for."""


class InputError(UserError):
    """An input cannot be used: data that cannot be read as what it claims to be, too little of it,
    or a location, setting or argument that is wrong. Remedy: mend or replace what the message
    names."""


class StorePermissionError(UserError, PermissionError):
    """The store answers, and refuses this identity. Remedy: give the identity the right to read,
    write, list and delete below the store's root, or set the credentials of another."""


class NotFoundInStoreError(UserError, FileNotFoundError):
    """A location that must exist does not. Remedy: correct the location or the store that was
    named; where an output was removed, make it again."""


class WithdrawnError(UserError):
    """An output was withdrawn, and its files erased, because `boig forget` had a post of it
    forgotten. Remedy: use the version that the message names, and train again on it."""


class CorruptError(UserError):
    """A file differs from its manifest or cannot be read as what it is, or a folder has no
    committed manifest. Remedy: make the output again by its stage, or restore the file."""


class StoreUnavailableError(InfrastructureError, ConnectionError):
    """The store does not answer. Remedy: bring it, or the network in between, back and start again;
    `boig doctor` tells whether it answers."""


class FencedError(InfrastructureError):
    """A newer attempt has taken this one's place, so this one publishes nothing. Remedy: none is
    needed; use the result of the newer attempt."""


class TrainingDivergedError(UserError):
    """A loss or a gradient is not finite, so the training stops on all ranks; or a shipped tiny
    model misses its quality gate. Remedy: lower the learning rate and start again; train a tiny
    model longer or with another seed."""


class ScorerError(InfrastructureError):
    """A reward could not be computed: its scorer failed, or gave a wrong count or a value that is
    not finite. Remedy: see the scorer's log; where the calibration belongs to another reward, run
    the stage calibrate again."""


class EndpointError(InfrastructureError, ConnectionError):
    """A service outside the cluster does not answer or takes no message, such as a language model's
    endpoint, the hub of models or where alerts go. Remedy: see that it runs, can be reached and has
    not reached its limits."""


class ClusterError(InfrastructureError):
    """Ray cannot be reached, has no room for what a recipe asks for, or lost actors or workers too
    often. Remedy: start or enlarge the cluster, or ask for less under resources; the Ray dashboard
    has the logs."""


class PreemptedError(InfrastructureError):
    """The machine of a training is about to go; the training has saved its state and ends. Remedy:
    none as a rule, since it goes on elsewhere by itself; else start the task again."""


def named(name: str, user: bool) -> type[BoigError]:
    """The class of an error that another process has left by its name; for one that is not boig's,
    the kind that it counts as."""
    # A file names it, so it may be anything that stands in this module, or nothing.
    error_class = globals().get(name)
    if isinstance(error_class, type) and issubclass(error_class, BoigError):
        return error_class
    return UserError if user else InfrastructureError
