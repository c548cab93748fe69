// SPDX-License-Identifier: Apache-2.0
#include "eval/foreign_layout.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "engine/error.hpp"
#include "engine/safetensors.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval::foreign {

using engine::Error;

namespace {

std::size_t product(const std::vector<std::uint64_t>& shape, std::size_t first, std::size_t last) {
  std::size_t result = 1;
  for (std::size_t i = first; i < last; ++i) result *= static_cast<std::size_t>(shape[i]);
  return result;
}

void check_axis(const View& view, std::size_t axis, const std::string& place) {
  if (axis < view.shape.size()) return;
  throw Error(place, "the rules name axis " + std::to_string(axis),
              "axes of " + engine::shape_text(view.shape));
}

void erase_axis(View& view, std::size_t axis) {
  view.shape.erase(view.shape.begin() + static_cast<std::ptrdiff_t>(axis));
  view.strides.erase(view.strides.begin() + static_cast<std::ptrdiff_t>(axis));
}

View permuted(const View& view, const std::vector<std::size_t>& order) {
  View result = view;
  for (std::size_t i = 0; i < order.size(); ++i) {
    result.shape[i] = view.shape[order[i]];
    result.strides[i] = view.strides[order[i]];
  }
  return result;
}

View without_ones(View view) {
  for (std::size_t axis = view.shape.size(); axis-- > 0;) {
    if (view.shape[axis] == 1) erase_axis(view, axis);
  }
  return view;
}

/// Leading axes such that the others hold `width` elements; nothing where there are none.
std::optional<std::size_t> leading_axes(const View& view, std::size_t width) {
  for (std::size_t k = view.shape.size() + 1; k-- > 0;) {
    if (product(view.shape, k, view.shape.size()) == width) return k;
  }
  return std::nullopt;
}

/// Offsets of all elements of axes [first, last), row-major.
std::vector<std::size_t> offsets(const View& view, std::size_t first, std::size_t last) {
  std::vector<std::size_t> result{0};
  for (std::size_t axis = first; axis < last; ++axis) {
    std::vector<std::size_t> longer;
    longer.reserve(result.size() * static_cast<std::size_t>(view.shape[axis]));
    for (const std::size_t offset : result) {
      for (std::size_t i = 0; i < view.shape[axis]; ++i) {
        longer.push_back(offset + i * view.strides[axis]);
      }
    }
    result = std::move(longer);
  }
  return result;
}

/// n elements from contiguous bytes (any address) to floats.
template <class T>
void convert(const std::byte* in, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, in + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value);
  }
}

/// A file may put its values at any address; kernels want whole ones.
void widen(simd::Dtype dtype, const std::byte* in, float* out, std::size_t n) {
  const simd::Kernels& kernels = simd::kernels({});
  std::array<std::uint16_t, 1024> piece;
  for (std::size_t done = 0; done < n; done += piece.size()) {
    const std::size_t count = std::min(piece.size(), n - done);
    std::memcpy(piece.data(), in + done * sizeof(piece[0]), count * sizeof(piece[0]));
    kernels.widen(dtype, piece.data(), out + done, count);
  }
}

void to_floats(ForeignType type, const std::byte* in, float* out, std::size_t n) {
  switch (type) {
    case ForeignType::f16:
      return widen(simd::Dtype::f16, in, out, n);
    case ForeignType::bf16:
      return widen(simd::Dtype::bf16, in, out, n);
    case ForeignType::f32:
      std::memcpy(out, in, n * sizeof(float));
      return;
    case ForeignType::f64:
      return convert<double>(in, out, n);
    case ForeignType::i8:
      return convert<std::int8_t>(in, out, n);
    case ForeignType::i16:
      return convert<std::int16_t>(in, out, n);
    case ForeignType::i32:
      return convert<std::int32_t>(in, out, n);
    case ForeignType::i64:
      return convert<std::int64_t>(in, out, n);
    case ForeignType::boolean:
    case ForeignType::u8:
      return convert<std::uint8_t>(in, out, n);
    case ForeignType::u16:
      return convert<std::uint16_t>(in, out, n);
    case ForeignType::u32:
      return convert<std::uint32_t>(in, out, n);
    case ForeignType::u64:
      return convert<std::uint64_t>(in, out, n);
  }
}

