"""The explorer as a web server: questions in, JSON and pictures out.

Every question names all that it is about, so that the server remembers nothing of a page: any number of them may be
open, and closed at any time. Answers are computed one after another, by one thread; while nobody asks, the pictures of
the folders are searched for the strongest units.

Starlette and uvicorn are small, well kept and without further parts: routes, streamed bodies and a server that notices
when a browser no longer waits.
"""

from __future__ import annotations

import asyncio
import csv
import io
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ..engine.errors import UnsupportedModule
from ..engine.steps.base import RULES
from .explorer import Explorer, Place, Square
from .guard import Guard
from .library import FORMATS, MOST_BYTES, UnknownImage
from .pictures import as_png, colours_of, contact_sheet, embedded

__all__ = ["application", "listen", "make_server"]

T = TypeVar("T")
Answer = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
_OVERLAPS = ("sum", "last")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_QUIET_SECONDS = 1.0  # after the last question, before the folders are searched on
_LONGEST_TILE = 48
_COLUMNS = 32
_MOST_CONNECTIONS = 256
_LARGEST = 2**31


class _NobodyWaits(Exception):  # noqa: N818
    """The browser that asked has gone on."""


class _TooLarge(Exception):  # noqa: N818
    """More was sent than is taken."""


class _Desk:
    """One thread that computes, and who waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "explorer")
        self._turn = asyncio.Lock()
        self._asked = 0.0

    async def computed(self, request: Request, function: Callable[[], T]) -> T:
        """What a function returns, computed when its turn has come, unless nobody waits for it any more."""
        self._asked = time.monotonic()
        async with self._turn:
            if await request.is_disconnected():
                raise _NobodyWaits
            try:
                return await self._run(function)
            finally:
                self._asked = time.monotonic()

    async def when_quiet(self, function: Callable[[], None]) -> None:
        """Runs a function once nobody has asked for a while."""
        while True:
            while (left := self._asked + _QUIET_SECONDS - time.monotonic()) > 0:
                await asyncio.sleep(left)
            async with self._turn:
                if self._asked + _QUIET_SECONDS <= time.monotonic():
                    await self._run(function)
                    return

    async def _run(self, function: Callable[[], T]) -> T:
        # A thread cannot be stopped: whoever no longer waits must not let the next one in beside it.
        running = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def close(self) -> None:
        """Ends the thread after what it does now."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def application(explorer: Explorer, token: str | None = None) -> Starlette:
    """The web application.

    Args:
        explorer: what it shows.
        token: see `Guard`.
    """
    desk = _Desk()

    @asynccontextmanager
    async def searching(app: Starlette) -> AsyncIterator[None]:
        search = asyncio.create_task(_search(explorer, desk))
        yield
        search.cancel()
        desk.close()

    answers = _Answers(explorer, desk)
    routes = [Route("/", _file("index.html"))]
    routes += [Route(f"/{path.name}", _file(path.name)) for path in sorted(PAGE.iterdir()) if path.suffix in _TYPES]
    routes += [
        Route(f"/api/{name}", _answered(getattr(answers, name)), methods=[method])
        for name, method in (
            *((name, "GET") for name in ("network", "images", "picture", "classes", "maps", "map", "unit")),
            *((name, "GET") for name in ("occluded", "strongest", "units")),
            ("upload", "POST"),
        )
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, token=token)], lifespan=searching)


async def _search(explorer: Explorer, desk: _Desk) -> None:
    strongest = explorer.strongest
    while strongest.done < strongest.total:
        try:
            await desk.when_quiet(strongest.step)
        except (RuntimeError, ValueError) as error:
            # The page lives on without what only the search can tell.
            _log.warning("the search for the strongest units ended at picture %d: %s", strongest.done + 1, error)
            return


def _file(name: str) -> Answer:
    async def answer(request: Request) -> Response:
        return FileResponse(PAGE / name, media_type=_TYPES[Path(name).suffix])

    return answer


def _answered(function: Answer) -> Answer:
    """Has errors that the asker can put right say so."""

    async def answer(request: Request) -> Response:
        try:
            return await function(request)
        except UnknownImage as error:
            return _told(404, error)
        except _TooLarge as error:
            return _told(413, error)
        except UnsupportedModule as error:
            return _told(422, error)
        except (ValueError, LookupError) as error:
            return _told(400, error)
        except _NobodyWaits:
            return Response(status_code=499)

    return answer


