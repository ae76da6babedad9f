"""`import pipeline`: what a user in Python gives and gets."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed
import nbformat
import numpy as np
import pandas as pd
import pytest
from nbclient import NotebookClient
from numpy.typing import NDArray

import pipeline
from pipeline import Query, Store
from pipeline.audio import decoding
from pipeline.errors import ClusterError, ParameterError
from pipeline.evaluation import metrics
from pipeline.evaluation.conditions import Plan
from pipeline.execution.dask_executor import DaskExecutor
from pipeline.execution.executor import Progress
from pipeline.fingerprinting.landmarks import Hashes
from pipeline.simulation import encoding, music

pytestmark = pytest.mark.usefixtures("whole_stores")

ROOT = Path(__file__).parents[1]
RATE = music.SAMPLE_RATE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs 1 to 3."""
    folder = tmp_path_factory.mktemp("music")
    for seed in (1, 2, 3):
        encoding.write(folder / f"{seed}.wav", music.song(seed, 30.0), title=f"Song {seed}")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    store = Store.open_or_create(str(folder / "store"))
    pipeline.index(folder, store)
    return store


def clip(seed: int, start_s: float, length_s: float) -> NDArray[np.float32]:
    return music.song(seed, 30.0)[round(start_s * RATE) : round((start_s + length_s) * RATE)]


def test_one_path_is_one_path_as_text_or_as_a_path_object(folder: Path, tmp_path: Path) -> None:
    one = Store.open_or_create(str(tmp_path / "one"))
    assert pipeline.index(str(folder / "1.wav"), one).added == 1
    assert pipeline.index(folder / "2.wav", one).added == 1
    assert pipeline.index([folder / "1.wav", str(folder / "3.wav")], one).added == 1
    for paths in (str(folder / "2.wav"), folder / "2.wav", pd.Series([str(folder / "2.wav")])):
        assert pipeline.identify(paths, one)["song_id"].to_pylist() == [2]


@pytest.mark.parametrize("paths", [7, None, b"Music", [b"Music"], [None], Path("s3://bucket/music")])
def test_what_is_no_path_is_refused_by_the_name_of_the_argument(paths: Any, store: Store) -> None:
    with pytest.raises(ParameterError, match=r"^paths: "):
        pipeline.identify(paths, store)
    with pytest.raises(ParameterError, match=r"^paths: "):
        pipeline.index(paths, store)


def test_another_object_is_refused_by_the_name_of_the_argument(store: Store, folder: Path) -> None:
    anything: Any = {"false_positives": 0.1}
    for call in (pipeline.identify, pipeline.iter_matches, pipeline.evaluate):
        with pytest.raises(ParameterError, match=r"^query: .* is a dict"):
            call(folder, store, anything)
        with pytest.raises(ParameterError, match=r"^store: 'music.songprint' is a str"):
            call(folder, "music.songprint")
    for call in (pipeline.index, pipeline.identify):
        with pytest.raises(ParameterError, match=r"^executor: a dict"):
            call(folder, store, executor=anything)
        with pytest.raises(ParameterError, match=r"^progress: 3"):
            call(folder, store, progress=3)
    with pytest.raises(ParameterError, match=r"^store: "):
        pipeline.duplicates(anything)
    with pytest.raises(ParameterError, match=r"^false_positives is 2"):
        Query(false_positives=2)
    with pytest.raises(ParameterError, match=r"^workers: 0"):
        pipeline.local_cluster(0)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("length_s", [5.0, 20.0])
def test_samples_have_the_rows_of_a_file_with_these_samples(
    length_s: float, channels: int, store: Store, tmp_path: Path
) -> None:
    samples = np.stack([clip(2, 8.0, length_s)] * channels, axis=1)
    encoding.write(tmp_path / "clip.flac", samples)
    read, rate = decoding.read(str(tmp_path / "clip.flac"), RATE)[0], RATE
    rows = pipeline.identify_samples(samples, rate, store)
    of_file = pipeline.identify(tmp_path / "clip.flac", store)
    assert rows.schema == of_file.schema
    assert [row["clip"] for row in rows.to_pylist()] == [""]
    assert [row["song_id"] for row in rows.to_pylist()] == [2]
    same = pipeline.identify_samples(read.astype(np.float64), rate, store.snapshot())
    assert same.drop_columns("clip").equals(of_file.drop_columns("clip"))


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(5 * RATE), np.full((RATE, 2), np.nan)])
def test_samples_without_a_song_are_one_unknown_row(samples: NDArray[np.float64], store: Store) -> None:
    assert [(row["clip"], row["status"]) for row in pipeline.identify_samples(samples, RATE, store).to_pylist()] == [
        ("", "unknown")
    ]


