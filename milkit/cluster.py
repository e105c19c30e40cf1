"""A Ray cluster, found or started on this machine (the extra `ray`)."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from milkit.cores import usable_cores
from milkit.errors import ConfigError, WorkerError


class Cluster:
    """A cluster to be entered; what was started for it is ended when it is left.

    Args:
        address: of a running cluster; None takes `$RAY_ADDRESS`, or starts one on this machine.
        cores: of one that is started; None takes those that this process may use.

    Attributes:
        ray: the package.
    """

    def __init__(self, address: str | None, cores: int | None = None) -> None:
        self._address, self._cores = address or os.environ.get("RAY_ADDRESS"), cores
        self.ray, self._started = _import_ray(), False

    def __enter__(self) -> "Cluster":
        if self.ray.is_initialized():
            return self
        if self._address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            cores = self._cores or len(usable_cores())
            said: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        else:
            said = {"address": self._address}
        try:
            _knock(said["address"])
            with _handlers_kept():
                self.ray.init(**said, log_to_driver=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as error:
            raise WorkerError(
                f"The Ray cluster {said['address']!r} cannot be reached ({str(error).splitlines()[0]}); start it with "
                "`ray start --head`, give its address with --ray-address, or leave that away to start one here."
            ) from error
        self._started = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self._started:
            self.ray.shutdown()
            self._started = False


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself, to end the process where it stands; milkit's commands end in good order."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:
                    signal.signal(number, handler)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT; Ray itself would wait for minutes and end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError('Ray is not installed; `pip install "milkit[ray]"` does it.') from error
    return ray
