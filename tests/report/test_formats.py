"""The two writers and the tables: nothing of a user's file may turn into markup."""

import csv
import io
from pathlib import Path

import pytest

from milkit.report.blocks import Code, Facts, Folded, Heading, Notice, Page, Paragraph, Picture, Pictures, Table
from milkit.report.figures.style import themed
from milkit.report.html import to_html
from milkit.report.markdown import escape, to_markdown
from milkit.report.sections.making import readable
from milkit.report.source import read_source
from milkit.report.tables import tex, to_csv, to_tex

BAD = '<script>alert("1")</script> & a|b *c* `d` [e](f) $x_1$'
PAGE = Page(
    BAD,
    (
        Heading(BAD),
        Paragraph(BAD),
        Notice(BAD, (BAD,)),
        Facts(((BAD, BAD),)),
        Table((BAD, "n"), ((BAD, "1"),), numeric=("n",), notes=(BAD,)),
        Pictures((Picture(Path("figures/a.png"), "<svg></svg>", BAD, BAD),)),
        Code(BAD),
        Folded(BAD, (Paragraph(BAD),)),
    ),
)


def test_html_escapes_every_text() -> None:
    html = to_html(PAGE)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert 'aria-label="&lt;script&gt;alert(&quot;1&quot;)' in html


def test_markdown_escapes_every_text() -> None:
    text = to_markdown(PAGE)
    outside = text.split("```")
    assert "<script" not in outside[0] + outside[2]
    assert BAD in outside[1]  # code stays as it is
    row = next(line for line in text.splitlines() if line.endswith("| 1 |"))
    assert row.replace("\\|", "").count("|") == 3
    assert escape("a_b*c") == r"a\_b\*c"
    assert escape("1. x\n- y") == r"\1. x - y"


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert to_markdown(Page("t", (Code("a ``` b"),))).endswith("````\na ``` b\n````\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5%", r"a\_b \& 5\%"),
        (r"\x{y}", r"\textbackslash{}x\{y\}"),
        ("a\nb", "a b"),
        ("R²", r"R\textsuperscript{2}"),
    ],
)
def test_tex_signs(text: str, expected: str) -> None:
    assert tex(text) == expected


def test_svg_takes_its_colours_from_the_page() -> None:
    raw = (
        '<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "x" "http://www.w3.org/x.dtd">\n'
        '<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="10pt" height="5pt" viewBox="0 0 10 5" '
        'xmlns="http://www.w3.org/2000/svg" version="1.1">\n <metadata>\n x</metadata>\n'
        '<path style="fill: #1f2934"/></svg>\n'
    )
    assert themed(raw, "a") == (
        '<svg viewBox="0 0 10 5" version="1.1">\n<path style="fill: var(--ink,#1f2934)"/></svg>'
    )


def test_readable_config() -> None:
    inner = {"type": "Sgd", "learning_rate": 0.1}
    assert readable(inner) == "Sgd(learning_rate=0.1)"
    assert readable({"type": "Train", "optimizer": inner, "clip": None, "widths": [8]}) == (
        "Train(\n    optimizer=Sgd(learning_rate=0.1),\n    clip=None,\n    widths=(8,),\n)"
    )


def test_table_csv_has_every_digit(plant) -> None:
    folder = plant(selections=("validation", "optimistic"), attention="none", folds=4)
    source = read_source(folder)
    rows = list(csv.DictReader(io.StringIO(to_csv(source))))
    assert len(rows) == 6
    first = source.results["selections"]["optimistic"]["metrics"]["auroc"]
    got = next(r for r in rows if r["selection"] == "optimistic" and r["metric"] == "auroc")
    assert float(got["value"]) == first["value"]
    assert [float(got["procedure_low"]), float(got["procedure_high"])] == first["procedure"]
    assert got["marks"] == "optimistic"


def test_table_tex_marks_optimistic_rows_only(plant) -> None:
    text = to_tex(read_source(plant(selections=("validation", "optimistic"), attention="none", folds=4)))
    assert text.splitlines()[1] == "% digest: " + "9f2c51d07a" * 4
    before, after = text.split("Selection: optimistic")
    assert "dagger" not in before
    rows = [line for line in after.splitlines() if line.startswith(("AUROC", "Accuracy", "Brier"))]
    assert len(rows) == 3
    assert all("$^\\dagger$" in row and row.count("&") == 5 for row in rows)
    assert "Optimistic: the epoch was chosen on the test part itself." in after


def test_table_tex_says_why_something_is_undefined(plant) -> None:
    text = to_tex(read_source(plant(folds=1, seeds=1, attention="none", name="a_b\n\\end")))
    assert text.startswith("% milkit: a_b \\end;")  # no line break leaves the comment
    assert "No procedure interval: one fold" in text
