"""Checkpoints of others: every file of reference arrays becomes the model that it is of; damaged ones are refused."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from parity import Fixture, Reference, bags_of, close
from safetensors.numpy import save_file
from test_parity_zhang2022 import split

from milkit.errors import ConfigError, DataError
from milkit.foreign_weights.file import read_checkpoint
from milkit.foreign_weights.known import LAYOUTS, recognised
from milkit.foreign_weights.model import model_of, try_on_noise
from milkit.models import ABMIL, ACMIL, CLAMMB, CLAMSB, DSMIL, DTFD, ILRA, TransMIL
from milkit.types import Bags

CLAM = {"encoder": (512,), "attention": 256}
FILES = {
    "abmil": (ABMIL(encoder=(), attention=24, gated=False), {}),
    "abmil_gated": (ABMIL(encoder=(), attention=24), {}),
    "millab_abmil": (ABMIL(encoder=(24, 24), attention=16, dropout=0.25), {"mask": "attn_mask"}),
    "millab_abmil_nogate": (
        ABMIL(encoder=(24, 24), attention=16, gated=False, dropout=0.25),
        {"mask": "attn_mask"},
    ),
    "torchmil_abmil": (ABMIL(encoder=(), attention=16, gated=False), {"mask": "mask"}),
    "torchmil_abmil_gated": (ABMIL(encoder=(), attention=16), {"mask": "mask"}),
    "clam_sb": (CLAMSB(**CLAM), {}),
    "clam_sb_nogate_3class": (CLAMSB(gated=False, **CLAM), {}),
    "clam_mb": (CLAMMB(**CLAM), {}),
    "torchmil_clam_sb": (CLAMSB(encoder=(), attention=16, dropout=0.0, k=10, subtyping=True), {"mask": "mask"}),
    "transmil": (TransMIL(width=64, compat="authors"), {}),
    "millab_transmil": (TransMIL(width=32, heads=4, compat="authors"), {}),
    "torchmil_transmil": (
        TransMIL(width=32, heads=4, encoder=False, projection=False, residual=0, dropout=0.0, compat="authors"),
        {},
    ),
    "dsmil": (DSMIL(query=128, compat="authors"), {}),
    "dsmil_linearq": (DSMIL(query=128, query_layers=1, compat="authors"), {}),
    "dsmil_passingv_1class": (DSMIL(query=128, values=32, compat="authors"), {}),
    "torchmil_dsmil": (DSMIL(query=16, values=32, compat="authors"), {"mask": "mask"}),
    "dtfd": (DTFD(width=24, attention=16), {}),
    "dtfd_res1_total8": (DTFD(width=24, attention=16, residual_blocks=1), {}),
    "millab_dftd_afs": (DTFD(width=24, attention=16, residual_blocks=1, compat="mil_lab"), {}),
    "acmil_ga_1token": (ACMIL(branches=1, width=24, attention=16), {}),
    "acmil_ga_5token": (ACMIL(branches=5, width=24, attention=16), {}),
    "acmil_mha_1token": (ACMIL("multihead", 1, width=24, heads=8), {}),
    "acmil_mha_3token": (ACMIL("multihead", 3, width=24, heads=8), {}),
    "ilra": (ILRA(width=32, heads=4, rank=3), {}),
    "ilra_ln": (ILRA(width=32, heads=4, rank=3, layer_norm=True), {}),
    "millab_ilra": (ILRA(width=32, heads=4, rank=3, layer_norm=True), {}),
}
STATED = {"ilra": {"heads": 4}, "ilra_ln": {"heads": 4}, "millab_ilra": {"heads": 4}}


pytestmark = pytest.mark.usefixtures("quick_and_exact")


def imported(folder, name, arrays, stated=()):
    """A checkpoint written as a file and read again."""
    file = folder / "weights.safetensors"
    save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, file)
    return model_of(read_checkpoint(file), name, dict(stated), str(file))


def logits_of(module, reference, fixture, case):
    """What a module says of a case, and what the file says; DTFD is given the file's split."""
    if not isinstance(fixture.config, DTFD):
        said = nnx.jit(lambda module, bags: module(bags).logits)
        return said(module, bags_of(reference, fixture, case)), reference.get("out", case, "logits")
    x = reference.arrays[f"x{case}"]
    perm = reference.get("out", case, "perm")
    perm = reference.arrays[f"perm{case}"] if perm is None else perm
    said = nnx.jit(lambda module, bags, group: module.on_pseudo_bags(bags, group).logits)
    logits = said(module, Bags.of([x]), jax.numpy.asarray(split(perm, 4))[None])
    own = reference.get("out", case, "slide_logits_AFS")
    return logits, reference.get("out", case, "logits") if own is None else own


