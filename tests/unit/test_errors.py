"""Every error names value, rule and remedy, knows whose fault it is, and travels between processes
whole."""

from __future__ import annotations

import inspect
import pickle

import pytest

from boig_core import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.BoigError)
]


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_say_three_things_and_pickle(cls: type[errors.BoigError]) -> None:
    exc = cls("seed = -1", "must be at least 0", "set another seed")
    assert str(exc) == "seed = -1: must be at least 0; set another seed"
    back = pickle.loads(pickle.dumps(exc))
    assert type(back) is cls
    assert (back.value, back.rule, back.remedy) == (
        "seed = -1",
        "must be at least 0",
        "set another seed",
    )
    assert str(back) == str(exc)


def test_user_errors_are_apart_from_infrastructure_errors() -> None:
    leaves = [
        cls
        for cls in CLASSES
        if cls not in {errors.BoigError, errors.UserError, errors.InfrastructureError}
    ]
    assert len(leaves) >= 8
    for cls in leaves:
        assert issubclass(cls, errors.UserError) != issubclass(cls, errors.InfrastructureError)
        assert cls.is_user_error == issubclass(cls, errors.UserError)


@pytest.mark.parametrize(
    ("cls", "standard"),
    [
        (errors.InputError, ValueError),
        (errors.StorePermissionError, PermissionError),
        (errors.NotFoundInStoreError, FileNotFoundError),
        (errors.StoreUnavailableError, ConnectionError),
        (errors.ClusterError, RuntimeError),
    ],
)
def test_standard_handlers_catch_them(
    cls: type[errors.BoigError], standard: type[Exception]
) -> None:
    with pytest.raises(standard):
        raise cls("x", "is wrong", "mend it")
