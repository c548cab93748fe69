// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "engine/oracle.hpp"
#include "engine/sampler.hpp"
#include "engine/tensors.hpp"
#include "eval/conformance_cases.hpp"
#include "eval/digest.hpp"
#include "eval/perplexity.hpp"
#include "eval/protocol.hpp"
#include "eval/synth.hpp"
#include "simd/kernels.hpp"

namespace neoxref::eval::conformance {
namespace {

namespace fs = std::filesystem;
using engine::Oracle;
using engine::Press;

struct KitModel {
  const char* name;
  engine::Config config;
  simd::Dtype dtype;
};

engine::Config shape(std::size_t layers, std::size_t heads, std::size_t head_dim,
                     std::size_t rotary_dims, std::size_t intermediate, std::size_t vocab) {
  engine::Config config;
  config.layers = layers;
  config.heads = heads;
  config.head_dim = head_dim;
  config.hidden = heads * head_dim;
  config.rotary_dims = rotary_dims;
  config.rotary_pct = static_cast<double>(rotary_dims) / static_cast<double>(head_dim);
  config.intermediate = intermediate;
  config.vocab = vocab;
  config.max_positions = 256;
  config.eos_token_ids = {0};
  return config;
}

/// Together: both residual forms, with and without rotary, biases and an unembedding of its own, all
/// three dtypes, rows of more than a block of 64.
std::vector<KitModel> kit_models() {
  engine::Config sequential = shape(2, 2, 20, 10, 80, 53);
  sequential.parallel_residual = false;
  sequential.attention_bias = false;
  sequential.tie_word_embeddings = true;
  sequential.activation = simd::Function::gelu_tanh;
  sequential.rotary_base = 500;
  engine::Config plain = shape(1, 1, 16, 0, 64, 41);
  plain.activation = simd::Function::quick_gelu;
  plain.layer_norm_eps = 1e-12f;
  return {{"parallel", shape(2, 3, 24, 6, 136, 67), simd::Dtype::f16},
          {"sequential", sequential, simd::Dtype::bf16},
          {"plain", plain, simd::Dtype::f32}};
}

std::vector<std::int32_t> draw_tokens(Draws& draws, std::size_t count, std::size_t vocab) {
  std::vector<std::int32_t> tokens(count);
  for (auto& token : tokens) token = static_cast<std::int32_t>(draws.below(vocab));
  return tokens;
}

class Maker {
public:
  Maker(ConformanceKit& kit, const KitModel& model, const fs::path& folder, std::uint32_t stream)
      : kit_(kit), model_(model), checkpoint_(engine::Checkpoint::open(folder)), draws_(stream) {}

  void add_layers() {
    const std::size_t count = 4;
    const auto tokens = draw_tokens(draws_, count, config().vocab);
    const auto record = run(tokens).first;
    for (std::size_t layer = 0; layer < config().layers; ++layer) {
      const engine::TensorId before =
          layer == 0 ? engine::TensorId{engine::Tensor::embed_in}
                     : engine::TensorId{engine::Tensor::layer_output, layer - 1};
      Json expected = Json::object();
      for (const engine::Tensor tensor : engine::layer_tensors) {
        const std::string name = engine::tensor_name({tensor, layer});
        expected[name] = rows(record.at(name), engine::tensor_width(tensor, config()));
      }
      add("layer", "layer", std::to_string(layer),
          {{"model", model_.name},
           {"layer", layer},
           {"x", rows(record.at(engine::tensor_name(before)), config().hidden)}},
          std::move(expected));
    }
  }

  void add_whole() {
    for (const std::size_t count : std::initializer_list<std::size_t>{1, 80}) {
      const auto tokens = draw_tokens(draws_, count, config().vocab);
      const auto [record, last] = run(tokens);
      Json digests = Json::object();
      for (const auto& [name, values] : record) {
        Digest digest;
        digest.add(values);
        digests[name] = digest.hex();
      }
      add("model", "forward", std::to_string(count) + "-tokens",
          {{"model", model_.name}, {"tokens", tokens}},
          {{"digests", digests}, {"last_logits", words(last)}});
    }
  }

