// SPDX-License-Identifier: Apache-2.0
#include "engine/saved_sequence.hpp"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <map>
#include <vector>

#include "engine/error.hpp"
#include "engine/json.hpp"
#include "engine/safetensors.hpp"

namespace neoxref::engine {
namespace {

constexpr const char* format_name = "neoxref-sequence/1";
constexpr std::size_t cut_fields = 5;

/// FNV-1a over the norms of all layers and the numbers that shape a pass: tells models apart, no more.
std::string fingerprint(const Model& model) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto add = [&](std::uint32_t word) {
    for (int byte = 0; byte < 4; ++byte) {
      hash = (hash ^ ((word >> (8 * byte)) & 0xff)) * 0x100000001b3u;
    }
  };
  const Config& config = model.config();
  for (const std::size_t number :
       {config.layers, config.heads, config.head_dim, config.hidden, config.intermediate,
        config.vocab, config.rotary_dims, static_cast<std::size_t>(config.parallel_residual)}) {
    add(static_cast<std::uint32_t>(number));
  }
  const auto add_norm = [&](const Norm& norm) {
    for (const auto* values : {&norm.gamma, &norm.beta}) {
      for (const float value : *values) add(std::bit_cast<std::uint32_t>(value));
    }
  };
  for (const LayerWeights& layer : model.weights().layers) {
    add_norm(layer.input_layernorm);
    add_norm(layer.post_attention_layernorm);
  }
  add_norm(model.weights().final_layer_norm);
  char text[17] = {};
  std::to_chars(text, text + 16, hash, 16);
  return text;
}

/// Header and data of a safetensors file, written tensor by tensor.
class Writer {
public:
  template <class Value>
  void add(const std::string& name, const char* dtype, const std::vector<std::size_t>& shape,
           const std::vector<Value>& values) {
    const std::size_t begin = data_.size();
    data_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Value));
    header_[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, data_.size()}}};
  }
  std::string finish(const std::map<std::string, std::string>& metadata) {
    header_["__metadata__"] = metadata;
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string bytes(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) {
      bytes[i] = static_cast<char>((static_cast<std::uint64_t>(header.size()) >> (8 * i)) & 0xff);
    }
    return bytes + header + data_;
  }

private:
  nlohmann::ordered_json header_ = nlohmann::ordered_json::object();
  std::string data_;
};

/// The tensors and facts of saved bytes, each with its shape checked.
class Reader {
public:
  Reader(std::span<const std::byte> bytes, std::string_view where)
      : where_(where), contents_(parse_safetensors(bytes, where)) {}

  const std::string& text(const std::string& name) const {
    const auto found = contents_.metadata.find(name);
    if (found == contents_.metadata.end()) {
      throw Error(where_, "no saved sequence", "metadata '" + name + "'", "none");
    }
    return found->second;
  }
  void expect(const std::string& name, const std::string& expected,
              const std::string& problem) const {
    const std::string& found = text(name);
    if (found != expected) throw Error(where_, problem, expected, found);
  }
  std::size_t number(const std::string& name) const {
    const std::string& from = text(name);
    std::size_t value = 0;
    const auto [next, error] = std::from_chars(from.data(), from.data() + from.size(), value);
    if (error != std::errc{} || next != from.data() + from.size() || value > most) {
      throw Error(where_ + ": " + name, "not usable", "a number up to 2147483647", from);
    }
    return value;
  }
  const TensorView& find(const std::string& name) const {
    for (const TensorView& tensor : contents_.tensors) {
      if (tensor.name == name) return tensor;
    }
    throw Error(where_ + ": tensor '" + name + "'", "missing");
  }
  template <class Value>
  std::vector<Value> values(const std::string& name, const char* dtype,
                            const std::vector<std::uint64_t>& shape) const {
    const TensorView& tensor = find(name);
    if (tensor.dtype != dtype || tensor.shape != shape) {
      throw Error(tensor.place(), "of another type or shape", dtype + (" " + shape_text(shape)),
                  tensor.dtype + " " + shape_text(tensor.shape));
    }
    std::vector<Value> values(tensor.bytes.size() / sizeof(Value));
    if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }
  const std::string& where() const { return where_; }

private:
  static constexpr std::size_t most = 2147483647;
  std::string where_;
  SafetensorsContents contents_;
};

std::string layer_name(std::size_t layer) {
  return "past_key_values." + std::to_string(layer) + ".";
}

/// f(slot, d, lane) for every element of a head's keys, lane an index into its panels.
template <class F>
void each_lane(std::size_t slots, std::size_t head_dim, F&& f) {
  for (std::size_t slot = 0; slot < slots; ++slot) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      f(slot, d, (slot / simd::lanes * head_dim + d) * simd::lanes + slot % simd::lanes);
    }
  }
}

}  // namespace

