"""The page on packing: its commands and its code are run as they stand, and its times are those of the benchmark."""

import json
import re

import pytest
from foreign_files import quickstart

from milkit import cli
from milkit.data.features import open_features


@pytest.fixture
def page(root):
    return (root / "docs" / "packing.md").read_text()


@pytest.mark.slow
def test_the_page_works_as_it_stands(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quickstart(tmp_path)
    commands = [line for block in re.findall(r"^```sh\n(.*?)^```$", page, re.S | re.M) for line in block.splitlines()]
    assert len(commands) == 11
    for command in commands:
        assert cli.main(command.split()[1:]) == 0, command
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M):
        exec(compile(block, "docs/packing.md", "exec"), names)
    assert names["bag"].tile_um == 128.0
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "uni.h5").read_bytes()
    whole = open_features("uni.h5")
    parts = sorted(tmp_path.glob("parts-*.h5"))
    assert len(parts) > 1
    assert open_features(parts).ids == whole.ids


def test_its_times_are_those_of_the_benchmark(page, root):
    found = json.loads((root / "benchmarks" / "results" / "read_speed.json").read_text())
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in page.splitlines() if line.startswith("| ")}
    warm, cold = found["warm"], found["cold"]
    for name, keys in {
        "milkit's loader, 1 thread": "store_1",
        "milkit's loader, 2 threads": "store_2",
        "`np.fromfile`, 1 thread": "fromfile_1",
        "`np.fromfile`, 2 threads": "fromfile_2",
        "TRIDENT's layout": "trident",
        "CLAM's layout (float32, twice the bytes)": "clam",
        "2,048 rows: milkit": "store_rows",
        "2,048 rows: TRIDENT's, picked by HDF5": "trident_rows",
        "2,048 rows: TRIDENT's, picked after reading all": "trident_rows_of_all",
        "2,048 rows: CLAM's, picked by HDF5": "clam_rows",
        "2,048 rows: CLAM's, picked after reading all": "clam_rows_of_all",
    }.items():
        assert [cell.strip() for cell in rows[name]] == [f"{part['ms_a_bag'][keys]:.1f}" for part in (warm, cold)]
    for name in ("fraction_of_fromfile", "ratio_trident_full", "ratio_trident_random", "ratio_trident_random_of_all"):
        assert f"{warm[name]:.2f}" in page