std::int64_t whole_number(ForeignType type, const std::byte* in, const std::string& place) {
  const auto read = [&]<class T>(T) {
    T value;
    std::memcpy(&value, in, sizeof(T));
    return static_cast<std::int64_t>(value);
  };
  switch (type) {
    case ForeignType::i8:
      return read(std::int8_t{});
    case ForeignType::i16:
      return read(std::int16_t{});
    case ForeignType::i32:
      return read(std::int32_t{});
    case ForeignType::i64:
      return read(std::int64_t{});
    case ForeignType::boolean:
    case ForeignType::u8:
      return read(std::uint8_t{});
    case ForeignType::u16:
      return read(std::uint16_t{});
    case ForeignType::u32:
      return read(std::uint32_t{});
    case ForeignType::u64:
      return read(std::uint64_t{});
    default: {
      float value = 0.0f;
      to_floats(type, in, &value, 1);
      if (value == std::floor(value) && std::fabs(value) < 16777216.0f) {
        return static_cast<std::int64_t>(value);
      }
      throw Error(place, "not whole numbers", {}, std::to_string(value));
    }
  }
}

}  // namespace

View view_of(const ForeignArray& array, std::optional<ForeignType> type) {
  View view{type.value_or(array.type), array.shape, {}, 0};
  if (foreign_type_bytes(view.type) != foreign_type_bytes(array.type)) {
    throw Error(array.place, "the rules say another dtype of another size",
                std::string(foreign_type_name(array.type)),
                std::string(foreign_type_name(view.type)));
  }
  view.strides.assign(view.shape.size(), 1);
  const std::size_t axes = view.shape.size();
  for (std::size_t i = 1; i < axes; ++i) {
    if (array.column_major) {
      view.strides[i] = view.strides[i - 1] * static_cast<std::size_t>(view.shape[i - 1]);
    } else {
      view.strides[axes - 1 - i] =
          view.strides[axes - i] * static_cast<std::size_t>(view.shape[axes - i]);
    }
  }
  return view;
}

View at(View view, std::size_t axis, std::uint64_t index, const std::string& place) {
  check_axis(view, axis, place);
  if (index >= view.shape[axis]) {
    throw Error(place, "axis " + std::to_string(axis) + " has no index " + std::to_string(index));
  }
  view.start += static_cast<std::size_t>(index) * view.strides[axis];
  erase_axis(view, axis);
  return view;
}

