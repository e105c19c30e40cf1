"""A worker process: builds the study from its run folder, then runs the programs it is told to, one at a time.

It is told by JSON lines on standard input and answers by JSON lines on what was its standard output; anything printed
(by an experiment's file, say) goes to standard error. When standard input ends, the process that started it is dead,
and the worker ends at once: every file is whole or absent, and programs go on from their checkpoints.

    told      {"program": n, "study": text}   run it; a new `study` means that the folder got more programs
              {"stop": true}                  end the running program after its epoch, with a checkpoint
    answers   {"ready": true}, {"epoch": rows}, {"done": n}, {"stopped": where}, {"error": [class, message]},
              {"bug": traceback}
"""

import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from milkit.errors import MilkitError
from milkit.execute.executors.base import run_once, set_jax
from milkit.execute.executors.handover import rebuild
from milkit.execute.search import grown


class _Line:
    """The line to the process that started this one."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever is printed from here on
        self.hello = json.loads(sys.stdin.readline() or "null")
        self.stopping = threading.Event()
        self.told: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "stop" in message:
                self.stopping.set()
            self.told.put(message)
        os._exit(1)

    def say(self, **message: Any) -> None:
        """Send a message."""
        self._out.write(json.dumps(message, default=float) + "\n")


class _Epochs:
    """Passes epochs on to the trackers of the process that started this one."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def epoch(self, rows: list[dict[str, Any]]) -> None:
        """One epoch of a program."""
        self._line.say(epoch=rows)

    def close(self) -> None:
        """Nothing is held."""


def main() -> None:
    """Serve until told to stop."""
    line = _Line()
    try:
        _serve(line)
    except MilkitError as error:
        line.say(error=[type(error).__name__, str(error)])
    except KeyboardInterrupt as where:
        line.say(stopped=str(where))
    except Exception:
        line.say(bug=traceback.format_exc())


def _serve(line: _Line) -> None:
    set_jax(line.hello["jax"])
    out = Path(line.hello["out"])
    bags = line.hello["bags"]
    base = rebuild(out, None if bags is None else Path(bags), line.hello["bits"])
    line.say(ready=True)
    study, built = base, ""
    trackers: list[Any] = [_Epochs(line)] if line.hello["tracked"] else []
    while True:
        told = line.told.get()
        if line.stopping.is_set():
            raise KeyboardInterrupt
        if told["study"] != built:
            study, built = grown(base, out), told["study"]
        run_once(study, told["program"], out, trackers, line.stopping.is_set)
        line.say(done=told["program"])


if __name__ == "__main__":
    main()
