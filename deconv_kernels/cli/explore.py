"""`deconv-kernels explore`."""

from __future__ import annotations

from dataclasses import dataclass

import click

from . import options
from .answer import Answer
from .options import Network, PhotographSources, group, option


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to explore, and where to serve the page."""

    network: Network = group(Network)
    photographs: PhotographSources = group(PhotographSources)
    classes: str | None = options.classes()
    size: int = options.size()
    host: str = option("127.0.0.1", "Where to listen. Elsewhere than on this machine the page asks for a token.")
    port: int = option(8756, "The port of the page; 0 for one that is free.", type=click.IntRange(0, 65535))
    open: bool = option(False, "Open the page in the browser.", "--open", is_flag=True)


@options.command("explore", Settings)
def command(settings: Settings) -> None:
    """Explore a network in the browser: point at any unit of any map and see what it responds to.

    Serves a page on this machine until it is interrupted: choose or drop a picture, look at the maps of every layer,
    point at a unit for its projection and its receptive field, and drag a grey square over the picture. The nine
    strongest units of every map over the photographs are searched while you look. Nothing is written to disk.

    \b
    Example:
        deconv-kernels explore --images photographs/ --open
    """
    import secrets
    import webbrowser
    from contextlib import suppress

    from ..checks import at_least
    from ..data.photographs import photograph_files
    from ..explore.explorer import Explorer
    from ..explore.library import Library
    from ..terminal import counted
    from .labels import read_lines
    from .shown import check_photographs
    from .subject import load

    try:
        from ..explore.guard import is_this_machine
        from ..explore.server import listen, make_server
    except ImportError as error:
        raise ValueError(
            f"the page needs starlette and uvicorn: pip install 'deconv_kernels[explore]' ({error})"
        ) from None

    at_least("size", settings.size, 1)
    check_photographs(settings.photographs.sources, "the page shows photographs")
    paths = photograph_files(settings.photographs.sources)
    subject = load(settings.network, settings.size)
    classes = subject.weights.classes if settings.classes is None else read_lines(settings.classes, "classes")
    explorer = Explorer(subject.model, subject.weights, Library(paths, settings.size), classes)
    token = None if is_this_machine(settings.host) else secrets.token_urlsafe(24)
    with listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
        said = f"Exploring {settings.network.model} with {counted(len(paths), 'photographs')}; Ctrl-C ends it."
        talk = click.get_current_context().params
        found = {"model": settings.network.model, "photographs": len(paths), "address": address}
        Answer([said, address], found=found).say("explore", talk["json"], talk["quiet"] and token is None)
        if settings.open:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):
            make_server(explorer, token).run(sockets=[listening])
