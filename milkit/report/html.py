"""A page as one HTML file that needs nothing else: no script, no font, no address outside."""

from html import escape

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
    Picture,
    Pictures,
    Table,
)
from milkit.report.css import CSS


def to_html(page: Page) -> str:
    """The whole page."""
    title = escape(page.title)
    parts = "\n".join(_block(block) for block in page.blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title} · milkit report</title>\n<style>\n{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{title}</h1>\n{parts}\n</main>\n</body>\n</html>\n"
    )


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, kind):
            return f'<p class="{kind}">{escape(text)}</p>'
        case Notice(title, lines):
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            return f'<div class="notice" role="note"><strong>{escape(title)}</strong><ul>{items}</ul></div>'
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Facts(pairs):
            return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in pairs) + "</dl>"
        case Table():
            return _table(block)
        case Pictures(pictures):
            return '<div class="figures">\n' + "\n".join(map(_picture, pictures)) + "\n</div>"
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Folded(summary, blocks):
            inner = "\n".join(_block(b) for b in blocks)
            return f"<details><summary>{escape(summary)}</summary>\n{inner}\n</details>"


def _picture(picture: Picture) -> str:
    wide = ' class="wide"' if picture.wide else ""
    label = escape(f"{picture.title}. {picture.caption}")
    svg = picture.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f"<figure{wide}><h3>{escape(picture.title)}</h3><div class=drawing>{svg}</div>{caption}</figure>"


def _table(table: Table) -> str:
    right = [name in table.numeric for name in table.header]

    def cells(row: tuple[str, ...], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if r else ''}>{escape(text)}</{tag}>" for text, r in zip(row, right, strict=True)
        )

    lines = [
        f'<tr class="strong">{cells(row, "td")}</tr>' if i in table.strong else f"<tr>{cells(row, 'td')}</tr>"
        for i, row in enumerate(table.rows)
    ]
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    # tabindex lets a keyboard scroll a table that is wider than a phone
    return (
        f'<div class="table" tabindex="0"><table><thead><tr>{cells(table.header, "th")}</tr></thead>\n<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
        + (f'<div class="notes">{notes}</div>' if notes else "")
    )
