"""/healthz, /livez and /readyz with named checks, read and answered as kube-apiserver's. Open to everybody.

?verbose              a line for each check
?exclude=NAME         (any number of times) leaves one out
/readyz/NAME          one check alone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

Check = Callable[[], str]  # what is wrong, in a few words; "" if nothing is
Checks = Mapping[str, Check]


def report(endpoint: str, checks: Checks, exclude: Sequence[str] = (), verbose: bool = False) -> tuple[int, str]:
    """Status code and text. A check that fails is told whether or not that was asked for."""
    lines: list[str] = []
    failed: list[str] = []
    for name, check in checks.items():
        if name in exclude:
            lines.append(f"[+]{name} excluded: ok")
        elif trouble := check():
            failed.append(name)
            lines.append(f"[-]{name} failed: {trouble}")
        else:
            lines.append(f"[+]{name} ok")
    if unknown := sorted(set(exclude) - set(checks)):
        listed = ", ".join(f'"{name[:64]}"' for name in unknown)
        lines.append(f"warn: some health checks cannot be excluded: no matches for {listed}")
    if failed:
        return 500, "\n".join([*lines, f"{endpoint} check failed", ""])
    return 200, "\n".join([*lines, f"{endpoint} check passed", ""]) if verbose else "ok"


def add_routes(app: Starlette, live: Checks, ready: Checks) -> None:
    """:param live: what a restart could mend; `ready` what must hold, besides, for requests to be worth sending."""
    for endpoint, checks in (("healthz", live), ("livez", live), ("readyz", {**live, **ready})):
        app.router.add_route(f"/{endpoint}", _all(endpoint, checks), methods=["GET"])
        app.router.add_route(f"/{endpoint}/{{name:path}}", _one(endpoint, checks), methods=["GET"])


def _all(endpoint: str, checks: Checks) -> Callable[[Request], Response]:
    async def answer(request: Request) -> Response:
        query = request.query_params
        return _text(*report(endpoint, checks, query.getlist("exclude")[:100], "verbose" in query))

    return answer  # type: ignore[return-value]


def _one(endpoint: str, checks: Checks) -> Callable[[Request], Response]:
    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        check = checks.get(name)
        if check is None:
            return _text(404, "404 page not found\n")
        code, told = report(f"{endpoint}/{name}", {name: check}, (), "verbose" in request.query_params)
        return _text(code, told if code == 200 else f"internal server error: {told}")

    return answer  # type: ignore[return-value]


def _text(code: int, text: str) -> Response:
    return PlainTextResponse(text, code, {"x-content-type-options": "nosniff", "cache-control": "no-cache, private"})
