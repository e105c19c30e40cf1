"""A check's findings for people: on the terminal and as Markdown."""

import textwrap

from milkit.check.cohort import Checked
from milkit.check.finding import SEVERITIES, plural

WIDTH = 110


def terminal(checked: Checked) -> str:
    """The findings in words, errors first, and what was looked at."""
    lines = [f"{name}: {what}" for name, what in checked.facts.items()]
    for f in checked.findings:
        lines += ["", f"{f.severity.upper():<8} {f.kind}: {f.detail}"]
        for name, text in (("where", f.where), ("sure", f.sure), ("do", f.advice)):
            lines += textwrap.wrap(
                f"{name}: {text}", WIDTH, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
            )
    return "\n".join([*lines, "", verdict(checked)])


def verdict(checked: Checked) -> str:
    """One line: how many findings of each severity."""
    counts = {level: sum(f.severity == level for f in checked.findings) for level in SEVERITIES}
    said = ", ".join(plural(count, level) for level, count in counts.items() if count)
    return said or "nothing found"


def markdown(checked: Checked) -> str:
    """The findings as a page."""
    lines = ["# Check of a cohort", "", *(f"- {name}: {what}" for name, what in checked.facts.items()), ""]
    lines += [f"**{verdict(checked)}**", ""]
    for f in checked.findings:
        lines += [f"## {f.severity}: {f.kind}", "", f.detail, ""]
        lines += [f"- where: {f.where}", f"- how sure: {f.sure}", f"- what to do: {f.advice}", ""]
        if f.count > 8:
            lines += ["<details><summary>all</summary>", "", *(f"- {item}" for item in f.items), ""]
            lines += ([f"- and {f.count - len(f.items)} more", ""] if f.count > len(f.items) else []) + [
                "</details>",
                "",
            ]
    return "\n".join(lines)
