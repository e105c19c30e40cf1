"""A page as Markdown, for places that show no HTML: a repository, a notebook, a terminal."""

import re

from milkit.report.blocks import (
    Block,
    Bullets,
    Code,
    Facts,
    Folded,
    Heading,
    Notice,
    Page,
    Paragraph,
    Pictures,
    Table,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$])")


def escape(text: str) -> str:
    """Plain text whose signs Markdown (and the HTML inside it) would read as markup."""
    line = re.sub(r"\s+", " ", text).strip()
    line = _SPECIAL.sub(r"\\\1", line).replace("&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")
    # a line that starts like a list or a numbered list is none
    return re.sub(r"^([-+]|\d+[.)])(?=\s)", r"\\\1", line)


def to_markdown(page: Page) -> str:
    """The whole page; figures by their relative paths."""
    parts = [f"# {escape(page.title)}", *(_block(b) for b in page.blocks)]
    return "\n\n".join(p for p in parts if p) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {escape(text)}"
        case Paragraph(text, "lead"):
            return f"**{escape(text)}**"
        case Paragraph(text, _):
            return escape(text)
        case Notice(title, lines):
            return "\n".join([f"> **{escape(title)}**", ">", *(f"> - {escape(line)}" for line in lines)])
        case Bullets(items):
            return "\n".join(f"- {escape(item)}" for item in items)
        case Facts(pairs):
            return _table(Table(("What", "Value"), pairs))
        case Table():
            return _table(block)
        case Pictures(pictures):
            drawn = [
                f"![{escape(p.title)}]({p.png.as_posix()})\n\n*{escape(p.title)}.* {escape(p.caption)}"
                for p in pictures
            ]
            return "\n\n".join(drawn)
        case Code(text):
            return _fenced(text)
        case Folded(summary, blocks):
            # an HTML element, so blank lines must stand around the Markdown inside it
            inner = "\n\n".join(_block(b) for b in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n\n{inner}\n\n</details>"


def _table(table: Table) -> str:
    right = [name in table.numeric for name in table.header]
    lines = [
        _row([escape(h) for h in table.header]),
        _row(["---:" if r else "---" for r in right]),
    ]
    for i, row in enumerate(table.rows):
        cells = [escape(c) for c in row]
        lines.append(_row([f"**{c}**" if c else c for c in cells] if i in table.strong else cells))
    notes = "  \n".join(escape(note) for note in table.notes)
    return "\n".join(lines) + (f"\n\n{notes}" if notes else "")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _fenced(text: str) -> str:
    """A fence longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
