// SPDX-License-Identifier: Apache-2.0
#include "eval/synth.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "engine/checkpoint.hpp"
#include "engine/error.hpp"
#include "eval/digest.hpp"

namespace neoxref::eval {
namespace {

namespace fs = std::filesystem;
using engine::TensorSpec;

static_assert(std::endian::native == std::endian::little, "tensors are written as they lie");

/// Values that are made and written at a time; even, so that no draw is made twice.
constexpr std::size_t piece = std::size_t{1} << 16;

[[noreturn]] void refuse(const fs::path& path, int error) {
  throw engine::Error(path.native(), "cannot be written", "", std::strerror(error));
}

std::uint64_t elements(const TensorSpec& spec) {
  std::uint64_t count = 1;
  for (const std::uint64_t extent : spec.shape) count *= extent;
  return count;
}

std::uint64_t width(simd::Dtype dtype) {
  return dtype == simd::Dtype::f32 ? 4 : 2;
}

const char* stored_name(simd::Dtype dtype) {
  static constexpr const char* names[] = {"F32", "F16", "BF16"};
  return names[static_cast<std::size_t>(dtype)];
}

/// A file that is hashed while it is written.
class HashedFile {
public:
  HashedFile(const fs::path& folder, std::string name)
      : path_(folder / name),
        name_(std::move(name)),
        file_(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
    if (file_ < 0) refuse(path_, errno);
  }
  ~HashedFile() {
    if (file_ >= 0) close(file_);
  }
  HashedFile(const HashedFile&) = delete;
  HashedFile& operator=(const HashedFile&) = delete;

  void write(const void* data, std::size_t size) {
    digest_.add_bytes({static_cast<const std::byte*>(data), size});
    bytes_ += size;
    const char* at = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = ::write(file_, at, size);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) refuse(path_, errno);
      at += written;
      size -= static_cast<std::size_t>(written);
    }
  }
  void write(std::string_view text) { write(text.data(), text.size()); }

  SynthFile finish() {
    const int file = file_;
    file_ = -1;
    if (close(file) != 0) refuse(path_, errno);
    return {name_, bytes_, digest_.hex()};
  }

private:
  fs::path path_;
  std::string name_;
  int file_;
  Digest digest_;
  std::uint64_t bytes_ = 0;
};

/// The shortest decimal that reads back as this number in its precision, with a point in it.
template <class Number>
std::string decimal(Number value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
  std::string number(text.data(), end);
  return number.find_first_of(".e") == std::string::npos ? number + ".0" : number;
}

const char* activation_name(simd::Function activation) {
  switch (activation) {
    case simd::Function::gelu:
      return "gelu";
    case simd::Function::gelu_tanh:
      return "gelu_new";
    case simd::Function::gelu_fast:
      return "gelu_fast";
    case simd::Function::quick_gelu:
      return "quick_gelu";
    case simd::Function::silu:
      return "silu";
    case simd::Function::tanh:
      return "tanh";
    case simd::Function::relu:
      return "relu";
    default:
      throw engine::Error("hidden_act", "is no activation", "one that config.json can name", "");
  }
}

std::string config_text(const engine::Config& config, simd::Dtype dtype) {
  static constexpr const char* dtypes[] = {"float32", "float16", "bfloat16"};
  const auto line = [](const char* name, const std::string& value) {
    return "  \"" + std::string(name) + "\": " + value + ",\n";
  };
  const auto truth = [](bool value) { return std::string(value ? "true" : "false"); };
  std::string text = "{\n  \"architectures\": [\n    \"GPTNeoXForCausalLM\"\n  ],\n";
  text += line("attention_bias", truth(config.attention_bias));
  text += line("bos_token_id", "0");
  text += line("eos_token_id", "0");
  text += line("hidden_act", '"' + std::string(activation_name(config.activation)) + '"');
  text += line("hidden_size", std::to_string(config.hidden));
  text += line("initializer_range", "0.02");
  text += line("intermediate_size", std::to_string(config.intermediate));
  text += line("layer_norm_eps", decimal(config.layer_norm_eps));
  text += line("max_position_embeddings", std::to_string(config.max_positions));
  text += line("model_type", "\"gpt_neox\"");
  text += line("num_attention_heads", std::to_string(config.heads));
  text += line("num_hidden_layers", std::to_string(config.layers));
  text += line("rotary_emb_base", std::to_string(static_cast<std::uint64_t>(config.rotary_base)));
  text += line("rotary_pct", decimal(config.rotary_pct));
  text += line("tie_word_embeddings", truth(config.tie_word_embeddings));
  text += line("torch_dtype", '"' + std::string(dtypes[static_cast<std::size_t>(dtype)]) + '"');
  text += line("use_cache", "true");
  text += line("use_parallel_residual", truth(config.parallel_residual));
  text += "  \"vocab_size\": " + std::to_string(config.vocab) + "\n}\n";
  return text;
}