  struct Drawing {
    const char* name;
    engine::Sampling sampling;
    const char* temperature;
    const char* top_p;
  };
  void add_generation(const Drawing& drawing, const std::optional<Press>& press) {
    const std::size_t prompt = 12, fresh = 30;
    const std::uint64_t sequence = 3;
    auto tokens = draw_tokens(draws_, prompt, config().vocab);
    Json input = {{"model", model_.name},
                  {"prompt", tokens},
                  {"new_tokens", fresh},
                  {"temperature", drawing.temperature},
                  {"top_k", drawing.sampling.top_k},
                  {"top_p", drawing.top_p},
                  {"seed", word(drawing.sampling.seed)},
                  {"sequence", sequence}};
    Oracle<float> oracle(checkpoint_);
    if (press) {
      oracle.set_press(*press);
      input["press"] = press_json(*press);
    }
    engine::Sampler sampler(drawing.sampling, simd::kernels(simd::Isa::scalar));
    std::vector<float> logits;
    Digest digest;
    for (std::size_t i = 0; i < prompt; ++i) logits = oracle.forward(tokens[i]);
    oracle.end_prompt();
    for (std::size_t i = 0; i < fresh; ++i) {
      digest.add(logits);
      tokens.push_back(sampler.draw(logits, tokens.size(), sequence));
      if (i + 1 < fresh) logits = oracle.forward(tokens.back());
    }
    tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(prompt));
    add("generation", "generate", drawing.name + std::string(press ? "-pressed" : ""),
        std::move(input), {{"tokens", tokens}, {"logits_digest", digest.hex()}});
  }

  /// A given text through a cache that is cut on the way.
  void add_pressed(const std::string& name, const Press& press) {
    const std::size_t prompt = 8, count = 36;
    const auto tokens = draw_tokens(draws_, count, config().vocab);
    Oracle<float> oracle(checkpoint_);
    oracle.set_press(press);
    Digest digest;
    for (std::size_t i = 0; i < count; ++i) {
      if (i == prompt) oracle.end_prompt();
      digest.add(oracle.forward(tokens[i]));
    }
    Json kept = Json::array();
    for (std::size_t layer = 0; layer < config().layers; ++layer) {
      Json heads = Json::array();
      for (std::size_t head = 0; head < config().heads; ++head) {
        heads.push_back(oracle.positions(layer, head));
      }
      kept.push_back(std::move(heads));
    }
    add("generation", "pressed", name,
        {{"model", model_.name},
         {"tokens", tokens},
         {"prompt", prompt},
         {"press", press_json(press)}},
        {{"logits_digest", digest.hex()}, {"kept_positions", kept}});
  }

  void add_two_phase(Press press, std::size_t count) {
    const auto tokens = draw_tokens(draws_, count, config().vocab);
    const std::size_t prompt = effective_prune_after(press.prune_after, count);
    Json input = {{"model", model_.name}, {"tokens", tokens}, {"press", press_json(press)}};
    press.prune_after = prompt;
    Oracle<float> oracle(checkpoint_);
    std::vector<float> logits, losses;
    double sum = 0.0;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (i == prompt) oracle.set_press(press);
      logits = oracle.forward(tokens[i]);
      if (i + 1 < prompt) continue;
      losses.push_back(nll(simd::kernels(simd::Isa::scalar), logits, tokens[i + 1]));
      sum += static_cast<double>(losses.back());
    }
    add("generation", "two_phase", std::to_string(count) + "-tokens", std::move(input),
        {{"prompt", prompt}, {"nll", words(losses)}, {"sum", word(sum)}});
  }

private:
  const engine::Config& config() const { return checkpoint_.config(); }

  std::pair<Oracle<float>::Record, std::vector<float>> run(
      const std::vector<std::int32_t>& tokens) {
    Oracle<float> oracle(checkpoint_);
    Oracle<float>::Record record;
    std::vector<float> last;
    for (const std::int32_t token : tokens) last = oracle.forward(token, &record);
    return {std::move(record), std::move(last)};
  }

