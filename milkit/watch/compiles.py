"""How often this process compiled, how long it took, and how often the cache on disk had it already."""

import time
from dataclasses import dataclass

_COMPILED = "/jax/core/compile/backend_compile_duration"
_TRACED = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
_CACHED = "/jax/compilation_cache/cache_hits"


@dataclass(frozen=True)
class Compiles:
    """What was compiled.

    Attributes:
        count: functions, those from the cache among them.
        seconds: of tracing, lowering and compiling (or reading from the cache).
        cached: functions that came from the cache on disk.
    """

    count: int = 0
    seconds: float = 0.0
    cached: int = 0

    def __sub__(self, earlier: "Compiles") -> "Compiles":
        return Compiles(self.count - earlier.count, self.seconds - earlier.seconds, self.cached - earlier.cached)


class _Counter:
    """Hears what JAX tells of its compilations."""

    def __init__(self) -> None:
        self.count = self.cached = 0
        self._spans: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        """Of all spans."""
        return float(sum(end - start for start, end in self._spans))

    def duration(self, event: str, duration_secs: float, **_: str | int) -> None:
        """A stage is over. A function traced inside another one is told first, and again as a part of it."""
        if event not in (_COMPILED, *_TRACED):
            return
        self.count += event == _COMPILED
        end = time.monotonic()
        start = end - duration_secs
        while self._spans and self._spans[-1][0] >= start:
            self._spans.pop()
        self._spans.append((start, end))

    def event(self, event: str, **_: str | int) -> None:
        """Something happened that has no duration."""
        self.cached += event == _CACHED


_counter: _Counter | None = None


def compiles() -> Compiles:
    """What was compiled since the first call in this process, which begins to count."""
    global _counter
    if _counter is None:
        import jax

        _counter = _Counter()
        jax.monitoring.register_event_duration_secs_listener(_counter.duration)
        jax.monitoring.register_event_listener(_counter.event)
    return Compiles(_counter.count, _counter.seconds, _counter.cached)
