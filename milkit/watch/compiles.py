"""How often this process compiled, how long it took, and how often the cache on disk had it already."""

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


_total = Compiles()
_listening = False


def compiles() -> Compiles:
    """What was compiled since the first call in this process, which begins to count."""
    global _listening
    if not _listening:
        import jax

        jax.monitoring.register_event_duration_secs_listener(_duration)
        jax.monitoring.register_event_listener(_event)
        _listening = True
    return _total


def _duration(event: str, duration_secs: float, **_: str | int) -> None:
    global _total
    if event == _COMPILED:
        _total = Compiles(_total.count + 1, _total.seconds + duration_secs, _total.cached)
    elif event in _TRACED:
        _total = Compiles(_total.count, _total.seconds + duration_secs, _total.cached)


def _event(event: str, **_: str | int) -> None:
    global _total
    if event == _CACHED:
        _total = Compiles(_total.count, _total.seconds, _total.cached + 1)
