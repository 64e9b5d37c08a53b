"""Which functions of torch are linear, and in which of their arguments; and which return memory of their own.

A function is known by its name in torch, as a method of tensors too, with or without the underscore of those that work
in place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.fx
import torch.nn.functional as F

from ..nodes import Node, SetPart


class _Parameter(NamedTuple):
    name: str
    mark: str
    default: int | None

    @classmethod
    def of(cls, text: str) -> _Parameter:
        name, _, default = text.lstrip("*+@").partition("=")
        return cls(name, text[0] if text[0] in "*+@" else "", int(default) if default else None)


def _read(table: str) -> dict[str, list[list[_Parameter]]]:
    read: dict[str, list[list[_Parameter]]] = {}
    for line in table.split("\n"):
        if line:
            name, *parameters = line.split()
            read.setdefault(name, []).append([_Parameter.of(text) for text in parameters])
    return read


# A line for every function: its parameters in their order. It is linear, or linear with something constant added,
# together in those with a star, all others held constant; in one element of those with a plus. Of several lines any one
# holds. Those with an @ name dimensions, none of which may be that of the batch, as all are that are not named.
_VIEWS = _read("""
adjoint *input
broadcast_to *input size
chunk *input chunks @dim=0
diagonal *input offset @dim1 @dim2
dsplit *input indices_or_sections
expand *input
expand_as *input *other
hsplit *input indices_or_sections
moveaxis *input @source @destination
movedim *input @source @destination
narrow *input @dim start length
permute *input
pos *input
positive *input
select *input @dim index
split *tensor split_size_or_sections @dim=0
squeeze *input @dim
swapaxes *input @axis0 @axis1
swapdims *input @dim0 @dim1
t *input
tensor_split *input indices_or_sections @dim=0
transpose *input @dim0 @dim1
unbind *input @dim=0
unfold *input @dimension size step
unsqueeze *input @dim
view *input
view_as *input *other
""")
# What is written into these is not followed: most are views or copies by how their argument lies in memory.
_PERHAPS_VIEWS = _read("""
bfloat16 *input
contiguous *input
cpu *input
cuda *input
double *input
dropout *input p train
flatten *input @start_dim=0
float *input
getitem *input index
half *input
reshape *input
reshape_as *input *other
to *input *other
type *input dtype
type_as *input *other
unflatten *input @dim sizes
unsafe_chunk *input chunks @dim=0
unsafe_split *tensor split_size @dim=0
""")
_COPIES = _read("""
adaptive_avg_pool1d *input output_size
adaptive_avg_pool2d *input output_size
adaptive_avg_pool3d *input output_size
add *input *other
addcdiv *input *tensor1 tensor2
addcmul *input *tensor1 tensor2
addcmul *input tensor1 *tensor2
avg_pool1d *input
avg_pool2d *input
avg_pool3d *input
batch_norm *input running_mean running_var weight bias training
block_diag *tensors
cat *tensors @dim=0
clone *input
column_stack *tensors
concat *tensors @dim=0
concatenate *tensors @dim=0
copy *input *src
cumsum *input @dim
cumulative_trapezoid *y x
deg2rad *input
diag_embed *input offset @dim1=-2 @dim2=-1
diagonal_scatter *input *src offset @dim1=0 @dim2=1
diff *input n @dim=-1 prepend append
div *input other
divide *input other
dstack *tensors
empty_like *input
fill *input *value
flip *input @dims
fliplr *input
flipud *input
fold *input output_size
full_like *input fill_value
gather *input @dim index
hstack *tensors
index_add *input @dim index *source
index_copy *input @dim index *source
index_fill *input @dim index value
index_put *input indices *values
index_select *input @dim index
interpolate *input
kron *input other
kron input *other
ldexp *input other
lerp *input *end weight
lerp input end *weight
masked_fill *input mask value
masked_scatter *input mask *source
mean *input @dim
mul *input other
mul input *other
multiply *input other
multiply input *other
native_channel_shuffle *input groups
neg *input
negative *input
new_empty *input
new_full *input
new_ones *input
new_zeros *input
ones_like *input
pad *input pad
rad2deg *input
repeat *input
repeat_interleave *input repeats @dim=0
roll *input shifts @dims=0
rot90 *input k @dims=0
rsub *input *other
scatter *input @dim index *src
scatter_add *input @dim index *src
select_scatter *input *src @dim index
slice_scatter *input *src @dim=0
stack *tensors @dim=0
sub *input *other
sum *input @dim
take_along_dim *input indices @dim
tile *input
trapezoid *y x
tril *input
triu *input
true_divide *input other
truediv *input other
upsample_bilinear *input
upsample_nearest *input
where condition *input *other
x.where *input condition *other
zero *input
zeros_like *input
""")
# What they round may depend on how many images there are.
_PRODUCTS = _read("""
addmm *input *mat1 mat2
addmm *input mat1 *mat2
baddbmm *input *batch1 batch2
baddbmm *input batch1 *batch2
bilinear *input1 input2 weight *bias
bilinear input1 *input2 weight *bias
bmm *input mat2
bmm input *mat2
chain_matmul +matrices
conv1d *input weight bias
conv2d *input weight bias
conv3d *input weight bias
conv_transpose1d *input weight bias
conv_transpose2d *input weight bias
conv_transpose3d *input weight bias
cross *input other @dim
cross input *other @dim
einsum equation +operands
grid_sample *input grid
inner *input other
inner input *other
linear *input weight bias
matmul *input other
matmul input *other
mm *input mat2
mm input *mat2
multi_dot +tensors
tensordot *a b dims
tensordot a *b dims
vecdot *x y @dim=-1
vecdot x *y @dim=-1
""")

# What is not linear and never returns memory of an argument.
_NOT_LINEAR = """
subtract floordiv floor_divide mod remainder fmod pow reciprocal exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square
abs sign sin cos tan erf floor ceil round trunc clamp clip clamp_min clamp_max minimum maximum relu relu6 leaky_relu elu
selu celu gelu silu mish sigmoid tanh softplus hardtanh hardsigmoid hardswish softmax log_softmax normalize layer_norm
group_norm instance_norm local_response_norm eq ne lt le gt ge logical_and logical_or logical_not logical_xor prod var
std var_mean std_mean amax amin argmax argmin norm vector_norm cumprod vstack mv dot outer max_pool1d max_pool2d
max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d upsample pixel_shuffle one_hot zeros ones full
empty arange linspace eye tensor new_tensor item tolist size dim ndimension numel
"""
_FRESH = frozenset(_NOT_LINEAR.split())
_LINEAR = {**_VIEWS, **_PERHAPS_VIEWS, **_COPIES, **_PRODUCTS}
_ROOMS = (torch, F, torch.special, torch.linalg, operator)


def name_of(target: Any) -> str | None:
    """The name of a function of torch or of a tensor method, without the underscore of those that work in place."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "").removeprefix("linalg_")
    if not isinstance(target, str) and not any(getattr(room, name, None) is target for room in _ROOMS):
        return None
    return name if name.endswith("__") else name.removesuffix("_")


