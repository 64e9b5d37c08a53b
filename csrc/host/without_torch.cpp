// A program that runs the CPU ops where there is no torch, as under an emulator of another processor: as much of
// LibTorch's stable ABI as they use, on one thread, and a loop that answers calls.
//
// A call comes on the standard input and its results leave on the standard output, all of it numbers of 64 bits but for
// the bytes of strings and tensors. A call is the op's name, its results (how many) and arguments. Arguments and
// results begin with their kind. Strings and lists begin with their length; tensors are their dtype, sizes, strides and
// memory. Before results comes 0, before the text of an error 1.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>
#include <torch/csrc/stable/tensor.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

using torch::headeronly::ScalarType;

enum Kind : int64_t { kNone, kInteger, kIntegers, kString, kTensor, kOptionalTensor };

// A tensor on the CPU that begins where its memory begins.
struct Array {
  int32_t dtype;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
  std::shared_ptr<std::vector<char>> memory;

  size_t element_size() const { return aoti_torch_dtype_element_size(dtype); }
  int64_t numel() const {
    int64_t count = 1;
    for (const int64_t size : sizes) count *= size;
    return count;
  }
  void allocate() {
    int64_t last = numel() > 0 ? 1 : 0;
    for (size_t axis = 0; last > 0 && axis < sizes.size(); ++axis) last += (sizes[axis] - 1) * strides[axis];
    memory = std::make_shared<std::vector<char>>(static_cast<size_t>(last) * element_size(), '\xfe');
  }
  // Offset of the element with a number in row-major order.
  size_t offset(int64_t number) const {
    int64_t offset = 0;
    for (size_t axis = sizes.size(); axis-- > 0; number /= sizes[axis]) offset += number % sizes[axis] * strides[axis];
    return static_cast<size_t>(offset) * element_size();
  }
};

using Op = void (*)(StableIValue*, uint64_t, uint64_t);

std::map<std::string, Op>& ops() {
  static std::map<std::string, Op> registered;
  return registered;
}

Array& array(AtenTensorHandle handle) { return *reinterpret_cast<Array*>(handle); }
AtenTensorHandle new_handle(const Array& of) { return reinterpret_cast<AtenTensorHandle>(new Array(of)); }
std::vector<int64_t>& list(StableListHandle handle) { return *reinterpret_cast<std::vector<int64_t>*>(handle); }
std::string& string(StringHandle handle) { return *reinterpret_cast<std::string*>(handle); }

template <typename Handle>
StableIValue boxed(Handle handle) {
  return reinterpret_cast<StableIValue>(handle);
}

void copy(const Array& from, const Array& to) {
  for (int64_t number = 0; number < from.numel(); ++number) {
    std::memcpy(to.memory->data() + to.offset(number), from.memory->data() + from.offset(number), from.element_size());
  }
}

std::vector<int64_t> row_major(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t axis = sizes.size(); axis-- > 0; stride *= sizes[axis]) strides[axis] = stride;
  return strides;
}

bool is_contiguous(const Array& of) {
  const std::vector<int64_t> strides = row_major(of.sizes);
  for (size_t axis = 0; axis < strides.size(); ++axis) {
    if (of.sizes[axis] != 1 && of.strides[axis] != strides[axis]) return of.numel() == 0;
  }
  return true;
}

void read(void* to, size_t bytes) {
  for (char* at = static_cast<char*>(to); bytes > 0;) {
    const ssize_t count = ::read(STDIN_FILENO, at, bytes);
    if (count <= 0) std::exit(0);
    at += count, bytes -= static_cast<size_t>(count);
  }
}

int64_t read_integer() {
  int64_t value;
  read(&value, sizeof(value));
  return value;
}

std::vector<int64_t> read_integers() {
  std::vector<int64_t> values(static_cast<size_t>(read_integer()));
  read(values.data(), values.size() * sizeof(int64_t));
  return values;
}

std::string read_string() {
  std::string text(static_cast<size_t>(read_integer()), ' ');
  read(text.data(), text.size());
  return text;
}

AtenTensorHandle read_tensor() {
  Array read_array{static_cast<int32_t>(read_integer()), read_integers(), read_integers(), nullptr};
  read_array.allocate();
  read(read_array.memory->data(), read_array.memory->size());
  return new_handle(read_array);
}

