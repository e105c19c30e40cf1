"""Who may ask: a browser of this machine that was given the token, under a name that means this machine.

The server listens on the loopback only, but any page in any browser here can send requests to it. So a request needs
a secret that such a page does not have, and a `Host` that no outside name server can make (DNS rebinding).
"""

import hmac
import secrets
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

HOSTS = ("127.0.0.1", "localhost")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # squares have the same addresses in every run, so that another run's must never come from the browser's cache
    "Cache-Control": "no-store",
}
"""Of every answer."""


@dataclass(frozen=True)
class Access:
    """The secret of one server.

    Attributes:
        port: that it listens on; cookies know no ports, so the cookie's name has it.
        token: 256 random bits.
    """

    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def url(self) -> str:
        """What the user opens."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Header that hands the token to the browser, out of reach of scripts and of other sites."""
        return f"{self._name}={self.token}; HttpOnly; SameSite=Strict; Path=/"

    @property
    def _name(self) -> str:
        return f"milkit_{self.port}"

    def host_is_ours(self, host: str | None) -> bool:
        """Whether a request was sent to a name of the loopback and to this port."""
        return host in {f"{name}:{self.port}" for name in HOSTS}

    def is_token(self, given: str | None) -> bool:
        """Whether it is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest((given or "").encode("utf-8", "replace"), self.token.encode())

    def knows(self, cookies: str | None) -> bool:
        """Whether a request's cookies hold the token."""
        try:
            morsel = SimpleCookie(cookies or "").get(self._name)
        except CookieError:
            return False
        return self.is_token(morsel.value if morsel else None)