/// Tensors of one file, by their number.
using Shard = std::vector<std::size_t>;

std::vector<Shard> shards_of(std::span<const TensorSpec> specs, simd::Dtype dtype,
                             std::uint64_t most) {
  std::vector<Shard> shards(1);
  std::uint64_t bytes = 0;
  for (std::size_t number = 0; number < specs.size(); ++number) {
    const std::uint64_t size = elements(specs[number]) * width(dtype);
    if (bytes > 0 && bytes + size > most) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(number);
    bytes += size;
  }
  return shards;
}

std::string header_text(std::span<const TensorSpec> specs, const Shard& shard, simd::Dtype dtype) {
  std::string text = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::uint64_t offset = 0;
  for (const std::size_t number : shard) {
    const TensorSpec& spec = specs[number];
    std::string shape;
    for (const std::uint64_t extent : spec.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    }
    const std::uint64_t end = offset + elements(spec) * width(dtype);
    text += ",\"" + spec.name + "\":{\"dtype\":\"" + stored_name(dtype) + "\",\"shape\":[" + shape +
            "],\"data_offsets\":[" + std::to_string(offset) + "," + std::to_string(end) + "]}";
    offset = end;
  }
  text += '}';
  text.resize(simd::round_up(text.size(), 8), ' ');
  return text;
}

class Writer {
public:
  Writer(const engine::Config& config, const SynthOptions& options,
         const std::function<void(double)>& progress)
      : specs_(engine::required_tensors(config)),
        values_(config, options.seed),
        dtype_(options.dtype),
        progress_(progress),
        total_(synth_bytes(config, options.dtype)),
        floats_(piece),
        halves_(piece) {}

  std::vector<SynthFile> write(const fs::path& folder, std::uint64_t most) {
    const std::vector<Shard> shards = shards_of(specs_, dtype_, most);
    std::vector<SynthFile> files;
    std::string index;
    for (std::size_t i = 0; i < shards.size(); ++i) {
      std::string name = "model.safetensors";
      if (shards.size() > 1) {
        const auto five = [](std::size_t n) {
          const std::string digits = std::to_string(n);
          return std::string(5 - std::min<std::size_t>(5, digits.size()), '0') + digits;
        };
        name = "model-" + five(i + 1) + "-of-" + five(shards.size()) + ".safetensors";
        for (const std::size_t number : shards[i]) {
          index += (index.empty() ? "\n    \"" : ",\n    \"") + specs_[number].name + "\": \"" +
                   name + '"';
        }
      }
      files.push_back(write_file(folder, name, shards[i]));
    }
    if (shards.size() > 1) {
      HashedFile file(folder, "model.safetensors.index.json");
      file.write("{\n  \"metadata\": {\n    \"total_size\": " + std::to_string(total_) +
                 "\n  },\n  \"weight_map\": {" + index + "\n  }\n}\n");
      files.push_back(file.finish());
    }
    return files;
  }

private:
  SynthFile write_file(const fs::path& folder, const std::string& name, const Shard& shard) {
    HashedFile file(folder, name);
    const std::string header = header_text(specs_, shard, dtype_);
    const std::uint64_t length = header.size();
    file.write(&length, sizeof length);
    file.write(header);
    for (const std::size_t number : shard) write_tensor(file, number);
    return file.finish();
  }