std::string save_sequence(const Model& model, const Sequence& sequence) {
  if (sequence.stopped) throw Error("sequence", "stopped, so nothing can go on from it");
  const KvCache& cache = sequence.cache;
  const std::size_t layers = cache.shape().layers;
  const std::size_t heads = cache.shape().heads;
  const std::size_t head_dim = cache.shape().head_dim;
  const std::size_t window = sequence.attended ? sequence.attended->window() : 0;
  Writer writer;
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const std::size_t slots = cache.longest(layer);
    std::vector<float> keys(heads * slots * head_dim);
    std::vector<float> values(keys.size());
    std::vector<float> norms;
    std::vector<float> raw;
    std::vector<std::int32_t> positions;
    std::vector<double> sums;
    std::vector<float> rows;
    for (std::size_t head = 0; head < heads; ++head) {
      const float* panels = cache.keys(layer, head);
      const float* from = cache.values(layer, head);
      each_lane(slots, head_dim, [&](std::size_t slot, std::size_t d, std::size_t lane) {
        keys[(head * slots + slot) * head_dim + d] = panels[lane];
        values[(head * slots + slot) * head_dim + d] = from[slot * cache.value_stride() + d];
      });
      const auto append = [](auto& to, const auto* first, std::size_t count) {
        to.insert(to.end(), first, first + count);
      };
      append(norms, cache.norms(layer, head), slots);
      append(raw, cache.raw(layer, head), slots * cache.raw_dims());
      append(positions, cache.positions(layer, head), slots);
      if (!sequence.attended) continue;
      if (sequence.attended->has_sums()) append(sums, sequence.attended->sums(layer, head), slots);
      for (std::size_t row = 0; row < window; ++row) {
        append(rows, sequence.attended->row(layer, head, row), slots);
      }
    }
    const std::string name = layer_name(layer);
    writer.add(name + "key", "F32", {1, heads, slots, head_dim}, keys);
    writer.add(name + "value", "F32", {1, heads, slots, head_dim}, values);
    writer.add(name + "norm", "F32", {heads, slots}, norms);
    writer.add(name + "position", "I32", {heads, slots}, positions);
    if (cache.raw_dims() > 0) {
      writer.add(name + "raw", "F32", {heads, slots, cache.raw_dims()}, raw);
    }
    if (!sums.empty()) writer.add(name + "sums", "F64", {heads, slots}, sums);
    if (window > 0) writer.add(name + "rows", "F32", {heads, window, slots}, rows);
  }
  std::vector<std::int64_t> cuts;
  for (const Cut& cut : sequence.cuts) {
    for (const std::size_t field : {cut.layer, cut.position, cut.before, cut.after,
                                    static_cast<std::size_t>(cut.protection_won)}) {
      cuts.push_back(static_cast<std::int64_t>(field));
    }
  }
  writer.add("cuts", "I64", {sequence.cuts.size(), cut_fields}, cuts);
  const Sequence::Progress progress = sequence.progress();
  const bool sums = sequence.attended && sequence.attended->has_sums();
  return writer.finish({{"format", format_name},
                        {"model", fingerprint(model)},
                        {"press", sequence.press() ? sequence.press()->text() : "none"},
                        {"tokens", std::to_string(sequence.position)},
                        {"tokens_since_press", std::to_string(progress.since_press)},
                        {"prompt_ended", progress.prompt_ended ? "yes" : "no"},
                        {"cuts_considered", progress.considered ? "yes" : "no"},
                        {"raw_dims", std::to_string(cache.raw_dims())},
                        {"attention_sums", sums ? "yes" : "no"},
                        {"attention_window", std::to_string(window)}});
}

