"""Build the web site of these documents: `make docs`, with Zensical, and mkdocstrings for the reference.

Every document keeps its path in the repository, so that a link leads to the same page there and on the site. A link
that leads nowhere, or a name that the reference does not find, is an error. The site loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[1]
PLACES = (
    "*.md",
    "docs/*.md",
    "docs/*.png",
    "data/README.md",
    "benchmarks/README.md",
    "contrib/README.md",
    "contrib/*/*.py",
)


def build(target: Path) -> None:
    """Build the site as a folder, in place of the one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        for path in [path for place in PLACES for path in ROOT.glob(place)]:
            copy = pages / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            if copy.suffix == ".md":  # of a notebook and of the licence the site has a page
                text = copy.read_text(encoding="utf-8").replace(".ipynb)", ".md)").replace("(LICENSE)", "(LICENSE.md)")
                copy.write_text(text, encoding="utf-8")
        shutil.copy(ROOT / "LICENSE", pages / "LICENSE.md")
        _write_notebooks(pages / "notebooks")
        shutil.copy(ROOT / "docs" / "mkdocs.yml", folder)
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}  # whose docstrings the reference shows
        subprocess.run(command, cwd=folder, env=environment, check=True)
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(Path(folder) / "site", target)


def _write_notebooks(folder: Path) -> None:
    """Each notebook as a page, with the outputs that are saved in it."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text, resources = MarkdownExporter().from_filename(str(path))  # type: ignore[no-untyped-call]
        pictures = folder / path.stem
        pictures.mkdir(parents=True)
        for name, content in resources["outputs"].items():
            (pictures / name).write_bytes(content)
            text = text.replace(f"]({name})", f"]({path.stem}/{name})")
        text = text.replace(' border="1" class="dataframe"', "")  # so that the theme lets wide tables scroll
        (folder / f"{path.stem}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build(ROOT / "build" / "site")
