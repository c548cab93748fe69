// SPDX-License-Identifier: Apache-2.0
#include "tests/foreign_files.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

namespace neoxref::tests {
namespace {

void write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

std::string little_endian(std::uint64_t value, std::size_t bytes) {
  std::string result;
  for (std::size_t i = 0; i < bytes; ++i) result += static_cast<char>(value >> (8 * i) & 0xff);
  return result;
}

std::string varint(std::uint64_t value) {
  std::string result;
  while (value >= 0x80) {
    result += static_cast<char>((value & 0x7f) | 0x80);
    value >>= 7;
  }
  return result + static_cast<char>(value);
}

/// A field of bytes.
std::string field(std::uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

}  // namespace

Array floats(std::string name, std::vector<std::uint64_t> shape, const std::vector<float>& values) {
  return {std::move(name), "F32", std::move(shape), bytes_of(values)};
}

Array longs(std::string name, std::vector<std::uint64_t> shape,
            const std::vector<std::int64_t>& values) {
  return {std::move(name), "I64", std::move(shape), bytes_of(values)};
}

Array halves(std::string name, std::string dtype, std::vector<std::uint64_t> shape,
             const std::vector<std::uint16_t>& values) {
  return {std::move(name), std::move(dtype), std::move(shape), bytes_of(values)};
}

void write_safetensors(const std::filesystem::path& path, const std::vector<Array>& arrays) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::string body;
  for (const Array& array : arrays) {
    header[array.name] = {{"dtype", array.dtype},
                          {"shape", array.shape},
                          {"data_offsets", {body.size(), body.size() + array.bytes.size()}}};
    body += array.bytes;
  }
  const std::string text = header.dump();
  write(path, little_endian(text.size(), 8) + text + body);
}

void write_npy(const std::filesystem::path& path, const std::string& descr, bool column_major,
               const std::vector<std::uint64_t>& shape, const std::string& bytes) {
  std::string header = "{'descr': '" + descr +
                       "', 'fortran_order': " + (column_major ? "True" : "False") + ", 'shape': (";
  for (const std::uint64_t extent : shape) header += std::to_string(extent) + ", ";
  header += "), }\n";
  write(path,
        std::string("\x93NUMPY\x01\x00", 8) + little_endian(header.size(), 2) + header + bytes);
}

void write_tensor_proto(const std::filesystem::path& path, const std::string& name,
                        const std::vector<std::uint64_t>& shape, const std::vector<float>& values,
                        bool raw) {
  std::string message;
  for (const std::uint64_t extent : shape) message += varint(1 << 3) + varint(extent);
  message += varint(2 << 3) + varint(1);
  message += field(raw ? 9 : 4, bytes_of(values));
  write(path, message + field(8, name));
}

}  // namespace neoxref::tests