  void write_tensor(HashedFile& file, std::size_t number) {
    const TensorSpec& spec = specs_[number];
    const std::uint64_t count = elements(spec);
    const std::size_t row = spec.shape.size() > 1 ? spec.shape[1] : 1;
    for (std::uint64_t first = 0; first < count; first += piece) {
      const std::size_t n = std::min<std::uint64_t>(piece, count - first);
      values_.fill(number, spec.name, row, first, {floats_.data(), n});
      if (dtype_ == simd::Dtype::f32) {
        file.write(floats_.data(), n * sizeof(float));
      } else {
        const auto narrow = dtype_ == simd::Dtype::f16 ? to_f16 : to_bf16;
        std::transform(floats_.begin(), floats_.begin() + static_cast<std::ptrdiff_t>(n),
                       halves_.begin(), narrow);
        file.write(halves_.data(), n * sizeof(std::uint16_t));
      }
      done_ += n * width(dtype_);
      if (progress_) progress_(static_cast<double>(done_) / static_cast<double>(total_));
    }
  }

  std::vector<TensorSpec> specs_;
  SynthValues values_;
  simd::Dtype dtype_;
  const std::function<void(double)>& progress_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
};

/// A folder that goes away unless it was put in its place.
class UnfinishedFolder {
public:
  explicit UnfinishedFolder(const fs::path& place)
      : path_(place.native() + ".partial." + std::to_string(getpid())) {
    std::error_code error;
    if (!fs::create_directory(path_, error)) {
      refuse(path_, error ? error.value() : EEXIST);
    }
  }
  ~UnfinishedFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  UnfinishedFolder(const UnfinishedFolder&) = delete;
  UnfinishedFolder& operator=(const UnfinishedFolder&) = delete;
  const fs::path& path() const { return path_; }

  /// The one that is replaced is put aside first, so that a checkpoint is there at every moment but
  /// one.
  void put_at(const fs::path& place) {
    const fs::path aside = path_.native() + ".old";
    const bool replaces = fs::exists(fs::symlink_status(place));
    if (replaces && rename(place.c_str(), aside.c_str()) != 0) refuse(place, errno);
    if (rename(path_.c_str(), place.c_str()) != 0) {
      const int error = errno;
      if (replaces && rename(aside.c_str(), place.c_str()) != 0) refuse(aside, errno);
      refuse(place, error);
    }
    path_.clear();
    std::error_code error;
    if (replaces && fs::remove_all(aside, error) == static_cast<std::uintmax_t>(-1)) {
      refuse(aside, error.value());
    }
  }

private:
  fs::path path_;
};

}  // namespace

std::uint64_t synth_bytes(const engine::Config& config, simd::Dtype dtype) {
  std::uint64_t bytes = 0;
  for (const TensorSpec& spec : engine::required_tensors(config)) {
    bytes += elements(spec) * width(dtype);
  }
  return bytes;
}

std::vector<SynthFile> write_synth(const engine::Config& config, const SynthOptions& options,
                                   const fs::path& folder,
                                   const std::function<void(double)>& progress) {
  // "x/" is the folder x.
  const fs::path place = folder.has_filename() ? folder : folder.parent_path();
  const std::string text = config_text(config, options.dtype);
  engine::parse_config(text, "config.json");
  if (fs::exists(fs::symlink_status(place))) {
    if (!options.force) {
      throw engine::Error(place.native(), "exists already", "a new name, or --force to replace it",
                          "");
    }
    if (!fs::is_directory(fs::symlink_status(place)) || !fs::exists(place / "config.json")) {
      throw engine::Error(place.native(), "is not replaced", "a folder with a config.json",
                          "something else");
    }
  }
  if (place.has_parent_path()) {
    std::error_code error;
    fs::create_directories(place.parent_path(), error);
    if (error) refuse(place.parent_path(), error.value());
  }
  UnfinishedFolder unfinished(place);
  std::vector<SynthFile> files;
  {
    HashedFile file(unfinished.path(), "config.json");
    file.write(text);
    files.push_back(file.finish());
  }
  Writer writer(config, options, progress);
  for (SynthFile& file : writer.write(unfinished.path(), options.most_shard_bytes)) {
    files.push_back(std::move(file));
  }
  if (options.tokenizer) {
    const engine::MappedFile source(*options.tokenizer);
    HashedFile file(unfinished.path(), "tokenizer.json");
    file.write(source.text());
    files.push_back(file.finish());
  }
  unfinished.put_at(place);
  return files;
}

}  // namespace neoxref::eval
