"""The sentence that says where a study's time went."""

from milkit.report.sections.making import time_spent


def test_it_names_every_phase_that_was_noted():
    times = {
        "import": 2.0, "prepare": 0.4, "compile": 19.4, "train": 3600.0, "predict": 0.2, "compiled": 1100,
        "compiled_cached": 4, "measure": 0.5, "report": 2.3,
    }  # fmt: skip
    said = time_spent(times)
    assert "2.0 s starting and importing" in said
    assert "19.4 s compiling 1,100 functions, 4 of which were kept from an earlier start" in said
    assert "60 min training" in said
    assert "0.5 s computing the numbers" in said


def test_runs_that_noted_nothing_say_nothing():
    assert time_spent(None) == ""
    assert time_spent({"train": None}) == ""
