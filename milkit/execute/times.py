"""Where the time of a study went, for `environment.json`: a cold and a warm start differ in compiling."""

from pathlib import Path
from typing import Any

from milkit.execute.folder import read_json, write_json
from milkit.watch.standing import Reader

_PROGRAMS = {"compile": "compile_seconds", "train": "train_seconds", "predict": "predict_seconds"}


def times(out: Path, started: float, prepared: float) -> dict[str, Any]:
    """Seconds of each phase, over all attempts at the study.

    Args:
        out: the run folder.
        started: seconds that this process took to start and import, 0 if that was not for this study.
        prepared: seconds of loading, drawing folds and packing.

    Returns:
        `import`, `prepare`, `compile`, `train`, `predict` in seconds (the last three without each other, and summed
        over programs, which may have run side by side), and how many functions were compiled, and came from the cache.
    """
    before: dict[str, Any] = read_json(out / "environment.json").get("times", {})
    reader = Reader(out)
    reader.read()
    return {
        "import": round(before.get("import", 0.0) + started, 3),
        "prepare": round(before.get("prepare", 0.0) + prepared, 3),
        **{name: round(reader.total(field), 3) for name, field in _PROGRAMS.items()},
        "compiled": round(reader.total("compiles")),
        "compiled_cached": round(reader.total("compiles_cached")),
    }


def add_time(out: Path, name: str, seconds: float) -> None:
    """Add a phase that came after training to `environment.json`."""
    env = read_json(out / "environment.json")
    env["times"] = {**env.get("times", {}), name: round(seconds, 3)}
    write_json(out / "environment.json", env)