View apply(View view, const ForeignRule& rule, const std::string& place) {
  for (const AxisSlice& slice : rule.slices) {
    check_axis(view, slice.axis, place);
    std::uint64_t& extent = view.shape[slice.axis];
    const std::uint64_t stop = slice.stop.value_or(extent);
    if (stop > extent || slice.start > stop) {
      throw Error(place, "the rules slice outside axis " + std::to_string(slice.axis),
                  "at most " + std::to_string(extent),
                  std::to_string(slice.start) + " to " + std::to_string(stop));
    }
    view.start += static_cast<std::size_t>(slice.start) * view.strides[slice.axis];
    extent = (stop - slice.start + slice.step - 1) / slice.step;
    view.strides[slice.axis] *= static_cast<std::size_t>(slice.step);
  }
  std::vector<std::size_t> gone = rule.squeeze;
  std::sort(gone.rbegin(), gone.rend());
  for (const std::size_t axis : gone) {
    check_axis(view, axis, place);
    if (view.shape[axis] != 1) {
      throw Error(place, "the rules squeeze axis " + std::to_string(axis), "extent 1",
                  std::to_string(view.shape[axis]));
    }
    erase_axis(view, axis);
  }
  if (rule.permute.empty()) return view;
  std::vector<std::size_t> sorted = rule.permute;
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::size_t> all(view.shape.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  if (sorted != all) {
    throw Error(place, "permute in the rules is no order of the axes",
                std::to_string(all.size()) + " axes", engine::shape_text(view.shape));
  }
  return permuted(view, rule.permute);
}

std::vector<Grid> grids(const View& given, std::size_t width, std::size_t heads, bool heads_first) {
  std::vector<Grid> result;
  View view = without_ones(given);
  if (view.shape.size() == 1 && width > 0 && view.shape[0] != width && view.shape[0] % width == 0) {
    const std::size_t step = view.strides[0];
    view.shape = {view.shape[0] / width, width};
    view.strides = {width * step, step};
  }
  const std::size_t axes = view.shape.size();
  if (const auto lead = leading_axes(view, width); lead && *lead <= 2) {
    result.push_back({view, *lead, "", false});
  }
  // [batch, heads, tokens, values of a head]; without_ones() may have dropped the batch.
  const View& full = given;
  const std::size_t all = full.shape.size();
  if (all >= 3 && full.shape[all - 3] == heads &&
      heads * static_cast<std::size_t>(full.shape[all - 1]) == width) {
    std::vector<std::size_t> order(all);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::swap(order[all - 3], order[all - 2]);
    Grid grid{permuted(full, order), all - 2, "heads before tokens", false};
    while (grid.row_axes > 1 && grid.view.shape.front() == 1) {
      erase_axis(grid.view, 0);
      --grid.row_axes;
    }
    if (heads_first) grid.how.clear();
    if (grid.row_axes <= 2) {
      result.insert(heads_first ? result.begin() : result.end(), std::move(grid));
    }
  }
  for (std::size_t k = 1; k < axes; ++k) {
    if (product(view.shape, 0, k) != width) continue;
    std::vector<std::size_t> order;
    for (std::size_t i = k; i < axes; ++i) order.push_back(i);
    for (std::size_t i = 0; i < k; ++i) order.push_back(i);
    if (axes - k > 1) continue;
    result.push_back({permuted(view, order), axes - k, "transposed", false});
    break;
  }
  return result;
}

GridRows rows_of(const Grid& grid) {
  const auto& shape = grid.view.shape;
  if (grid.row_axes == 0) return {1, 1};
  if (grid.row_axes == 1) return {1, static_cast<std::size_t>(shape[0])};
  return {static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1])};
}

Matrix values(const Grid& grid, std::span<const std::byte> bytes, std::size_t sequence,
              std::size_t first, std::size_t rows, std::size_t heads) {
  const View& view = grid.view;
  const std::size_t size = foreign_type_bytes(view.type);
  std::vector<std::size_t> columns = offsets(view, grid.row_axes, view.shape.size());
  if (grid.by_part) {
    std::vector<std::size_t> ordered(columns.size());
    const std::size_t head_dim = columns.size() / (3 * heads);
    for (std::size_t part = 0, from = 0; part < 3; ++part) {
      for (std::size_t head = 0; head < heads; ++head) {
        for (std::size_t d = 0; d < head_dim; ++d) {
          ordered[(head * 3 + part) * head_dim + d] = columns[from++];
        }
      }
    }
    columns = std::move(ordered);
  }
  bool dense = true;
  for (std::size_t i = 0; i < columns.size(); ++i) dense = dense && columns[i] == i;
  const std::size_t batch_stride = grid.row_axes == 2 ? view.strides[0] : 0;
  const std::size_t token_stride = grid.row_axes == 0 ? 0 : view.strides[grid.row_axes - 1];
  Matrix result{rows, columns.size(), std::vector<float>(rows * columns.size())};
  std::vector<std::byte> gathered(dense ? 0 : columns.size() * size);
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t from = view.start + sequence * batch_stride + (first + i) * token_stride;
    const std::byte* row = bytes.data() + from * size;
    if (!dense) {
      for (std::size_t c = 0; c < columns.size(); ++c) {
        std::memcpy(gathered.data() + c * size, row + columns[c] * size, size);
      }
      row = gathered.data();
    }
    to_floats(view.type, row, result.row(i), columns.size());
  }
  return result;
}

std::vector<std::int64_t> integers(const View& view, std::span<const std::byte> bytes,
                                   const std::string& place) {
  const std::size_t size = foreign_type_bytes(view.type);
  std::vector<std::int64_t> result;
  for (const std::size_t offset : offsets(view, 0, view.shape.size())) {
    result.push_back(whole_number(view.type, bytes.data() + (view.start + offset) * size, place));
  }
  return result;
}

}  // namespace neoxref::eval::foreign
