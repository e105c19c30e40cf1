"""A headless Chromium that tests drive through a pipe by its DevTools protocol: no package and no port is needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Chromium reads commands from descriptor 3 and answers on 4; both are put there by a process that then becomes it.
INTO_PLACE = (
    "import fcntl, os, sys; ends = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 50) for fd in sys.argv[1:3]]; "
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--mute-audio",
    "--force-color-profile=srgb", "--force-device-scale-factor=1", "--remote-debugging-pipe",
)  # fmt: skip


def found() -> str | None:
    """Path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page. Requests, console messages and errors of the page are kept."""

    def __init__(self, program: str, folder: Path, size: tuple[int, int] = (1000, 700)):
        self.requests, self.errors = [], []
        self._number, self._buffer = 0, b""
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # beside the pipe it may not ask anybody: what is not loopback goes to a proxy that is not there
        nobody = ["--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1"]
        flags = [*FLAGS, *nobody, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", INTO_PLACE, str(theirs_in), str(theirs_out), program, *flags, "about:blank"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = None
        target = self.wait(lambda: [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"])
        attached = self.send("Target.attachToTarget", targetId=target[0]["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def send(self, method, **parameters):
        """Give a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]
            self._note(said)

    def open(self, url):
        """Go to an address, until the page says that it is ready."""
        self.send("Page.navigate", url="about:blank")  # so that the page before is not taken for it
        self.send("Page.navigate", url=url)
        self.wait(lambda: self.js("document.body?.dataset.ready === 'true'"))

    def js(self, code):
        """The value of an expression in the page; promises are waited for."""
        said = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, what, seconds=60):
        """Until something holds; returns it."""
        end = time.monotonic() + seconds
        while not (value := what()):
            assert time.monotonic() < end, f"waited {seconds} s in vain; errors of the page: {self.errors}"
            time.sleep(0.02)
        return value

    def key(self, key, code=0, text=""):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def mouse(self, kind, x, y, **more):
        """Move, press, release or turn the wheel."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self) -> bytes:
        """What the page looks like, PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot")["data"])

    def close(self):
        """End it and all its processes."""
        for fd in (self._out, self._in):
            os.close(fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self):
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], 30)
            assert ready, "Chromium said nothing for 30 s"
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, said):
        method, what = said.get("method"), said.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(what["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(what["exceptionDetails"])
        elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(what["entry"])
        elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.errors.append(what)