QUICK = {"abmil_gated", "millab_abmil", "clam_sb", "clam_mb", "dsmil", "dtfd", "acmil_ga_5token", "ilra"}
EVERY = [file if file in QUICK else pytest.param(file, marks=pytest.mark.slow) for file in FILES]


@pytest.mark.parametrize("file", EVERY)
def test_every_file_becomes_its_model(shared, tmp_path, file):
    """Sizes are read off the arrays; one naming only recognises the file; its logits are those of the code it is of."""
    config, options = FILES[file]
    reference = Reference(shared, file)
    assert next(o.model for o in LAYOUTS if o.fits(reference.weights)) is type(config)
    placed = imported(tmp_path, type(config).__name__, reference.weights, STATED.get(file, {}))
    assert placed.found.config == config
    assert placed.found.in_features == 32
    case = reference.cases[-1]
    got, want = logits_of(placed.module, reference, Fixture(file, config, **options), case)
    assert want is not None
    close(got, want)


def test_a_file_of_the_authors_is_recognised_by_no_other_model(shared):
    """ABMIL's namings are part of CLAM's of the same libraries, which stand first; all others exclude each other."""
    for file, (config, _) in FILES.items():
        with np.load(shared / "parity" / "slide" / f"{file}.npz", allow_pickle=False) as arrays:
            names = [name[2:] for name in arrays.files if name.startswith("w/")]
        fitting = {layout.model for layout in LAYOUTS if layout.fits(names)}
        assert fitting - {ABMIL} == {type(config)} - {ABMIL}, file


def clam(rng, classes=2, instances=True, layer=3):
    """Arrays in the naming of CLAM's authors, of sizes of our own."""
    shapes = {
        "attention_net.0": (6, 5),
        f"attention_net.{layer}.attention_a.0": (4, 6),
        f"attention_net.{layer}.attention_b.0": (4, 6),
        f"attention_net.{layer}.attention_c": (1, 4),
        "classifiers": (classes, 6),
        **{f"instance_classifiers.{i}": (2, 6) for i in range(classes * instances)},
    }
    arrays = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": rng.normal(size=shape[:1]) for name, shape in shapes.items()}
    return {name: a.astype(np.float32) for name, a in arrays.items()}


@pytest.fixture
def arrays():
    return clam(np.random.default_rng(3))


def test_clam_by_hand(tmp_path, arrays):
    """Without its instance classifiers, of the first release (no place for dropout), under two prefixes; in numpy."""
    arrays = clam(np.random.default_rng(3), classes=3, instances=False, layer=2)
    placed = imported(tmp_path, "clam-sb", {f"module.model.{k}": a for k, a in arrays.items()})
    assert placed.found.config == CLAMSB(encoder=(6,), attention=4, bag_weight=1.0)
    assert placed.left == ("attention_net.2.attention_c.bias",)
    x = np.random.default_rng(4).normal(size=(7, 5)).astype(np.float32)

    def dense(name, h):
        return h @ arrays[f"{name}.weight"].T.astype(np.float64) + arrays[f"{name}.bias"]

    h = np.maximum(dense("attention_net.0", x), 0)
    gate = 1 / (1 + np.exp(-dense("attention_net.2.attention_b.0", h)))
    score = dense("attention_net.2.attention_c", np.tanh(dense("attention_net.2.attention_a.0", h)) * gate)
    weight = np.exp(score) / np.exp(score).sum()
    try_on_noise(placed, "FILE")
    close(placed.module(Bags.of([x])).logits[0], dense("classifiers", (weight * h).sum(0)))


def test_clam_of_mil_lab_is_its_abmil_with_instance_classifiers(shared, tmp_path):
    reference = Reference(shared, "millab_abmil")
    rng = np.random.default_rng(0)
    more = {f"instance_classifiers.{i}.weight": rng.normal(size=(2, 24)) for i in range(3)}
    more |= {f"instance_classifiers.{i}.bias": rng.normal(size=2) for i in range(3)}
    placed = imported(tmp_path, "CLAMSB", {**reference.weights, **more})
    assert placed.layout.source == "MIL-Lab"
    bags = bags_of(reference, Fixture("millab_abmil", None, mask="attn_mask"), "3")
    close(placed.module(bags).logits, reference.get("out", "3", "logits"))


