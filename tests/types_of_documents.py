"""Check the types of the programs in the documents with pyright, in strict mode: `make types`.

soundfile and the stubs of Arrow have functions whose types are not known in full; Dask's results have no types at all,
so that programs with its collections are not checked strictly.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.test_documents import ONE_PROGRAM, PYTHON, ROOT

SETTINGS = {
    "typeCheckingMode": "strict",
    "extraPaths": [str(ROOT)],
    "pythonVersion": "3.11",
    "reportMissingTypeStubs": False,
    "reportUnknownMemberType": False,
}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for block in PYTHON:
            page = block.page.replace("/", "_").removesuffix(".md")
            name = page if block.page in ONE_PROGRAM else f"{page}_{block.line}"
            with (Path(folder) / f"{name}.py").open("a", encoding="utf-8") as file:
                file.write("# pyright: basic\n" * ("import dask" in block.text) + block.text)
        (Path(folder) / "pyrightconfig.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
        command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
        return subprocess.run(command, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
