"""Whole reports of planted studies."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from milkit.errors import RunFolderError
from milkit.report import write_report
from milkit.report.figures import attention, classes, outcomes, runs
from milkit.report.figures.style import axes, drawing, plain_log
from milkit.report.markdown import escape
from milkit.report.results import write_results
from milkit.report.sections.opening import answer, places, question
from milkit.report.sections.pictures import chance
from milkit.report.source import read_source
from milkit.report.words import interval, lower_is_better, metric_label, number

VOID = {"meta", "br", "img", "path", "use", "rect", "image", "hr"}


class Tags(HTMLParser):
    """Raises where an element is closed that is not open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def edit(path: Path, change) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.fixture(scope="module")
def binary(plant) -> Path:
    """A study with an optimistic selection, reported."""
    folder = plant(selections=("validation", "last", "optimistic"), folds=5, seeds=2)
    write_report(folder)
    return folder


def test_files(binary: Path) -> None:
    for name in ("report.html", "report.md", "table.tex", "table.csv"):
        assert (binary / name).stat().st_size > 500
    drawn = {p.stem for p in (binary / "figures").glob("*.png")}
    assert drawn >= {"roc", "pr", "spread", "confusion", "calibration", "training", "attention_0", "concentration"}
    assert not list(binary.rglob("*.tmp"))


def test_html_needs_nothing_else(binary: Path) -> None:
    html = (binary / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|src=\"(?!data:)", html)
    assert not re.search(r"url\((?!#)", html)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert html.count("<svg") == len(list((binary / "figures").glob("*.png")))


