// Every op of the package: its schema and a line of meaning.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(deconv_kernels, m) {
  // The instruction set that the CPU kernels run on: baseline, avx2 or avx512.
  m.def("cpu_capability() -> str");
  // What the CPU kernels go by: bytes of the largest cache, 0 where the system does not tell, bytes from which on
  // results are written past the caches, and up to how many output channels a backprojection is gathered.
  m.def("cpu_choices() -> (int, int, int)");
  // Max-pools relu(input + bias); returns values and window-local switches.
  m.def(
      "max_pool2d(Tensor input, Tensor? bias, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation, "
      "bool ceil_mode, bool relu) -> (Tensor, Tensor)");
  // Puts every pooled value back where its switch says, zero elsewhere.
  m.def(
      "max_unpool2d(Tensor input, Tensor switches, int[2] kernel_size, int[2] stride, int[2] padding, "
      "int[2] dilation, SymInt[2] output_size, str overlap, bool relu) -> Tensor");
  // Unpools windows of pooled maps, each by the switches of the image it belongs to.
  m.def(
      "max_unpool2d_window(Tensor input, Tensor switches, Tensor image, Tensor origin, int[2] kernel_size, "
      "int[2] stride, int[2] dilation, str overlap, bool relu) -> Tensor");
  // The same for maps of three dimensions.
  m.def(
      "max_pool3d(Tensor input, Tensor? bias, int[3] kernel_size, int[3] stride, int[3] padding, int[3] dilation, "
      "bool ceil_mode, bool relu) -> (Tensor, Tensor)");
  m.def(
      "max_unpool3d(Tensor input, Tensor switches, int[3] kernel_size, int[3] stride, int[3] padding, "
      "int[3] dilation, SymInt[3] output_size, str overlap, bool relu) -> Tensor");
  m.def(
      "max_unpool3d_window(Tensor input, Tensor switches, Tensor image, Tensor origin, int[3] kernel_size, "
      "int[3] stride, int[3] dilation, str overlap, bool relu) -> Tensor");
  // Sends windows back through [unpooling by switches,] [a rectifier and] a convolution, at once.
  m.def(
      "backproject2d(Tensor input, Tensor weight, Tensor image, Tensor origin, Tensor? switches, Tensor? packed, "
      "int[2] pool_kernel_size, int[2] pool_stride, int[2] pool_dilation, str overlap, bool relu, int[2] stride, "
      "int[2] dilation, int groups, SymInt[2] begin, SymInt[2] size, SymInt[2] base, SymInt[2] map_size) -> "
      "Tensor");
  // The same with windows of three dimensions.
  m.def(
      "backproject3d(Tensor input, Tensor weight, Tensor image, Tensor origin, Tensor? switches, Tensor? packed, "
      "int[3] pool_kernel_size, int[3] pool_stride, int[3] pool_dilation, str overlap, bool relu, int[3] stride, "
      "int[3] dilation, int groups, SymInt[3] begin, SymInt[3] size, SymInt[3] base, SymInt[3] map_size) -> "
      "Tensor");
  // A convolution's weight in the order in which backproject2d or backproject3d reads it.
  m.def("pack_weight(Tensor weight, int[] stride, int[] dilation, int groups) -> Tensor");
  // Elements of what the CPU packs a weight of some sizes into.
  m.def("packed_size(int[] weight_size, int[] stride, int[] dilation, int groups, bool float64) -> int");
  // Switches as flat positions in their maps, of two or three dimensions.
  m.def(
      "switches_to_indices(Tensor switches, SymInt[] input_size, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation) -> Tensor");
  // Flat positions in their maps, of two or three dimensions as switches.
  m.def(
      "indices_to_switches(Tensor indices, SymInt[] input_size, int[] kernel_size, int[] stride, int[] padding, "
      "int[] dilation) -> Tensor");
}
