// Python module `_host`: the CUDA kernels, executed by the CPU on NumPy arrays, for tests.
//
// Arrays are C-contiguous: (N, C, H, W) or (N, C, D, H, W), with channels_last (N, H, W, C) or (N, D, H, W, C). The
// caller allocates the results, so that it can put guards round them. bfloat16 comes as its bits in uint16. `path`
// names a kernel or is "automatic"; `blocks` is the size of the grid, 0 for that of a GPU launch. Each function returns
// the number of threads that had work and raises ValueError if the path cannot do what is asked.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/backproject.cuh"
#include "cuda/max_pool.cuh"
#include "cuda/max_unpool.cuh"
#include "cuda/max_unpool_window.cuh"
#include "cuda/switches.cuh"

namespace py = pybind11;

namespace deconv_kernels::cuda {
namespace {

using Entries = std::vector<int64_t>;  // one for each of two or three axes

struct Map {
  int64_t images, channels, depth, height, width;

  PerAxis size() const { return {depth, height, width}; }
};

Map map_of(const py::array& array, bool channels_last) {
  if (array.ndim() < 4 || array.ndim() > 5 || (array.flags() & py::array::c_style) == 0) {
    throw py::value_error("arrays must be C-contiguous with four or five dimensions");
  }
  const int rank = static_cast<int>(array.ndim()) - 2, first = channels_last ? 1 : 2;
  return {array.shape(0), array.shape(channels_last ? rank + 1 : 1), rank == 3 ? array.shape(first) : 1,
          array.shape(first + rank - 2), array.shape(first + rank - 1)};
}

template <typename T>
T* data_of(const py::array& array) {
  if (array.itemsize() != static_cast<py::ssize_t>(sizeof(T))) throw py::value_error("an array has the wrong dtype");
  return static_cast<T*>(const_cast<void*>(array.data()));
}

PerAxis per_axis(const Entries& entries, int64_t absent) {
  const size_t rank = entries.size();
  return {rank == 3 ? entries[0] : absent, entries[rank - 2], entries[rank - 1]};
}

Pooling make_pooling(const Entries& kernel_size, const Entries& stride, const Entries& padding,
                     const Entries& dilation) {
  const PerAxis kernel = per_axis(kernel_size, 1), step = per_axis(stride, 1);
  const PerAxis pad = per_axis(padding, 0), spread = per_axis(dilation, 1);
  return {
      {kernel.z, step.z, pad.z, spread.z}, {kernel.y, step.y, pad.y, spread.y}, {kernel.x, step.x, pad.x, spread.x}};
}

// Windows without padding.
Pooling windows_of(const Entries& kernel_size, const Entries& stride, const Entries& dilation) {
  return make_pooling(kernel_size, stride, Entries(kernel_size.size(), 0), dilation);
}

Path path_of(const std::string& name) {
  if (name == "automatic") return Path::kAutomatic;
  if (name == "pairs") return Path::kPairs;
  if (name == "columns") return Path::kColumns;
  if (name == "general") return Path::kGeneral;
  if (name == "patches") return Path::kPatches;
  if (name == "tiles") return Path::kTiles;
  throw py::value_error("no path is named " + name);
}

class Launcher {
 public:
  explicit Launcher(int64_t blocks, bool barriers = false) : blocks_(blocks), barriers_(barriers) {}

  template <typename Parameters>
  void operator()(void (*kernel)(Parameters), const Parameters& parameters, int64_t items) {
    items_ = items;
    if (items == 0) return;
    const unsigned int blocks = blocks_ > 0 ? static_cast<unsigned int>(blocks_) : blocks_for(items);
    run_on_host(kernel, parameters, blocks, kThreadsPerBlock, barriers_);
  }
  int64_t items(bool launched) const {
    if (!launched) throw py::value_error("this path cannot do what is asked");
    return items_;
  }