def test_names_of_dtfds_training_script(shared, tmp_path):
    """It saves two of its four networks under names of their own."""
    reference = Reference(shared, "dtfd")
    names = {
        k: k.replace("dimReduction", "dim_reduction").replace("attCls", "att_classifier") for k in reference.weights
    }
    one = imported(tmp_path, "DTFD", reference.weights)
    two = imported(tmp_path, "DTFD", {names[k]: a for k, a in reference.weights.items()})
    for ours, theirs in zip(
        jax.tree.leaves(nnx.state(one.module)), jax.tree.leaves(nnx.state(two.module)), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def spoiled(arrays, **changes):
    """Arrays with some replaced, or left out where the replacement is None; `__` in a name stands for a point."""
    changes = {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


WRONG = {
    "missing": ({"classifiers__bias": None}, "lacks classifiers.bias. The model has: .*The file has: "),
    "unknown": ({"size_dict": np.ones(2)}, "has size_dict, for which the model has no place"),
    "classifier": ({"instance_classifiers__1__weight": None}, "lacks instance_classifiers.1.weight"),
    "shape": (
        {"attention_net__3__attention_b__0__weight": np.ones((3, 6))},
        r"attention_b.0.weight \[3, 6\] for pool/g",
    ),
    "axes": (
        {"attention_net__0__bias": np.ones((6, 1))},
        r"attention_net.0.bias \[6, 1\] for encoder/layers/0/bias \[6",
    ),
    "nan": ({"classifiers__weight": np.full((2, 6), np.nan)}, "not finite in classifiers.weight"),
    "large": ({"classifiers__weight": np.full((2, 6), 1e300)}, "not finite in classifiers.weight"),
    "words": ({"classifiers__weight": np.ones((2, 6), np.int32)}, "holds classifiers.weight as int32"),
    "empty": ({"attention_net__3__attention_a__0__weight": np.ones((0, 6))}, "attention is 0"),
    "wide": (
        {
            "attention_net__0__weight": np.ones((100_000, 1)),
            "attention_net__3__attention_a__0__weight": np.ones((100_000, 1)),
        },
        r"attention_net.0.bias \[6\] for encoder/layers/0/bias \[100000\]",
    ),
}


@pytest.mark.parametrize("why", WRONG)
def test_arrays_that_are_not_the_models_are_named(tmp_path, arrays, why):
    changes, message = WRONG[why]
    with pytest.raises((DataError, ConfigError), match=message):
        imported(tmp_path, "CLAMSB", spoiled(arrays, **changes))


def test_files_that_are_no_weights(tmp_path, arrays):
    file = tmp_path / "weights.safetensors"
    save_file(arrays, file)
    whole = file.read_bytes()
    huge = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    for data, message in (
        (whole[:-5], "damaged|does not fit"),
        (whole[:4], "damaged"),
        (b"\x00" * 64, "damaged|holds no arrays"),
        (b"PK\x03\x04" + whole, "damaged"),
        (len(huge).to_bytes(8, "little") + huge, "does not fit"),
        ((2).to_bytes(8, "little") + b"{}", "holds no arrays"),
    ):
        file.write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_checkpoint(file)
    with pytest.raises(DataError, match="There is no file"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_a_file_of_another_model_is_told_apart(shared, tmp_path):
    weights = Reference(shared, "transmil").weights
    with pytest.raises(DataError, match=r"looks like TransMIL \(the authors' code\): name that model. It has: _fc1.0"):
        recognised("clam_sb", weights, "FILE")
    with pytest.raises(ConfigError, match="did you mean 'CLAMSB'"):
        recognised("CLAMS", weights, "FILE")
    with pytest.raises(DataError, match="It looks like CLAMMB"):
        recognised("CLAMSB", Reference(shared, "clam_mb").weights, "FILE")


def test_what_is_stated_must_be_a_field_and_fit(tmp_path, arrays):
    assert imported(tmp_path, "CLAMSB", arrays, {"k": 4, "subtyping": True}).found.config.k == 4
    with pytest.raises(ConfigError, match=r"--set heads: CLAMSB has no such field; .*attention"):
        imported(tmp_path, "CLAMSB", arrays, {"heads": 4})
    with pytest.raises(DataError, match="pool/tanh/kernel"):
        imported(tmp_path, "CLAMSB", arrays, {"attention": 9})
    with pytest.raises(ConfigError, match=r"model.k is 0"):
        imported(tmp_path, "CLAMSB", arrays, {"k": 0})


def test_prefixes(tmp_path, arrays):
    file = tmp_path / "weights.safetensors"
    save_file({f"aggregator.model.{k}": a for k, a in arrays.items()}, file)
    found = read_checkpoint(file, "aggregator.")
    assert found.prefix == "aggregator.model."
    assert set(found.arrays) == set(arrays)
    with pytest.raises(ConfigError, match="--prefix other"):
        read_checkpoint(file, "other.")