@pytest.mark.parametrize(
    "query", [Query(), Query(speed_range=1.0), Query(pitch_range=1.0)], ids=["own", "speed", "pitch"]
)
@pytest.mark.parametrize("length_s", [3.0, 20.0])
def test_a_store_without_songs_names_nothing(length_s: float, query: Query, tmp_path: Path) -> None:
    empty = Store.create(str(tmp_path / "empty.songprint"))
    rows = pipeline.identify_samples(clip(2, 8.0, length_s), RATE, empty, query).to_pylist()
    assert [row["status"] for row in rows] == ["unknown"]


@pytest.mark.parametrize(
    ("samples", "sample_rate", "message"),
    [
        (np.zeros((2, 1000)), RATE, r"^samples: 1000 channels in shape \(2, 1000\).*transpose"),
        (np.zeros((1000, 0)), RATE, r"^samples: 0 channels"),
        (np.zeros((10, 2, 2)), RATE, r"^samples: shape \(10, 2, 2\)"),
        (np.zeros(1000, np.int16), RATE, r"^samples: int16; .* divide it by 32768"),
        (["a"], RATE, r"^samples: <U1"),
        (np.zeros(1000), 0, r"^sample_rate: 0"),
        (np.zeros(1000), 44100.5, r"^sample_rate: 44100.5"),
        (np.zeros(1000), float("nan"), r"^sample_rate: nan"),
        (np.zeros(1000), "44100", r"^sample_rate: '44100'"),
    ],
)
def test_samples_out_of_range_are_refused_by_name(samples: Any, sample_rate: Any, message: str, store: Store) -> None:
    with pytest.raises(ParameterError, match=message):
        pipeline.identify_samples(samples, sample_rate, store)
    with pytest.raises(ParameterError, match=message):
        pipeline.fingerprint(samples, sample_rate=sample_rate)


def test_a_fingerprint_of_samples_is_that_of_a_file_with_them(folder: Path) -> None:
    samples, decoded = decoding.read(str(folder / "1.wav"), RATE)
    of_file = pipeline.fingerprint(folder / "1.wav")
    of_samples = pipeline.fingerprint(samples, sample_rate=RATE)
    for one, other in ((of_file.hashes, of_samples.hashes), (of_file.peaks, of_samples.peaks)):
        names = ("hash", "offset") if isinstance(one, Hashes) else ("frame", "bin", "level")
        for name in names:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (of_samples.decoded.decoder, of_samples.decoded.duration_s) == ("array", decoded.duration_s)
    with pytest.raises(ParameterError, match=r"^sample_rate: missing"):
        pipeline.fingerprint(samples)
    with pytest.raises(ParameterError, match=r"^sample_rate: only for samples"):
        pipeline.fingerprint(folder / "1.wav", sample_rate=RATE)


def test_matches_come_batch_by_batch(store: Store, tmp_path: Path) -> None:
    for seed in (3, 1, 2):
        encoding.write(tmp_path / f"{seed}.wav", np.tile(clip(seed, 2.0, 20.0), 3))
    tables = pipeline.iter_matches(tmp_path, store)
    whole = pipeline.identify(tmp_path, store)
    assert isinstance(tables, Iterator)
    assert [row for table in tables for row in table.to_pylist()] == whole.to_pylist()


def test_the_progress_of_a_run_ends_with_all_of_it(store: Store, folder: Path, tmp_path: Path) -> None:
    encoding.write(tmp_path / "clip.wav", clip(1, 3.0, 5.0))
    for call, total in (
        (lambda progress: pipeline.index(folder, Store.create(str(tmp_path / "store")), progress=progress), 3),
        (lambda progress: pipeline.identify(tmp_path / "clip.wav", store, progress=progress), 1),
        (
            lambda progress: pipeline.evaluate(
                folder / "1.wav", store, plan=Plan(("clean",), (3.0,)), progress=progress
            ),
            1,
        ),
    ):
        seen: list[Progress] = []
        call(seen.append)
        assert (seen[0].share, seen[0].done) == (0.0, 0)
        assert (seen[-1].done, seen[-1].total) == (total, total)
        assert seen[-1].share == pytest.approx(1.0)


