"""The layouts of splits that are known: the only list; a new one is a module and a line here."""

from milkit.data.splits_of import acmil, clam, mil_baseline, own, patho_bench, plain, soma, stamp, torchmil, transmil
from milkit.data.splits_of.named import SplitLayout

LAYOUTS: tuple[SplitLayout, ...] = (
    own.LAYOUT,
    clam.LAYOUT,
    clam.BOOL,
    transmil.LAYOUT,
    mil_baseline.LAYOUT,
    patho_bench.LAYOUT,
    stamp.LAYOUT,
    acmil.LAYOUT,
    torchmil.LAYOUT,
    soma.LAYOUT,
    plain.LAYOUT,  # the most general, so the last to be asked
)
