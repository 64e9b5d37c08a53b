"""One run of `deconv-kernels gallery`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from ..checks import at_least
from ..data.crops import crop_table, cut, plan_crops
from ..data.photographs import load_photographs
from ..data.tables import write_csv
from ..data.tensor_files import save_arrays
from ..data.writing import write_json
from ..engine.deconvnet import Deconvnet
from ..experiments.common.files import files_in, written_at_once
from ..experiments.common.layers import check_takes, chosen_layers
from ..experiments.gallery import TABLE_HEAD, gallery
from ..measure.gallery import Summary, rates_of
from ..ops import check_overlap
from ..plot.gallery import draw_first_filters, draw_gallery
from .gallery_settings import Settings
from .options import names, values
from .subject import load


class GalleryJob:
    """One run, checked before it starts: weights, photographs and layers are loaded on construction.

    Args:
        settings: what to draw.

    Raises:
        ValueError: anything about the settings, the weights or the photographs that cannot work.
    """

    def __init__(self, settings: Settings) -> None:
        for name in ("maps", "k", "crops", "batch_size", "size"):
            at_least(name, getattr(settings, name), 1)
        for name in ("sample", "seed"):
            at_least(name, getattr(settings, name), 0)
        check_overlap(settings.overlap)
        subject = load(settings.network, settings.size)
        self.settings, self.weights, self.model = settings, subject.weights, subject.model
        self.net = Deconvnet(self.model, rule=settings.rule)
        self.layers = chosen_layers(self.net, names(settings.layers))
        blank = subject.inputs(torch.zeros(1, 3, settings.size, settings.size, dtype=torch.uint8))
        check_takes(self.net, blank, self.layers, settings.network.model)
        self.photographs = load_photographs(settings.photographs.sources)
        self.crops = plan_crops(self.photographs, settings.size, settings.crops)
        if len(self.crops) < settings.k:
            raise ValueError(
                f"{len(self.crops)} crops are too few for the {settings.k} strongest activations, one per crop: "
                "give more or larger photographs, more crops or a smaller k"
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
        settings, weights, crops = self.settings, self.weights, self.crops
        with written_at_once(Path(folder)) as draft:
            images = cut(self.photographs, crops, settings.size)
            inputs = weights.preprocess(images).contiguous(memory_format=torch.channels_last)
            how = values(settings, "maps", "k", "seed", "overlap", "batch_size")
            how |= {"crops": crops if settings.distinct else None, "progress": progress}
            found = gallery(self.net, inputs, self.layers, **how)
            rates = rates_of(self.net, inputs, found, settings.sample, settings.overlap)
            rows = (row for layer in found.layers for row in layer.table())
            write_csv(draft / "units.csv", TABLE_HEAD, rows, line_end="\r\n")
            write_csv(draft / "crops.csv", *crop_table(crops, self.photographs), line_end="\r\n")
            arrays = {layer.layer: layer.projections.windows.cpu().numpy() for layer in found.layers}
            save_arrays(draft / "projections.npz", arrays)
            where = "at most one per crop and place" if settings.distinct else "at most one per crop"
            shown = (
                f"{settings.rule} projections of the {settings.k} strongest activations over {len(crops)} crops of "
                f"{len(self.photographs)} photographs, {where}"
            )
            chosen = f"The maps are a random choice (seed {settings.seed})."
            draw_gallery(draft, found, self.net.tape, images, weights, type(self.model).__name__, shown, chosen)
            draw_first_filters(draft, self.model, weights)
            summary = Summary(
                str(folder),
                (*files_in(draft), "gallery.json"),
                len(crops),
                len(self.photographs),
                found.record_seconds,
                sum(layer.seconds for layer in found.layers),
                rates,
            )
            content = {"settings": self._told(), "weights": weights.source, **asdict(summary)}
            write_json(draft / "gallery.json", content)
        return summary

    def _told(self) -> dict[str, object]:
        """The settings as they are written."""
        settings, network = self.settings, self.settings.network
        mean, std = network.reading.constants()
        told: dict[str, object] = {"model": network.model, "weights": network.weights}
        told |= {"images": settings.photographs.sources, "layers": self.layers}
        told |= values(settings, "maps", "k", "crops", "batch_size", "seed") | {"device": network.machine.device}
        return told | values(settings, "rule", "overlap", "distinct", "sample", "size") | {"mean": mean, "std": std}
