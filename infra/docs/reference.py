"""The reference pages that are made from the code: recipe and policy fields from pydantic, commands
from Typer, environment variables and errors from their modules.

    python -m infra.docs.reference [--check]

writes them into ``docs/reference``; with ``--check`` it changes nothing and ends with 1 where one
differs. They are committed, so that they can be read where the code is read. Leaves out: the pages
that people write, and published tables (see `infra.evidence.published`).
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

from boig_core import environment, errors
from boig_core.cli import app
from boig_core.config import Policy, Recipe

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs" / "reference"
MADE: Final = "<!-- Made by `python -m infra.docs.reference`; edit the code instead. -->\n"
_LIMITS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_LENGTHS: Final = {"min_length": "at least", "max_length": "at most"}


def recipe_page() -> str:
    """Every field of a recipe: type with limits, default, meaning."""
    lines = [
        "# Recipe fields",
        "",
        "*What can I set in a recipe, what is the default, and what does it mean?*",
        "",
        "A recipe is a YAML file that holds only what differs from these defaults. `boig recipe"
        " check FILE` says what is wrong with one, `boig recipe show NAME` prints one with every"
        " default, and `--set section.field=value` overrides a field for one run. Unknown keys are"
        " refused. `null` in the column *type* means that the field may be absent.",
        "",
        *_section("", Recipe),
    ]
    return "\n".join(lines).rstrip() + "\n"


def policy_page() -> str:
    """Every field of the policy: type with limits, strict default, meaning."""
    lines = [
        "# Policy fields",
        "",
        "*What can an operator allow, and what holds where nothing is said?*",
        "",
        "The policy is a YAML file that holds only what differs from these defaults;"
        " [`BOIG_POLICY`](environment.md#BOIG_POLICY) names it. What it is for stands in"
        " [Policy](../operate/policy.md). Unknown keys are refused, and so is one that stands twice.",
        "",
        *_section("", Policy),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    """Heading and table of a section, then its sections."""
    if name:
        yield from (f'<a id="{name}"></a>', "", f"## {name}", "", _prose(model.__doc__ or ""), "")
    fields = model.model_fields
    nested = {key: info for key, info in fields.items() if _own_section(info)}
    if len(nested) < len(fields):
        yield from ("| field | type | default | meaning |", "| --- | --- | --- | --- |")
        for key, info in fields.items():
            if key not in nested:
                path = f"{name}.{key}" if name else key
                cells = (_type(info), _default(info), _prose(info.description or ""))
                yield f'| <a id="{path}"></a>`{key}` | ' + " | ".join(map(_cell, cells)) + " |"
        yield ""
    for key, info in nested.items():
        yield from _section(f"{name}.{key}" if name else key, info.annotation)  # type: ignore[arg-type]  # _own_section has looked


def _own_section(info: FieldInfo) -> bool:
    """Whether a field is a section that is always there."""
    return isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)


def _type(info: FieldInfo) -> str:
    return " ".join(filter(None, (_type_name(info.annotation), _limits(info.metadata))))


def _type_name(annotation: Any) -> str:
    """A type in a reader's words: ``int or null``, ``one of a, b``, ``list of str``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        limits = _limits(arguments[1].metadata if isinstance(arguments[1], FieldInfo) else [])
        return f"{_type_name(arguments[0])} {limits}".rstrip()
    if origin is Literal:
        values = ", ".join(f"`{value}`" for value in arguments)
        return f"one of {values}" if len(arguments) > 1 else values
    if origin in {Union, types.UnionType}:
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"list of {_type_name(arguments[0])}"
    if origin is tuple:
        each = {_type_name(argument) for argument in arguments}
        return f"{len(arguments)} × {', '.join(sorted(each))}"
    if origin in {dict, Mapping}:
        return f"map of {_type_name(arguments[0])} to {_type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"
    return str(getattr(annotation, "__name__", annotation))


def _limits(metadata: list[Any]) -> str:
    limits = []
    for rule in metadata:
        for name, sign in _LIMITS.items():
            if hasattr(rule, name):
                limits.append(f"{sign} {getattr(rule, name):g}")
        for name, words in _LENGTHS.items():
            if hasattr(rule, name):
                limits.append(f"{words} {getattr(rule, name)} long")
        if pattern := getattr(rule, "pattern", None):
            limits.append(f"matching `{pattern}`")
    return ", ".join(limits)


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return "required" if info.is_required() else f"`{json.dumps(plain, ensure_ascii=False)}`"


