"""Files of bags as they are passed around: UCI's MUSK, tables, `.svm`, `.npz`; and the label left in among features."""

import hashlib

import numpy as np
import pytest

from milkit import config
from milkit.data.datasets import BagFile, classic
from milkit.data.datasets.assemble import label_columns, of_rows
from milkit.errors import ConfigError, DataError

TABLE = """bag,instance,a,b,label
p,1,0.5,1,1
q,1,0.25,2,0
p,2,-1,3,1
r,1,4,5,0
"""


def musk_file(path, extra=None, limit=None):
    """UCI's clean1.data as written there: molecule, conformation, 166 whole numbers, class with a point."""
    musk = classic("musk1").read()
    lines = []
    for i in range(len(musk)):
        name = f"{'MUSK' if musk.labels[i] else 'NON-MUSK'}-{i}"
        for j, row in enumerate(musk.bag(i).x.astype(int).tolist()):
            cells = [*map(str, row), *([] if extra is None else [str(extra[int(musk.labels[i])])])]
            lines.append(f"{name},{i}_{j}+1,{','.join(cells)},{musk.labels[i]}.")
    path.write_text("\n".join(lines[:limit]) + "\n")
    return musk, path


def test_uci_musk_has_166_features(tmp_path):
    musk, path = musk_file(tmp_path / "clean1.data")
    bags = BagFile(str(path)).read()
    assert bags.source.features == 166
    assert (len(bags), int(bags.labels.sum()), int(bags.source.lengths.sum())) == (92, 47, 476)
    assert bags.source.ids[:2] == ("MUSK-0", "MUSK-1")
    for i in range(len(musk)):
        np.testing.assert_array_equal(bags.bag(i).x, musk.bag(i).x)
    assert "UCI" in str(bags.study().flow)
    with pytest.raises(DataError, match="Nothing is known of the instances"):
        bags.instance_labels(0)
    with pytest.raises(DataError, match="no images"):
        bags.images(0)


@pytest.mark.parametrize("values", [(0, 1), (-1, 1), (7, 3)])
def test_a_167th_column_that_is_the_label_is_refused(tmp_path, values):
    _, path = musk_file(tmp_path / "clean1.data", extra=values)
    with pytest.raises(DataError, match=r"feature 167 of 167 is the label.*drop=\(167,\)"):
        BagFile(str(path)).read()
    bags = BagFile(str(path), drop=(167,)).read()
    assert bags.source.features == 166
    assert "1 of 167 features left out: [167]" in str(bags.study().flow)


def test_columns_that_only_resemble_the_label_are_left(tmp_path):
    x = np.array([[0, 5, 0, 1], [0, 5, 1, 1], [1, 6, 0, 1], [0, 6, 0, 2]], np.float32)
    bags = of_rows(tmp_path / "x", x, ["a", "a", "b", "c"], ["0", "0", "1", "1"])
    # by hand: column 0 is 0 in bags a and c, which differ in label; 1 is the label; 2 varies in a; 3 is 1 in a and b
    assert label_columns(bags) == [1]


@pytest.mark.parametrize("name", ["musk1", "musk2", "fox", "tiger", "elephant", "ucsb_breast_features", "web1"])
def test_no_clean_set_is_refused(shared, monkeypatch, name):
    monkeypatch.setenv("MILKIT_DATA", str(shared / "data"))
    path = shared / "data" / "mil_classic" / f"{name}.npz"
    ours, known = BagFile(str(path)).read(), classic(name).read()
    assert ours.source.features == known.source.features
    assert ours.labels.tolist() == known.labels.tolist()
    assert len(ours.given) == len(known.given)
    np.testing.assert_array_equal(ours.bag(3).x, known.bag(3).x)


def test_a_table_with_a_header(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE)
    bags = BagFile(str(tmp_path / "t.csv")).read()
    assert bags.source.ids == ("p", "q", "r")  # in the order of their first rows
    assert bags.bag(0).x.tolist() == [[0.5, 1], [-1, 3]]  # instances of one bag need not stand together
    assert bags.labels.tolist() == [1, 0, 0]
    assert bags.classes == ("0", "1")


def test_columns_may_be_named_or_numbered(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE.replace("bag,", "set,").replace("label", "malignant"))
    with pytest.raises(DataError, match=r"which column holds the bags' names\? none is known.*bag='1'"):
        BagFile(str(tmp_path / "t.csv")).read()
    bags = BagFile(str(tmp_path / "t.csv"), bag="set", label="malignant").read()
    assert bags.labels.tolist() == [1, 0, 0]
    bare = "\n".join(line.replace("p,", "1,").replace("q,", "2,").replace("r,", "3,") for line in TABLE.split("\n")[1:])
    (tmp_path / "bare.csv").write_text(bare)
    with pytest.raises(DataError, match="which column holds the bags' names"):
        BagFile(str(tmp_path / "bare.csv")).read()
    bags = BagFile(str(tmp_path / "bare.csv"), bag="1", label="5", drop=(1,)).read()
    assert bags.source.ids == ("1", "2", "3")
    assert bags.bag(0).x.tolist() == [[0.5, 1], [-1, 3]]


