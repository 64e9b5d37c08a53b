#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "backproject2d_tasks.h"
#include "max_unpool2d.h"

namespace deconv_kernels {

namespace {

using baseline::larger;
using baseline::largest_sums;
using baseline::parts_of;
using baseline::product;
using baseline::smaller;
using baseline::tasks_of;

bool sums_in_double(ScalarType dtype) { return dtype == ScalarType::Double; }
int64_t sum_bytes(ScalarType dtype) { return sums_in_double(dtype) ? 8 : 4; }

PackedWeight packing(const Convolution& c, ScalarType dtype) {
  const int64_t line = kLineBytes / sum_bytes(dtype);
  const int64_t taps = c.kernel.y * c.kernel.x;
  PackedWeight packed{};
  packed.channels = c.channels / c.groups;
  // Lines that would be mostly padding are better filled with several taps.
  packed.tiled = c.kernel.y == 3 && c.kernel.x == 3 && c.stride.y == 1 && c.stride.x == 1 && c.dilation.y == 1 &&
                 c.dilation.x == 1 && 4 * c.outputs >= 3 * line;
  packed.gathered = c.groups == 1 && c.kernel.x == 3 && c.stride.y == 1 && c.stride.x == 1 && c.dilation.y == 1 &&
                    c.dilation.x == 1 && c.outputs <= kGatheredOutputs && c.channels % line == 0;
  packed.wide = packed.tiled ? line : smaller(c.outputs, taps == 1 ? 128 : 64);
  packed.blocks = parts_of(c.outputs, packed.wide);
  packed.lines = packed.tiled ? taps : parts_of(taps * packed.wide, line);
  return packed;
}

int64_t packed_elements(const Convolution& c, const PackedWeight& packed, ScalarType dtype) {
  if (packed.gathered) return c.kernel.y * c.kernel.x * c.outputs * c.channels;
  return c.groups * packed.blocks * packed.channels * packed.lines * (kLineBytes / sum_bytes(dtype));
}

inline float as_sum(float value) { return value; }
inline double as_sum(double value) { return value; }
inline float as_sum(torch::headeronly::Half value) { return static_cast<float>(value); }
inline float as_sum(torch::headeronly::BFloat16 value) { return static_cast<float>(value); }

// Packs the blocks [begin, end) of output channels, counted over all groups.
template <typename T, typename C>
void pack_blocks(const Convolution& c, const PackedWeight& packed, const T* weight, C* to, int64_t begin, int64_t end) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(C));
  const int64_t taps = c.kernel.y * c.kernel.x;
  to += begin * packed.channels * packed.lines * kLine;
  const int64_t slice_lines = packed.tiled ? packed.lines : kSliceLines;
  for (int64_t block = begin; block < end; ++block) {
    const int64_t group = block / packed.blocks;
    const int64_t first = block % packed.blocks * packed.wide;
    for (int64_t line = 0; line < packed.lines; line += slice_lines) {
      const int64_t elements = smaller(slice_lines, packed.lines - line) * kLine;
      for (int64_t channel = 0; channel < packed.channels; ++channel) {
        const T* from = weight + (group * packed.channels + channel) * c.outputs * taps;
        for (int64_t element = line * kLine; element < line * kLine + elements; ++element) {
          const int64_t tap = element / packed.wide, output = first + element % packed.wide;
          const bool exists = tap < taps && output < c.outputs;
          *to++ = exists ? as_sum(from[output * taps + tap]) : C{};
        }
      }
    }
  }
}

template <typename T, typename C>
void pack_gathered(const Convolution& c, const T* weight, C* to) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(C));
  const int64_t taps = c.kernel.y * c.kernel.x;
  for (int64_t row = 0; row < c.kernel.y; ++row) {
    for (int64_t first = 0; first < c.channels; first += kLine) {
      for (int64_t column = 0; column < c.kernel.x; ++column) {
        for (int64_t output = 0; output < c.outputs; ++output) {
          const T* from = weight + output * taps + row * c.kernel.x + column;
          for (int64_t k = first; k < first + kLine; ++k) *to++ = as_sum(from[k * c.outputs * taps]);
        }
      }
    }
  }
}

