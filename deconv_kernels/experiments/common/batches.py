"""A data set as numbered batches: of any iterable or DataLoader, all of them or one process's share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = ["Share", "batches_of", "check_data", "fetch", "images_of"]

Numbered = tuple[int, int, list[Tensor]]
"""The number of a batch, that of its first image, and its tensors."""

_BATCH_SIZE = 16
_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


def batches_of(data: Iterable[Any]) -> Iterable[Any]:
    """The data itself, or where it is a tensor of images, batches of 16."""
    return data.split(_BATCH_SIZE) if isinstance(data, Tensor) else data


def images_of(data: Iterable[Any]) -> Iterator[Tensor]:
    """The images of every batch, whatever form the batches have; `data` as for `Share`.

    Raises:
        TypeError, ValueError: a batch that holds no images.
    """
    for batch in batches_of(data):
        yield _tensors(batch, 1)[0]


def check_data(data: Iterable[Any], passes: str | None = None) -> None:
    """Refuses data whose images cannot be numbered.

    Args:
        data: batches.
        passes: what needs several passes over them, if anything.

    Raises:
        TypeError: not iterable.
        ValueError: a DataLoader that shuffles, drops images or already shares batches out, or an iterator where several
            passes are needed.
    """
    if not isinstance(data, Iterable):
        raise TypeError(f"data must be an iterable of batches, got {type(data).__name__}")
    if passes is not None and isinstance(data, Iterator):
        raise ValueError(
            f"{passes} go over the data several times, and a {type(data).__name__} can be read only once: "
            "give a list or a DataLoader"
        )
    if isinstance(data, DataLoader) and (data.drop_last or getattr(data.batch_sampler, "drop_last", False)):
        raise ValueError("drop_last=True leaves the last images out: use drop_last=False")
    for sampler in _samplers(data):
        if isinstance(sampler, DistributedSampler):
            raise ValueError("the batches are shared out here: give a DataLoader without DistributedSampler")
        if isinstance(sampler, _SHUFFLING):
            raise ValueError(f"images are numbered in order, but {type(sampler).__name__} shuffles: use shuffle=False")


class Share:
    """The batches that fall to one of several processes: numbers `rank`, `rank + world`, and so on.

    The batches of a DataLoader over a map-style data set are loaded only where they are needed; of anything else, all
    are read.

    Args:
        data: batches, each a tensor (N, ...), or a tuple, list or dict whose first floating-point tensors are the
            images. A tensor of images is taken as batches of 16.
        first_image: the number of the first image.
        rank, world: which process of how many.
        inputs: how many tensors of each batch are needed.
    """

    def __init__(self, data: Iterable[Any], first_image: int = 0, rank: int = 0, world: int = 1, inputs: int = 1):
        self._data = batches_of(data)
        self._first, self._rank, self._world, self._inputs = first_image, rank, world, inputs
        self._batches: Iterator[Numbered] | None = None
        self._expected = -1

    def __len__(self) -> int:
        """How many batches; TypeError where the data does not say."""
        return len(range(self._rank, len(self._data), self._world))  # type: ignore[arg-type]

    def take(self, begin: int, count: int) -> Iterator[tuple[int, list[Tensor]]]:
        """The first image's number and the tensors of this process's batches from its `begin`-th on, `count` at most.

        What is taken never lies before what was taken.

        Raises:
            TypeError, ValueError: a batch that holds no images.
        """
        for number in range(self._rank + begin * self._world, self._rank + (begin + count) * self._world, self._world):
            if self._batches is None or (_is_indexed(self._data) and number != self._expected):
                self._batches = self._opened(number)
            found = next((batch for batch in self._batches if batch[0] == number), None)
            if found is None:
                return
            self._expected = number + self._world
            yield found[1], found[2]

    def _opened(self, begin: int) -> Iterator[Numbered]:
        def wanted(number: int, start: int, length: int) -> bool:
            return number >= begin and (number - begin) % self._world == 0

        return _numbered(self._data, self._first, self._inputs, wanted)


def fetch(data: Iterable[Any], numbers: Sequence[int] | Tensor, first_image: int = 0) -> Tensor:
    """Some images of a data set.

    Args:
        data, first_image: as for `mine`; of a DataLoader only the batches that hold them are loaded.
        numbers: of the images, in rising order.

    Returns:
        (len(numbers), ...), in the order of `numbers`.

    Raises:
        TypeError: numbers that are not integers.
        ValueError: numbers that do not rise, an image that is not in the data, or images of different shapes.
    """
    check_data(data)
    wanted = torch.as_tensor(numbers).cpu()
    if wanted.dim() != 1 or not len(wanted):
        raise ValueError("numbers must name at least one image")
    if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise TypeError(f"numbers of images must be integers, got {wanted.dtype}")
    wanted = wanted.to(torch.int64)
    if not bool((wanted[1:] > wanted[:-1]).all()):
        raise ValueError("numbers must rise")

    def inside(number: int, start: int, length: int) -> bool:
        first, last = torch.searchsorted(wanted, torch.tensor([start, start + length])).tolist()
        return bool(last > first)

    found: list[Tensor] = []
    last = int(wanted[-1])
    for _, start, (images, *_) in _numbered(batches_of(data), first_image, 1, inside):
        chosen = wanted[(wanted >= start) & (wanted < start + len(images))] - start
        found += images[chosen.to(images.device)].unbind()
        if start + len(images) > last:
            break
    if len(found) != len(wanted):
        raise ValueError(f"only {len(found)} of {len(wanted)} images are in the data")
    if shapes := {tuple(image.shape) for image in found} - {tuple(found[0].shape)}:
        raise ValueError(f"images have different shapes, {tuple(found[0].shape)} and {shapes.pop()}: fetch them apart")
    return torch.stack(found)


def _numbered(
    data: Iterable[Any], first_image: int, inputs: int, wanted: Callable[[int, int, int], bool]
) -> Iterator[Numbered]:
    """Batches of the data: at least those that are wanted, by number, first image and length."""
    start = first_image
    if not _is_indexed(data):
        for number, batch in enumerate(data):
            tensors = _tensors(batch, inputs)
            yield number, start, tensors
            start += len(tensors[0])
        return
    assert isinstance(data, DataLoader) and data.batch_sampler is not None
    loaded = iter(_loading(data, _Chosen(data.batch_sampler, first_image, wanted)))
    for number, indices in enumerate(data.batch_sampler):
        if wanted(number, start, len(indices)):
            tensors = _tensors(next(loaded), inputs)
            if len(tensors[0]) != len(indices):
                raise ValueError(
                    f"batch {number} of the DataLoader holds {len(tensors[0])} images for {len(indices)} indices, "
                    "so that they cannot be numbered: its collate_fn must keep every image"
                )
            yield number, start, tensors
        start += len(indices)


def _is_indexed(data: Iterable[Any]) -> bool:
    """Whether single batches can be loaded."""
    return type(data) is DataLoader and not isinstance(data.dataset, IterableDataset) and data.batch_sampler is not None


class _Chosen:
    """The batches of indices that are wanted."""

    def __init__(self, sampler: Iterable[list[int]], first: int, wanted: Callable[[int, int, int], bool]) -> None:
        self.sampler, self.first, self.wanted = sampler, first, wanted

    def __iter__(self) -> Iterator[list[int]]:
        start = self.first
        for number, indices in enumerate(self.sampler):
            if self.wanted(number, start, len(indices)):
                yield indices
            start += len(indices)


def _loading(loader: DataLoader[Any], batches: _Chosen) -> DataLoader[Any]:
    """The same loader, of these batches."""
    return DataLoader(
        loader.dataset,
        batch_sampler=batches,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
    )


def _samplers(data: Iterable[Any]) -> list[object]:
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return []
    return [data.sampler, data.batch_sampler, getattr(data.batch_sampler, "sampler", None)]


NEEDS_BATCH = ": single images need a batch dimension, as DataLoader(data, batch_size=...) gives them"


def _tensors(batch: Any, inputs: int) -> list[Tensor]:
    """The images of a batch: its first floating-point tensors."""
    parts: list[Any]
    if isinstance(batch, Mapping):
        parts = list(batch.values())
    else:
        parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if len(floating) < inputs:
        raise TypeError(
            f"a batch must hold {inputs} floating-point tensor{'s' * (inputs > 1)} of images, got "
            + (", ".join(str(tensor.dtype) for tensor in tensors) or f"a {type(batch).__name__} without tensors")
        )
    images = floating[:inputs]
    if not 2 <= images[0].dim() <= 5:
        raise ValueError(
            "a batch must have shape (N, C, H, W), (N, C, D, H, W), (N, C, L) or (N, F), got "
            f"{tuple(images[0].shape)}{NEEDS_BATCH}"
        )
    return images