def test_labels_of_instances_are_kept_apart(tmp_path):
    (tmp_path / "t.csv").write_text(TABLE.replace("p,2,-1,3,1", "p,2,-1,3,0"))
    bags = BagFile(str(tmp_path / "t.csv")).read()
    assert bags.labels.tolist() == [1, 0, 0]  # a bag is positive if one of its instances is
    assert bags.instance_labels(0).tolist() == [1, 0]
    assert bags.source.features == 2
    (tmp_path / "t.csv").write_text(TABLE.replace("p,2,-1,3,1", "p,2,-1,3,2"))
    with pytest.raises(DataError, match="instances of one bag have different labels"):
        BagFile(str(tmp_path / "t.csv")).read()


def test_svm_with_bag_ids(tmp_path):
    text = "0:0:1 1:0.5 3:-2\n1:0:1 2:1\n2:1:-1 1:4\n"
    (tmp_path / "x.svm").write_text(text)
    bags = BagFile(str(tmp_path / "x.svm")).read()
    assert bags.source.ids == ("0", "1")
    assert bags.bag(0).x.tolist() == [[0.5, 0, -2], [0, 1, 0]]
    assert bags.bag(1).x.tolist() == [[4, 0, 0]]
    assert bags.labels.tolist() == [1, 0]  # -1 before 1
    assert bags.classes == ("-1", "1")


def test_the_label_in_an_svm_file_is_found_as_well(tmp_path):
    musk = classic("musk1").read()
    lines = []
    for i in range(len(musk)):
        for j, row in enumerate(musk.bag(i).x.astype(int).tolist()):
            pairs = " ".join(f"{k + 1}:{v}" for k, v in enumerate([*row, musk.labels[i]]) if v)
            lines.append(f"{j}:{i}:{musk.labels[i]} {pairs}")
    (tmp_path / "musk1.svm").write_text("\n".join(lines))
    with pytest.raises(DataError, match="feature 167 of 167 is the label"):
        BagFile(str(tmp_path / "musk1.svm")).read()
    bags = BagFile(str(tmp_path / "musk1.svm"), drop=(167,)).read()
    np.testing.assert_array_equal(bags.bag(5).x, musk.bag(5).x)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds nothing"),
        (b"\x80\x04\x95garbage", "is a pickle"),
        (b"bag,a,label\np,1\n", "has 2 cells; expected 3"),
        (b"bag,a,label\np,x,1\nq,2,0\n", "line 2 holds 'x' where a number is expected"),
        (b"bag,a,label\np,nan,1\nq,2,0\n", "NaN, infinity or more than float32 holds at instance 1, feature 1"),
        (b"bag,a,label\np,1,1\nq,1e60,0\n", "NaN, infinity or more than float32 holds at instance 2"),
        (b"bag,a,label\np,1,1\nq,2,1\n", "nothing to learn"),
        (b"bag,label\np,1\n", "expected at least 3"),
        (b'bag,a,label\np,"1,1\nq,"2,0\n', "line 2 has 2 cells"),
        (b"bag,a,label\np,1_0,1\nq,2,0\n", "line 2 holds '1_0'"),
        (b"bag,a,label\np,1,1\n" + b"q" * 200_000 + b",2,0\n", "field larger than field limit"),
        (b"p,yes,1,2\nq,no,3,4\n", "its last column is no class 0 or 1"),
        (b"bag,a,label\n", "no features|nothing"),
        (b"\x00\x01\x02\x03", "zero byte|no text"),
        (b"a,b,c\n", "which column|no features"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        BagFile(str(tmp_path / "x.csv")).read()


def test_a_file_that_is_absent_or_of_another_digest(tmp_path):
    with pytest.raises(DataError, match="No file of bags at"):
        BagFile(str(tmp_path / "none.csv")).read()
    (tmp_path / "t.csv").write_text(TABLE)
    digest = hashlib.sha256(TABLE.encode()).hexdigest()
    assert len(BagFile(str(tmp_path / "t.csv"), sha256=digest).read()) == 3
    with pytest.raises(DataError, match="is not the file that milkit knows"):
        BagFile(str(tmp_path / "t.csv"), sha256="0" * 64).read()
    with pytest.raises(DataError, match=r"drop=\(9,\), but there are 2 features"):
        BagFile(str(tmp_path / "t.csv"), drop=(9,)).read()
    with pytest.raises(ConfigError, match=r"data\.drop"):
        BagFile("x", drop=(0,))


def test_configurations_survive_json():
    from milkit.data.datasets import ColonNuclei, MnistBags, MnistBenchmark, TissueFeatures
    from milkit.experiment import allowed_types

    for data in (
        BagFile("a.svm", drop=(167,)),
        MnistBags(train_bags=50, seed=3),
        MnistBenchmark("01"),
        ColonNuclei(),
        TissueFeatures("glas"),
    ):
        assert config.from_json(config.to_json(data), allowed_types()) == data
