"""The pages, and who may ask for them: the browser of whoever started the server, and nobody else's pages in it.

A server on the loopback can be reached by every page that the same browser has open. So a request must name the address that is
served as its host (a page elsewhere that lets its own name lead here, "DNS rebinding", cannot), must not come from another site, and
what changes something must say that it comes from here. What people and models wrote is escaped, nothing but our own
script runs, and nothing is loaded from elsewhere.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import unicodedata
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import jinja2
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reverie.errors import InputError, ReverieError
from reverie.show import provenance
from reverie.show import query as queries
from reverie.show.gallery import SIDES_PX, Card, Gallery
from reverie.show.query import STATES, Query
from reverie.store.pictures import as_png

HERE = Path(__file__).parent
STYLES = (HERE.parent / "report" / "style.css", HERE / "show.css")
SCRIPT = HERE / "show.js"
POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
MAX_BODY = 20_000  # bytes of what is sent here
MAX_PICTURE = 64 * 2**20  # bytes of a picture that is sent
LONGEST = 400  # characters of a caption in a grid
HIDDEN = {"\u061c", "\u200e", "\u200f", *map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A)), "\ufeff"}


class OnlyHere:
    """Refuses what another site asks for, and adds ``HEADERS`` to every answer."""

    def __init__(self, app: ASGIApp, port: int) -> None:
        self.app = app
        names = ("127.0.0.1", "localhost")
        self.hosts = {f"{name}:{port}" for name in names} | ({*names} if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope["method"], Headers(scope=scope))
        app = PlainTextResponse(f"refused: {refused}\n", status_code=403) if refused else self.app
        await app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> str | None:
        hosts, origin = headers.getlist("host"), headers.get("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return "this server answers to the address that it printed, and to no other name"
        if origin is not None and origin.lower() not in self.origins:
            return "the request comes from another site"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return "the request comes from another site"
        if method not in ("GET", "HEAD") and origin is None:
            return "a request that changes something must say where it comes from (Origin)"
        return None


def make_app(galleries: Sequence[Gallery], port: int) -> Starlette:
    """The pages of one folder, or of two side by side.

    Args: port: that the server listens on, which a request must name.
    """
    pages = Pages(galleries)
    logging.getLogger("python_multipart").addHandler(
        logging.NullHandler()
    )  # a malformed request is answered, not told to the terminal
    for name in environment().list_templates(extensions=["html"]):  # compiled now, so that the first page need not wait
        environment().get_template(name)
    routes = [
        Route("/", pages.grid),
        Route("/pair/{pair_id:path}", pages.pair),
        Route("/picture/{side}/{number}/{pair_id:path}", pages.picture),
        Route("/mark", pages.mark, methods=["POST"]),
        Route("/given", pages.take, methods=["POST"]),
        Route(
            "/given", lambda request: RedirectResponse("/")
        ),  # the address of a picture that was refused, opened again
        Route("/given/{name}", pages.given),
        Route("/style.css", _file(b"".join(path.read_bytes() for path in STYLES), "text/css")),
        Route("/show.js", _file(SCRIPT.read_bytes(), "text/javascript")),
        Route("/favicon.ico", lambda request: Response(status_code=204)),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(OnlyHere, port=port)],
        exception_handlers={ReverieError: pages.slip, OSError: pages.slip, 404: pages.slip},
    )


class Pages:
    """What each address shows."""

    def __init__(self, galleries: Sequence[Gallery]) -> None:
        self.galleries = galleries
        content = b"".join(path.read_bytes() for path in (*STYLES, SCRIPT))
        self._version = hashlib.blake2b(content, digest_size=6).hexdigest()  # so that a browser keeps no older style

    def grid(self, request: Request) -> Response:
        """Pairs that fit, some at a time."""
        asked, gallery, wrong, cards = queries.read(request.query_params), self.galleries[0], "", None
        waiting = self._wait_for_vectors(gallery) if asked.is_near else None
        try:
            cards = gallery.page(asked)
        except ReverieError as error:
            wrong = str(error)
        status = 400 if wrong else 200
        beside = [other.partners(cards.cards) for other in self.galleries[1:]] if cards else []
        return self._html(
            "grid.html", status, asked=asked, page=cards, wrong=wrong, beside=beside, waiting=waiting,
            counts=gallery.counts(), classes=gallery.classes(), back=_address(request),
        )  # fmt: skip

    def pair(self, request: Request) -> Response:
        """One pair, with all that is known of it."""
        name, asked = request.path_params["pair_id"], queries.read(request.query_params)
        at = _number(request.query_params.get("place", ""))
        gallery = self.galleries[0]
        card = gallery.card(name, at)
        if card is None:
            return self._message(404, f"{gallery.folder} has no pair {name}")
        beside = [other.partners([card], other.columns)[0] for other in self.galleries[1:]]
        others = [provenance.differences(card.row, other.row) for other in beside if other]
        around: dict[str, tuple[str, int]] = {}
        if at >= 0:
            for way, where in (("earlier", at - 1), ("later", at + 1)):
                try:
                    if found := gallery.at(asked, where):
                        around[way] = (found, where)
                except ReverieError:  # of the query, which the grid tells
                    break
        return self._html(
            "pair.html", asked=asked, card=card, facts=provenance.gather(gallery, card), beside=beside, others=others,
            around=around, back=_address(request),
        )  # fmt: skip

    def picture(self, request: Request) -> Response:
        """The picture of a pair, small or large."""
        given = request.path_params
        wanted = request.query_params.get("px", "")
        side_px = int(wanted) if wanted in map(str, SIDES_PX) else SIDES_PX[0]
        side, number = _number(given["side"]), _number(given["number"])
        gallery = self.galleries[side] if 0 <= side < len(self.galleries) else None
        found = gallery.picture(given["pair_id"], number, side_px) if gallery else None
        if found is None:
            return PlainTextResponse("no picture\n", status_code=404)
        return Response(found[0], media_type=found[1], headers={"cache-control": "private, max-age=3600"})

    async def mark(self, request: Request) -> Response:
        """Mark a pair as bad, or take the mark away."""
        body = await _body(request, MAX_BODY)
        if body is None:
            return PlainTextResponse("that is too much\n", status_code=413)
        given = dict(parse_qsl(body.decode("utf-8", errors="replace")))
        side = given.get("side", "0")
        if side not in map(str, range(len(self.galleries))) or given.get("bad") not in ("0", "1"):
            return self._message(400, "a mark names a pair, and whether it is bad")
        gallery, name, is_bad = self.galleries[int(side)], given.get("pair", ""), given["bad"] == "1"
        if await run_in_threadpool(gallery.card, name) is None:
            return self._message(404, f"{gallery.folder} has no pair {name}")
        await run_in_threadpool(gallery.marks.set, name, is_bad)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"pair": name, "bad": is_bad, "num_bad": len(gallery.marks.bad)})
        back = given.get("back", "/")
        return RedirectResponse(back if _is_ours(back) else "/", status_code=303)

    async def take(self, request: Request) -> Response:
        """Take a picture to find pairs like it, and show those."""
        body = await _body(request, MAX_PICTURE)
        if body is None:
            return self._message(413, f"a picture of more than {MAX_PICTURE // 2**20} MiB is not looked at")

        async def whole() -> AsyncGenerator[bytes, None]:
            yield body

        try:
            parser = MultiPartParser(request.headers, whole(), max_files=1, max_fields=1)
            parser.spool_max_size = MAX_PICTURE  # never on the disk
            form = await parser.parse()
            sent, back = form.get("picture"), form.get("back")
        except (MultiPartException, KeyError):
            sent = back = None
        back = back if isinstance(back, str) and _is_ours(back) else "/"
        if not isinstance(sent, UploadFile):
            return self._message(400, "no picture was sent", back)
        data = await sent.read()
        await sent.close()
        if not data:
            return self._message(400, "no picture was sent; choose a file first", back)
        try:
            name = await run_in_threadpool(self.galleries[0].near.take, data)
        except ReverieError as error:
            return self._message(400 if isinstance(error, InputError) else 500, str(error), back)
        asked = queries.read(dict(parse_qsl(back.partition("?")[2])))
        return RedirectResponse(asked.link(near="", like="", given=name), status_code=303)

    def given(self, request: Request) -> Response:
        """A picture that was sent."""
        found = self.galleries[0].near.given(request.path_params["name"])
        if found is None:
            return PlainTextResponse("no picture\n", status_code=404)
        return Response(as_png(found), media_type="image/png")

    def slip(self, request: Request, error: Exception) -> Response:
        """What is wrong, in one line."""
        if isinstance(error, OSError):
            return self._message(500, f"cannot read or write {error.filename or 'the folder'}: {error.strerror}")
        if isinstance(error, ReverieError):
            return self._message(400 if isinstance(error, InputError) else 500, str(error))
        return self._message(404, "there is no such page")

    def _wait_for_vectors(self, gallery: Gallery) -> dict[str, Any] | None:
        """How far the looking at pictures is, where not all have been looked at; it goes on by itself."""
        near, known, total = gallery.near, gallery.near.num_known(), gallery.num_usable
        if known < total and not near.error:
            near.start()
        if known >= total and not near.is_building:
            return None
        return {"known": known, "total": total, "error": near.error, "encoder": near.name}

    def _message(self, status: int, text: str, back: str = "/") -> Response:
        return self._html("message.html", status, text=text, back=back)

    def _html(self, template: str, status: int = 200, **facts: Any) -> Response:
        names = [gallery.folder.resolve().name or str(gallery.folder) for gallery in self.galleries]
        known = {
            "galleries": self.galleries,
            "names": names,
            "version": self._version,
            "states": STATES,
            "gallery": self.galleries[0],
        }
        return HTMLResponse(environment().get_template(template).render(**known, **facts), status_code=status)


@functools.cache
def environment() -> jinja2.Environment:
    """The pages, and what their templates call."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "plain": plain,
        "cut": _cut,
        "shown": provenance.shown,
        "part": lambda name: quote(str(name), safe=""),
    }
    made.globals |= {"pair_link": pair_link, "picture_link": picture_link}
    return made