 private:
  int64_t blocks_;
  bool barriers_;
  int64_t items_ = 0;
};

template <typename Run>
int64_t with_type(const std::string& dtype, const Run& run) {
  if (dtype == "float32") return run.template operator()<float>();
  if (dtype == "float64") return run.template operator()<double>();
  if (dtype == "float16") return run.template operator()<__half>();
  if (dtype == "bfloat16") return run.template operator()<__nv_bfloat16>();
  throw py::value_error("no kernel for dtype " + dtype);
}

template <typename Run>
int64_t with_types(const std::string& dtype, const py::array& switches, const Run& run) {
  return with_type(dtype, [&]<typename T>() {
    return switches.itemsize() == 1 ? run.template operator()<T, uint8_t>() : run.template operator()<T, int16_t>();
  });
}

int64_t run_max_pool(const std::string& dtype, const py::array& input, const std::optional<py::array>& bias,
                     const py::array& output, const py::array& switches, const Entries& kernel_size,
                     const Entries& stride, const Entries& padding, const Entries& dilation, bool relu,
                     bool channels_last, const std::string& path, int64_t blocks) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  const Map map = map_of(input, channels_last);
  const Map pooled = map_of(output, channels_last);
  return with_types(dtype, switches, [&]<typename T, typename Switch>() {
    MaxPool<T, Switch> pool{};
    pool.input = data_of<T>(input);
    pool.bias = bias.has_value() ? data_of<T>(*bias) : nullptr;
    pool.output = data_of<T>(output);
    pool.switches = data_of<Switch>(switches);
    pool.layout = Layout(map.images, map.channels, channels_last);
    pool.depth = map.depth;
    pool.height = map.height;
    pool.width = map.width;
    pool.pooled_depth = pooled.depth;
    pool.pooled_height = pooled.height;
    pool.pooled_width = pooled.width;
    pool.relu = relu;
    Launcher launcher(blocks);
    return launcher.items(launch_max_pool(pool, pooling, path_of(path), launcher));
  });
}

template <typename Unpool>
Unpool unpool_parameters(const py::array& input, const py::array& switches, const py::array& output, bool channels_last,
                         const std::string& overlap, bool relu) {
  const Map pooled = map_of(input, channels_last);
  const Map map = map_of(output, channels_last);
  Unpool unpool{};
  unpool.input = data_of<typename Unpool::Scalar>(input);
  unpool.switches = data_of<typename Unpool::Switch>(switches);
  unpool.output = data_of<typename Unpool::Scalar>(output);
  unpool.layout = Layout(pooled.images, pooled.channels, channels_last);
  unpool.pooled_depth = pooled.depth;
  unpool.pooled_height = pooled.height;
  unpool.pooled_width = pooled.width;
  unpool.depth = map.depth;
  unpool.height = map.height;
  unpool.width = map.width;
  unpool.last = overlap == "last";
  unpool.relu = relu;
  return unpool;
}

int64_t run_max_unpool(const std::string& dtype, const py::array& input, const py::array& switches,
                       const py::array& output, const Entries& kernel_size, const Entries& stride,
                       const Entries& padding, const Entries& dilation, const std::string& overlap, bool relu,
                       bool channels_last, const std::string& path, int64_t blocks) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  return with_types(dtype, switches, [&]<typename T, typename Switch>() {
    const auto unpool = unpool_parameters<MaxUnpool<T, Switch>>(input, switches, output, channels_last, overlap, relu);
    Launcher launcher(blocks);
    return launcher.items(launch_max_unpool(unpool, pooling, path_of(path), launcher));
  });
}

int64_t run_max_unpool_window(const std::string& dtype, const py::array& input, const py::array& switches,
                              const py::array& image, const py::array& origin, const py::array& output,
                              const Entries& kernel_size, const Entries& stride, const Entries& dilation,
                              const std::string& overlap, bool relu, bool channels_last, const std::string& path,
                              int64_t blocks) {
  const Pooling pooling = make_pooling(kernel_size, stride, Entries(kernel_size.size(), 0), dilation);
  const Map maps = map_of(switches, channels_last);
  return with_types(dtype, switches, [&]<typename T, typename Switch>() {
    auto unpool = unpool_parameters<MaxUnpoolWindow<T, Switch>>(input, switches, output, channels_last, overlap, relu);
    unpool.image = data_of<int64_t>(image);
    unpool.origin = data_of<int64_t>(origin);
    unpool.switch_batch = maps.images;
    unpool.rank = static_cast<int>(kernel_size.size());
    unpool.switch_depth = maps.depth;
    unpool.switch_height = maps.height;
    unpool.switch_width = maps.width;
    Launcher launcher(blocks);
    return launcher.items(launch_gather(unpool, pooling, path_of(path), launcher));
  });
}

// Returns the number of threads in the grid of a GPU launch. `packed` is ([kernel_z, ]kernel_y, kernel_x, K, C /
// groups).
int64_t run_backproject(const std::string& dtype, const py::array& input, const py::array& packed,
                        const py::array& image, const py::array& origin, const std::optional<py::array>& switches,
                        const py::array& output, const Entries& kernel_size, const Entries& pool_stride,
                        const Entries& pool_dilation, const std::string& overlap, bool relu, const Entries& stride,
                        const Entries& dilation, int64_t groups, const Entries& begin, const Entries& base,
                        const Entries& map_size, bool channels_last, const std::string& path, int64_t blocks) {
  const Pooling pooling = windows_of(kernel_size, pool_stride, pool_dilation);
  const Pooling convolution = windows_of({packed.shape(), packed.shape() + packed.ndim() - 2}, stride, dilation);
  const Map windows = map_of(input, channels_last);
  const Map maps = switches.has_value() ? map_of(*switches, channels_last) : Map{};
  const Map result = map_of(output, channels_last);
  return with_type(dtype, [&]<typename T>() {
    Backproject<T> op{};
    op.input = data_of<T>(input);
    op.switches = switches.has_value() ? switches->data() : nullptr;
    op.two_byte_switches = switches.has_value() && switches->itemsize() == 2;
    op.image = data_of<int64_t>(image);
    op.origin = data_of<int64_t>(origin);
    op.packed = data_of<T>(packed);
    op.output = data_of<T>(output);
    op.rank = static_cast<int>(input.ndim()) - 2;
    op.input_strides = Strides(windows.channels, windows.size(), channels_last);
    op.switch_strides = Strides(maps.channels, maps.size(), channels_last);
    op.output_strides = Strides(result.channels, result.size(), channels_last);
    op.units = windows.images;
    op.images = maps.images;
    op.inputs = windows.channels;
    op.group_inputs = windows.channels / groups;
    op.group_outputs = packed.shape(packed.ndim() - 1);
    op.groups = Divider(groups);
    place_axes(op, windows.size(), maps.size(),
               {per_axis(begin, 0), result.size(), per_axis(base, 0), per_axis(map_size, -1)});
    op.last = overlap == "last";
    op.relu = relu;
    Launcher launcher(blocks, true);
    return launcher.items(launch_backproject(op, pooling, convolution, path_of(path), launcher));
  });
}

