// SPDX-License-Identifier: Apache-2.0
#include "engine/safetensors.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <tuple>
#include <utility>

#include "engine/error.hpp"
#include "engine/json.hpp"

namespace neoxref::engine {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr std::uint64_t length_bytes = 8;
constexpr std::uint64_t max_header = 100'000'000;  // the library's bound
constexpr std::size_t max_dimensions = 64;         // numpy's and PyTorch's bound

struct DtypeBits {
  std::string_view name;
  std::uint64_t bits;
};

constexpr std::array<DtypeBits, 22> dtypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

std::optional<std::uint64_t> bits_of(std::string_view dtype) {
  for (const DtypeBits& known : dtypes) {
    if (known.name == dtype) return known.bits;
  }
  return std::nullopt;
}

std::string in_quotes(std::string_view name) {
  return "'" + std::string(name) + "'";
}

/// The header's grammar, piece by piece: anything that it does not allow is refused where it
/// stands.
class HeaderReader final : public JsonRefusal {
public:
  HeaderReader(std::string_view where, std::span<const std::byte> data)
      : where_(where), data_(data) {}

  SafetensorsContents contents;

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::document:
        state_ = State::header;
        return true;
      case State::metadata_open:
        state_ = State::metadata;
        return true;
      case State::tensor_open:
        state_ = State::tensor;
        return true;
      default:
        return refuse("an object");
    }
  }

  bool key(string_t& name) override {
    if (state_ == State::header) {
      key_ = std::move(name);
      if (key_ == "__metadata__") {
        if (std::exchange(has_metadata_, true)) throw Error(place(), "appears twice");
        state_ = State::metadata_open;
      } else {
        tensor_ = {};
        seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        state_ = State::tensor_open;
      }
      return true;
    }
    if (state_ == State::metadata) {
      const auto [entry, added] = contents.metadata.try_emplace(std::move(name));
      if (!added) throw Error(place(), "a key appears twice", {}, entry->first);
      metadata_value_ = &entry->second;
      state_ = State::metadata_value;
      return true;
    }
    if (name == "dtype") return field(seen_dtype_, State::dtype);
    if (name == "shape") return field(seen_shape_, State::shape_open);
    if (name == "data_offsets") return field(seen_offsets_, State::offsets_open);
    throw Error(place(), "has a field that the format does not have", "dtype, shape, data_offsets",
                name);
  }

  bool string(string_t& value) override {
    if (state_ == State::metadata_value) {
      *metadata_value_ = std::move(value);
      state_ = State::metadata;
      return true;
    }
    if (state_ != State::dtype) return refuse('"' + value + '"');
    if (!bits_of(value)) {
      throw Error(place(), "has an unknown dtype", "a dtype of the format such as F32", value);
    }
    tensor_.dtype = std::move(value);
    state_ = State::tensor;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::shape_open) {
      state_ = State::shape;
    } else if (state_ == State::offsets_open) {
      state_ = State::offsets;
      offset_count_ = 0;
    } else {
      return refuse("an array");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::shape) {
      if (tensor_.shape.size() == max_dimensions) {
        throw Error(place(), "has too many dimensions",
                    "at most " + std::to_string(max_dimensions));
      }
      tensor_.shape.push_back(value);
      return true;
    }
    if (state_ != State::offsets || offset_count_ == 2) return refuse(std::to_string(value));
    offsets_[offset_count_++] = value;
    return true;
  }

  bool end_array() override {
    if (state_ == State::offsets && offset_count_ != 2) return refuse("fewer than two numbers");
    state_ = State::tensor;
    return true;
  }

  bool end_object() override {
    if (state_ == State::tensor) {
      add_tensor();
      state_ = State::header;
    } else if (state_ == State::metadata) {
      state_ = State::header;
    } else {
      state_ = State::done;
    }
    return true;
  }

protected:
  bool refuse(const std::string& found) override {
    throw Error(place(), "the header has something unexpected", expected(), found);
  }

