"""The namings that are known, and which of them a file has."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from milkit.errors import ConfigError, DataError
from milkit.fields import nearest
from milkit.foreign_weights import ilse2018, li2021, lu2021, shao2021, xiang2023, zhang2022, zhang2024
from milkit.foreign_weights.names import Found, Shapes
from milkit.models import ABMIL, ACMIL, CLAMMB, CLAMSB, DSMIL, DTFD, ILRA, TransMIL

AUTHORS, MIL_LAB, TORCHMIL = "the authors' code", "MIL-Lab", "torchmil"


@dataclass(frozen=True)
class Layout:
    """One naming of one model.

    Attributes:
        model: configuration class.
        source: whose naming it is.
        signs: patterns each of which some name of a file of this naming matches, and of no other naming all.
        read: the model and where its arrays go, from the shapes of a file's arrays.
    """

    model: type[Any]
    source: str
    signs: tuple[str, ...]
    read: Callable[[Shapes], Found]

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with arrays of these names has this naming, by its signs."""
        names = list(names)
        return all(any(re.search(sign, name) for name in names) for sign in self.signs)

    def __str__(self) -> str:
        return f"{self.model.__name__} ({self.source})"


_BLOCK_OF_CLAM = r"^attention_net\.\d+\.(attention_a|module)\.0\.weight$"
_INSTANCES = r"^instance_classifiers\."
_ACMIL = r"^Slide_classifier\.fc\."
LAYOUTS = (
    Layout(CLAMSB, AUTHORS, (_BLOCK_OF_CLAM, r"^classifiers\.(weight|bias)$"), lu2021.single),
    Layout(CLAMMB, AUTHORS, (_BLOCK_OF_CLAM, r"^classifiers\.\d+\.(weight|bias)$"), lu2021.branches),
    Layout(CLAMSB, MIL_LAB, (r"^patch_embed\.\d", r"^global_attn\.", _INSTANCES), lu2021.mil_lab),
    Layout(CLAMSB, TORCHMIL, (r"^pool\.fc1\.module\.", r"^inst_classifiers\."), lu2021.torchmil),
    Layout(ABMIL, AUTHORS, (r"^(attention_[VU]\.0|attention\.0)\.weight$", r"^classifier\.0\."), ilse2018.authors),
    Layout(ABMIL, MIL_LAB, (r"^patch_embed\.\d", r"^global_attn\."), ilse2018.mil_lab),
    Layout(ABMIL, TORCHMIL, (r"^pool\.fc1\.module\.", r"^classifier\.module\."), ilse2018.torchmil),
    Layout(TransMIL, AUTHORS, (r"^_fc[12]\.", r"^layer\d\.attn\."), shao2021.authors),
    Layout(TransMIL, MIL_LAB, (r"^pos_layer\.", r"^blocks\.\d+\.attention\."), shao2021.mil_lab),
    Layout(TransMIL, TORCHMIL, (r"^pos_layer\.", r"^layers\.\d+\.att_module\."), shao2021.torchmil),
    Layout(DSMIL, AUTHORS, (r"^i_classifier\.fc\.", r"^b_classifier\.q"), li2021.authors),
    Layout(DSMIL, TORCHMIL, (r"^inst_classifier\.", r"^q_nn\."), li2021.torchmil),
    Layout(DTFD, AUTHORS, (r"^(dimReduction|dim_reduction)\.", r"^(attCls|att_classifier)\."), zhang2022.authors),
    Layout(DTFD, MIL_LAB, (r"^patch_embed\.fc1\.", r"^attCls\."), zhang2022.mil_lab),
    Layout(ACMIL, AUTHORS, (r"^attention\.attention_V\.", _ACMIL), zhang2024.gated),
    Layout(ACMIL, AUTHORS, (r"^sub_attention\.", _ACMIL), zhang2024.multihead),
    Layout(ILRA, AUTHORS, (r"^gab_blocks\.", r"\.multihead_attn\."), xiang2023.authors),
    Layout(ILRA, MIL_LAB, (r"^gab_blocks\.", r"\.multihead_attention\."), xiang2023.mil_lab),
)


def models() -> tuple[str, ...]:
    """Names of the models of which files are known."""
    return tuple(dict.fromkeys(layout.model.__name__ for layout in LAYOUTS))


def recognised(model: str, names: Iterable[str], where: str) -> Layout:
    """The naming of a file.

    Args:
        model: name of the configuration class; case, `-` and `_` do not matter.
        names: of the file's arrays.
        where: the file, for messages.

    Raises:
        ConfigError: files of no such model are known.
        DataError: the arrays have none of the model's namings.
    """
    plain = {name.lower(): name for name in models()}
    name = plain.get(re.sub("[-_ ]", "", model).lower())
    if name is None:
        raise ConfigError(f"No weights of others are known for {model!r}{nearest(model, models())}.")
    names = sorted(names)
    own = [layout for layout in LAYOUTS if layout.model.__name__ == name]
    for layout in own:
        if layout.fits(names):
            return layout
    # a file of CLAM in a naming that ABMIL has too is CLAM's: the namings of more signs stand first
    others = [str(layout) for layout in LAYOUTS if layout not in own and layout.fits(names)]
    looks = f" It looks like {others[0]}: name that model." if others else ""
    listed = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    raise DataError(
        f"{where} does not have the names of {name} in {' or '.join(dict.fromkeys(o.source for o in own))}.{looks} "
        f"It has: {listed or 'nothing'}. A prefix of all names can be taken off with --prefix."
    )
