"""Weights by name: a file of a repository of the Hugging Face Hub, had through its own library (the extra `hub`).

The library keeps what it downloaded, and takes a token from where it looks for one: `HF_TOKEN`, or `hf auth login`.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from milkit.errors import ConfigError, DataError, MilkitError

FORM = "hf://OWNER/NAME/FILE, or hf://OWNER/NAME@REVISION/FILE for a branch, a tag or a commit"
_PART = r"[A-Za-z0-9][\w.-]*"
# a Path makes one slash of the two
_NAME = re.compile(rf"hf:/{{1,2}}(?P<repository>{_PART}/{_PART})(@(?P<revision>[^/@]+))?/(?P<file>.+)", re.ASCII)


class HubFile(NamedTuple):
    """A file that is here now.

    Attributes:
        path: where the library keeps it.
        origin: its name with the commit that it is of, for provenance.
    """

    path: Path
    origin: str


def is_hub(weights: str | Path) -> bool:
    """Whether it names a file of the hub, not one of this machine."""
    return str(weights).startswith("hf:/")


def fetched(weights: str | Path) -> HubFile:
    """The file of a name, downloaded unless it was before.

    Args:
        weights: hf://OWNER/NAME/FILE or hf://OWNER/NAME@REVISION/FILE.

    Raises:
        ConfigError: no such form, or the library is not installed.
        DataError: no such repository, revision or file, no access to it, or it cannot be reached.
    """
    named = _NAME.fullmatch(str(weights))
    if named is None or ".." in named["file"].split("/"):
        raise ConfigError(f"{weights} does not name a file of the hub; expected {FORM}.")
    try:
        import huggingface_hub
    except ImportError:
        raise ConfigError(
            f"{weights} takes huggingface_hub to download: pip install 'milkit[hub]'. Or download the file yourself "
            "and give its path."
        ) from None
    repository, revision, file = named["repository"], named["revision"], named["file"]
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except MilkitError:
        raise
    except Exception as error:  # the library's, and of what it reaches the hub with
        raise DataError(_why(huggingface_hub, error, repository, revision, file)) from error
    kept = path.parts
    # OWNER--NAME/snapshots/COMMIT/FILE
    commit = kept[kept.index("snapshots") + 1] if "snapshots" in kept else revision
    return HubFile(path, f"hf://{repository}{f'@{commit}' if commit else ''}/{file}")


def _why(library: Any, error: Exception, repository: str, revision: str | None, file: str) -> str:
    """An error of the library in words; its kinds are told from the most special to the most general."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    page = f"https://huggingface.co/{repository}"
    token = (
        "the token that was found has no right to it"
        if library.get_token()
        else "no token was found: set HF_TOKEN, or `hf auth login`"
    )
    if "GatedRepoError" in kinds:
        return f"{repository} is open to those only whom its authors granted access: ask for it at {page}; {token}."
    if kinds & {"LocalEntryNotFoundError", "OfflineModeIsEnabled"}:
        return (
            f"{file} of {repository} was not downloaded before, and the hub cannot be reached (no network, or "
            "HF_HUB_OFFLINE is set); go online once, or give the path of a file."
        )
    if "RepositoryNotFoundError" in kinds:
        return f"There is no repository {repository} at {page}, or it is private; {token}."
    if "RevisionNotFoundError" in kinds:
        return f"{repository} has no revision {revision!r}; {page}/commits lists them."
    if "EntryNotFoundError" in kinds:
        return f"{repository} holds no file {file}; {page}/tree/{revision or 'main'} lists them."
    said = " ".join(str(error).split())[:200]
    return f"{file} of {repository} could not be downloaded ({type(error).__name__}: {said})."
