// SPDX-License-Identifier: Apache-2.0
#include "engine/tokenizer.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <deque>
#include <functional>
#include <utility>

#include "engine/added_tokens.hpp"
#include "engine/error.hpp"
#include "engine/merges.hpp"
#include "engine/pretokenize.hpp"
#include "engine/tokenizer_file.hpp"
#include "engine/unicode.hpp"

namespace neoxref::engine {
namespace {

constexpr std::size_t longest_text = std::size_t{1} << 31;
constexpr std::string_view replacement = "\xef\xbf\xbd";

/// Token text -> id. The texts stay in the lists they came from; ids index them.
class TokenIndex {
public:
  explicit TokenIndex(std::size_t capacity) : slots_(std::bit_ceil(2 * capacity + 2), -1) {}

  [[nodiscard]] std::int32_t find(std::string_view token,
                                  const std::vector<std::string_view>& texts) const noexcept {
    return slots_[slot_of(token, texts)];
  }

  /// The id that the token had before, or -1.
  std::int32_t add(std::int32_t id, const std::vector<std::string_view>& texts) noexcept {
    std::int32_t& slot = slots_[slot_of(texts[static_cast<std::size_t>(id)], texts)];
    if (slot < 0) return std::exchange(slot, id);
    return slot;
  }

private:
  [[nodiscard]] std::size_t slot_of(std::string_view token,
                                    const std::vector<std::string_view>& texts) const noexcept {
    std::size_t slot = std::hash<std::string_view>()(token) & (slots_.size() - 1);
    while (slots_[slot] >= 0 && texts[static_cast<std::size_t>(slots_[slot])] != token)
      slot = (slot + 1) & (slots_.size() - 1);
    return slot;
  }

  std::vector<std::int32_t> slots_;
};

std::string hexadecimal(unsigned byte) {
  static constexpr std::string_view digits = "0123456789abcdef";
  return {'0', 'x', digits[byte >> 4], digits[byte & 15]};
}

/// Moves the certain part of `bytes` to the end of `text`; what is left is the unfinished beginning
/// of a character, and nothing if `final`.
void decode_utf8(std::string& bytes, bool final, std::string& text) {
  std::size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = utf8_step(bytes, at);
    if (step.truncated && !final) break;
    if (step.valid)
      text.append(bytes, at, step.bytes);
    else
      text.append(replacement);
    at += step.bytes;
  }
  bytes.erase(0, at);
}

/// UTF-8 never holds these bytes, so a vocabulary may lack them.
bool occurs_in_utf8(unsigned byte) noexcept {
  return byte != 0xc0 && byte != 0xc1 && byte < 0xf5;
}

}  // namespace

struct Tokenizer::Data {
  explicit Data(const std::string& path_)
      : path(path_),
        file(read_tokenizer_file(path)),
        index(file.tokens.size() + file.added.size()) {
    index_vocabulary();
    index_merges();
    index_added_tokens();
    store_bytes();
  }

  void index_vocabulary();
  void index_merges();
  void index_added_tokens();
  void store_bytes();

  [[nodiscard]] std::int32_t merge_part(std::size_t merge, std::string_view token) const;
  [[nodiscard]] std::size_t checked(std::int32_t id) const;

  std::string path;
  TokenizerFile file;
  std::vector<std::string_view> texts;  // of each id, as the file spells it
  TokenIndex index;
  MergeTable merges;
  std::array<std::int32_t, 256> byte_ids{};
  AddedTokenMatcher given_matcher;       // over the text as given
  AddedTokenMatcher normalized_matcher;  // over the normalised text
  std::vector<bool> special;
  StringList bytes;  // of each id
};

void Tokenizer::Data::index_vocabulary() {
  texts.resize(file.tokens.size());
  std::vector<bool> seen(texts.size(), false);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto id = static_cast<std::size_t>(file.ids[i]);
    const auto where = [&] {
      return path + ": model.vocab[\"" + std::string(file.tokens[i]) + "\"]";
    };
    if (id >= texts.size())
      throw Error(where(), "id is out of range", "below " + std::to_string(texts.size()),
                  std::to_string(id));
    if (seen[id]) throw Error(where(), "id is given twice", {}, std::to_string(id));
    seen[id] = true;
    texts[id] = file.tokens[i];
    if (index.add(static_cast<std::int32_t>(id), texts) >= 0)
      throw Error(where(), "stands there twice");
  }
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_ids[byte] = index.find(byte_symbol(static_cast<unsigned char>(byte)), texts);
    if (byte_ids[byte] < 0 && occurs_in_utf8(byte))
      throw Error(path + ": model.vocab", "has no token for a byte", {}, hexadecimal(byte));
  }
}