template <typename T, typename C>
void pack(const Convolution& c, const PackedWeight& packed, const Tensor& weight, const Tensor& to) {
  const T* from = static_cast<const T*>(weight.const_data_ptr());
  C* values = static_cast<C*>(to.mutable_data_ptr());
  if (packed.gathered) return pack_gathered<T, C>(c, from, values);
  const int64_t elements = packed.channels * packed.lines * kLineBytes;
  parallel_rows(c.groups * packed.blocks, elements,
                [&](int64_t begin, int64_t end) { pack_blocks<T, C>(c, packed, from, values, begin, end); });
}

Tensor packed_tensor(const Convolution& c, const PackedWeight& packed, const Tensor& weight) {
  const Tensor dense = torch::stable::contiguous(weight);
  const ScalarType dtype = weight.scalar_type();
  const ScalarType sums = sums_in_double(dtype) ? ScalarType::Double : ScalarType::Float;
  const int64_t size = packed_elements(c, packed, dtype), stride = 1;
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &size, &stride, dtype_code(sums), aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor to(handle);
  switch (dtype) {
    case ScalarType::Double:
      pack<double, double>(c, packed, dense, to);
      break;
    case ScalarType::Half:
      pack<torch::headeronly::Half, float>(c, packed, dense, to);
      break;
    case ScalarType::BFloat16:
      pack<torch::headeronly::BFloat16, float>(c, packed, dense, to);
      break;
    default:
      pack<float, float>(c, packed, dense, to);
  }
  return to;
}

Tensor pack_weight(const Tensor& weight, const IntList& stride, const IntList& dilation, int64_t groups) {
  const Convolution convolution = check_pack_weight(weight, stride, dilation, groups);
  return packed_tensor(convolution, packing(convolution, weight.scalar_type()), weight);
}

// Memory that a thread keeps from call to call, so that the system need not clear it again.
class Workspace {
 public:
  void* get(size_t bytes) {
    if (bytes > size_) {
      constexpr size_t kAlignment = 4096;
      size_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      memory_.reset();
      memory_.reset(std::aligned_alloc(kAlignment, size_));
      if (memory_ == nullptr) {
        size_ = 0;
        DK_CHECK(false, "no memory left for ", bytes, " bytes of workspace");
      }
    }
    return memory_.get();
  }

  // Gives back what only an unusually large call needed.
  void trim() {
    constexpr size_t kKept = size_t{64} << 20;
    if (size_ > kKept) {
      memory_.reset();
      size_ = 0;
    }
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t size_ = 0;
};

// Runs body(task) for every task, on all threads where `parallel`; whoever is free takes the next.
template <typename Body>
void run_tasks(int64_t tasks, bool parallel, const Body& body) {
  const int64_t threads = parallel ? smaller(tasks, static_cast<int64_t>(torch::stable::get_num_threads())) : 1;
  if (threads <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
    return;
  }
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) body(task);
  });
}

constexpr int64_t kListBytes = int64_t{16} << 20;  // of the lists of one round
constexpr int64_t kSumBytes = int64_t{512} << 10;  // of the sums of one task, a part of the second cache
constexpr int64_t kListedPerTask = 65536;          // elements
constexpr int64_t kSerialWork = int64_t{1} << 20;  // multiply-adds below which one thread is faster
constexpr int64_t kSmallestBand = 16;              // rows

SendPlan make_plan(const Backproject2dParams& p, int64_t element_bytes, bool parallel) {
  SendPlan plan{1, p.size.y};
  const int64_t sums = product(largest_sums(p, plan), element_bytes);
  plan.units = larger(1, smaller(p.units, kSumBytes / larger(1, sums)));
  if (sums > 2 * kSumBytes) plan.rows = larger(kSmallestBand, product(p.size.y, 2 * kSumBytes) / sums);
  const int64_t wanted = parallel ? 4 * static_cast<int64_t>(torch::stable::get_num_threads()) : 1;
  while (tasks_of(p, plan) < wanted && plan.units > 1) plan.units = parts_of(plan.units, 2);
  while (tasks_of(p, plan) < wanted && plan.rows > kSmallestBand) plan.rows = parts_of(plan.rows, 2);
  return plan;
}

// Every output for itself.
void gather(const Backproject2dParams& p, Element element) {
  parallel_rows(p.units * p.size.y, p.size.x * p.channels,
                [&](int64_t begin, int64_t end) { kernels().gather_signal(element, p, begin, end); });
}

