"""The web site of the documents: it builds without a warning, has every page, and loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from docs import site

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as a folder; a broken link or an unknown name fails here."""
    folder = tmp_path_factory.mktemp("site") / "site"
    site.build(folder)
    return folder


def in_menu(entry: object) -> list[str]:
    """The paths below an entry of the menu."""
    if isinstance(entry, str):
        return [entry]
    return [path for one in (entry.values() if isinstance(entry, dict) else entry) for path in in_menu(one)]


def test_the_menu_has_every_page(built: Path) -> None:
    menu = yaml.safe_load((ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {path.relative_to(ROOT).as_posix() for place in site.PLACES for path in ROOT.glob(place)}
    pages |= {path.relative_to(ROOT).with_suffix(".md").as_posix() for path in ROOT.glob("notebooks/*.ipynb")}
    assert {path for path in pages if path.endswith(".md")} | {"LICENSE.md"} == set(in_menu(menu))


def test_no_page_loads_anything_from_elsewhere(built: Path) -> None:
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]*\bsrc=[\"']?([^\"' >]+)", text)
        loaded += re.findall(
            r"<link[^>]*rel=[\"']?(?:stylesheet|icon|preconnect|preload)[^>]*href=[\"']?([^\"' >]+)", text
        )
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], page
    for sheet in built.rglob("*.css"):
        assert not re.search(r"(@import|url\()[\s\"']*(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_reference_is_written_out(built: Path) -> None:
    text = (built / "docs" / "REFERENCE" / "index.html").read_text(encoding="utf-8")
    for name in (
        "pipeline.identify",
        "pipeline.Store.open",
        "pipeline.indexing.IndexReport",
        "pipeline.errors.StoreError",
    ):
        assert f'id="{name}"' in text or f"id={name}" in text, name
    assert ":::" not in text