StableIValue read_argument() {
  switch (read_integer()) {
    case kInteger:
      return static_cast<StableIValue>(read_integer());
    case kIntegers:
      return boxed(new std::vector<int64_t>(read_integers()));
    case kString:
      return boxed(new std::string(read_string()));
    case kTensor:
      return boxed(read_tensor());
    case kOptionalTensor:
      return boxed(new StableIValue(boxed(read_tensor())));
    default:
      return 0;
  }
}

void write(const void* from, size_t bytes) { std::fwrite(from, 1, bytes, stdout); }
void write_integer(int64_t value) { write(&value, sizeof(value)); }
void write_integers(const std::vector<int64_t>& values) {
  write_integer(static_cast<int64_t>(values.size()));
  write(values.data(), values.size() * sizeof(int64_t));
}

void write_tensor(const Array& result) {
  write_integer(result.dtype);
  write_integers(result.sizes);
  write_integers(result.strides);
  write(result.memory->data(), result.memory->size());
}

void answer() {
  const std::string name = read_string();
  const auto results = static_cast<size_t>(read_integer()), arguments = static_cast<size_t>(read_integer());
  std::vector<StableIValue> stack;
  for (size_t i = 0; i < arguments; ++i) stack.push_back(read_argument());
  stack.resize(std::max(arguments, results));
  try {
    ops().at(name)(stack.data(), arguments, results);
  } catch (const std::exception& error) {
    const std::string text = error.what();
    write_integer(1);
    write_integer(static_cast<int64_t>(text.size()));
    write(text.data(), text.size());
    return;
  }
  write_integer(0);
  for (size_t i = 0; i < results; ++i) {
    const auto handle = reinterpret_cast<AtenTensorHandle>(stack[i]);
    write_tensor(array(handle));
    aoti_torch_delete_tensor_object(handle);
  }
}

}  // namespace

int main() {
  for (;;) {
    answer();
    std::fflush(stdout);
  }
}

#define DTYPE(name, type) \
  int32_t aoti_torch_dtype_##name() { return static_cast<int32_t>(ScalarType::type); }
#define DEVICE(name, number) \
  int32_t aoti_torch_device_type_##name() { return number; }

