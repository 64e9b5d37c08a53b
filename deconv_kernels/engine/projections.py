"""What projecting gives: units in pixels, and the pictures of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from ..checks import at_least
from ..terminal import counted
from .fields import as_map
from .pictures import Pixels, address_of, as_colours, as_file, mosaic, planes_inside, slices, with_contrast
from .signal import place
from .units import Units

if TYPE_CHECKING:
    from .figures import Sheet

_SHOWN, _SHOWN_ABREAST, _SHOWN_PIXELS = 18, 9, 64  # in a notebook


@dataclass(eq=False, repr=False)
class Projections:
    """What units look like in pixels.

    Attributes:
        units: the units projected.
        windows: (U, C, h, w), the receptive field of each unit; (U, C, d, h, w) in volumes, (U, C, w) in signals.
        boxes: (U, 4) int64 on the host, where the windows lie: y0, x0, y1, x1 in pixels, half open. A box may overhang
            the image; its window is zero there. (U, 6) in volumes: z0, y0, x0, z1, y1, x1; (U, 2) in signals: x0, x1.
        shape: of one image, (C, H, W), (C, D, H, W) or (C, L), or (F,) where the network takes rows.

    Example:
        >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()))
        >>> record = net.record(torch.randn(2, 3, 16, 16), "1", activations=True)
        >>> projections = net.project(record, dk.Units("1", image=0, channel=[0, 3], y=2, x=7))
        >>> projections.boxes.tolist(), projections.full().shape
        ([[2, 7, 7, 12], [2, 7, 7, 12]], torch.Size([2, 3, 16, 16]))
    """

    units: Units
    windows: Tensor
    boxes: Tensor
    shape: tuple[int, ...]

    @property
    def image_size(self) -> tuple[int, ...]:
        """(H, W) of the images, (D, H, W) of volumes, (L,) of signals."""
        return as_map(self.shape, self.windows.dim() - 2)[1:]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Projections:
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        return Projections(self.units[index], self.windows[chosen], self.boxes[chosen], self.shape)

    def full(self) -> Tensor:
        """The projections in frames of the images' size, zero outside the receptive field: (U, *shape)."""
        frames = self.windows
        for axis, length in enumerate(self.image_size):
            if frames.shape[axis + 2] != length or bool(self.boxes[:, axis].any()):
                frames = place(frames, self.boxes[:, axis].to(frames.device), length, axis + 2)
        frames = frames.clone() if frames is self.windows else frames
        return frames.reshape(-1, *self.shape)

    def images(
        self, *, full: bool = True, to_rgb: Callable[[Tensor], Tensor] | None = None, saturated: float = 0.02
    ) -> Pixels:
        """The projections as pictures: zero is mid-grey, and each has a contrast of its own, as in all figures.

        Args:
            full: in frames of the images' size; otherwise the receptive fields.
            to_rgb: turns (U, C, h, w) of the network's input into red, green and blue, zero into zero, such as
                `Weights.preprocessing.to_rgb`. By default three channels are taken for these, one for grey, and of
                other numbers the norm over them, without a sign, for grey.
            saturated: the share of each picture's values other than zero, the largest in magnitude, at full contrast.

        Returns:
            uint8 (U, H, W, 3), or (U, h, w, 3) of the receptive fields, on the host. Of volumes some planes, evenly
            spaced, side by side.

        Raises:
            ValueError: signals and rows, which `show` draws as lines; a `to_rgb` that returns neither one channel nor
                three.

        Source: Zeiler & Fergus 2013, Fig 2.

        Example:
            >>> net = dk.Deconvnet(nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU()))
            >>> record = net.record(torch.randn(2, 3, 16, 16), "1")
            >>> net.project(record, record.strongest("1", k=2)).images().shape
            (8, 16, 16, 3)
        """
        if len(self.shape) not in (3, 4):
            taken = "x".join(map(str, self.shape))
            raise ValueError(
                f"pictures need images of shape (C, H, W) or (C, D, H, W), and the network takes {taken}: use show()"
            )
        values = self.full() if full else self.windows
        values = as_colours(values) if to_rgb is None else to_rgb(values)
        if values.shape[1] not in (1, 3):
            raise ValueError(f"to_rgb must return 1 or 3 channels, got {values.shape[1]}")
        pictures = with_contrast(values.expand(-1, 3, *values.shape[2:]), saturated)
        if len(self.shape) < 4:
            return pictures
        return slices(pictures, inside=None if full else planes_inside(self.boxes.tolist(), self.image_size[0]))

    def show(
        self, *, full: bool = False, to_rgb: Callable[[Tensor], Tensor] | None = None, most: int = 36, columns: int = 6
    ) -> Sheet:
        """A Matplotlib figure of the projections, which a notebook shows by itself; signals and rows as lines.

        Args:
            full, to_rgb: as for `images`.
            most: how many to draw, the first ones; the title says how many there are.
            columns: side by side at most.

        Raises:
            ValueError: no projections, or as `images`.
        """
        from .figures import sheet, traces

        at_least("most", most, 1)
        at_least("columns", columns, 1)
        if not len(self):
            raise ValueError("there are no projections to show")
        shown = self[:most]
        of = f", the first {len(shown)} of {len(self)}" if len(shown) < len(self) else ""
        title = f"Projections from {self.units.layer}{of}"
        if len(self.shape) < 3:
            values = shown.full() if full or len(self.shape) == 1 else shown.windows
            lines = values.reshape(len(shown), -1, values.shape[-1])
            return traces([(line[None], None) for line in lines], shown.units.labels(), columns, title)
        return sheet(list(shown.images(full=full, to_rgb=to_rgb)), shown.units.labels(), columns, title)

    def __repr__(self) -> str:
        return f"Projections({self._summary()})"

    def _repr_html_(self) -> str:
        if len(self.shape) not in (3, 4) or not len(self):
            return f"<p>{escape(self._summary())}</p>"
        pictures = self[:_SHOWN].images(full=False)
        page = mosaic(pictures, columns=min(len(pictures), _SHOWN_ABREAST))
        # Small windows are magnified, each pixel to a square of its own.
        width = page.shape[1] * max(1, _SHOWN_PIXELS // pictures.shape[2])
        style = f'width="{width}" style="image-rendering: pixelated"'
        return f'<p>{escape(self._summary())}</p><img src="{address_of(as_file(page))}" {style}>'

    def _summary(self) -> str:
        window, image = ("x".join(map(str, shape)) for shape in (self.windows.shape[1:], self.shape))
        return f"{counted(len(self), 'units')} of {self.units.layer!r}, windows of {window} in images of {image}"