std::int32_t Tokenizer::Data::merge_part(std::size_t merge, std::string_view token) const {
  const std::int32_t id = index.find(token, texts);
  if (id < 0)
    throw Error(path + ": model.merges[" + std::to_string(merge) + "]",
                "a token is not in the vocabulary", {}, token);
  return id;
}

void Tokenizer::Data::index_merges() {
  const std::size_t count = file.merges.size() / 2;
  merges = MergeTable(count);
  std::string joined;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view left = file.merges[2 * i];
    const std::string_view right = file.merges[2 * i + 1];
    const std::int32_t left_id = merge_part(i, left);
    const std::int32_t right_id = merge_part(i, right);
    joined.assign(left).append(right);
    if (!merges.add(left_id, right_id, {static_cast<std::uint32_t>(i), merge_part(i, joined)}))
      throw Error(path + ": model.merges[" + std::to_string(i) + "]", "stands there twice", {},
                  std::string(left) + " " + std::string(right));
  }
}

void Tokenizer::Data::index_added_tokens() {
  special.resize(texts.size(), false);
  std::vector<bool> seen(texts.size() + file.added.size(), false);
  for (std::size_t i = 0; i < file.added.size(); ++i) {
    const AddedToken& token = file.added[i];
    const std::string where = path + ": added_tokens[" + std::to_string(i) + "]";
    const std::int32_t known = index.find(token.content, texts);
    const std::int32_t expected = known < 0 ? static_cast<std::int32_t>(texts.size()) : known;
    if (token.id != expected)
      throw Error(where + ".id",
                  known < 0 ? "is not the next free id" : "is not the token's id in the vocabulary",
                  std::to_string(expected), std::to_string(token.id));
    if (seen[static_cast<std::size_t>(token.id)]) throw Error(where, "stands there twice");
    seen[static_cast<std::size_t>(token.id)] = true;
    if (known < 0) {
      texts.emplace_back(token.content);
      special.push_back(false);
      index.add(token.id, texts);
    }
    special[static_cast<std::size_t>(token.id)] = token.special;
    const bool normalize = token.normalized && file.nfc;
    const std::string pattern =
        normalize ? nfc(token.content).value_or(token.content) : token.content;
    // Which of two wins would depend on the run: the library keeps them in a hash map.
    if (!(token.normalized ? normalized_matcher : given_matcher).add(token, pattern))
      throw Error(where, "looks for the same text as another added token", {}, pattern);
  }
}

void Tokenizer::Data::store_bytes() {
  // A token that is looked for in normalised text also decodes to its normalised form.
  std::vector<std::string> normalized(texts.size());
  if (file.nfc)
    for (const AddedToken& token : file.added)
      if (token.normalized)
        normalized[static_cast<std::size_t>(token.id)] = nfc(token.content).value_or("");
  for (std::size_t id = 0; id < texts.size(); ++id) {
    const std::string_view text =
        normalized[id].empty() ? texts[id] : std::string_view(normalized[id]);
    const std::optional<std::string> of_symbols = symbol_bytes(text);
    bytes.push_back(of_symbols ? std::string_view(*of_symbols) : text);
  }
}

std::size_t Tokenizer::Data::checked(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= texts.size())
    throw Error("token id", "is not in the vocabulary", "0 to " + std::to_string(texts.size() - 1),
                std::to_string(id));
  return static_cast<std::size_t>(id);
}

/// One call of encode().
class Tokenizer::Encoder {
public:
  Encoder(const Data& data, std::size_t text_bytes)
      : data_(data), cache_(std::min(largest_cache, std::bit_ceil(text_bytes / 4 + 1))) {
    ids_.reserve(text_bytes / 3 + 1);
  }