  void add(const std::string& level, const std::string& operation, const std::string& name,
           Json input, Json expected) {
    kit_.push_back({operation + "/" + model_.name + "-" + name, level, operation, std::move(input),
                    std::move(expected)});
  }

  static Json press_json(const Press& press) {
    return {{"score", engine::score_name(press.score)},
            {"keep_ratio", press.budget.keep_ratio.text()},
            {"trigger", engine::trigger_name(press.trigger)},
            {"prune_after", press.prune_after},
            {"interval", press.interval},
            {"sinks", press.sinks},
            {"recent", press.recent},
            {"positions", engine::positions_name(press.positions)},
            {"order", engine::order_name(press.order)},
            {"skip_layers", press.skip_layers},
            {"seed", word(press.seed)},
            {"window", press.window},
            {"pool", press.pool}};
  }

  ConformanceKit& kit_;
  const KitModel& model_;
  engine::Checkpoint checkpoint_;
  Draws draws_;
};

Press press_of(engine::Score score, const char* ratio, std::size_t prune_after) {
  Press press;
  press.score = score;
  press.budget.keep_ratio = engine::KeepRatio::parse(ratio);
  press.prune_after = prune_after;
  press.seed = 77;
  press.window = 4;
  press.pool = 3;
  return press;
}

/// Every score; triggers, protections and orders take turns.
void add_presses_of(Maker& maker) {
  using engine::Score;
  for (std::size_t i = 0; i < engine::score_count; ++i) {
    const auto score = static_cast<Score>(i);
    if (score == Score::own) continue;
    Press press = press_of(score, i % 2 == 0 ? "0.5" : "0.7", 12);
    press.trigger = static_cast<engine::Trigger>(i % 4);
    if (press.trigger == engine::Trigger::every) press.interval = 9;
    if (i % 3 == 1) press.sinks = 2;
    if (i % 3 == 2) press.recent = 3;
    maker.add_pressed(std::string(engine::score_name(score)), press);
  }
  Press ordered = press_of(Score::knorm, "0.6", 14);
  ordered.order = engine::Order::score;
  ordered.skip_layers = {};
  maker.add_pressed("score-order", ordered);
  Press turned = press_of(Score::knorm, "0.5", 12);
  turned.positions = engine::Positions::rerotate;
  turned.skip_layers = {};
  maker.add_pressed("rerotate", turned);
  Press mistaken = press_of(Score::knorm, "0.5", 12);
  mistaken.positions = engine::Positions::cache_length;
  maker.add_pressed("cache-length", mistaken);
}

}  // namespace

void add_models(ConformanceKit& kit, const fs::path& folder) {
  // Levels stand together, models within them.
  const auto models = kit_models();
  std::vector<Maker> makers;
  for (std::size_t i = 0; i < models.size(); ++i) {
    SynthOptions options;
    options.seed = 11 + i;
    options.dtype = models[i].dtype;
    write_synth(models[i].config, options, folder / models[i].name);
    makers.emplace_back(kit, models[i], folder / models[i].name,
                        static_cast<std::uint32_t>(50 + i));
  }
  for (Maker& maker : makers) maker.add_layers();
  for (Maker& maker : makers) maker.add_whole();
  for (std::size_t i = 0; i < makers.size(); ++i) {
    const Press press = press_of(engine::Score::knorm, "0.5", 16);
    makers[i].add_generation({"greedy", {0.0f, 0, 1.0, 0}, "0", "1"}, std::nullopt);
    makers[i].add_generation({"sampled", {0.8f, 20, 0.9, 5}, "0.8", "0.9"}, std::nullopt);
    // In a model of one layer the default would skip all there is.
    Press all = press;
    if (models[i].config.layers == 1) all.skip_layers = {};
    makers[i].add_generation({"sampled", {1.25f, 0, 0.95, 6}, "1.25", "0.95"}, all);
    makers[i].add_two_phase(all, 70);
  }
  add_presses_of(makers[1]);
}

}  // namespace neoxref::eval::conformance