def _told(status: int, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error.args[0] if error.args else error).split())}, status)


class _Answers:
    """An answer for every question, by its name in the address."""

    def __init__(self, explorer: Explorer, desk: _Desk) -> None:
        self.explorer, self.desk = explorer, desk

    async def network(self, request: Request) -> Response:
        """What is explored: the network and its layers, and what can be chosen."""
        explorer = self.explorer
        return JSONResponse(
            {
                "model": explorer.weights.architecture,
                "weights": explorer.weights.source,
                "layers": [asdict(layer) for layer in explorer.layers],
                "start": explorer.start,
                "rules": RULES,
                "rule": explorer.rule,
                "refusal": explorer.refusal,
                "overlaps": _OVERLAPS,
                "size": explorer.library.size,
                "grey": explorer.grey,
                "classes": explorer.class_count,
                "names": explorer.classes,
                "upload": {"formats": FORMATS, "bytes": MOST_BYTES},
            }
        )

    async def images(self, request: Request) -> Response:
        """The names of the pictures in the folders."""
        return JSONResponse(self.explorer.library.names)

    async def picture(self, request: Request) -> Response:
        """A picture as the network sees it."""
        name = _text(request, "image")
        pixels = await self.desk.computed(request, lambda: self.explorer.library.pixels(name))
        return Response(as_png(pixels.permute(1, 2, 0).numpy()), media_type="image/png")

    async def upload(self, request: Request) -> Response:
        """Takes in a picture that was dropped onto the page."""
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise _TooLarge(f"a picture may have {MOST_BYTES // 2**20} MB at most")
        title = unquote(request.headers.get("x-name", ""))
        library = self.explorer.library
        name = await self.desk.computed(request, lambda: library.add(bytes(content), title))
        return JSONResponse({"image": name, "title": library.title(name)})

    async def classes(self, request: Request) -> Response:
        """The most probable classes of a picture."""
        name = _text(request, "image")
        found = await self.desk.computed(request, lambda: self.explorer.probabilities(name))
        return JSONResponse({"title": self.explorer.library.title(name), "classes": [asdict(each) for each in found]})

    async def maps(self, request: Request) -> Response:
        """All maps of a layer on one picture, and the strongest unit of each."""
        name, layer = _text(request, "image"), _text(request, "layer")

        def computed() -> dict[str, Any]:
            maps = self.explorer.maps(name, layer)
            sheet, (height, width) = contact_sheet(maps, _LONGEST_TILE, _COLUMNS)
            value, place = maps.flatten(1).float().max(1)
            y, x = place // maps.shape[2], place % maps.shape[2]
            peaks = {"value": _finite(value.tolist()), "y": y.tolist(), "x": x.tolist()}
            return {"sheet": embedded(sheet), "columns": _COLUMNS, "height": height, "width": width, "peaks": peaks}

        return JSONResponse(await self.desk.computed(request, computed))

    async def map(self, request: Request) -> Response:
        """One map, with colours of its own scale."""
        name, layer, number = _text(request, "image"), _text(request, "layer"), _whole(request, "map")

        def computed() -> dict[str, Any]:
            map = self.explorer.map(name, layer, number)
            low, high = map.float().min(), map.float().max()
            most = float(max(-low, high))
            limits = dict(zip(("low", "high"), _finite([float(low), float(high)]), strict=True))
            return {**limits, "most": _finite([most])[0], "picture": embedded(colours_of(map, most))}

        return JSONResponse(await self.desk.computed(request, computed))

    async def unit(self, request: Request) -> Response:
        """A unit: its projection, its receptive field and the patch."""
        name, place = _text(request, "image"), _place(request)
        rule, overlap = request.query_params.get("rule", self.explorer.rule), _overlap(request)

        def computed() -> dict[str, Any]:
            unit = self.explorer.unit(name, place, rule, overlap)
            pictures = {"projection": embedded(unit.projection), "patch": embedded(unit.patch)}
            return {"activation": _finite([unit.activation])[0], "box": unit.box, "silent": unit.silent, **pictures}

        return JSONResponse(await self.desk.computed(request, computed))

    async def occluded(self, request: Request) -> Response:
        """What a grey square over a picture changes."""
        name, layer, number = _text(request, "image"), _text(request, "layer"), _whole(request, "map")
        square = Square(*(_whole(request, key, -_LARGEST) for key in ("y", "x", "side")))

        def computed() -> dict[str, Any]:
            found = self.explorer.occluded(name, layer, number, square)
            most = float(self.explorer.map(name, layer, number).float().abs().max())
            total, clean = _finite([found.total, found.clean_total])
            classes = [asdict(each) for each in found.classes]
            return {
                "classes": classes,
                "picture": embedded(colours_of(found.map, most)),
                "total": total,
                "clean": clean,
            }

        return JSONResponse(await self.desk.computed(request, computed))

    async def strongest(self, request: Request) -> Response:
        """The strongest units of a map over the folders, as far as these have been searched."""
        layer, number = _text(request, "layer"), _whole(request, "map")
        self.explorer.facts(layer)
        strongest = self.explorer.strongest
        # Progress first: a picture counts once its units are in, so that the last answer has them all.
        progress = {"done": strongest.done, "total": strongest.total, "unreadable": len(strongest.unreadable)}
        units = [asdict(unit) for unit in strongest.of(layer, number)]
        return JSONResponse({"units": units, "searched": layer in strongest.layers, **progress})

    async def units(self, request: Request) -> Response:
        """The unit looked at and the map's strongest, with their receptive fields, as a table."""
        name, place = _text(request, "image"), _place(request)
        rule, overlap = request.query_params.get("rule", self.explorer.rule), _overlap(request)
        rows: list[list[object]] = []
        chosen = [("chosen", name, place)]
        for strong in self.explorer.strongest.of(place.layer, place.map):
            chosen.append(("strongest", strong.image, Place(place.layer, place.map, strong.y, strong.x)))
        for kind, image, each in chosen:
            unit = await self.desk.computed(request, partial(self.explorer.unit, image, each, rule, overlap))
            title = self.explorer.library.title(image)
            rows.append([kind, title, each.layer, each.map, each.y, each.x, unit.activation, *unit.box])
        head = ("kind", "image", "layer", "map", "y", "x", "activation", "box_y0", "box_x0", "box_y1", "box_x1")
        return _table(f"{place.layer}-map-{place.map}.csv", head, rows)