private:
  enum class State {
    document,
    header,
    metadata_open,
    metadata,
    metadata_value,
    tensor_open,
    tensor,
    dtype,
    shape_open,
    shape,
    offsets_open,
    offsets,
    done
  };

  std::string_view expected() const {
    switch (state_) {
      case State::metadata_open:
        return "an object of strings";
      case State::metadata_value:
        return "a string";
      case State::tensor_open:
        return "an object with dtype, shape, data_offsets";
      case State::dtype:
        return "the name of a dtype";
      case State::shape_open:
        return "an array of whole numbers as shape";
      case State::shape:
        return "a whole number below 2^64 in shape";
      case State::offsets_open:
      case State::offsets:
        return "two whole numbers below 2^64 as data_offsets";
      default:
        return "an object";
    }
  }

  std::string place() const {
    const std::string file(where_);
    if (state_ == State::document || state_ == State::done) return file;
    if (key_ == "__metadata__") return file + ": __metadata__";
    return file + ": tensor " + in_quotes(key_);
  }

  bool field(bool& seen, State next) {
    if (std::exchange(seen, true)) throw Error(place(), "a field appears twice");
    state_ = next;
    return true;
  }

  void add_tensor() {
    if (!seen_dtype_) throw Error(place(), "has no dtype");
    if (!seen_shape_) throw Error(place(), "has no shape");
    if (!seen_offsets_) throw Error(place(), "has no data_offsets");
    const auto [begin, end] = offsets_;
    const std::string range = "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
    if (begin > end) throw Error(place(), "has data_offsets that run backwards", {}, range);
    if (end > data_.size()) {
      throw Error(place(),
                  "reaches past the end of the file: it is truncated or the header is wrong",
                  "data_offsets of at most " + std::to_string(data_.size()), range);
    }
    const std::uint64_t size = bytes_called_for();
    if (size != end - begin) {
      throw Error(
          place(), "has data_offsets that contradict its dtype and shape",
          std::to_string(size) + " bytes for " + tensor_.dtype + " " + shape_text(tensor_.shape),
          std::to_string(end - begin));
    }
    tensor_.name = key_;
    tensor_.bytes = data_.subspan(begin, size);
    contents.tensors.push_back(std::move(tensor_));
  }

  std::uint64_t bytes_called_for() const {
    std::uint64_t bits = 1;
    bool overflow = false;
    for (const std::uint64_t length : tensor_.shape) {
      overflow = overflow || __builtin_mul_overflow(bits, length, &bits);
    }
    overflow = overflow || __builtin_mul_overflow(bits, bits_of(tensor_.dtype).value(), &bits);
    if (overflow) {
      throw Error(place(), "has a shape whose size overflows", {}, shape_text(tensor_.shape));
    }
    if (bits % 8 != 0) {
      throw Error(place(), "does not fill whole bytes", {},
                  tensor_.dtype + " " + shape_text(tensor_.shape));
    }
    return bits / 8;
  }

  std::string_view where_;
  std::span<const std::byte> data_;
  State state_ = State::document;
  std::string key_;  // of the header's object
  bool has_metadata_ = false;
  std::string* metadata_value_ = nullptr;
  TensorView tensor_;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  std::array<std::uint64_t, 2> offsets_ = {};
  std::size_t offset_count_ = 0;
};

void check_names(const std::vector<TensorView>& tensors, std::string_view where) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const TensorView& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twin = std::adjacent_find(names.begin(), names.end());
  if (twin != names.end()) {
    throw Error(std::string(where) + ": tensor " + in_quotes(*twin), "appears twice");
  }
}

void sort_and_check_tiling(std::vector<TensorView>& tensors, std::span<const std::byte> data,
                           std::string_view where) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return std::tuple(a.bytes.data(), a.bytes.size(), std::string_view(a.name)) <
           std::tuple(b.bytes.data(), b.bytes.size(), std::string_view(b.name));
  });
  std::uint64_t end = 0;
  for (const TensorView& tensor : tensors) {
    const auto begin = static_cast<std::uint64_t>(tensor.bytes.data() - data.data());
    if (begin != end) {
      throw Error(std::string(where) + ": tensor " + in_quotes(tensor.name),
                  begin < end ? "overlaps the tensor before it" : "leaves a gap before its data",
                  "data_offsets from " + std::to_string(end), std::to_string(begin));
    }
    end += tensor.bytes.size();
  }
  if (end != data.size()) {
    throw Error(where, "has bytes after the last tensor", std::to_string(end) + " bytes of data",
                std::to_string(data.size()));
  }
}

}  // namespace

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::uint64_t TensorView::elements() const {
  std::uint64_t count = 1;
  for (const std::uint64_t length : shape) count *= length;
  return count;
}

std::string TensorView::place() const {
  return (file == nullptr ? "" : file->path().native() + ": ") + "tensor " + in_quotes(name);
}

SafetensorsContents parse_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  if (bytes.size() < length_bytes) {
    throw Error(where, "is too short for a safetensors file", "at least 8 bytes",
                std::to_string(bytes.size()));
  }
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), length_bytes);
  if (header > max_header) {
    throw Error(where, "has a header length that is too large",
                "at most " + std::to_string(max_header), std::to_string(header));
  }
  if (header > bytes.size() - length_bytes) {
    throw Error(where, "ends inside its header", std::to_string(header) + " bytes of header",
                std::to_string(bytes.size() - length_bytes));
  }
  const auto text = bytes.subspan(length_bytes, header);
  const auto data = bytes.subspan(length_bytes + header);
  HeaderReader reader(where, data);
  read_json({reinterpret_cast<const char*>(text.data()), text.size()},
            std::string(where) + ": header", reader);
  check_names(reader.contents.tensors, where);
  sort_and_check_tiling(reader.contents.tensors, data, where);
  return std::move(reader.contents);
}

Safetensors::Safetensors(std::unique_ptr<const MappedFile> file, SafetensorsContents contents)
    : file_(std::move(file)), contents_(std::move(contents)) {
  by_name_.reserve(contents_.tensors.size());
  for (TensorView& tensor : contents_.tensors) {
    tensor.file = file_.get();
    by_name_.push_back(&tensor);
  }
  std::sort(by_name_.begin(), by_name_.end(),
            [](const TensorView* a, const TensorView* b) { return a->name < b->name; });
}

Safetensors Safetensors::open(const std::filesystem::path& path) {
  auto file = std::make_unique<const MappedFile>(path);
  auto contents = parse_safetensors(file->bytes(), path.native());
  return Safetensors(std::move(file), std::move(contents));
}

const TensorView* Safetensors::find(std::string_view name) const {
  const auto found = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [](const TensorView* tensor, std::string_view key) { return tensor->name < key; });
  return found != by_name_.end() && (*found)->name == name ? *found : nullptr;
}

}  // namespace neoxref::engine