// Lists what is not zero, then sends it.
void project(Backproject2dParams p, Element element, int64_t element_bytes, int64_t output_bytes) {
  SignalLists& lists = p.lists;
  const int64_t channels = p.channels / p.groups;
  const bool pooled = p.switches != nullptr;
  lists.side = p.weight.tiled ? 2 : 1;
  lists.rows = pooled ? p.height : parts_of(p.height, lists.side);
  lists.columns = pooled ? p.width : parts_of(p.width, lists.side);
  lists.blocks = p.groups * parts_of(channels, kListedChannels);
  const int64_t cells = lists.columns * lists.side * lists.side;
  lists.capacity = (pooled ? p.width : cells) * smaller(channels, kListedChannels) + kListedChannels;
  const int64_t rows_of_unit = lists.blocks * lists.rows;
  const int64_t unit_bytes = rows_of_unit * (lists.capacity * (element_bytes + 1) + cells + 8);
  const int64_t all_units = p.units;
  // Rounds of one size, so that none of them keeps threads waiting for a rest.
  const int64_t round = parts_of(all_units, parts_of(all_units, larger(1, kListBytes / unit_bytes)));
  const int64_t work = p.height * p.width * channels * p.output_channels * p.kernel.y * p.kernel.x;
  const char* const input = static_cast<const char*>(p.input);
  char* const output = static_cast<char*>(p.output);
  const int64_t input_bytes = p.height * p.width * p.channels * output_bytes;
  const int64_t result_bytes = p.output_channels * p.size.y * p.size.x * output_bytes;
  const int64_t* const image = p.image;
  const int64_t* const origin = p.origin;

  static thread_local Workspace listed;
  char* memory = static_cast<char*>(listed.get(static_cast<size_t>(round * unit_bytes)));
  const int64_t all_rows = round * rows_of_unit;
  lists.entries = reinterpret_cast<int64_t*>(memory);
  lists.values = memory + all_rows * 8;
  lists.channels = reinterpret_cast<uint8_t*>(memory + all_rows * (8 + lists.capacity * element_bytes));
  lists.counts = lists.channels + all_rows * lists.capacity;
  for (int64_t unit = 0; unit < all_units; unit += round) {
    p.units = smaller(round, all_units - unit);
    p.input = input + unit * input_bytes;
    p.output = output + unit * result_bytes;
    p.image = image + unit;
    p.origin = origin + 2 * unit;
    const bool parallel = p.units * work > kSerialWork;
    const int64_t rows = p.units * rows_of_unit;
    const int64_t rows_of_task = larger(1, kListedPerTask / lists.capacity);
    run_tasks(parts_of(rows, rows_of_task), parallel, [&](int64_t task) {
      kernels().list_signal(element, p, task * rows_of_task, smaller(rows, (task + 1) * rows_of_task));
    });
    const SendPlan plan = make_plan(p, element_bytes, parallel);
    const int64_t sums = product(largest_sums(p, plan), element_bytes);
    DK_CHECK(sums < int64_t{1} << 40, "the result before cropping, ", p.full.y, " x ", p.full.x, ", is too large");
    run_tasks(tasks_of(p, plan), parallel, [&](int64_t task) {
      static thread_local Workspace summed;
      kernels().send_signal(element, p, plan, summed.get(static_cast<size_t>(sums)), task, task + 1);
      summed.trim();
    });
  }
  listed.trim();
}

