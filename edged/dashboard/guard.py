"""The door: every request passes here, before any route sees it. Pure ASGI, so that streams are not buffered."""

from __future__ import annotations

import html
import math
import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edged.dashboard.access import SESSION_SECONDS, Sessions, Throttle, host_allowed, same

# Everything comes from this origin, nothing is inline, and with Trusted Types even a slip (innerHTML) can't run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{nonce}; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY.format(nonce=""),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}

LOGIN = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} · edged</title>{refresh}
<style nonce="{nonce}">
:root {{ color-scheme: light dark; --ink: #1c2321; --soft: #5c6763; --page: #f6f7f5; --card: #fff; --line: #dfe4e1;
  --accent: #0b6e5b; --warn: #9a3412 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e6ebe9; --soft: #9aa8a3; --page: #101413; --card: #181d1c;
  --line: #2a3230; --accent: #5cc8ae; --warn: #fdba74 }} }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif }}
main {{ background: var(--card); border: 1px solid var(--line); border-radius: 16px; padding: 2rem;
  width: min(26rem, calc(100vw - 2rem)); box-sizing: border-box }}
h1 {{ margin: 0 0 .25rem; font-size: 1.35rem }} p {{ color: var(--soft); margin: .5rem 0 1rem }}
p.problem {{ color: var(--warn) }} label {{ display: block; font-weight: 600; margin-bottom: .35rem }}
input {{ width: 100%; box-sizing: border-box; font: inherit; padding: .6rem .75rem; border-radius: 10px;
  border: 1px solid var(--line); background: var(--page); color: inherit }}
button {{ margin-top: 1rem; width: 100%; font: inherit; font-weight: 600; padding: .65rem; border: 0;
  border-radius: 10px; background: var(--accent); color: var(--card) }}
input:focus-visible, button:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px }}
code {{ font-size: .9em }}
</style></head><body><main>
<h1>{name}</h1>
<p class="{kind}">{sentence}</p>
<form method="get" action="/"><label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="off" required autofocus><button>Open</button></form>
</main></body></html>
"""
ASK = "This page needs the node's token. It is in the file dashboard.token in the node's state folder."


class Guard:
    """ASGI middleware: Host check, GET only, token or session, and the security headers on every answer.

    :param touch: called for each request that was let in, so that the process knows somebody looks.
    """

    def __init__(
        self, app: ASGIApp, *, name: str, token: str, hosts: frozenset[str], clock: Callable[[], float],
        touch: Callable[[], None],
    ) -> None:  # fmt: skip
        self._app = app
        self._name = name
        self._token = token
        self._sessions = Sessions(token)
        self._throttle = Throttle()
        self._hosts = hosts
        self._clock = clock
        self._touch = touch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no lifespan to run, no websockets to speak

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for key, value in HEADERS.items():
                    headers.setdefault(key, value)
            await send(message)

        answer = self._refuse_or_login(scope)
        if answer is None and scope["path"] != "/healthz":
            self._touch()
        await (answer or self._app)(scope, receive, send_guarded)

    def _refuse_or_login(self, scope: Scope) -> Response | None:
        """None lets the request through."""
        headers = Headers(scope=scope)
        if scope["method"] not in ("GET", "HEAD"):
            return _problem(405, "this page only shows; there is nothing to send to it")
        if scope["path"] == "/healthz":
            return None
        if not host_allowed(headers.get("host", ""), self._hosts, (scope.get("server") or ("", 0))[0]):
            return _problem(421, "unknown Host; open this node by its address, its host name or localhost")
        given = self._given_token(scope, headers)
        if given is not None:
            return self._check_token(given, scope)
        if self._session_valid(headers):
            return None
        if scope["path"] == "/":
            return self._login_page(401, ASK, cross_site=headers.get("sec-fetch-site") == "cross-site")
        return _problem(401, "needs the node's token: open / in a browser, or send it as `Authorization: Bearer`")

    def _given_token(self, scope: Scope, headers: Headers) -> str | None:
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return value.strip()
        if scope["path"] == "/" and b"token=" in scope["query_string"]:
            query: bytes = scope["query_string"]
            return parse_qs(query.decode("latin-1")).get("token", [""])[0].strip()
        return None

    def _check_token(self, given: str, scope: Scope) -> Response | None:
        now = self._clock()
        address = (scope.get("client") or ("unknown", 0))[0]
        browser = scope["path"] == "/"
        if wait := self._throttle.wait(address, now):
            sentence = f"Too many wrong tokens. Try again in {math.ceil(wait)} seconds."
            answer = self._login_page(429, sentence) if browser else _problem(429, sentence)
            answer.headers["retry-after"] = str(math.ceil(wait))
            return answer
        if not same(given, self._token):
            self._throttle.failed(address, now)
            sentence = "That is not this node's token."
            return self._login_page(401, sentence) if browser else _problem(401, sentence)
        if b"token=" not in scope["query_string"]:
            return None
        answer = RedirectResponse("/", 303)  # so that the token leaves the address bar
        answer.set_cookie(
            self._sessions.cookie, self._sessions.issue(now), max_age=SESSION_SECONDS, httponly=True, samesite="strict"
        )
        return answer

    def _session_valid(self, headers: Headers) -> bool:
        cookies = cookie_parser(headers.get("cookie", ""))  # http.cookies gives up at other pages' odd cookies
        return self._sessions.valid(cookies.get(self._sessions.cookie, ""), self._clock())

    def _login_page(self, status: int, sentence: str, cross_site: bool = False) -> Response:
        """A link from elsewhere brings no strict cookie along; loading / once more from here does."""
        nonce = secrets.token_urlsafe(16)
        page = LOGIN.format(
            name=html.escape(self._name),
            sentence=html.escape(sentence),
            kind="ask" if sentence == ASK else "problem",
            nonce=nonce,
            refresh='<meta http-equiv="refresh" content="0;url=/">' if cross_site else "",
        )
        policy = POLICY.format(nonce=f" 'nonce-{nonce}'")
        return HTMLResponse(page, status, headers={"content-security-policy": policy})


def _problem(status: int, sentence: str) -> Response:
    return JSONResponse({"error": {"message": sentence}}, status)
