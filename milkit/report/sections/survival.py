"""Survival by risk group: who is called high risk, how the groups differ, and what the test can claim."""

from typing import Any

from milkit.report.blocks import Block, Bullets, Heading, Paragraph, Pictures, Table
from milkit.report.figures.kaplan_meier import kaplan_meier
from milkit.report.figures.style import save
from milkit.report.source import Source
from milkit.report.words import is_interval, number, plural

NOT_REACHED = "not reached"


def survival(source: Source) -> list[Block]:
    """The section of a survival study; nothing for other tasks, or results that were written without it."""
    found = source.results.get("survival")
    if source.task != "Survival" or not found:
        return []
    blocks: list[Block] = [Heading("Survival by risk group")]
    if not found.get("groups"):
        return [*blocks, Paragraph(f"There are no risk groups: {'; '.join(found.get('notes', ()))}.", "note")]
    unit = str(source.experiment.get("task", {}).get("time", "time"))
    blocks += [Paragraph(_cutoff(found)), _groups(found, unit), Paragraph(_test(found))]
    if len(found["repeats"]) > 1:
        blocks.append(_repeats(found))
    blocks.append(Pictures((save(kaplan_meier(found, unit), source.folder),)))
    return [*blocks, Bullets(tuple(_asides(found)))]


def p_value(p: float | None) -> str:
    """`p = 0.031`, `p < 0.001`."""
    if p is None:
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.01 else f"p = {p:.2f}"


def _cutoff(found: dict[str, Any]) -> str:
    cutoff, several = found["cutoff"], found["folds"] > 1
    text = f"High risk: risk at or above the cut-off, which is the {cutoff['rule']}"
    if not cutoff["rule"].startswith("median"):
        text = f"High risk: risk at or above the cut-off, {cutoff['rule']}"
    text += "; it was locked before any test patient was seen."
    if cutoff["runs"] > 1:
        text += " A patient's group is that of most runs that tested it"
        text += ", pooled over the folds." if several else "."
    return text


def _groups(found: dict[str, Any], unit: str) -> Table:
    header = ("Group", "Patients", "Events", f"Median {unit}", "95 % interval")
    rows = []
    for name in ("low", "high"):
        group = found["groups"][name]
        bounds = group["median_interval"] or (None, None)
        median = "–" if not group["n"] else _time(group["median"])
        interval = "–" if not group["n"] else f"{_time(bounds[0])} to {_time(bounds[1])}"
        rows.append((f"{name} risk", f"{group['n']:,}", f"{group['events']:,}", median, interval))
    notes = ("Median and interval: Kaplan-Meier, Brookmeyer & Crowley with the log-log band.",)
    return Table(header, tuple(rows), numeric=header[1:], notes=notes)


def _time(value: float | None) -> str:
    return NOT_REACHED if value is None else number(value)


def _test(found: dict[str, Any]) -> str:
    test, ratio, plain = found["logrank"], found["hazard_ratio"], found["logrank_unstratified"]
    kind = "Log-rank test, stratified by fold" if plain is not None else "Log-rank test"
    if test["p"] is None:
        text = f"{kind}: undefined ({test['note']})."
    else:
        text = f"{kind}: χ² = {number(test['chi2'])}, {p_value(test['p'])}."
    if is_interval(ratio["interval"]):
        low, high = ratio["interval"]
        text += f" Hazard ratio, high against low: {number(ratio['value'])} (95 % {number(low)}–{number(high)})."
    else:
        text += f" The hazard ratio is undefined: {ratio['note']}."
    if plain is not None and plain["p"] is not None:
        text += f" Without strata: {p_value(plain['p'])}, not valid where folds differ in their cut-offs."
    return text


def _repeats(found: dict[str, Any]) -> Table:
    rows = [
        (
            str(one["repeat"]),
            f"{one['n']['low']:,}",
            f"{one['n']['high']:,}",
            number(one["chi2"]),
            p_value(one["p"]).removeprefix("p ").removeprefix("= "),
            number(one["hazard_ratio"]),
        )
        for one in found["repeats"]
    ]
    header = ("Repeat", "Low", "High", "χ²", "p", "Hazard ratio")
    note = "The same patients, split anew: no repeat replicates another. Table, test and curves: of the first."
    return Table(header, tuple(rows), numeric=header[1:], notes=(note,))


def _asides(found: dict[str, Any]) -> list[str]:
    lines = list(found["notes"])
    if found["changed"]:
        share = f"{100 * found['changed']:.0f} %"
        lines.append(f"{share} of the patients change their group between the runs that tested them.")
    lines += [g["note"] for g in (found["groups"][name] for name in ("low", "high")) if g["note"] and not g["n"]]
    censoring = found["censoring"]
    text = f"C-index (IPCW): censoring estimated on {censoring['estimated_on']}"
    if censoring["tau"]:
        low, high = (number(v) for v in censoring["tau"])
        text += f"; events from its longest follow-up on ({low if low == high else f'{low} to {high}'}) do not count"
    lines.append(f"{text}.")
    lines.append(
        f"A cut at the median puts about half on either side; {plural(found['groups']['high']['n'], 'patient')} of "
        f"{found['groups']['low']['n'] + found['groups']['high']['n']:,} came out high. The C-index uses the whole "
        "ranking and loses nothing to a cut."
    )
    return lines
