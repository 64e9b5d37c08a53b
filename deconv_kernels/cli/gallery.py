"""`deconv-kernels gallery`."""

from __future__ import annotations

import click

from . import options
from .gallery_settings import Settings


@options.command("gallery", Settings)
def command(settings: Settings) -> None:
    """Draw what maps respond to in photographs: their strongest activations, projected back to pixels.

    Writes per layer one figure, the first layer's filters, the units as a table and the projections as arrays. Further
    photographs may follow the options, as in --images *.jpg.
    """
    from ..measure.baselines import WrongResult
    from .gallery_job import GalleryJob

    try:
        summary = GalleryJob(settings).run(settings.output)
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    options.tell(summary.lines())
