"""One run of `deconv-kernels gallery`."""

from __future__ import annotations

from pathlib import Path

from ..checks import at_least
from ..data.tables import write_csv
from ..data.tensor_files import save_arrays
from ..data.writing import write_json
from ..engine.deconvnet import Deconvnet
from ..experiments.common.files import files_in, written_at_once
from ..experiments.common.layers import check_takes, chosen_layers
from ..experiments.gallery import gallery, table_head
from ..measure.gallery import Summary, rates_of
from ..ops import check_overlap
from ..plot.gallery import Drawn, draw_first_filters, draw_gallery
from .gallery_settings import Settings
from .options import names, values
from .shown import ShownCrops, show_crops


class GalleryJob:
    """One run, checked before it starts: weights, images and layers are loaded on construction.

    Args:
        settings: what to draw.

    Raises:
        ValueError: anything about the settings, the weights or the images that cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        for name in ("maps", "k", "crops", "batch_size", "size"):
            at_least(name, getattr(settings, name), 1)
        for name in ("sample", "seed"):
            at_least(name, getattr(settings, name), 0)
        check_overlap(settings.overlap)
        self.settings = settings
        self.shown = show_crops(settings.network, settings.images.sources, settings.size, settings.crops)
        if settings.distinct and self.shown.crops is None:
            raise ValueError(f"every {self.shown.one} is a place of its own: leave --distinct out")
        self.net = Deconvnet(self.shown.model, rule=settings.rule, image_size=self.shown.first.shape[1:])
        self.layers = chosen_layers(self.net, names(settings.layers))
        check_takes(self.net, self.shown.first, self.layers, settings.network.model)
        if len(self.shown) < settings.k:
            raise ValueError(
                f"{len(self.shown)} {self.shown.one}s are too few for the {settings.k} strongest activations, one per "
                f"{self.shown.one}: give more images or a smaller k"
            )

    def run(self, folder: str | Path, progress: bool = True) -> Summary:
        """Projects, compares with the baselines, draws and writes.

        The files appear in `folder` together, when everything is done; an error leaves nothing behind.

        Args:
            folder: created if need be. Files of the same names in it are replaced.
            progress: show progress bars.

        Raises:
            OSError: the folder cannot be written.
            WrongResult: projections differ from their definition.
        """
        settings, shown = self.settings, self.shown
        with written_at_once(Path(folder)) as draft:
            inputs = shown.inputs()
            how = values(settings, "maps", "k", "seed", "overlap", "batch_size")
            how |= {"crops": shown.crops if settings.distinct else None, "progress": progress}
            found = gallery(self.net, inputs, self.layers, **how)
            rates = rates_of(self.net, inputs, found, settings.sample, settings.overlap)
            rows = (row for layer in found.layers for row in layer.table())
            write_csv(draft / "units.csv", table_head(shown.one, inputs.dim() - 2), rows, line_end="\r\n")
            write_csv(draft / f"{shown.one}s.csv", *shown.table(), line_end="\r\n")
            arrays = {layer.layer: layer.projections.windows.cpu().numpy() for layer in found.layers}
            save_arrays(draft / "projections.npz", arrays)
            where = f"at most one per {shown.one}{' and place' if settings.distinct else ''}"
            said = f"{settings.rule} projections of the {settings.k} strongest activations over {shown.said}, {where}"
            chosen = f"{shown.remark} The maps are a random choice (seed {settings.seed}).".strip()
            drawn = Drawn(type(shown.model).__name__, shown.source, shown.one, said, chosen, shown.to_rgb)
            draw_gallery(draft, found, self.net.tape, shown.pixels(), drawn)
            if isinstance(shown, ShownCrops):
                draw_first_filters(draft, shown.model, shown.weights)
            summary = Summary(
                str(folder),
                (*files_in(draft), "gallery.json"),
                shown.one,
                shown.said,
                shown.counts,
                found.record_seconds,
                sum(layer.seconds for layer in found.layers),
                rates,
            )
            content = {"settings": self._told(), "weights": shown.source, **summary.told()}
            write_json(draft / "gallery.json", content)
        return summary

    def _told(self) -> dict[str, object]:
        """The settings as they are written."""
        settings, network = self.settings, self.settings.network
        mean, std = network.reading.constants()
        told: dict[str, object] = {"model": network.model, "weights": network.weights}
        told |= {"images": settings.images.sources, "layers": self.layers}
        told |= values(settings, "maps", "k", "crops", "batch_size", "seed") | {"device": network.machine.device}
        return told | values(settings, "rule", "overlap", "distinct", "sample", "size") | {"mean": mean, "std": std}