def plain(text: object) -> Markup:
    """A text of people or models as it is: no HTML, and characters that steer the direction or the terminal by their number."""
    parts = []
    for char in str(text):
        steers = char in HIDDEN or (unicodedata.category(char) == "Cc" and char not in "\n\t")
        parts.append(Markup('<span class="code">U+{:04X}</span>').format(ord(char)) if steers else escape(char))
    return Markup("").join(parts)


def pair_link(asked: Query, pair_id: str, place: int | None = None) -> str:
    """The address of a pair, which knows the query that it was found by."""
    link = asked.link(f"/pair/{quote(pair_id, safe='')}", page=asked.page)
    return link if place is None or place < 0 else f"{link}{'&' if '?' in link else '?'}place={place}"


def picture_link(side: int, card: Card, version: int, px: int = 0) -> str:
    """The address of a picture; another one after the table has changed."""
    return f"/picture/{side}/{card.number}/{quote(card.pair_id, safe='')}?v={version}" + (f"&px={px}" if px else "")


def _cut(text: str | None) -> str:
    text = text or ""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text):,} characters)"


def _is_ours(address: str) -> bool:
    """Whether an address is one of these pages, and not another site's."""
    return address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()


async def _body(request: Request, most: int) -> bytes | None:
    """What was sent, or None if it is more than so many bytes."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _number(text: str) -> int:
    """A number in an address; -1 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _address(request: Request) -> str:
    query = request.url.query
    return request.url.path + (f"?{query}" if query else "")


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})

    return send