def test_a_bar_is_drawn_in_a_notebook(store: Store, tmp_path: Path) -> None:
    encoding.write(tmp_path / "clip.wav", clip(1, 3.0, 5.0))
    source = (
        "import pipeline\n"
        f"store = pipeline.Store.open({store.url!r})\n"
        f"len(pipeline.identify({str(tmp_path / 'clip.wav')!r}, store, progress=True))"
    )
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = notebook.cells[0].outputs
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert ["1 of 1" in output["data"].get("text/html", "") for output in outputs] == [True, False]
    assert outputs[-1]["data"]["text/plain"] == "1"


def test_without_a_terminal_a_bar_is_nothing(store: Store, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline.index(folder, store, progress=True)
    assert capsys.readouterr() == ("", "")


def test_duplicates_and_evaluate_are_functions_beside_index_and_identify(store: Store, folder: Path) -> None:
    assert pipeline.duplicates(store).num_rows == 0
    rows = pipeline.evaluate([folder / "1.wav", folder / "2.wav"], store, plan=Plan(("clean",), (5.0,)))
    assert metrics.recall(rows)["right"].to_pylist() == [2]


def test_a_local_cluster_and_any_dask_client_do_what_this_process_does(store: Store, tmp_path: Path) -> None:
    for seed in (1, 2):
        encoding.write(tmp_path / f"{seed}.wav", clip(seed, 3.0, 5.0))
    expected = pipeline.identify(tmp_path, store)
    with pipeline.local_cluster(1) as cluster:
        assert isinstance(cluster, DaskExecutor)
        assert pipeline.identify(tmp_path, store, executor=cluster).equals(expected)
        assert pipeline.identify(tmp_path, store, executor=cluster.client).equals(expected)
        assert cluster.client.status == "running"


def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import pipeline\nwith pipeline.local_cluster(1):\n    print('never')\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert (
        "ClusterError: the worker processes did not start (Nanny failed to start.); a script must open"
        in ran.stderr.splitlines()[-1]
    )


def test_a_client_without_workers_is_refused(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.execution.dask_executor.CONNECT_S", 0.1)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster) as client,
        pytest.raises(ClusterError, match="no workers"),
    ):
        pipeline.identify(folder, store, executor=client)


def test_the_module_lists_its_names_and_knows_its_version() -> None:
    assert {*pipeline.__all__, "__version__"} <= set(dir(pipeline))
    assert pipeline.__version__ == "0.1.0"
    with pytest.raises(AttributeError, match="no attribute 'fingerprnt'"):
        _ = pipeline.fingerprnt  # type: ignore[attr-defined]
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)


def test_a_type_checker_reads_the_names_that_are_loaded_later() -> None:
    tree = ast.parse((ROOT / "pipeline" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    imported = {
        alias.name: (node.module or "").removeprefix("pipeline.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == pipeline._MODULES
    assert sorted(imported) == sorted(pipeline.__all__)


@pytest.mark.timeout(600)
def test_mypy_knows_the_types_of_a_users_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "import numpy as np\n"
        "import pipeline\n"
        "store = pipeline.Store.open('music.songprint')\n"
        "report = pipeline.index(Path('Music'), store)\n"
        "reveal_type(report.added)\n"
        "reveal_type(pipeline.fingerprint(np.zeros(9), sample_rate=44100).hashes.hash)\n"
        "reveal_type(pipeline.__version__)\n"
        "pipeline.identify(7, store)\n"
        "pipeline.fingerprnt\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(program)]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    # mypy's cache may have the folder of the last run
    lines = [line.partition("/program.py:")[2] for line in shown.splitlines()]
    assert [line[: line.index(" ")] for line in lines[:-1]] == ["6:", "7:", "8:", "9:", "10:"]
    assert 'Revealed type is "int"' in lines[0]
    assert "int32" in lines[1] or "signedinteger" in lines[1]
    assert 'Revealed type is "str"' in lines[2]
    assert 'Argument 1 to "identify" has incompatible type "int"' in lines[3]
    assert 'Module has no attribute "fingerprnt"' in lines[4]
