"""`deconv-kernels gallery`."""

from __future__ import annotations

import click

from . import options
from .answer import Answer
from .gallery_settings import Settings


@options.command("gallery", Settings)
def command(settings: Settings) -> Answer:
    """Draw what maps respond to in images: their strongest activations, projected back to pixels.

    Writes per layer one figure, the first layer's filters, the units as a table and the projections as arrays. Further
    photographs may follow the options, as in --images *.jpg. Volumes are drawn as rows of slices, signals as lines.

    \b
    Example:
        deconv-kernels gallery --weights vgg16.pth --images photos/ --layers conv3_3,conv5_3 -o out/
    """
    from ..measure.baselines import WrongResult
    from .gallery_job import GalleryJob

    try:
        summary = GalleryJob(settings).run(settings.output)
    except WrongResult as error:
        raise click.ClickException(str(error)) from error
    return Answer(summary.lines(), summary.folder, summary.files, summary.told())
