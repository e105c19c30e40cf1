"""PyTorch's own files: what they hold around the weights is left aside, and what is no plain array is refused."""

import warnings

import numpy as np
import pytest

from milkit.errors import DataError
from milkit.foreign_weights.file import read_checkpoint
from milkit.foreign_weights.model import model_of
from milkit.types import Bags

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


class Gated(torch.nn.Module):
    """ABMIL in the names of its authors' code."""

    def __init__(self):
        super().__init__()
        self.attention_V = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh())
        self.attention_U = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Sigmoid())
        self.attention_w = torch.nn.Linear(4, 1)
        self.classifier = torch.nn.Sequential(torch.nn.Linear(5, 1), torch.nn.Sigmoid())

    def forward(self, x):
        a = torch.softmax(self.attention_w(self.attention_V(x) * self.attention_U(x)), 0)
        return self.classifier[0]((a * x).sum(0))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Gated()


def wrapped(network):
    """The ways in which training scripts save a network."""
    state = network.state_dict()
    adam = torch.optim.Adam(network.parameters())
    return {
        "plain": (state, "", "", ()),
        "module": ({f"module.{k}": v for k, v in state.items()}, "", "module.", ()),
        "lightning": (
            {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3, "loops": {"fit": {}}},
            "state_dict",
            "model.",
            ("epoch", "loops"),
        ),
        "trainer": (
            {"model": {"state_dict": state}, "optimizer": adam.state_dict(), "loss": 0.1},
            "model.state_dict",
            "",
            ("optimizer", "loss"),
        ),
        "double": ({k: v.double() for k, v in state.items()}, "", "", ()),
    }


@pytest.mark.parametrize("how", ["plain", "module", "lightning", "trainer", "double"])
def test_saved_networks_answer_as_they_did(network, tmp_path, how):
    saved, under, prefix, beside = wrapped(network)[how]
    torch.save(saved, tmp_path / "weights.pth")
    found = read_checkpoint(tmp_path / "weights.pth")
    assert (found.under, found.prefix, found.beside) == (under, prefix, beside)
    placed = model_of(found, "ABMIL", {}, "FILE")
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    want = network(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(placed.module(Bags.of([x])).logits[0], want, rtol=1e-5)


def test_half_precision_is_widened(network, tmp_path):
    torch.save(network.bfloat16().state_dict(), tmp_path / "weights.pt")
    arrays = read_checkpoint(tmp_path / "weights.pt").arrays
    for name, one in network.state_dict().items():
        np.testing.assert_array_equal(arrays[name], one.float().numpy())


def test_the_four_networks_of_dtfd(tmp_path):
    """Saved side by side under names of their own, perhaps each trained in parallel."""
    parts = {"classifier": {"module.fc.weight": torch.ones(2, 3)}, "attention": {"module.w.bias": torch.zeros(1)}}
    torch.save(parts, tmp_path / "best_model.pth")
    assert set(read_checkpoint(tmp_path / "best_model.pth").arrays) == {"classifier.fc.weight", "attention.w.bias"}


class Harm:
    """Pickled, it would make a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


def test_programs_are_refused_and_not_run(network, tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "weights.pth"
    torch.save({"state_dict": network.state_dict(), "args": Harm(mark)}, file)
    with pytest.raises(DataError, match=r"holds more than weights.*torch.save\(model.state_dict\(\), NEW\)"):
        read_checkpoint(file)
    assert not mark.exists()
    torch.save(network, file)
    with pytest.raises(DataError, match="holds more than weights"):
        read_checkpoint(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is an old format
        torch.jit.trace(network, torch.ones(3, 5)).save(str(file))
    with pytest.raises(DataError, match="holds more than weights"):
        read_checkpoint(file)


def test_damaged_files_and_other_things(network, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"no file of PyTorch's at all", b""):
        file.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            read_checkpoint(file)
    for value, message in (
        (torch.ones(3), "holds a Tensor"),
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "holds no arrays"),
        ({"a": torch.ones(2).to_sparse()}, "no plain array"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "holds a as int64"),
    ):
        torch.save(value, file)
        with pytest.raises(DataError, match=message):
            read_checkpoint(file)
