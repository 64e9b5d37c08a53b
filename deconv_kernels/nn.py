"""Pooling and unpooling as layers."""

from __future__ import annotations

from collections.abc import Sequence

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


class MaxPool2d(_Layer):
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
        self.kernel_size, self.stride, self.padding, self.dilation = Pooling.of(
            2, kernel_size, stride, padding, dilation
        )
        self.return_switches = return_switches
        self.ceil_mode = ceil_mode
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pooled = ops.max_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, relu=self.relu
        )
        return pooled if self.return_switches else pooled[0]

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}, relu={self.relu}"
        )


class MaxUnpool2d(_Layer):
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
        self.kernel_size, self.stride, self.padding, self.dilation = Pooling.of(
            2, kernel_size, stride, padding, dilation
        )
        self.overlap = ops.check_overlap(overlap)
        self.relu = relu

    def forward(self, input: Tensor, switches: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return ops.max_unpool2d(
            input,
            switches,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            output_size,
            overlap=self.overlap,
            relu=self.relu,
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"overlap={self.overlap!r}, relu={self.relu}"
        )