template <typename Switch>
int64_t convert(const py::array& switches, const py::array& indices, bool to_indices, const Entries& input_size,
                const Pooling& pooling, bool channels_last, int64_t blocks) {
  const Map pooled = map_of(switches, channels_last);
  Switches<Switch> parameters{};
  if (to_indices) {
    parameters.switches_in = data_of<Switch>(switches);
    parameters.indices_out = data_of<int64_t>(indices);
  } else {
    parameters.indices_in = data_of<int64_t>(indices);
    parameters.switches_out = data_of<Switch>(switches);
  }
  Launcher launcher(blocks);
  const size_t rank = input_size.size();
  const int64_t depth = rank == 3 ? input_size[0] : 1;
  launch_switches(parameters, Layout(pooled.images, pooled.channels, channels_last),
                  {pooled.depth, pooled.height, pooled.width},
                  PerAxis{depth, input_size[rank - 2], input_size[rank - 1]}, pooling, launcher);
  return launcher.items(true);
}

int64_t run_switches(const py::array& switches, const py::array& indices, bool to_indices, const Entries& input_size,
                     const Entries& kernel_size, const Entries& stride, const Entries& padding, const Entries& dilation,
                     bool channels_last, int64_t blocks) {
  const Pooling pooling = make_pooling(kernel_size, stride, padding, dilation);
  if (switches.itemsize() == 1) {
    return convert<uint8_t>(switches, indices, to_indices, input_size, pooling, channels_last, blocks);
  }
  return convert<int16_t>(switches, indices, to_indices, input_size, pooling, channels_last, blocks);
}

// Every value as float32 and back: the conversions that the kernels on the host rely on.
void round_trip(const std::string& dtype, const py::array& values, const py::array& bits, const py::array& back) {
  const float* from = data_of<float>(values);
  uint16_t* rounded = data_of<uint16_t>(bits);
  float* to = data_of<float>(back);
  for (py::ssize_t i = 0; i < values.size(); ++i) {
    if (dtype == "float16") {
      const __half value = __float2half_rn(from[i]);
      rounded[i] = value.bits;
      to[i] = __half2float(value);
    } else {
      const __nv_bfloat16 value = __float2bfloat16_rn(from[i]);
      rounded[i] = value.bits;
      to[i] = __bfloat162float(value);
    }
  }
}

// Quotients and remainders as the kernels compute them.
void divide(const py::array& numerators, int64_t divisor, const py::array& quotients, const py::array& remainders) {
  const int64_t* from = data_of<int64_t>(numerators);
  int64_t* quotient = data_of<int64_t>(quotients);
  int64_t* remainder = data_of<int64_t>(remainders);
  const Divider divider(divisor);
  for (py::ssize_t i = 0; i < numerators.size(); ++i) quotient[i] = divider.divide(from[i], &remainder[i]);
}

// In which order all that follows runs, with shared memory at these places of this library, (offset, bytes) each.
void set_schedule(uint64_t seed, const std::vector<std::pair<size_t, size_t>>& shared_memory, int missing_barrier) {
  Dl_info library{};
  if (dladdr(reinterpret_cast<const void*>(&set_schedule), &library) == 0) throw std::runtime_error("no library");
  schedule.random.seed(seed);
  schedule.missing_barrier = missing_barrier;
  schedule.shared_memory.clear();
  for (const auto& [offset, bytes] : shared_memory) {
    schedule.shared_memory.emplace_back(static_cast<uint8_t*>(library.dli_fbase) + offset, bytes);
  }
}

}  // namespace
}  // namespace deconv_kernels::cuda

PYBIND11_MODULE(_host, m) {
  namespace dk = deconv_kernels::cuda;
  m.def("set_schedule", &dk::set_schedule);
  m.def("backproject", &dk::run_backproject);
  m.def("max_pool", &dk::run_max_pool);
  m.def("max_unpool", &dk::run_max_unpool);
  m.def("max_unpool_window", &dk::run_max_unpool_window);
  m.def("switches", &dk::run_switches);
  m.def("round_trip", &dk::round_trip);
  m.def("divide", &dk::divide);
}
