"""Weights by name: what the library is asked for, what is kept of it, its errors in words. Nothing is downloaded."""

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
from safetensors.numpy import save_file

from benchmarks.encoders import weights
from milkit.encoders import EfficientNetLite0, Pixels, load_encoder
from milkit.encoders.hub import fetched, is_hub
from milkit.errors import ConfigError, DataError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf://some-lab/ViT.small/weights/model.safetensors"


class Library(ModuleType):
    """Stands for huggingface_hub: remembers what was asked for, and gives a file or raises."""

    def __init__(self, answer, token=None):
        super().__init__("huggingface_hub")
        self.answer, self.token, self.asked = answer, token, []

    def get_token(self):
        return self.token

    def hf_hub_download(self, repo_id, filename, revision=None):
        self.asked.append((repo_id, filename, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return str(self.answer)


def installed(monkeypatch, answer, token=None):
    library = Library(answer, token)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    return library


def kept(folder, name="model.safetensors"):
    """Where the library keeps files of a repository."""
    place = folder / "models--some-lab--ViT.small" / "snapshots" / COMMIT / "weights"
    place.mkdir(parents=True)
    return place / name


def test_the_file_of_a_name_and_its_commit(tmp_path, monkeypatch):
    place = kept(tmp_path)
    library = installed(monkeypatch, place)
    expected = (place, f"hf://some-lab/ViT.small@{COMMIT}/weights/model.safetensors")
    assert fetched(NAME) == expected
    assert fetched("hf://some-lab/ViT.small@v1.0/weights/model.safetensors") == expected
    assert fetched(Path(NAME)) == expected  # which has lost a slash
    file = "weights/model.safetensors"
    assert library.asked == [("some-lab/ViT.small", file, r) for r in (None, "v1.0", None)]


def test_an_encoder_says_where_its_weights_are_from(tmp_path, monkeypatch):
    place = kept(tmp_path)
    save_file(weights(), place)
    installed(monkeypatch, place)
    network = EfficientNetLite0(Pixels(32))
    facts = load_encoder(network, NAME).facts()
    assert facts["weights_from"] == f"hf://some-lab/ViT.small@{COMMIT}/weights/model.safetensors"
    assert facts["weights_sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
    assert {k: v for k, v in facts.items() if k != "weights_from"} == load_encoder(network, place).facts()


@pytest.mark.parametrize(
    "name",
    ["hf://model.safetensors", "hf://lab/model.safetensors", "hf://lab/net/", "hf://lab/net@/f.npz", "hf:///lab/net/f.npz",
     "hf://lab/net/../f.npz", "hf://lab/ne t/f.npz"],
)  # fmt: skip
def test_names_of_another_form(monkeypatch, name):
    installed(monkeypatch, Path("nothing"))
    assert is_hub(name)
    with pytest.raises(ConfigError, match="expected hf://OWNER/NAME/FILE"):
        fetched(name)


def test_paths_are_no_names():
    assert not any(is_hub(name) for name in ("w.npz", "/a/b.npz", Path("hf"), "hf.npz"))


def test_the_library_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'milkit\[hub\]'"):
        load_encoder("uni", NAME)


def error_of(*names):
    """An error of these kinds, the most special first."""
    kind: type[Exception] = Exception
    for name in reversed(names):
        kind = type(name, (kind,), {})
    return kind("401 Client Error\n(Request ID: x)")


@pytest.mark.parametrize(
    ("error", "token", "said"),
    [
        (error_of("GatedRepoError", "RepositoryNotFoundError"), None, "whom its authors granted access.*no token was"),
        (error_of("GatedRepoError", "RepositoryNotFoundError"), "hf_x", "granted access.*the token that was found has"),
        (error_of("RepositoryNotFoundError"), None, "There is no repository some-lab/ViT.small .*or it is private"),
        (error_of("RevisionNotFoundError"), None, "has no revision 'v2'"),
        (error_of("LocalEntryNotFoundError", "EntryNotFoundError"), None, "the hub cannot be reached"),
        (error_of("OfflineModeIsEnabled"), None, "HF_HUB_OFFLINE"),
        (error_of("EntryNotFoundError"), None, r"holds no file w.npz; .*/tree/v2"),
        (OSError(28, "No space left on device"), None, r"could not be downloaded \(OSError: .*No space left"),
    ],
)
def test_errors_of_the_library_in_words(monkeypatch, error, token, said):
    installed(monkeypatch, error, token)
    with pytest.raises(DataError, match=said) as told:
        fetched("hf://some-lab/ViT.small@v2/w.npz")
    assert "hf_x" not in str(told.value)


@pytest.mark.parity
def test_the_library_itself_offline(tmp_path, monkeypatch):
    """Its cache is laid out as here; what it has not is said without the network."""
    errors = pytest.importorskip("huggingface_hub.errors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert issubclass(errors.GatedRepoError, errors.RepositoryNotFoundError)
    assert issubclass(errors.LocalEntryNotFoundError, errors.EntryNotFoundError)
    place = kept(tmp_path)
    place.write_bytes(b"weights")
    refs = tmp_path / "models--some-lab--ViT.small" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    found = fetched(NAME)
    assert found.path.read_bytes() == b"weights"
    assert found.origin == f"hf://some-lab/ViT.small@{COMMIT}/weights/model.safetensors"
    with pytest.raises(DataError, match="was not downloaded before, and the hub cannot be reached"):
        fetched("hf://some-lab/other/model.safetensors")
