"""Pooling and unpooling as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from . import ops
from .ops.geometry import Pooling


class _Layer(nn.Module):
    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script asks for."""
        raise NotImplementedError(
            f"deconv_kernels.nn.{type(self).__name__} cannot be scripted: TorchScript is not supported; use "
            "torch.export.export instead"
        )


class _MaxPool(_Layer):
    rank: int
    pool: Callable[..., tuple[Tensor, Tensor]]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_switches: bool = False,
        ceil_mode: bool = False,
        *,
        relu: bool = False,
    ) -> None:
        super().__init__()
        pooling = Pooling.of(self.rank, kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding, self.dilation = pooling
        self.return_switches = return_switches
        self.ceil_mode = ceil_mode
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        pooled = type(self).pool(input, *window, self.ceil_mode, relu=self.relu)
        return pooled if self.return_switches else pooled[0]

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}, relu={self.relu}"
        )


class _MaxUnpool(_Layer):
    rank: int
    unpool: Callable[..., Tensor]

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        *,
        overlap: str = "sum",
        relu: bool = False,
    ) -> None:
        super().__init__()
        pooling = Pooling.of(self.rank, kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding, self.dilation = pooling
        self.overlap = ops.check_overlap(overlap)
        self.relu = relu

    def forward(self, input: Tensor, switches: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        window = (self.kernel_size, self.stride, self.padding, self.dilation)
        return type(self).unpool(input, switches, *window, output_size, overlap=self.overlap, relu=self.relu)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"overlap={self.overlap!r}, relu={self.relu}"
        )


class MaxPool1d(_MaxPool):
    """Max-pooling that returns its switches; `deconv_kernels.max_pool1d` as a layer.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as `nn.MaxPool1d`.
        return_switches: return (values, switches) instead of the values alone.
        relu: rectify before pooling.

    Shape:
        (N, C, L) or (C, L) -> (N, C, PL) or (C, PL).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_pool1d`.

    Example:
        >>> pool = dk.nn.MaxPool1d(2, return_switches=True)
        >>> values, switches = pool(torch.randn(8, 16, 32))
        >>> values.shape, switches.dtype
        (torch.Size([8, 16, 16]), torch.uint8)
    """

    rank, pool = 1, staticmethod(ops.max_pool1d)


class MaxPool2d(_MaxPool):
    """Max-pooling that returns its switches; `deconv_kernels.max_pool2d` as a layer.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as `nn.MaxPool2d`.
        return_switches: return (values, switches) instead of the values alone.
        relu: rectify before pooling.

    Shape:
        (N, C, H, W) or (C, H, W) -> (N, C, PH, PW) or (C, PH, PW).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_pool2d`.

    Example:
        >>> pool = dk.nn.MaxPool2d(2, return_switches=True)
        >>> values, switches = pool(torch.randn(8, 16, 32, 32))
        >>> values.shape, switches.dtype
        (torch.Size([8, 16, 16, 16]), torch.uint8)
    """

    rank, pool = 2, staticmethod(ops.max_pool2d)


class MaxPool3d(_MaxPool):
    """Max-pooling that returns its switches; `deconv_kernels.max_pool3d` as a layer.

    Args:
        kernel_size, stride, padding, dilation, ceil_mode: as `nn.MaxPool3d`.
        return_switches: return (values, switches) instead of the values alone.
        relu: rectify before pooling.

    Shape:
        (N, C, D, H, W) or (C, D, H, W) -> (N, C, PD, PH, PW) or (C, PD, PH, PW).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_pool3d`.

    Example:
        >>> pool = dk.nn.MaxPool3d(2, return_switches=True)
        >>> values, switches = pool(torch.randn(2, 4, 8, 8, 8))
        >>> values.shape, switches.dtype
        (torch.Size([2, 4, 4, 4, 4]), torch.uint8)
    """

    rank, pool = 3, staticmethod(ops.max_pool3d)


class MaxUnpool1d(_MaxUnpool):
    """Unpooling by switches; `deconv_kernels.max_unpool1d` as a layer.

    Args:
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap: "sum" or "last", what happens where several windows name one position.
        relu: rectify the result.

    Shape:
        (N, C, PL) or (C, PL) -> (N, C, L) or (C, L).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_unpool1d`.

    Example:
        >>> pool, unpool = dk.nn.MaxPool1d(2, return_switches=True), dk.nn.MaxUnpool1d(2)
        >>> unpool(*pool(torch.tensor([[1.0, 5.0, 7.0, 3.0]])))
        tensor([[0., 5., 7., 0.]])
    """

    rank, unpool = 1, staticmethod(ops.max_unpool1d)


class MaxUnpool2d(_MaxUnpool):
    """Unpooling by switches; `deconv_kernels.max_unpool2d` as a layer.

    Args:
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap: "sum" or "last", what happens where several windows name one position.
        relu: rectify the result.

    Shape:
        (N, C, PH, PW) or (C, PH, PW) -> (N, C, H, W) or (C, H, W).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_unpool2d`.

    Example:
        >>> pool, unpool = dk.nn.MaxPool2d(2, return_switches=True), dk.nn.MaxUnpool2d(2)
        >>> unpool(*pool(torch.eye(2)[None]))
        tensor([[[1., 0.],
                 [0., 0.]]])
    """

    rank, unpool = 2, staticmethod(ops.max_unpool2d)


class MaxUnpool3d(_MaxUnpool):
    """Unpooling by switches; `deconv_kernels.max_unpool3d` as a layer.

    Args:
        kernel_size, stride, padding, dilation: those of the pooling.
        overlap: "sum" or "last", what happens where several windows name one position.
        relu: rectify the result.

    Shape:
        (N, C, PD, PH, PW) or (C, PD, PH, PW) -> (N, C, D, H, W) or (C, D, H, W).

    Raises:
        TypeError, ValueError: as `deconv_kernels.max_unpool3d`.

    Example:
        >>> pool, unpool = dk.nn.MaxPool3d(2, return_switches=True), dk.nn.MaxUnpool3d(2)
        >>> unpool(*pool(torch.arange(8.0).reshape(1, 2, 2, 2))).flatten()
        tensor([0., 0., 0., 0., 0., 0., 0., 7.])
    """

    rank, unpool = 3, staticmethod(ops.max_unpool3d)