Sequence load_sequence(const Model& model, std::span<const std::byte> bytes, std::string_view where,
                       std::size_t capacity, const std::optional<Press>& press) {
  const Reader reader(bytes, where);
  reader.expect("format", format_name, "no saved sequence of this version");
  reader.expect("model", fingerprint(model), "saved from another model");
  reader.expect("press", press ? press->text() : "none", "saved under another press");
  const Extras extras{reader.number("raw_dims"), reader.text("attention_sums") == "yes",
                      reader.number("attention_window")};
  const Config& config = model.config();
  if (extras.raw_dims > config.rotary_dims || extras.attention_window > capacity) {
    throw Error(
        reader.where(), "keeps more than this sequence could",
        std::to_string(config.rotary_dims) + " raw dims and a window of " +
            std::to_string(capacity),
        std::to_string(extras.raw_dims) + " and " + std::to_string(extras.attention_window));
  }
  const std::size_t heads = config.heads;
  const std::size_t head_dim = config.head_dim;
  const std::size_t window = extras.attention_window;
  Sequence sequence = model.sequence(capacity, {}, extras);
  sequence.position = reader.number("tokens");
  KvCache& cache = sequence.cache;
  const bool in_time_order = !press || press->order == Order::time;
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    const std::string name = layer_name(layer);
    const TensorView& key = reader.find(name + "key");
    const std::size_t slots = key.shape.size() == 4 ? key.shape[2] : 0;
    if (slots > cache.capacity() || slots > sequence.position) {
      throw Error(key.place(), "too many slots",
                  "at most " + std::to_string(std::min(cache.capacity(), sequence.position)),
                  std::to_string(slots));
    }
    const auto keys = reader.values<float>(name + "key", "F32", {1, heads, slots, head_dim});
    const auto values = reader.values<float>(name + "value", "F32", {1, heads, slots, head_dim});
    const auto norms = reader.values<float>(name + "norm", "F32", {heads, slots});
    const auto positions = reader.values<std::int32_t>(name + "position", "I32", {heads, slots});
    const auto raw = extras.raw_dims > 0 ? reader.values<float>(name + "raw", "F32",
                                                                {heads, slots, extras.raw_dims})
                                         : std::vector<float>{};
    const auto sums = extras.attention_sums
                          ? reader.values<double>(name + "sums", "F64", {heads, slots})
                          : std::vector<double>{};
    const auto rows = window > 0
                          ? reader.values<float>(name + "rows", "F32", {heads, window, slots})
                          : std::vector<float>{};
    for (const auto* numbers : {&keys, &values, &norms, &raw, &rows}) {
      for (const float number : *numbers) {
        if (number - number == 0.0f) continue;
        throw Error(reader.where() + ": layer " + std::to_string(layer), "a number is not finite");
      }
    }
    for (std::size_t head = 0; head < heads; ++head) {
      each_lane(slots, head_dim, [&](std::size_t slot, std::size_t d, std::size_t lane) {
        const std::size_t from = (head * slots + slot) * head_dim + d;
        cache.keys(layer, head)[lane] = keys[from];
        cache.values(layer, head)[slot * cache.value_stride() + d] = values[from];
      });
      const auto copy = [&](const auto& from, auto* to, std::size_t width, std::size_t row) {
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(row * slots * width), slots * width,
                    to);
      };
      copy(norms, cache.norms(layer, head), 1, head);
      copy(positions, cache.positions(layer, head), 1, head);
      if (!raw.empty()) copy(raw, cache.raw(layer, head), extras.raw_dims, head);
      if (!sums.empty()) copy(sums, sequence.attended->sums(layer, head), 1, head);
      for (std::size_t row = 0; row < window; ++row) {
        copy(rows, sequence.attended->row(layer, head, row), 1, head * window + row);
      }
      const std::int32_t* first = cache.positions(layer, head);
      for (std::size_t slot = 0; slot < slots; ++slot) {
        const std::int64_t before = slot == 0 || !in_time_order ? -1 : first[slot - 1];
        if (first[slot] > before && static_cast<std::size_t>(first[slot]) < sequence.position) {
          continue;
        }
        throw Error(reader.where() + ": tensor '" + name + "position'", "impossible",
                    "ascending positions below " + std::to_string(sequence.position),
                    std::to_string(first[slot]));
      }
      cache.clear_lanes(layer, head, slots);
      cache.clear_padding(layer, head, 0, slots);
      cache.set_length(layer, head, slots);
    }
  }
  const TensorView& log = reader.find("cuts");
  const auto cuts = reader.values<std::int64_t>("cuts", "I64",
                                                {log.shape.empty() ? 0 : log.shape[0], cut_fields});
  for (std::size_t i = 0; i < cuts.size(); i += cut_fields) {
    const auto field = [&](std::size_t which) { return static_cast<std::size_t>(cuts[i + which]); };
    if (field(0) >= config.layers) {
      throw Error(log.place(), "a cut of a layer that does not exist",
                  "0 to " + std::to_string(config.layers - 1), std::to_string(cuts[i]));
    }
    sequence.cuts.push_back({field(0), field(1), field(2), field(3), field(4) != 0, {}});
    ++sequence.cut_counts[field(0)];
  }
  sequence.resume(press, config.rotary_dims,
                  {reader.number("tokens_since_press"), reader.text("prompt_ended") == "yes",
                   reader.text("cuts_considered") == "yes"});
  return sequence;
}

}  // namespace neoxref::engine
