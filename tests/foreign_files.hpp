// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

/// Writers of the files that others bring.
namespace neoxref::tests {

struct Array {
  std::string name;
  std::string dtype;  ///< of safetensors
  std::vector<std::uint64_t> shape;
  std::string bytes;
};

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

Array floats(std::string name, std::vector<std::uint64_t> shape, const std::vector<float>& values);
Array longs(std::string name, std::vector<std::uint64_t> shape,
            const std::vector<std::int64_t>& values);
Array halves(std::string name, std::string dtype, std::vector<std::uint64_t> shape,
             const std::vector<std::uint16_t>& values);

void write_safetensors(const std::filesystem::path& path, const std::vector<Array>& arrays);
void write_npy(const std::filesystem::path& path, const std::string& descr, bool column_major,
               const std::vector<std::uint64_t>& shape, const std::string& bytes);
/// ONNX. raw: raw_data, else float_data.
void write_tensor_proto(const std::filesystem::path& path, const std::string& name,
                        const std::vector<std::uint64_t>& shape, const std::vector<float>& values,
                        bool raw);

}  // namespace neoxref::tests
