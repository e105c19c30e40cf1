"""The list of sets: what `milkit data` says, digests, and damage that is found before anything is trained."""

import hashlib
import shutil

import numpy as np
import pytest

from milkit.commands.data import main
from milkit.data.datasets import Classic, known, known_set, verify
from milkit.data.datasets.folders import PACKAGED, digest_of, known_sums
from milkit.errors import ConfigError, DataError


def test_every_set_has_licence_citation_source_digest_and_use(monkeypatch, tmp_path):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    for record in known():
        assert all((record.licence, record.citation, record.where, record.use, record.files)), record.name
        assert len(record.sum) == 64
        assert (record.here != "") == (record.name == "musk1")


def test_the_list_and_a_set_in_full(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    assert main([]) == 0
    listed = capsys.readouterr().out
    for record in known():
        assert record.name in listed
        assert record.licence in listed
        assert main([record.name]) == 0
        shown = capsys.readouterr().out
        for needed in (record.what, record.licence, record.citation, record.where, record.use, record.sum):
            assert needed in shown
        assert (f"$MILKIT_DATA/{record.files[0]}" in shown) == (not record.here)
    with pytest.raises(ConfigError, match="Did you mean 'glas'"):
        main(["glass"])


def test_verify_says_what_is_here_and_whether_it_is_right(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    assert main(["--verify", "musk1", "fox"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{'musk1':<21} as known", f"{'fox':<21} not here"]


def test_all_sets_here_are_as_known(shared, monkeypatch):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    sums = (shared / "data" / "SHA256SUMS").read_text()
    for file, digest in known_sums().items():
        assert f"{digest}  ./{file}" in sums
    for record in known():
        verify(record)


def test_a_damaged_copy_of_a_set_is_found(shared, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    (tmp_path / "mil_classic").mkdir()
    for name in ("ucsb_breast/labels.csv", "features_efflite0/ucsb_breast.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(shared / "data" / name, tmp_path / name)
    verify(known_set("ucsb_breast"))
    table = tmp_path / "ucsb_breast" / "labels.csv"
    table.write_text(table.read_text().replace("malignant1_ccd,malignant", "malignant1_ccd,benign"))
    with pytest.raises(DataError, match=r"labels\.csv is not the file that milkit knows") as caught:
        verify(known_set("ucsb_breast"))
    assert hashlib.sha256(table.read_bytes()).hexdigest() in str(caught.value)
    assert main(["--verify", "ucsb_breast"]) == 2
    assert "labels.csv" in capsys.readouterr().out


def test_a_classic_set_with_one_number_changed_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("MILKIT_DATA", str(tmp_path))
    with np.load(PACKAGED / "musk1.npz") as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["X"] = changed["X"].copy()
    monkeypatch.setattr("milkit.data.datasets.folders.PACKAGED", tmp_path / "nothing")
    (tmp_path / "mil_classic").mkdir()
    path = tmp_path / "mil_classic" / "musk1.npz"
    np.savez(path, **changed)  # packed otherwise, but the same numbers
    assert len(Classic("musk1").load()) == 92
    changed["X"][7, 3] += 1
    np.savez(path, **changed)
    with pytest.raises(DataError, match=r"musk1\.npz is not the file.*BagFile"):
        Classic("musk1").load()


def test_digests_know_names_shapes_and_values_not_packing():
    arrays = {"a": np.arange(6, dtype="<i4").reshape(2, 3)}
    same = {"a": np.asfortranarray(np.arange(6).reshape(2, 3).astype(">i4"))}
    assert digest_of(arrays) == digest_of(same)
    # by hand: the text "a <i4 (2, 3)", a new line, and 0 ... 5 in four bytes each, the lowest first
    text = b"a <i4 (2, 3)\n" + b"".join(bytes([i, 0, 0, 0]) for i in range(6))
    assert digest_of(arrays) == hashlib.sha256(text).hexdigest()
    others = ({"b": arrays["a"]}, {"a": arrays["a"].T}, {"a": arrays["a"] + 1}, {"a": arrays["a"].astype("<i8")})
    assert len({digest_of(arrays), *map(digest_of, others)}) == 5
