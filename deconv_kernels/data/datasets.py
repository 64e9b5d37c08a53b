"""Labelled images: sets that installed packages ship, crops by photograph, and folders by class.

data = load_digits(96)                       # or load_faces, load_class_folders("birds/", 96)
data = crops_by_photograph(photographs, 96)
data.images[0], data.classes[data.labels[0]]
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..checks import at_least
from .crops import Crop, cut, plan_centres
from .photographs import Photograph, image_files, is_hidden, load_photographs, read_photograph
from .tensor_images import SUFFIXES, load_tensor_images

__all__ = [
    "ImageFiles",
    "LabelledImages",
    "class_folders",
    "crops_by_photograph",
    "load_labelled",
    "load_class_folders",
    "load_class_tensors",
    "load_digits",
    "load_faces",
]

CROP_SIDE = 64
GAP = 16


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that each belong to a class.

    Attributes:
        images: uint8 RGB, (N, 3, size, size), or a `Dataset` that reads them one by one, (3, size, size). Out of files
            of tensors float32, (N, C, [[D,] H,] W), as a network reads them.
        labels: (N,) int64, places in `classes`.
        classes: their names.
        source: where they came from, for people.
        groups: (N,) int64 where images have more in common than their class: one number for those that do.
    """

    images: Tensor | ImageFiles = field(repr=False)
    labels: Tensor = field(repr=False)
    classes: tuple[str, ...]
    source: str
    groups: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def check_counts(self, most: int) -> None:
        """Refuses to train on so many images of each class; ValueError: one has no other left to test on."""
        for name, count in zip(self.classes, self.labels.bincount().tolist(), strict=True):
            if count <= most:
                raise ValueError(f"class {name!r} has {count} images: too few to train on {most} and test on others")


class ImageFiles(Dataset[Tensor]):
    """Image files read when they are asked for: the central square of each, scaled to size x size, uint8 RGB.

    Transparent parts are white, and images that are smaller are enlarged, as `deconv_kernels.photographs` has it.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self.paths, self.size = list(paths), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """(3, size, size). ValueError: the file cannot be read as an image."""
        photographs = [read_photograph(self.paths[index])]
        return cut(photographs, plan_centres(photographs), self.size)[0]


def load_digits(size: int) -> LabelledImages:
    """1797 handwritten digits of 8x8 pixels, ten classes, enlarged to size x size, out of scikit-learn.

    Raises:
        ValueError: scikit-learn is not installed, or `size` is below 1.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(f"the digits come with scikit-learn, which cannot be imported here ({error})") from error
    digits = datasets.load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    classes = tuple(str(name) for name in digits.target_names)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    return LabelledImages(_enlarged(pixels, size), labels, classes, "scikit-learn's digits")