def is_linear(node: Node, is_signal: Callable[[Node], bool]) -> bool:
    """Whether a call of a function or method is linear in all signals among its arguments.

    Args:
        node: the call.
        is_signal: whether the value of a node is computed from the images; everything else counts as constant.
    """
    if isinstance(node.target, SetPart):
        return True
    name = name_of(node.target) or ""
    method = f"x.{name}"
    for parameters in _LINEAR.get(method if isinstance(node.target, str) and method in _LINEAR else name, ()):
        held: dict[str, int] = {}
        for parameter, value in _arguments(node, parameters):
            signals = sum(is_signal(n) for n in _nodes(value))
            if signals:
                held[parameter.mark] = held.get(parameter.mark, 0) + signals
        if held.keys() <= {"*"} or held == {"+": 1}:
            return True
    return False


def is_product(target: Any) -> bool:
    """Whether a function is a matrix product or a convolution, whose rounding may depend on the number of images."""
    return name_of(target) in _PRODUCTS


def has_own_memory(target: Any) -> bool:
    """Whether a function is known never to return memory of its arguments, unless it works in place."""
    name = name_of(target)
    return name in _FRESH or name in _COPIES or name in _PRODUCTS


def is_view(target: Any) -> bool:
    """Whether a function returns a view of its first argument, or several, whatever the strides of that are."""
    return name_of(target) in _VIEWS


def is_along_the_batch(node: Node) -> bool:
    """Whether a call names the dimension of the batch, or works along it for want of another."""
    for parameters in _LINEAR.get(name_of(node.target) or "", ())[:1]:
        given = {parameter.name: value for parameter, value in _arguments(node, parameters)}
        if "dim" not in given and "axis" in node.kwargs:
            given["dim"] = node.kwargs["axis"]
        for parameter in parameters:
            value = given.get(parameter.name)
            value = parameter.default if value is None else value
            named = value if isinstance(value, tuple | list) else (value,)
            if parameter.mark == "@" and (not named or any(not isinstance(d, int) or d == 0 for d in named)):
                return True
    return False


def _arguments(node: Node, parameters: list[_Parameter]) -> Iterator[tuple[_Parameter, Any]]:
    """The arguments of a call with their parameters; those that no line names hold no signals."""
    unnamed = _Parameter("", "", None)
    several = parameters[-1].mark == "+" or parameters[-1].name == "tensors"
    for position, value in enumerate(node.args):
        beyond = parameters[-1] if several else unnamed
        yield parameters[position] if position < len(parameters) else beyond, value
    named = {parameter.name: parameter for parameter in parameters}
    for name, value in node.kwargs.items():
        yield named.get(name, unnamed), value


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _nodes(part)
    elif isinstance(value, slice):
        yield from _nodes((value.start, value.stop, value.step))