  std::vector<std::int32_t> run(std::string_view text) && {
    for_spans(data_.given_matcher, text, [&](std::string_view given) {
      std::string_view normal = given;
      if (data_.file.nfc) {
        if (std::optional<std::string> changed = nfc(given)) normal = keep(std::move(*changed));
      }
      for_spans(data_.normalized_matcher, normal, [&](std::string_view part) { split(part); });
    });
    return std::move(ids_);
  }

private:
  static constexpr std::size_t largest_cache = std::size_t{1} << 15;
  static constexpr std::size_t longest_cached_word = 64;

  /// A word met before in this call: where it stands, and where its ids stand in ids_.
  struct CachedWord {
    const char* text = nullptr;
    std::uint32_t bytes = 0;
    std::uint32_t count = 0;
    std::size_t ids_begin = 0;
  };

  /// Cached words point into the texts, which therefore live as long as the call.
  std::string_view keep(std::string text) { return kept_.emplace_back(std::move(text)); }

  template <class Use>
  void for_spans(const AddedTokenMatcher& matcher, std::string_view text, Use&& use) {
    if (matcher.empty()) return use(text);
    std::vector<TextSpan> spans;
    matcher.split(text, spans);
    for (const TextSpan& span : spans) {
      if (span.id >= 0)
        ids_.push_back(span.id);
      else
        use(text.substr(span.begin, span.end - span.begin));
    }
  }

  void split(std::string_view text) {
    if (text.empty()) return;
    if (data_.file.add_prefix_space && text.front() != ' ') text = keep(" " + std::string(text));
    if (!data_.file.use_regex) return word(text);
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = piece_end(text, begin);
      word(text.substr(begin, end - begin));
      begin = end;
    }
  }

  void word(std::string_view text) {
    if (text.size() > longest_cached_word) return merge(text);
    CachedWord& cached = cache_[std::hash<std::string_view>()(text) & (cache_.size() - 1)];
    if (std::string_view(cached.text, cached.bytes) == text) {
      for (std::size_t i = 0; i < cached.count; ++i) ids_.push_back(ids_[cached.ids_begin + i]);
      return;
    }
    const std::size_t ids_begin = ids_.size();
    merge(text);
    cached = {text.data(), static_cast<std::uint32_t>(text.size()),
              static_cast<std::uint32_t>(ids_.size() - ids_begin), ids_begin};
  }

  void merge(std::string_view text) {
    const std::size_t begin = ids_.size();
    for (const char c : text) ids_.push_back(data_.byte_ids[static_cast<unsigned char>(c)]);
    ids_.resize(begin + data_.merges.apply(ids_.data() + begin, text.size()));
  }

  const Data& data_;
  std::vector<CachedWord> cache_;  // as many as a power of two; a word has one place
  std::deque<std::string> kept_;
  std::vector<std::int32_t> ids_;
};

Tokenizer::Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

Tokenizer Tokenizer::open(const std::string& path) {
  return Tokenizer(std::make_shared<const Data>(path));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  if (text.size() >= longest_text)
    throw Error("text", "is too long", "fewer than 2^31 bytes", std::to_string(text.size()));
  if (const std::optional<std::size_t> broken = first_invalid_utf8(text))
    throw Error("text: byte " + std::to_string(*broken), "is not well-formed UTF-8", {},
                hexadecimal(static_cast<unsigned char>(text[*broken])));
  return Encoder(*data_, text.size()).run(text);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const std::int32_t id : ids)
    if (!(is_special(id) && skip_special)) bytes.append(bytes_of(id));
  std::string text;
  text.reserve(bytes.size());
  decode_utf8(bytes, true, text);
  return text;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
  return data_->bytes[data_->checked(id)];
}

bool Tokenizer::is_special(std::int32_t id) const {
  return data_->special[data_->checked(id)];
}

std::optional<std::int32_t> Tokenizer::id_of(std::string_view token) const {
  const std::int32_t id = data_->index.find(token, data_->texts);
  return id < 0 ? std::nullopt : std::optional(id);
}

std::size_t Tokenizer::vocab_size() const noexcept {
  return data_->texts.size();
}

StreamDecoder::StreamDecoder(Tokenizer tokenizer, bool skip_special)
    : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

std::string StreamDecoder::push(std::int32_t id) {
  std::string text;
  if (tokenizer_.is_special(id) && skip_special_) return text;
  pending_.append(tokenizer_.bytes_of(id));
  decode_utf8(pending_, false, text);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  decode_utf8(pending_, true, text);
  return text;
}

}  // namespace neoxref::engine
