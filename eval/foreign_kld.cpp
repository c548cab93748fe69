// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "engine/error.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval::foreign {
namespace {

using engine::Error;

std::int32_t number_at(std::span<const std::byte> bytes, std::size_t at) {
  std::int32_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

}  // namespace

/// "_logits_", context, vocabulary and chunks as int32, the ids of all chunks, then for each chunk the
/// log-probabilities behind tokens context / 2 to context - 2: scale and smallest value as float32, and
/// uint16 steps, two floats and an even number of steps a row.
void read_kld(const SharedFile& file, const std::string& place, ForeignFile& into) {
  const std::span<const std::byte> bytes = file->bytes();
  constexpr std::size_t header = 20;
  if (bytes.size() < header) throw Error(place, "truncated in its header");
  const std::int32_t context = number_at(bytes, 8), vocab = number_at(bytes, 12),
                     chunks = number_at(bytes, 16);
  constexpr std::int32_t most = 1 << 24;
  if (context < 4 || context > most || vocab < 2 || vocab > most || chunks < 1 || chunks > most) {
    throw Error(
        place, "no sizes of a logit base", "context, vocabulary and chunks",
        std::to_string(context) + ", " + std::to_string(vocab) + ", " + std::to_string(chunks));
  }
  const auto n = static_cast<std::size_t>(context), words = static_cast<std::size_t>(vocab);
  const std::size_t first = n / 2, rows = n - 1 - first;
  const std::size_t row = 2 * (2 * ((words + 1) / 2) + 4);
  const std::size_t ids = header + n * static_cast<std::size_t>(chunks) * 4;
  const std::size_t expected = ids + static_cast<std::size_t>(chunks) * rows * row;
  if (bytes.size() != expected) {
    throw Error(place, bytes.size() < expected ? "truncated" : "longer than its header says",
                std::to_string(expected) + " bytes", std::to_string(bytes.size()));
  }
  if (chunks > 1) {
    into.notes.push_back(place + ": only the first of " + std::to_string(chunks) +
                         " chunks is compared");
  }
  into.format = "kld";
  into.arrays.push_back({"input_ids",
                         place + ": tokens",
                         ForeignType::i32,
                         {n},
                         false,
                         mapped(file, bytes.subspan(header, n * 4))});
  const auto read = [file, ids, rows, row, words] {
    auto values = std::make_shared<std::vector<float>>(rows * words);
    for (std::size_t i = 0; i < rows; ++i) {
      const std::byte* const from = file->bytes().data() + ids + i * row;
      float scale = 0.0f, least = 0.0f;
      std::memcpy(&scale, from, 4);
      std::memcpy(&least, from + 4, 4);
      for (std::size_t k = 0; k < words; ++k) {
        std::uint16_t step = 0;
        std::memcpy(&step, from + 8 + 2 * k, 2);
        (*values)[i * words + k] = scale * static_cast<float>(step) + least;
      }
    }
    return ForeignBytes{std::as_bytes(std::span(*values)), values};
  };
  into.arrays.push_back({"log_probabilities",
                         place + ": log-probabilities",
                         ForeignType::f32,
                         {rows, words},
                         false,
                         read});
  into.log_probabilities = ForeignLogProbabilities{first};
}

}  // namespace neoxref::eval::foreign
