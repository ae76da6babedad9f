"""Write docs/REFERENCE.md from the docstrings: the names of `import pipeline`, and the types that they return.

`make reference` runs it. A test fails while the page and the code differ.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pipeline
from pipeline.comparison import Comparison
from pipeline.fingerprinting.extract import Fingerprint
from pipeline.indexing import Failure, IndexReport
from pipeline.match_rows import MATCHES
from pipeline.store import Snapshot

PAGE = Path(__file__).with_name("REFERENCE.md")
RETURNED = (Snapshot, IndexReport, Failure, Fingerprint, Comparison)
HEAD = """\
# Reference

The public names of `import pipeline`, from their docstrings (`make reference` writes this page). The commands of the
same names call these functions. [The README](../README.md) has an example.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    parts += [_entry(f"pipeline.{name}", getattr(pipeline, name)) for name in pipeline.__all__]
    parts.append("# What they return\n")
    parts += [_entry(thing.__name__, thing) for thing in RETURNED]
    columns = "\n".join(f"| `{field.name}` | {field.type} |" for field in MATCHES)
    parts.append(f"## Columns of `identify`\n\n| column | type |\n|---|---|\n{columns}\n")
    parts.append(_errors())
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> str:
    text = [f"## `{name}`\n", _block(_signature(thing), thing)]
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        for member, value in vars(thing).items():
            public = not member.startswith("_")
            if public and isinstance(value, property) and value.__doc__:
                text.append(f"### `.{member}`\n\n{inspect.getdoc(value)}\n")
            elif public and (inspect.isfunction(value) or isinstance(value, classmethod | staticmethod)):
                bound = getattr(thing, member)
                text.append(f"### `.{member}`\n\n" + _block(f"{member}{_arguments(bound)}", bound))
    return "\n".join(text)


def _block(signature: str, thing: Any) -> str:
    return f"```text\n{signature}\n\n{inspect.getdoc(thing) or ''}\n```\n"


def _signature(thing: Any) -> str:
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f"{thing.__name__}(message)"
    return f"{thing.__name__}{_arguments(thing)}"


def _arguments(thing: Any) -> str:
    signature = inspect.signature(thing)
    given: list[str] = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in given:
            given.append("*")
        if name != "self":
            given.append(str(parameter).replace("'", "").replace("<class map>", "map"))
    result = signature.return_annotation
    tail = "" if inspect.isclass(thing) or result in (inspect.Signature.empty, "None") else f" -> {result}"
    plain = f"({', '.join(given)}){tail}"
    return plain if len(plain) < 90 else "(\n    " + ",\n    ".join(given) + f",\n){tail}"


def _errors() -> str:
    errors = {error.__name__: inspect.getdoc(error) or "" for error in pipeline.SongprintError.__subclasses__()}
    rows = "\n".join(f"| `{name}` | {text.splitlines()[0]} |" for name, text in sorted(errors.items()))
    return f"## Errors\n\nAll errors that songprint raises:\n\n| error | |\n|---|---|\n{rows}\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