Tensor backproject2d(const Tensor& input, const Tensor& weight, const Tensor& image, const Tensor& origin,
                     const std::optional<Tensor>& switches, const std::optional<Tensor>& packed,
                     const IntList& kernel_size, const IntList& pool_stride, const IntList& pool_dilation,
                     const std::string& overlap, bool relu, const IntList& stride, const IntList& dilation,
                     int64_t groups, const IntList& begin, const IntList& size, const IntList& base,
                     const IntList& map_size) {
  const Backproject2dCall call =
      check_backproject2d(input, weight, image, origin, switches, kernel_size, pool_stride, pool_dilation, overlap,
                          stride, dilation, groups, begin, size, base, map_size);
  const Convolution& convolution = call.convolution;
  MapShape shape = call.input;
  const bool channels_last = shape.channels_last;
  const ScalarType dtype = input.scalar_type();
  PackedWeight layout = packing(convolution, dtype);
  if (packed.has_value()) {
    check_packed(*packed, {packed_elements(convolution, layout, dtype)},
                 sums_in_double(dtype) ? ScalarType::Double : ScalarType::Float, input);
  }
  // A single tap need not be packed where its rows fill the blocks: so a linear layer is read as it is.
  const bool sums_as_is = dtype == ScalarType::Float || dtype == ScalarType::Double;
  layout.plain = !packed.has_value() && sums_as_is && weight.is_contiguous() && weight.size(2) * weight.size(3) == 1 &&
                 layout.wide % (kLineBytes / sum_bytes(dtype)) == 0 && convolution.outputs % layout.wide == 0;
  const Tensor packed_weight = packed.has_value() ? *packed
                               : layout.plain     ? weight
                                                  : packed_tensor(convolution, layout, weight);
  layout.data = packed_weight.const_data_ptr();

  const Tensor images = torch::stable::contiguous(image);
  const Tensor origins = torch::stable::contiguous(origin);
  shape.channels_last = true;
  Tensor values = dense(input, shape);
  Tensor codes;
  Pair pooled_step{1, 1};
  Pair map{0, 0};
  bool has_codes = false;
  Pair signal{shape.height, shape.width};
  if (switches.has_value()) {
    const Pooling& pooling = *call.pooling;
    MapShape maps = call.maps;
    maps.channels_last = true;
    check_images(images.const_data_ptr<int64_t>(), shape.images, maps.images);
    pooled_step = {pooling.y.stride, pooling.x.stride};
    const MapShape unpooled = unpooled_windows(shape, pooling);
    signal = {unpooled.height, unpooled.width};
    const auto halves = [](const Axis& axis) { return axis.kernel == 2 && axis.stride == 2 && axis.dilation == 1; };
    if (layout.tiled && halves(pooling.y) && halves(pooling.x)) {
      codes = dense(*switches, maps);
      has_codes = true;
      map = {maps.height, maps.width};
    } else {
      values = launch_max_unpool2d(values, shape, *switches, maps, images.const_data_ptr<int64_t>(),
                                   origins.const_data_ptr<int64_t>(), unpooled, pooling, call.last, relu);
      shape = unpooled;
    }
  }

  Backproject2dParams p{};
  p.input = values.const_data_ptr();
  p.switches = has_codes ? codes.const_data_ptr() : nullptr;
  p.image = images.const_data_ptr<int64_t>();
  p.origin = origins.const_data_ptr<int64_t>();
  p.units = shape.images;
  p.channels = shape.channels;
  p.output_channels = convolution.outputs * groups;
  p.groups = groups;
  p.height = shape.height;
  p.width = shape.width;
  p.map = map;
  p.kernel = convolution.kernel;
  p.stride = convolution.stride;
  p.dilation = convolution.dilation;
  p.full = {(signal.y - 1) * p.stride.y + p.dilation.y * (p.kernel.y - 1) + 1,
            (signal.x - 1) * p.stride.x + p.dilation.x * (p.kernel.x - 1) + 1};
  p.begin = call.begin;
  p.size = call.size;
  p.step = {p.stride.y * pooled_step.y, p.stride.x * pooled_step.x};
  p.base = call.base;
  p.end = call.map_size;
  p.relu = relu;
  p.channels_last = channels_last;
  p.weight = layout;
  Tensor output = result_map({shape.images, p.output_channels, p.size.y, p.size.x, true, channels_last}, dtype, input);
  p.output = output.mutable_data_ptr();
  p.streamed = layout.tiled && channels_last && bypasses_caches(output, p.output_channels);
  if (layout.gathered) {
    gather(p, element_of(input));
  } else if (shape.images > 0) {
    project(p, element_of(input), sum_bytes(dtype),
            dtype == ScalarType::Double  ? 8
            : dtype == ScalarType::Float ? 4
                                         : 2);
  }
  return output;
}

}  // namespace

}  // namespace deconv_kernels

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("backproject2d", TORCH_BOX(&deconv_kernels::backproject2d));
  m.impl("pack_weight", TORCH_BOX(&deconv_kernels::pack_weight));
}