def load_faces(size: int) -> LabelledImages:
    """100 faces and 100 patches without one, of 25x25 pixels (Labeled Faces in the Wild), enlarged to size x size.

    Raises:
        ValueError: scikit-image, which ships them, is not installed, or `size` is below 1.
    """
    specification = importlib.util.find_spec("skimage")
    folders = (specification.submodule_search_locations if specification else None) or []
    files = [path for folder in folders if (path := Path(folder) / "data/lfw_subset.npy").is_file()]
    if not files:
        raise ValueError("the faces come with scikit-image, which is not installed")
    pixels = np.rint(np.load(files[0], allow_pickle=False) * 255).astype(np.uint8)
    labels = torch.arange(2).repeat_interleave(len(pixels) // 2)
    return LabelledImages(_enlarged(pixels, size), labels, ("face", "no face"), "faces of scikit-image")


def crops_by_photograph(
    photographs: Sequence[Photograph], size: int, side: int = CROP_SIDE, gap: int = GAP
) -> LabelledImages:
    """Small crops, whose class is the photograph that they were cut from.

    Every photograph is divided into four quarters with `gap` pixels between them, and crops are cut on an even grid
    inside each quarter, half a crop apart. A quarter is a group: crops of different groups share no pixel, and with a
    gap of 16 no block of JPEG compression either.

    Args:
        photographs: at least two.
        size: side at which crops are shown, in pixels.
        side: of the crops, in the photographs' pixels.
        gap: between quarters, in the photographs' pixels.

    Raises:
        ValueError: a quarter of a photograph does not hold a crop, or `size` is below 1.
    """
    at_least("size", size, 1)
    if side < 2 or gap < 0:
        raise ValueError(f"crops must have a side of at least 2 pixels and gaps of at least 0, got {side} and {gap}")
    crops: list[Crop] = []
    groups: list[int] = []
    for index, photograph in enumerate(photographs):
        height, width = photograph.pixels.shape[:2]
        if min(height, width) < 2 * side + gap:
            raise ValueError(
                f"{photograph.name} is {width}x{height} pixels; {2 * side + gap} are needed for crops of {side} from "
                "separate quarters"
            )
        for quarter in range(4):
            rows = _range(height, gap, quarter // 2)
            columns = _range(width, gap, quarter % 2)
            for y in range(rows.start, rows.stop - side + 1, side // 2):
                for x in range(columns.start, columns.stop - side + 1, side // 2):
                    crops.append(Crop(index, y, x, side))
                    groups.append(4 * index + quarter)
    return LabelledImages(
        cut(photographs, crops, size),
        torch.tensor([crop.photograph for crop in crops], dtype=torch.int64),
        tuple(photograph.name for photograph in photographs),
        f"crops of {side}x{side} pixels of {len(photographs)} photographs",
        torch.tensor(groups, dtype=torch.int64),
    )


def load_class_folders(folder: str | Path, size: int) -> LabelledImages:
    """The images of a folder with one subfolder for each class; files are read when they are asked for.

    Args:
        folder: holds the subfolders; whatever is no folder in it, and what is hidden in it or in them, is left out.
        size: side of the images, in pixels.

    Raises:
        ValueError: no such folder, fewer than two subfolders, one without images, or `size` below 1.
    """
    at_least("size", size, 1)
    subfolders = _checked_folders(folder)
    files = [image_files(path) for path in subfolders]
    labels = torch.arange(len(files)).repeat_interleave(torch.tensor([len(paths) for paths in files]))
    images = ImageFiles([path for paths in files for path in paths], size)
    return LabelledImages(images, labels, tuple(path.name for path in subfolders), str(folder))


def load_class_tensors(folder: str | Path, rank: int, channels: int) -> LabelledImages:
    """The volumes, signals or images in files of tensors of a folder with one subfolder for each class.

    Args:
        folder: holds the subfolders.
        rank, channels: how many axes and channels images have.

    Raises:
        ValueError: no such folder, fewer than two subfolders, one without tensors, or as `load_tensor_images`.
    """
    subfolders = _checked_folders(folder)
    found = load_tensor_images(subfolders, rank, channels)
    labels = torch.tensor(found.sources)
    if empty := [path for number, path in enumerate(subfolders) if number not in found.sources]:
        raise ValueError(f"{str(empty[0])!r} holds no tensors ({', '.join(SUFFIXES)})")
    return LabelledImages(found.values, labels, tuple(path.name for path in subfolders), str(folder))


def _checked_folders(folder: str | Path) -> list[Path]:
    """The subfolders of a folder, of which there are at least two."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder {str(folder)!r}: no such folder")
    subfolders = class_folders(folder)
    if len(subfolders) < 2:
        raise ValueError(f"folder {str(folder)!r} must hold a subfolder for each class, at least two")
    return subfolders


def load_labelled(source: str | Sequence[str], size: int) -> LabelledImages:
    """The images that a word or the names of files and folders stand for.

    Args:
        source: "digits", "faces" or "photographs" (crops of the samples); or one folder with a subfolder for each
            class; or photographs, which are told apart by their crops.
        size: side of the images, in pixels.

    Raises:
        ValueError: as the functions of this module.
    """
    if source == "digits":
        return load_digits(size)
    if source == "faces":
        return load_faces(size)
    if source == "photographs":
        return crops_by_photograph(load_photographs("samples"), size)
    if len(source) == 1 and Path(source[0]).is_dir() and class_folders(Path(source[0])):
        return load_class_folders(source[0], size)
    return crops_by_photograph(load_photographs(source), size)


def class_folders(folder: Path) -> list[Path]:
    """The subfolders of a folder that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))


def _range(length: int, gap: int, half: int) -> range:
    """The first or second half of 0..length, without its share of the gap between them."""
    middle = (length - gap) // 2
    return range(middle) if half == 0 else range(length - middle, length)


def _enlarged(pixels: np.ndarray, size: int) -> Tensor:
    """Grey images (N, h, w) uint8 as RGB (N, 3, size, size)."""
    at_least("size", size, 1)
    images = [Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC) for grey in pixels]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))[:, None].repeat(1, 3, 1, 1)