extern "C" {

DTYPE(uint8, Byte)
DTYPE(int8, Char)
DTYPE(int16, Short)
DTYPE(int32, Int)
DTYPE(int64, Long)
DTYPE(float16, Half)
DTYPE(float32, Float)
DTYPE(float64, Double)
DTYPE(complex32, ComplexHalf)
DTYPE(complex64, ComplexFloat)
DTYPE(complex128, ComplexDouble)
DTYPE(bool, Bool)
DTYPE(bfloat16, BFloat16)
DTYPE(float8_e5m2, Float8_e5m2)
DTYPE(float8_e4m3fn, Float8_e4m3fn)
DTYPE(float8_e5m2fnuz, Float8_e5m2fnuz)
DTYPE(float8_e4m3fnuz, Float8_e4m3fnuz)
DTYPE(uint16, UInt16)
DTYPE(uint32, UInt32)
DTYPE(uint64, UInt64)
DEVICE(cpu, 0)
DEVICE(cuda, 1)
DEVICE(meta, 14)
DEVICE(xpu, 12)
DEVICE(mps, 13)
DEVICE(privateuse1, 20)

int32_t aoti_torch_memory_format_contiguous_format() { return 0; }
int32_t aoti_torch_memory_format_preserve_format() { return 1; }
int32_t aoti_torch_memory_format_channels_last() { return 2; }
int32_t aoti_torch_memory_format_channels_last_3d() { return 3; }
uint64_t aoti_torch_abi_version() { return TORCH_TARGET_VERSION; }

size_t aoti_torch_dtype_element_size(int32_t dtype) {
  switch (static_cast<ScalarType>(dtype)) {
    case ScalarType::Byte:
      return 1;
    case ScalarType::Half:
    case ScalarType::BFloat16:
    case ScalarType::Short:
      return 2;
    case ScalarType::Float:
      return 4;
    default:
      return 8;
  }
}

AOTITorchError aoti_torch_empty_strided(int64_t dimensions, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* result) {
  Array empty{dtype, {sizes, sizes + dimensions}, {strides, strides + dimensions}, nullptr};
  empty.allocate();
  *result = new_handle(empty);
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_new_uninitialized_tensor(AtenTensorHandle* result) {
  *result = new_handle(Array{});
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle of, AtenTensorHandle* result) {
  *result = new_handle(array(of));
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle handle) {
  delete &array(handle);
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_dim(AtenTensorHandle handle, int64_t* result) {
  *result = static_cast<int64_t>(array(handle).sizes.size());
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_numel(AtenTensorHandle handle, int64_t* result) {
  *result = array(handle).numel();
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_size(AtenTensorHandle handle, int64_t axis, int64_t* result) {
  *result = array(handle).sizes.at(static_cast<size_t>(axis));
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_stride(AtenTensorHandle handle, int64_t axis, int64_t* result) {
  *result = array(handle).strides.at(static_cast<size_t>(axis));
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle handle, int32_t* result) {
  *result = array(handle).dtype;
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* result) {
  *result = aoti_torch_device_type_cpu();
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* result) {
  *result = -1;
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_is_contiguous(AtenTensorHandle handle, bool* result) {
  *result = is_contiguous(array(handle));
  return TORCH_SUCCESS;
}
AOTITorchError torch_get_mutable_data_ptr(AtenTensorHandle handle, void** result) {
  *result = array(handle).memory->data();
  return TORCH_SUCCESS;
}
AOTITorchError torch_get_const_data_ptr(AtenTensorHandle handle, const void** result) {
  *result = array(handle).memory->data();
  return TORCH_SUCCESS;
}

AOTITorchError torch_call_dispatcher(const char* name, const char*, StableIValue* stack, uint64_t) {
  const auto first = reinterpret_cast<AtenTensorHandle>(stack[0]);
  if (std::strcmp(name, "aten::copy_") == 0) {
    const auto from = reinterpret_cast<AtenTensorHandle>(stack[1]);
    copy(array(from), array(first));
    return aoti_torch_delete_tensor_object(from);
  }
  if (std::strcmp(name, "aten::contiguous") != 0) return TORCH_FAILURE;
  if (is_contiguous(array(first))) return TORCH_SUCCESS;
  Array dense{array(first).dtype, array(first).sizes, row_major(array(first).sizes), nullptr};
  dense.allocate();
  copy(array(first), dense);
  stack[0] = boxed(new_handle(dense));
  return aoti_torch_delete_tensor_object(first);
}

AOTITorchError torch_list_size(StableListHandle handle, size_t* result) {
  *result = list(handle).size();
  return TORCH_SUCCESS;
}
AOTITorchError torch_list_get_item(StableListHandle handle, size_t index, StableIValue* result) {
  *result = static_cast<StableIValue>(list(handle).at(index));
  return TORCH_SUCCESS;
}
AOTITorchError torch_delete_list(StableListHandle handle) {
  delete &list(handle);
  return TORCH_SUCCESS;
}
AOTITorchError torch_new_string_handle(const char* text, size_t length, StringHandle* result) {
  *result = reinterpret_cast<StringHandle>(new std::string(text, length));
  return TORCH_SUCCESS;
}
AOTITorchError torch_string_length(StringHandle handle, size_t* result) {
  *result = string(handle).size();
  return TORCH_SUCCESS;
}
AOTITorchError torch_string_c_str(StringHandle handle, const char** result) {
  *result = string(handle).c_str();
  return TORCH_SUCCESS;
}
AOTITorchError torch_delete_string(StringHandle handle) {
  delete &string(handle);
  return TORCH_SUCCESS;
}

AOTITorchError torch_get_num_threads(uint32_t* result) {
  *result = 1;
  return TORCH_SUCCESS;
}
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc body, void* context) {
  body(begin, end, context);
  return TORCH_SUCCESS;
}

AOTITorchError aoti_torch_library_init_def(const char*, const char*, uint32_t, TorchLibraryHandle*) {
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t, TorchLibraryHandle*) {
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_library_init_fragment(const char*, const char*, uint32_t, TorchLibraryHandle*) {
  return TORCH_SUCCESS;
}
AOTITorchError aoti_torch_library_def(TorchLibraryHandle, const char*) { return TORCH_SUCCESS; }
AOTITorchError aoti_torch_delete_library_object(TorchLibraryHandle) { return TORCH_SUCCESS; }
AOTITorchError torch_library_impl(TorchLibraryHandle, const char* name, Op op, uint64_t) {
  ops()[name] = op;
  return TORCH_SUCCESS;
}

}  // extern "C"
