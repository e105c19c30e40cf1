"""The model card of imported weights: what was read, and that nothing else is known."""

from milkit.keep.card import takes_and_gives, to_use
from milkit.keep.folder import Kept
from milkit.report.blocks import Bullets, Code, Facts, Heading, Page, Paragraph
from milkit.report.markdown import to_markdown
from milkit.report.sections.making import readable


def imported_card(kept: Kept, folder: str) -> str:
    """The card as Markdown.

    Args:
        kept: the model.
        folder: name of its folder, for the commands.
    """
    facts, read = kept.facts, kept.facts["imported"]
    text = (
        f"{facts['model']['type']} for {kept.kind}, with weights that were not trained by milkit: "
        f"{read['arrays']} arrays of {read['file']}, in the naming of {read['naming']}."
    )
    unknown = (
        "Whom it was trained on: an overlap with the patients that it is used on cannot be found.",
        "How it does on anybody: no number is known. `milkit evaluate` measures it on a cohort.",
        "Whether the licence of the weights allows what they are used for.",
        "It is a research model. No regulator has seen it.",
    )
    page = Page(
        f"Model card: {facts['name']}",
        (
            Paragraph(text, "lead"),
            Heading("Marks"),
            Bullets(tuple(facts["marks"])),
            Heading("What it takes and gives"),
            Facts(tuple(takes_and_gives(kept))),
            Heading("What is not known"),
            Bullets(unknown),
            Heading("How to use it"),
            Code(to_use(kept, folder)),
            Heading("The model"),
            Code(readable(facts["model"])),
            Facts((("SHA-256 of the file", read["sha256"]),)),
        ),
    )
    return to_markdown(page)