def test_every_reference_inside_the_page_resolves_once(binary: Path) -> None:
    html = (binary / "report.html").read_text()
    ids = re.findall(r'\bid="([^"]+)"', html)
    wanted = set(re.findall(r'href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert wanted
    assert wanted <= set(ids)


def test_pages_open_with_the_answer_and_both_intervals(binary: Path) -> None:
    auroc = read_source(binary).metrics["auroc"]
    sampling = "–".join(f"{b:.2f}" for b in auroc["sampling"])
    sentence = f"AUROC {auroc['value']:.2f} (sampling 95 % {sampling}; procedure 95 % "
    ending = " on 92 patients, 5 folds × 2 seeds; epoch chosen on validation."
    html, text = (binary / "report.html").read_text(), (binary / "report.md").read_text()
    lead = re.search(r'<p class="lead">(.*?)</p>', html)
    assert lead is not None
    assert lead[1].startswith(sentence)
    assert lead[1].endswith(ending)
    assert text.index(sentence) < text.index("## Cohort")
    assert "Is a patient musk rather than non-musk?" in html


def test_cohort_flow_is_there(binary: Path) -> None:
    text = (binary / "report.md").read_text()
    for line in (
        "| Rows (slides) in the table | 98 |",
        "| Of these with features | 94 |",
        "| Of these left out | 6 |",
        "| Of these used | 92 |",
        "| no features for this slide | 4 |",
    ):
        assert line in text
    folds = read_source(binary).cohort["folds"]
    musk = [f["counts"]["musk"] for f in folds if f["role"] == "test"]
    assert re.search(rf"\| test \| 5 \| 18–19 \| \S+ \| {min(musk)}–{max(musk)} \|", text)


def test_every_number_of_the_table_is_that_of_the_results(binary: Path) -> None:
    text = (binary / "report.md").read_text()
    for name, metric in read_source(binary).metrics.items():
        label = {"auroc": "AUROC", "accuracy": "Accuracy", "brier": "Brier score ↓"}[name]
        bold = "**" if name == "auroc" else ""
        shown = [f"{metric['value']:.3f}", *("{:.3f}–{:.3f}".format(*metric[k]) for k in ("sampling", "procedure"))]
        shown += [f"{metric['fold_sd']:.3f}", f"{metric['seed_sd']:.3f}"]
        assert "| " + " | ".join(f"{bold}{cell}{bold}" for cell in [label, *shown]) + " |" in text


def test_optimistic_numbers_are_marked_wherever_they_stand(binary: Path) -> None:
    text = (binary / "report.md").read_text()
    assert "| Metric | validation | last | optimistic † |" in text
    assert "not a result to quote" in text
    folded = text[text.index("All metrics, epoch chosen on the test part itself") :]
    assert folded.index("**Optimistic**") < folded.index("| Metric |")


def test_a_report_is_the_same_twice(binary: Path) -> None:
    before = {p.name: p.read_bytes() for p in binary.rglob("*") if p.suffix in (".html", ".md", ".tex", ".png")}
    write_report(binary)
    after = {p.name: p.read_bytes() for p in binary.rglob("*") if p.suffix in (".html", ".md", ".tex", ".png")}
    assert before == after


def test_primary_optimistic_is_loud(plant) -> None:
    folder = plant(selections=("optimistic",), attention="none", folds=3, seeds=1)
    html = write_report(folder).read_text()
    box = html.index('class="notice"')
    assert html.index('class="lead"') < box < html.index("<h2>Cohort")
    assert "better than they will be on new patients" in html[box:]
    assert "(optimistic)." in html[:box]


def test_marks_of_the_cohort_and_unfinished_runs_are_loud(plant) -> None:
    folder = plant(attention="none", folds=3, seeds=2, failed=2, marks=("patients in two roles",))
    edit(folder / "cohort.json", lambda c: c["marks"].append("labels of 3 patients conflict"))
    edit(folder / "config.json", lambda c: c.update(runs=9))
    results = write_results(folder, draws=20)
    for part in (results, *results["selections"].values(), *results["metrics"].values(), *results["per_run"]):
        assert any(mark.startswith("unfinished: 3 of 9 runs") for mark in part["marks"])
    text = write_report(folder).with_name("report.md").read_text()
    head = text[: text.index("## Cohort")]
    assert "train and test in the same fold" in head
    assert "Labels of 3 patients conflict." in head
    assert "2 runs of 9 did not finish (failed): r0, r1." in head
    assert "Unfinished: 3 of 9 runs left no test prediction." in head


FIGURES = {
    "MultiClass": {"roc", "pr", "confusion", "calibration"},
    "MultiLabel": {"roc", "pr", "calibration"},
    "Regression": {"regression_0"},
    "Survival": {"risk_time"},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", FIGURES)
def test_every_task(plant, task: str) -> None:
    folder = plant(task=task, folds=4, seeds=2, attention="coords" if task == "Survival" else "index")
    html = write_report(folder).read_text()
    drawn = {p.stem for p in (folder / "figures").glob("*.png")}
    assert drawn >= FIGURES[task] | {"spread", "training", "attention_0"}
    Tags().feed(html)
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.S).lower().replace("nanjing", "")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Binary", *FIGURES])
def test_the_numbers_of_write_results_are_all_shown(plant, task: str) -> None:
    folder = plant(task=task, folds=3, seeds=2, patients=60, attention="none")
    results = write_results(folder, draws=50)
    text = write_report(folder).with_name("report.md").read_text()
    table = text[text.index("## Numbers") : text.index("### The same runs")].replace("**", "")
    rows = [[re.sub(r" \\\[\d+\\\]", "", c) for c in line.split(" | ")] for line in table.splitlines()[6:]]
    shown = {row[0].removeprefix("| "): row[1:4] for row in rows if len(row) == 6}
    assert len(shown) == len(results["metrics"])
    for name, metric in results["metrics"].items():
        label = metric_label(name) + " ↓" * lower_is_better(name)
        assert shown[escape(label)] == [
            number(metric["value"]),
            *(interval(metric[k]) for k in ("sampling", "procedure")),
        ]
        if metric["note"]:
            assert escape(metric["note"]) in text
    if task == "Binary":
        assert "prevalence 0." in text
        assert "pooled over folds: there are no values" in text


def test_one_fold_without_selection(plant) -> None:
    folder = plant(folds=1, seeds=1, selections=("last",), attention="none")
    text = write_report(folder).with_name("report.md").read_text()
    assert "procedure interval undefined: one fold: the spread between folds cannot be seen" in text
    assert "1 fold (one held-out split) × 1 seed; last epoch, none chosen." in text
    assert "| undefined \\[1\\] | – | – |" in text
    assert "\\[1\\] one fold" in text
    assert "No fold has a validation part." in text
    assert "most attended" not in text


def test_a_class_that_no_fold_holds_twice_is_undefined_with_its_reason(plant) -> None:
    folder = plant(folds=92, seeds=1, attention="none", repeats=1)  # leave one out: every test part has one class
    text = write_report(folder).with_name("report.md").read_text()
    assert "AUROC is undefined (every test part holds one class) on 92 patients, 92 folds × 1 seed" in text
    assert "curves are undefined: no fold holds both classes" in text
    assert not (folder / "figures" / "roc.png").exists()


def test_hostile_names_stay_text(plant) -> None:
    names = ("a|b<c>", "d_e$f \u6f22\u5b57 " + "very long " * 6)
    folder = plant(nasty="<script>$|&_%", name="<b>my|run</b> $x_1$", classes=names, folds=3, seeds=1)
    html = write_report(folder).read_text()
    assert "<script" not in html
    assert "<b>" not in html
    assert "<h1>&lt;b&gt;my|run&lt;/b&gt; $x_1$</h1>" in html
    Tags().feed(html)
    for line in (folder / "report.md").read_text().splitlines():
        assert "<script" not in line
        if line.startswith("|"):
            assert line.endswith("|")


@pytest.mark.slow
def test_a_large_study_stays_small(plant) -> None:
    folder = plant(patients=1500, folds=10, repeats=5, seeds=10, attention="none", epochs=30)
    assert write_report(folder).stat().st_size < 3_000_000
    text = (folder / "report.md").read_text()
    assert "5 repeats × 10 folds × 10 seeds" in text
    assert "500 runs with their own test numbers" in text


def test_missing_and_damaged_files_are_named(plant, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run folder"):
        write_report(tmp_path / "none")
    with pytest.raises(RunFolderError, match=r"lacks config\.json, results\.json, predictions\.csv"):
        write_report(tmp_path)
    folder = plant(folds=2, seeds=1, attention="none")
    (folder / "cohort.json").write_text('{"flow": ')
    with pytest.raises(RunFolderError, match=r"cohort\.json is not readable JSON"):
        write_report(folder)
    (folder / "cohort.json").write_text("[]")
    with pytest.raises(RunFolderError, match="holds a list at its top"):
        write_report(folder)


def test_only_three_files_are_needed(plant) -> None:
    folder = plant(folds=3, seeds=1, attention="none")
    for name in ("environment.json", "cohort.json", "runs.csv", "history.jsonl"):
        (folder / name).unlink()
    text = write_report(folder).with_name("report.md").read_text()
    assert "No cohort.json in the run folder" in text
    assert "## Training" not in text


def test_half_a_line_of_history_is_forgiven_at_the_end_only(plant) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    lines = (folder / "history.jsonl").read_text()
    (folder / "history.jsonl").write_text(lines + '{"run": "r1", "ep')
    assert len(read_source(folder).history) == len(lines.splitlines())
    (folder / "history.jsonl").write_text('{"run": \n' + lines)
    with pytest.raises(RunFolderError, match=r"history\.jsonl, line 1"):
        read_source(folder)


def test_losses_that_became_null_are_drawn_around(plant) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for row in rows[3:]:
        row["train_loss"] = None
    (folder / "history.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    write_report(folder)
    assert (folder / "figures" / "training.png").exists()


def test_an_old_figure_does_not_survive(plant) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    (folder / "figures").mkdir()
    (folder / "figures" / "old.png").write_bytes(b"x")
    write_report(folder)
    assert not (folder / "figures" / "old.png").exists()


def test_an_unwritable_folder_is_a_clear_error(plant, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = plant(folds=2, seeds=1, attention="none")

    def full(self: Path, *args, **kwargs) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        write_report(folder)


def test_repeating(plant) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    text = write_report(folder).with_name("report.md").read_text()
    assert "milkit run run/config.json --out run-again" in text
    edit(folder / "config.json", lambda c: c["experiment"].update(data={"type": "InMemory", "name": "mine"}))
    text = write_report(folder).with_name("report.md").read_text()
    assert "run the script that made them again" in text
    assert "milkit run run/config.json" not in text


def test_only_a_model_of_ones_own_asks_for_trust(plant) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    edit(folder / "config.json", lambda c: c.update(source={"files": {"experiment.py": "ab"}}))
    assert "--trust-source" not in write_report(folder).with_name("report.md").read_text()
    edit(folder / "config.json", lambda c: c["source"].update(model="Mine", file="experiment.py"))
    assert "--trust-source" in write_report(folder).with_name("report.md").read_text()


@pytest.mark.slow
def test_repeating_says_from_which_folder(plant, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = plant(folds=2, seeds=1, attention="none")
    data = {"type": "Cohort", "table": "tables/c.csv", "features": ["s.h5"]}
    edit(folder / "config.json", lambda c: c["experiment"].update(data=data))
    monkeypatch.chdir(tmp_path)
    text = write_report(folder).with_name("report.md").read_text()
    assert "relative to it, tables/c.csv, s.h5, and they are not where" in text
    (tmp_path / "tables").mkdir()
    for name in ("tables/c.csv", "s.h5"):
        (tmp_path / name).touch()
    text = write_report(folder).with_name("report.md").read_text()
    assert f"cd {tmp_path}\nmilkit run {folder}/config.json --out {folder}-again" in text


def test_confusion_counts_are_scikit_learns(plant) -> None:
    scores = read_source(plant(task="MultiLabel", folds=3, attention="none")).scores
    for i, (name, tp, fp, fn, tn) in enumerate(classes.label_counts(scores)):
        assert name == scores.names[i]
        expected = confusion_matrix(scores.target[:, i], scores.value[:, i] >= 0.5)
        np.testing.assert_array_equal([[tn, fp], [fn, tp]], expected)


def test_the_question_of_each_task(plant) -> None:
    asked = {
        "MultiClass": "Which of 4 classes is a patient: G1, G2, G3, G4?",
        "Survival": "Which patients come to the event first (months, event)?",
    }
    for task, expected in asked.items():
        assert question(read_source(plant(task=task, folds=2, attention="none"))).startswith(expected)


def test_digits_of_the_answer_follow_the_intervals(plant) -> None:
    assert places({"value": 0.9, "sampling": [0.8, 0.95], "procedure": None}) == 2
    assert places({"value": 0.9, "sampling": [0.895, 0.905], "procedure": None}) == 3
    assert places({"value": 55.0}) is None
    source = read_source(plant(task="Regression", folds=3, attention="none"))
    assert re.match(r"R² -?\d\.\d\d \(", answer(source))


def test_nested_studies_say_so(plant) -> None:
    folder = plant(folds=3, seeds=2, attention="none")
    rows = (folder / "runs.csv").read_text().splitlines()
    changed = [re.sub(r"^(r\d+,\d+,\d+,\d+,\d+),", rf"\1,{i % 2}", row) for i, row in enumerate(rows)]
    (folder / "runs.csv").write_text("\n".join(changed) + "\n")
    text = write_report(folder).with_name("report.md").read_text()
    assert "3 folds × 2 inner folds × 2 seeds" in text
    assert "differ by the seed and the inner fold" in text


def test_how_often_a_patient_counts_is_counted(plant) -> None:
    folder = plant(folds=4, repeats=2, seeds=3, attention="none")
    drawn = classes.confusion_matrix(read_source(folder).scores, "Binary")
    assert drawn is not None
    assert "a patient counts 6 times" in drawn.caption
    rows = (folder / "predictions.csv").read_text().splitlines()
    cut = [r for r in rows if ",validation,test," in r][:-1]  # the last patient loses a run
    (folder / "predictions.csv").write_text("\n".join([rows[0], *cut]) + "\n")
    drawn = classes.confusion_matrix(read_source(folder).scores, "Binary")
    assert drawn is not None
    assert "a patient counts 5 to 6 times" in drawn.caption


@pytest.mark.slow
def test_attention_that_says_little_is_called_so(plant) -> None:
    folder = plant(folds=3, seeds=1)
    text = write_report(folder).with_name("report.md").read_text()
    assert "nearly uniform" not in text

    def flatten(data: dict) -> None:
        for bag in data["bags"]:
            bag["attention"] = [1 / bag["n"]] * bag["n"]

    edit(folder / "attention.json", flatten)
    assert "In these bags it is nearly uniform" in write_report(folder).with_name("report.md").read_text()


def test_attention_captions_come_from_the_predictions(plant) -> None:
    folder = plant(folds=3, seeds=2, selections=("last",))
    scores = read_source(folder).scores
    mean = scores.value[scores.patients[scores.patient] == "P0000", -1].mean()
    text = write_report(folder).with_name("report.md").read_text()
    assert f"predicted probability of musk {chance(mean)}. 3 instances, effective number" in text
    edit(folder / "attention.json", lambda d: d["bags"][0].update(attention=[math.nan] * 3))
    source = read_source(folder)
    assert [b["bag"] for b in source.attention] == ["P0001", "P0002", "P0003"]


def test_no_probability_is_rounded_to_certainty() -> None:
    assert [chance(p) for p in (0.0049, 0.005, 0.5, 0.995, 0.9951)] == [
        "below 0.01",
        "0.01",
        "0.50",
        "0.99",
        "above 0.99",
    ]


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    with drawing():
        _, ax = axes()
        ax.plot([1, 2], [0.004, 0.7])
        ax.set_yscale("log")
        plain_log(ax.yaxis)
        low, high = ax.get_ylim()
        labels = [t.get_text() for t, y in zip(ax.get_yticklabels(), ax.get_yticks(), strict=True) if low <= y <= high]
    assert labels == ["0.01", "0.03", "0.1", "0.3"]


def test_tile_pitch_is_the_usual_step() -> None:
    xy = np.array([[0, 0], [224, 0], [448, 0], [0, 224], [2240, 448]], float)
    assert attention.pitch(xy) == 224.0
    assert attention.pitch(np.zeros((3, 2))) == 1.0


def test_many_points_are_sampled_the_same_way() -> None:
    shown = outcomes.sample(10_000)
    assert len(set(shown.tolist())) == outcomes.MOST_POINTS
    np.testing.assert_array_equal(shown, outcomes.sample(10_000))
    assert outcomes.sample(5).tolist() == [0, 1, 2, 3, 4]


def test_values_of_a_run() -> None:
    assert runs.run_value({"metrics": {"auroc": {"value": 0.5}}}, "auroc") == 0.5
    assert runs.run_value({"metrics": {"auroc": 0.5}}, "auroc") == 0.5
    assert runs.run_value({"metrics": {"auroc": None}}, "auroc") is None


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, milkit.report; print([m for m in ('matplotlib', 'jax', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_callers_look_is_left_alone(plant) -> None:
    import matplotlib

    matplotlib.rcParams["font.size"] = 17.0
    try:
        write_report(plant(folds=2, seeds=1, attention="none"))
        assert matplotlib.rcParams["font.size"] == 17.0
    finally:
        matplotlib.rcdefaults()
