"""Every command and every option is explained, where one looks first: in its help and in docs/COMMANDS.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import pipeline
from docs import architecture
from jobs.cli import app, run

ROOT = Path(__file__).parents[1]
COMMANDS_PAGE = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
COMMANDS = sorted(typer.main.get_command(app).commands.items())
OPTIONS = [
    (name, option)
    for name, command in COMMANDS
    for option in command.params
    if option.param_type_name == "option" and option.name != "help"
]


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_a_command_has_help_with_an_example_and_a_place_in_the_documents(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Example: songprint {name}" in shown.output, f"{name} has no help with an example"
    assert f"songprint {name}" in COMMANDS_PAGE, f"{name} is missing from docs/COMMANDS.md"


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_an_option_has_help_and_a_place_in_the_documents(name: str, option: Any) -> None:
    assert option.help, f"{name} {option.opts[0]} has no help"
    assert re.search(rf"`{option.opts[0]}\b", COMMANDS_PAGE), (
        f"{name}: {option.opts[0]} is missing from docs/COMMANDS.md"
    )


def test_the_page_of_commands_names_no_option_that_is_not_there() -> None:
    known = {opt for _, option in OPTIONS for opt in (*option.opts, *option.secondary_opts)} | {"--help", "--version"}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", COMMANDS_PAGE))
    assert named <= known


def test_every_public_name_is_in_the_reference_and_in_the_page_on_python() -> None:
    reference = (ROOT / "docs" / "REFERENCE.md").read_text(encoding="utf-8").splitlines()
    page = (ROOT / "docs" / "PYTHON.md").read_text(encoding="utf-8")
    assert [name for name in pipeline.__all__ if f"::: pipeline.{name}" not in reference] == []
    assert [name for name in pipeline.__all__ if f"pipeline.{name}" not in page] == []


def test_the_picture_of_the_architecture_is_the_map_that_is_tested() -> None:
    assert architecture.PAGE.read_text(encoding="utf-8") == architecture.page(), "run: make reference"


def test_help_fits_a_terminal_and_cuts_no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for words in ([], *([name] for name, _ in COMMANDS)):
        lines = CliRunner().invoke(app, [*words, "-h"], prog_name="songprint").output.splitlines()
        assert [line for line in lines if len(line) > 80] == []
    commands = CliRunner().invoke(app, ["-h"]).output.partition("Commands:")[2]
    assert "..." not in commands


def test_the_version_is_printed() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert shown.exit_code == 0
    assert re.fullmatch(r"songprint (\d+\.\d+\.\d+|checkout) \(code [0-9a-f]{8}\)\n", shown.output)


def test_every_argument_is_explained() -> None:
    for name, command in COMMANDS:
        for argument in command.params:
            assert argument.help or argument.name == "help", f"{name} {argument.name} has no help"


def test_wrong_usage_is_one_sentence_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["index", "--nope"]) == 2
    assert "No such option: --nope" in capsys.readouterr().err


def test_an_error_of_ours_is_one_sentence_and_exit_code_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["songs", "--store", str(tmp_path / "none")]) == 1
    assert re.fullmatch(r"StoreError: .*none.*\n", capsys.readouterr().err)
