#include "backproject/tasks.h"
#include "max_unpool.h"
#include "pack_weight.h"
#include "workspace.h"

namespace deconv_kernels {

namespace {

using baseline::larger;
using baseline::largest_sums;
using baseline::parts_of;
using baseline::product;
using baseline::smaller;
using baseline::tasks_of;

constexpr int64_t kListBytes = int64_t{16} << 20;  // of the lists of one round
constexpr int64_t kSumBytes = int64_t{512} << 10;  // of the sums of one task, a part of the second cache
constexpr int64_t kListedPerTask = 65536;          // elements
constexpr int64_t kSerialWork = int64_t{1} << 20;  // multiply-adds below which one thread is faster
constexpr int64_t kSmallestBand = 16;              // rows

SendPlan make_plan(const BackprojectParams& p, int64_t element_bytes, bool parallel) {
  SendPlan plan{1, p.size.z, p.size.y};
  int64_t sums = product(largest_sums(p, plan), element_bytes);
  plan.units = larger(1, smaller(p.units, kSumBytes / larger(1, sums)));
  if (sums > 2 * kSumBytes) {
    plan.planes = larger(1, product(p.size.z, 2 * kSumBytes) / sums);
    sums = product(largest_sums(p, plan), element_bytes);
  }
  if (sums > 2 * kSumBytes) plan.rows = larger(kSmallestBand, product(p.size.y, 2 * kSumBytes) / sums);
  const int64_t wanted = parallel ? 4 * static_cast<int64_t>(torch::stable::get_num_threads()) : 1;
  while (tasks_of(p, plan) < wanted && plan.units > 1) plan.units = parts_of(plan.units, 2);
  while (tasks_of(p, plan) < wanted && plan.planes > 1) plan.planes = parts_of(plan.planes, 2);
  while (tasks_of(p, plan) < wanted && plan.rows > kSmallestBand) plan.rows = parts_of(plan.rows, 2);
  return plan;
}

// Lists what is not zero in the signal of `p.units` units, then sends it.
void send_round(const BackprojectParams& p, Element element, int64_t sum_bytes) {
  const SignalLists& lists = p.lists;
  const int64_t taps = p.kernel.z * p.kernel.y * p.kernel.x;
  const int64_t work = p.depth * p.height * p.width * (p.channels / p.groups) * p.output_channels * taps;  // of a unit
  const bool parallel = p.units * work > kSerialWork;
  const int64_t rows = p.units * lists.blocks * lists.planes * lists.rows;
  const int64_t rows_of_task = larger(1, kListedPerTask / lists.capacity);
  run_tasks(parts_of(rows, rows_of_task), parallel, [&](int64_t task) {
    kernels().list_signal(element, p, task * rows_of_task, smaller(rows, (task + 1) * rows_of_task));
  });
  const SendPlan plan = make_plan(p, sum_bytes, parallel);
  const int64_t sums = product(largest_sums(p, plan), sum_bytes);
  DK_CHECK(sums < int64_t{1} << 40, "the result before cropping, ", p.full.z, " x ", p.full.y, " x ", p.full.x,
           ", is too large");
  run_tasks(tasks_of(p, plan), parallel, [&](int64_t task) {
    static thread_local Workspace summed;
    kernels().send_signal(element, p, plan, summed.get(static_cast<size_t>(sums)), task, task + 1);
    summed.trim();
  });
}

// The lists of a signal, without memory.
SignalLists make_lists(const BackprojectParams& p) {
  const int64_t channels = p.channels / p.groups;
  const bool pooled = p.switches != nullptr;
  SignalLists lists{};
  lists.side = p.weight.tiled ? 2 : 1;
  lists.planes = p.depth * p.pool_planes;
  lists.rows = pooled ? p.height : parts_of(p.height, lists.side);
  lists.columns = pooled ? p.width : parts_of(p.width, lists.side);
  lists.blocks = p.groups * parts_of(channels, kListedChannels);
  const int64_t positions = pooled ? p.width : lists.columns * lists.side * lists.side;
  lists.capacity = positions * smaller(channels, kListedChannels) + kListedChannels;
  return lists;
}

// Sends all units, in rounds of one size, so that none of them keeps threads waiting for a rest.
void send(BackprojectParams p, Element element, int64_t sum_bytes, int64_t element_bytes) {
  SignalLists& lists = p.lists = make_lists(p);
  const int64_t rows_of_unit = lists.blocks * lists.planes * lists.rows;
  const int64_t masks_of_row = lists.columns * lists.side * lists.side;
  const int64_t unit_bytes = rows_of_unit * (lists.capacity * sum_bytes + (masks_of_row + 1) * 8);
  const int64_t input_bytes = p.depth * p.height * p.width * p.channels * element_bytes;
  const int64_t output_bytes = p.output_channels * p.size.z * p.size.y * p.size.x * element_bytes;
  const BackprojectParams all = p;
  const int64_t round = parts_of(all.units, parts_of(all.units, larger(1, kListBytes / unit_bytes)));

  static thread_local Workspace listed;
  const int64_t rows = round * rows_of_unit;
  lists.entries = static_cast<int64_t*>(listed.get(static_cast<size_t>(round * unit_bytes)));
  lists.masks = reinterpret_cast<uint64_t*>(lists.entries + rows);
  lists.values = lists.masks + rows * masks_of_row;
  for (int64_t unit = 0; unit < all.units; unit += round) {
    p.units = smaller(round, all.units - unit);
    p.input = static_cast<const char*>(all.input) + unit * input_bytes;
    p.output = static_cast<char*>(all.output) + unit * output_bytes;
    p.image = all.image + unit;
    p.origin = all.origin + p.rank * unit;
    send_round(p, element, sum_bytes);
  }
  listed.trim();
}

// Every output for itself.
void gather(const BackprojectParams& p, Element element) {
  parallel_rows(p.units * p.size.z * p.size.y, p.size.x * p.channels,
                [&](int64_t begin, int64_t end) { kernels().gather_signal(element, p, begin, end); });
}

// The weight as it is read, which `layout` is told.
Tensor weight_to_read(const BackprojectCall& call, PackedWeight& layout) {
  const Tensor& weight = call.weight;
  const Convolution& convolution = call.convolution;
  const ScalarType dtype = weight.scalar_type();
  if (call.packed.has_value()) {
    check_packed(*call.packed, {packed_elements(convolution, layout, dtype)}, sum_dtype(dtype), call.input);
    return *call.packed;
  }
  // A single tap need not be packed where its rows fill the blocks: so a linear layer is read as it is.
  layout.plain = sum_dtype(dtype) == dtype && weight.is_contiguous() && convolution.taps.taps() == 1 &&
                 layout.wide % (kLineBytes / sum_bytes(dtype)) == 0 && convolution.outputs % layout.wide == 0;
  return layout.plain ? weight : packed_tensor(weight, convolution, layout);
}

// Whether windows of `kernel` positions along an axis lie side by side.
bool lie_side_by_side(const Axis& axis, int64_t kernel) {
  return axis.kernel == kernel && axis.stride == kernel && (kernel == 1 || axis.dilation == 1);
}

// Whether a signal can be listed without being unpooled first.
bool lists_pooled(const PackedWeight& layout, const Pooling& pooling) {
  return layout.tiled && switch_dtype(pooling) == ScalarType::Byte && lie_side_by_side(pooling.y, 2) &&
         lie_side_by_side(pooling.x, 2) && lie_side_by_side(pooling.z, pooling.z.kernel);
}

Tensor backproject(const BackprojectCall& call) {
  const ScalarType dtype = call.input.scalar_type();
  const Pooling& taps = call.convolution.taps;
  PackedWeight layout = packing(call.convolution, dtype);
  const Tensor weight = weight_to_read(call, layout);
  layout.data = weight.const_data_ptr();

  const Tensor images = torch::stable::contiguous(call.image);
  const Tensor origins = torch::stable::contiguous(call.origin);
  MapShape shape = call.windows;
  MapShape maps = call.maps;
  shape.channels_last = maps.channels_last = true;
  const MapShape unpooled = unpooled_windows(shape, call.pooling);
  Tensor values = dense(call.input, shape);
  Tensor codes;
  BackprojectParams p{};
  p.image = images.const_data_ptr<int64_t>();
  p.origin = origins.const_data_ptr<int64_t>();
  p.pool_planes = 1;
  if (call.switches.has_value()) {
    check_images(p.image, shape.images, maps.images);
    if (lists_pooled(layout, call.pooling)) {
      codes = dense(*call.switches, maps);
      p.switches = codes.const_data_ptr();
      p.map = maps.size();
      p.pool_planes = call.pooling.z.kernel;
    } else {
      const MaxUnpoolCall unpooling{values, *call.switches, call.pooling, shape, maps, unpooled, call.last, call.relu};
      values = launch_max_unpool(unpooling, p.image, p.origin);
      shape = unpooled;
    }
  }
  p.input = values.const_data_ptr();
  p.rank = shape.rank;
  p.units = shape.images;
  p.channels = shape.channels;
  p.output_channels = call.convolution.outputs * call.convolution.groups;
  p.groups = call.convolution.groups;
  p.depth = shape.depth;
  p.height = shape.height;
  p.width = shape.width;
  p.kernel = {taps.z.kernel, taps.y.kernel, taps.x.kernel};
  p.stride = {taps.z.stride, taps.y.stride, taps.x.stride};
  p.dilation = {taps.z.dilation, taps.y.dilation, taps.x.dilation};
  p.full = unpooled_windows(unpooled, taps).size();
  p.begin = call.placement.begin;
  p.size = call.placement.size;
  p.step = {taps.z.stride * call.pooling.z.stride, taps.y.stride * call.pooling.y.stride,
            taps.x.stride * call.pooling.x.stride};
  p.base = call.placement.base;
  p.end = call.placement.map_size;
  p.relu = call.relu;
  p.channels_last = call.windows.channels_last;
  p.weight = layout;
  MapShape result = call.windows.resized(p.size);
  result.channels = p.output_channels;
  Tensor output = result_map(result, dtype, call.input);
  p.output = output.mutable_data_ptr();
  p.streamed = layout.tiled && p.channels_last && bypasses_caches(output, p.output_channels);
  if (layout.gathered) {
    gather(p, element_of(call.input));
  } else if (shape.images > 0) {
    send(p, element_of(call.input), sum_bytes(dtype), static_cast<int64_t>(call.input.element_size()));
  }
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(deconv_kernels, CPU, m) {
  m.impl("backproject2d", TORCH_BOX((&Checked<check_backproject<2>, backproject>::kernel)));
  m.impl("backproject3d", TORCH_BOX((&Checked<check_backproject<3>, backproject>::kernel)));
}

}  // namespace

}  // namespace deconv_kernels