def commands_page() -> str:
    """Every command of the command line, as Typer describes it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="boig")
    text = get_docs_for_click(obj=command, ctx=context, name="boig")
    text = re.sub(r"\* `--(install|show)-completion`.*\n", "", text)
    text = text.replace("```console", "```text")
    # Typer cuts what it lists; here is room for whole sentences.
    for path, each in _commands(command, "boig"):
        name = re.escape(path.rpartition(" ")[2])
        whole = _prose((each.help or "").partition("\n\n")[0])
        line = f"* [`{path}`](#{path.replace(' ', '-')}): {whole}"
        text = re.sub(
            rf"^\* `{name}`: .*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE
        )
    # Each command gets an anchor with its whole name: `boig dataset show` is #boig-dataset-show.
    text = re.sub(
        r"^#+ `(boig .+)`$",
        lambda match: f'<a id="{match[1].replace(" ", "-")}"></a>\n\n## {match[1]}',
        text,
        flags=re.MULTILINE,
    )
    opening = (
        "# The command line\n\n*Which command does it, and which options has it?*\n\n"
        "A command that prints a result takes `--json` for machine-readable output. A wrong input"
        " ends in one line and exit code 2; a failure of the machine or the cluster ends with exit"
        " code 1.\n"
    )
    return opening + text.split("\n", 1)[1].rstrip() + "\n"


def _commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Commands below a group with their whole names, in the order in which Typer lists them."""
    for name, command in getattr(group, "commands", {}).items():
        yield f"{path} {name}", command
    for name, command in getattr(group, "commands", {}).items():
        yield from _commands(command, f"{path} {name}")


def environment_page() -> str:
    """Every environment variable of boig, and those of others that it honors."""
    lines = [
        "# Environment variables",
        "",
        "*What do I set on which machine, so that boig finds its store, its cluster and me?*",
        "",
        "A recipe says what a run computes. These variables say where an installation keeps things"
        " and how it is watched. An empty value counts as not set.",
        "",
        "| variable | set it for | example |",
        "| --- | --- | --- |",
        *(
            f"| [`{variable.name}`](#{variable.name}) | {variable.readers} | `{variable.example}` |"
            for variable in environment.VARIABLES
        ),
        "",
    ]
    for variable in environment.VARIABLES:
        lines += [
            f'<a id="{variable.name}"></a>',
            "",
            f"## {variable.name}",
            "",
            f"{variable.meaning}",
            "",
            f"* Read by: {variable.readers}.",
            f"* Not set: {variable.unset}.",
            f"* Example: `{variable.name}={variable.example}`",
            "",
        ]
    lines += [
        "## Variables of others",
        "",
        "| variable | what boig takes from it |",
        "| --- | --- |",
        *(f"| `{name}` | {meaning} |" for name, meaning in _OTHERS.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


_OTHERS: Final = {
    "AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_DEFAULT_REGION": "identity at the store, as"
    " every AWS client reads it; an instance's role does as well",
    "AWS_ENDPOINT_URL": "address of an S3 server that is not Amazon's",
    "RAY_API_ADDRESS": "Ray's Jobs API, `http://HEAD:8265`; it counts before the connection"
    " `ray_default`",
    "RAY_AUTH_MODE`, `RAY_AUTH_TOKEN": "`token`, and the token that the Jobs API asks for; for"
    " Airflow and Ray alike",
    "MLFLOW_TRACKING_URI": "MLflow server that runs are logged to and champions are kept in",
    "AIRFLOW__METRICS__STATSD_ON": "lets Airflow send the counts of jobs and failures, too",
    "AIRFLOW__OPENLINEAGE__TRANSPORT": "where OpenLineage events go, with the extra"
    " `boig[lineage]`",
    "OMP_NUM_THREADS": "threads of a process on CPUs",
    "CUDA_VISIBLE_DEVICES": "GPUs that a process sees; Ray sets it for its workers",
}


def errors_page() -> str:
    """Every class of error with what it means and what to do."""
    lines = [
        "# Errors",
        "",
        "*What does this error mean, is it tried again, and what do I do?*",
        "",
        "An error of boig is one line: the value that was met, the rule that it breaks, the remedy."
        " A user error is never tried again, since the same input fails again: exit code 2. An"
        " infrastructure error is tried again by Airflow: exit code 1. `boig status RUN` shows the"
        " class and the line of every attempt that failed.",
        "",
        "| error | kind | tried again |",
        "| --- | --- | --- |",
    ]
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value)
        and issubclass(value, errors.BoigError)
        and value not in {errors.BoigError, errors.UserError, errors.InfrastructureError}
    ]
    for each in classes:
        kind, again = ("user", "no") if each.is_user_error else ("infrastructure", "yes")
        lines.append(f"| [`{each.__name__}`](#{each.__name__}) | {kind} | {again} |")
    for each in classes:
        name = each.__name__
        met, _, remedy = _prose(each.__doc__ or "").partition(" Remedy: ")
        lines += [
            "",
            f'<a id="{name}"></a>',
            "",
            f"## {name}",
            "",
            met,
            "",
            f"**Remedy.** {remedy[:1].upper()}{remedy[1:]}",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _prose(text: str) -> str:
    """A docstring as one line of Markdown."""
    return re.sub(r"\s+", " ", text.replace("``", "`")).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES: Final[dict[str, Callable[[], str]]] = {
    "recipe.md": recipe_page,
    "policy.md": policy_page,
    "commands.md": commands_page,
    "environment.md": environment_page,
    "errors.md": errors_page,
}


def main() -> int:
    """Write the pages, or check them; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; 1: a page differs")
    args = parser.parse_args()
    differing = []
    for name, page in PAGES.items():
        text, file = MADE + "\n" + page(), FOLDER / name
        if not file.exists() or file.read_text("utf-8") != text:
            differing.append(name)
            if not args.check:
                file.write_text(text, "utf-8")
    if args.check and differing:
        print(f"docs/reference: {', '.join(differing)} differ from the code: make docs")
    return 1 if args.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
