"""Split files cut short or with other bytes: splits or a milkit error that names the file, and the file as it was."""

import contextlib

import numpy as np
import pytest
from split_files import acmil, clam, mil_baseline, patho_bench, soma, stamp, torchmil, transmil

from milkit.data.splits_of import read_splits, rows
from milkit.errors import ProtocolError

ONE = {"train": ["s0", "s1", "s2", "s3"], "val": ["s4", "s5"], "test": ["s6", "s7"]}
LABELS = {f"s{i}": i % 2 for i in range(8)}
FILES = {
    "CLAM": lambda f: clam(f, 0, ONE),
    "CLAM, true and false": lambda f: clam(f, 0, ONE).with_name("splits_0_bool.csv"),
    "TransMIL": lambda f: transmil(f, 0, ONE, LABELS),
    "MIL_BASELINE": lambda f: mil_baseline(f, 1, 2, ONE, LABELS),
    "Patho-Bench": lambda f: patho_bench(f, {s: s for s in LABELS}, LABELS, [ONE, ONE]),
    "STAMP": lambda f: stamp(f, [ONE]),
    "ACMIL": lambda f: acmil(f, 0, ONE),
    "torchmil": lambda f: torchmil(f, ONE),
    "soma": lambda f: soma(f, [ONE]),
}
WORDS = [
    b",",
    b"\t",
    b'"',
    b"\n",
    b"\xff",
    b"\0",
    b"{",
    b"]",
    b"9" * 5000,
    b"nan",
    b"\xef\xbb\xbf",
    b"\r",
    b"True",
    b"-1",
]


@pytest.mark.parametrize("tool", FILES)
def test_a_damaged_file_gives_splits_or_an_error_in_words(tool, tmp_path):
    path = FILES[tool](tmp_path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: len(whole) * i // 20] for i in range(20)]
    for _ in range(80):
        raw = bytearray(whole)
        for place in sorted(rng.integers(0, len(raw) - 6, 3), reverse=True):
            if rng.random() < 0.5:
                raw[place] ^= 1 << int(rng.integers(8))
            else:
                raw[place : place + int(rng.integers(3))] = WORDS[rng.integers(len(WORDS))]
        damaged.append(bytes(raw))
    for raw in damaged:
        path.write_bytes(raw)
        with contextlib.suppress(ProtocolError):  # anything else fails the test
            assert any(split.parts for split in read_splits(path))
        assert path.read_bytes() == raw


def test_a_column_of_numbers_that_are_no_folds(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MOST_ENTRIES", 100)
    path = tmp_path / "t.csv"
    path.write_text("slide_id,fold\n" + "".join(f"s{i},{i}\n" for i in range(11)))
    with pytest.raises(ProtocolError, match="column 'fold' holds 11 numbers in 11 rows, too many for folds"):
        read_splits(path)