def _table(name: str, head: tuple[str, ...], rows: list[list[object]]) -> Response:
    """A file to save; a text that a spreadsheet would take for a formula is kept from being one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_harmless(value) for value in row] for row in rows])
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in name)
    return Response(text.getvalue(), 200, {"Content-Disposition": f'attachment; filename="{safe}"'}, "text/csv")


def _harmless(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _finite(values: list[float]) -> list[float | None]:
    """JSON knows no other numbers."""
    return [value if abs(value) < float("inf") else None for value in values]


def _text(request: Request, key: str) -> str:
    value = request.query_params.get(key)
    if not value:
        raise ValueError(f"{key} is missing")
    return value


def _whole(request: Request, key: str, least: int = 0) -> int:
    text = _text(request, key)
    try:
        value = int(text) if len(text) <= 11 else _LARGEST
    except ValueError:
        value = _LARGEST
    if not least <= value < _LARGEST:
        raise ValueError(f"{key} must be a whole number of at least {max(least, -_LARGEST)}, got {text[:20]!r}")
    return value


def _place(request: Request) -> Place:
    return Place(_text(request, "layer"), *(_whole(request, key) for key in ("map", "y", "x")))


def _overlap(request: Request) -> str:
    return request.query_params.get("overlap", _OVERLAPS[0])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.

    Raises:
        ValueError: it cannot listen there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends answers without delay only over a socket that says it is one of TCP.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        raise ValueError(f"cannot listen on {host} port {port}: {error}; another --port may be free") from error


def make_server(explorer: Explorer, token: str | None = None) -> uvicorn.Server:
    """The server, to be run on a socket from `listen`: until the process is interrupted or asked to end.

    Args:
        explorer: what is shown.
        token: see `Guard`.
    """
    config = uvicorn.Config(
        application(explorer, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        http="h11",
        loop="asyncio",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
