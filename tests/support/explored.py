"""An explorer of a small network and its server, for tests that ask it and for tests that look at its page."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import own_networks
from PIL import Image

from deconv_kernels.data.photographs import photograph_files
from deconv_kernels.explore.explorer import Explorer
from deconv_kernels.explore.library import Library
from deconv_kernels.models import load_weights

SIZE = 64
CLASSES = ("ant", "bee", "cat", "dog")  # of seven


def picture(seed: int) -> Image.Image:
    """A few coloured blots."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((80, 72), Image.Resampling.BICUBIC)


def photographs(folder: Path, seed: int) -> list[Path]:
    """A folder of three pictures and a file that is none; their paths."""
    folder.mkdir(exist_ok=True)
    for place, name in enumerate(("a.png", "b.jpg", "c & d.png")):
        picture(seed + place).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return photograph_files([folder])


def explorer_of(name: str, paths: list[Path], size: int = SIZE) -> Explorer:
    """An explorer of one of `own_networks`."""
    weights = load_weights(f"{Path(own_networks.__file__)}:{name}", size=size)
    return Explorer(weights.model(), weights, Library(paths, size), CLASSES)


@dataclass(frozen=True)
class Served:
    """A server that is running. Its explorer is for one thread, that of the server: others ask by `ask`."""

    explorer: Explorer
    port: int

    def ask(self, name: str, **given: object) -> Any:
        """An answer of the server."""
        with urlopen(f"{self.address}api/{name}?{urlencode(given)}", timeout=120) as response:
            return json.load(response)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@contextlib.contextmanager
def served(explorer: Explorer, token: str | None = None) -> Iterator[Served]:
    """The explorer's server, in a thread, until the block ends."""
    from deconv_kernels.explore.server import listen, make_server

    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    server = make_server(explorer, token)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Served(explorer, port)
    finally:
        server.should_exit = True
        thread.join()
