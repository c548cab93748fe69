// SPDX-License-Identifier: Apache-2.0
#include "datasets/reader.hpp"

#include <algorithm>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>

namespace neoxref::datasets {
namespace {

namespace fs = std::filesystem;

std::string printable(std::string_view text) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      result.append("\\x").append({digits[byte >> 4], digits[byte & 15]});
    else
      result.push_back(c);
  }
  return result;
}

/// The file's text without a byte-order mark and with CR LF as LF.
std::string read_text(const fs::path& path) {
  std::error_code ignored;
  const fs::file_status status = fs::status(path, ignored);
  if (!fs::exists(status)) throw Error(path.string(), "does not exist");
  if (!fs::is_regular_file(status)) throw Error(path.string(), "is not a file");
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw Error(path.string(), "cannot be opened");
  std::string text(std::istreambuf_iterator<char>(stream), {});
  if (stream.bad()) throw Error(path.string(), "cannot be read");
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  std::size_t kept = 0;
  for (std::size_t i = 0; i < text.size(); ++i)
    if (text[i] != '\r' || i + 1 == text.size() || text[i + 1] != '\n') text[kept++] = text[i];
  text.resize(kept);
  return text;
}

/// A line without its end; `next` is where the following one starts.
struct Line {
  std::size_t begin;
  std::size_t next;
  std::string_view text;
};

std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::size_t next = std::min(end + 1, text.size());
    lines.push_back({begin, next, text.substr(begin, end - begin)});
    begin = next;
  }
  return lines;
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\f\v") == std::string_view::npos;
}

bool stands_alone(const std::vector<Line>& lines, std::size_t index) {
  return (index == 0 || is_blank(lines[index - 1].text)) &&
         (index + 1 == lines.size() || is_blank(lines[index + 1].text));
}

bool is_heading(std::string_view line) {
  return line.size() > 6 && line.starts_with(" = ") && line.ends_with(" = ");
}

std::optional<std::string_view> title_of(std::string_view line) {
  if (!is_heading(line)) return std::nullopt;
  const std::string_view title = line.substr(3, line.size() - 6);
  if (title.starts_with("= ") || title.ends_with(" =")) return std::nullopt;
  return title;
}

std::string upper(std::string_view line) {
  std::string result(line);
  for (char& c : result)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return result;
}

/// Whether a line (in upper case) is "*** WORD OF THE PROJECT GUTENBERG EBOOK...".
bool is_star_marker(std::string_view line, std::string_view word) {
  if (!line.starts_with("***")) return false;
  line.remove_prefix(3);
  if (line.starts_with(' ')) line.remove_prefix(1);
  if (!line.starts_with(word)) return false;
  line.remove_prefix(word.size());
  return line.starts_with(" OF THE PROJECT GUTENBERG") ||
         line.starts_with(" OF THIS PROJECT GUTENBERG");
}

bool is_small_print(std::string_view line) {
  return line.starts_with("*END*THE SMALL PRINT!") || line.starts_with("*END THE SMALL PRINT!");
}

bool is_last_marker(std::string_view line) {
  return is_star_marker(line, "END") || line.starts_with("END OF THE PROJECT GUTENBERG E") ||
         line.starts_with("END OF PROJECT GUTENBERG'S ");
}

std::size_t after_first_marker(const std::string& name, const std::vector<Line>& lines,
                               std::size_t index) {
  static constexpr std::size_t longest_marker = 5;
  if (is_small_print(upper(lines[index].text))) return index + 1;
  for (std::size_t i = index; i < std::min(index + longest_marker, lines.size()); ++i) {
    const std::string_view line = lines[i].text;
    const std::size_t last = line.find_last_not_of(' ');
    const std::size_t stars = i == index ? 6 : 3;  // the first line has three at its start too
    if (last != std::string_view::npos && last + 1 >= stars &&
        line.substr(0, last + 1).ends_with("***"))
      return i + 1;
  }
  throw Error(name, "the START marker does not end in \"***\"");
}

std::string book_body(const std::string& name, std::string text) {
  const std::vector<Line> lines = lines_of(text);
  std::optional<std::size_t> first;
  std::optional<std::size_t> last;
  for (std::size_t i = 0; i < lines.size() && !last; ++i) {
    const std::string line = upper(lines[i].text.substr(0, 80));
    if (!first && (is_star_marker(line, "START") || is_small_print(line)))
      first = after_first_marker(name, lines, i);
    else if (is_last_marker(line))
      last = i;
  }
  if (!first && !last) return text;
  if (!first) throw Error(name, "has an END marker but no START marker before it");
  if (!last) throw Error(name, "has a START marker but no END marker behind it");
  std::size_t from = *first;
  std::size_t to = *last;
  while (from < to && is_blank(lines[from].text)) ++from;
  while (to > from && is_blank(lines[to - 1].text)) --to;
  if (from >= to) throw Error(name, "has nothing between its START and END markers");
  const std::size_t begin = lines[from].begin;
  return text.substr(begin, lines[to - 1].next - begin);
}

std::string file_name(const fs::path& path) {
  return path.filename().string();
}

}  // namespace

Error::Error(std::string_view where, std::string_view problem)
    : std::runtime_error(printable(where) + ": " + printable(problem)) {}

Document read_plain(const fs::path& path) {
  return {file_name(path), read_text(path)};
}

std::vector<Document> read_wikitext(const fs::path& path, WikitextUnit unit) {
  const std::string text = read_text(path);
  const std::vector<Line> lines = lines_of(text);
  std::vector<Document> documents;
  std::string article;
  std::size_t paragraphs = 0;
  std::size_t begin = 0;  // of the article
  const auto end_article = [&](std::size_t end) {
    if (unit == WikitextUnit::article)
      documents.push_back({article, text.substr(begin, end - begin)});
    begin = end;
  };
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::string_view line = lines[i].text;
    if (is_blank(line)) continue;
    const bool heading = is_heading(line) && stands_alone(lines, i);
    const std::optional<std::string_view> title = heading ? title_of(line) : std::nullopt;
    if (title) {
      if (!article.empty()) end_article(lines[i].begin);
      article = file_name(path) + ": " + std::string(*title);
      paragraphs = 0;
    } else if (article.empty()) {
      throw Error(path.string() + ": line " + std::to_string(i + 1),
                  "stands before the first article title (\" = Title = \" between blank lines)");
    } else if (unit == WikitextUnit::paragraph && !heading) {
      documents.push_back(
          {article + ", paragraph " + std::to_string(++paragraphs), std::string(line)});
    }
  }
  if (article.empty()) throw Error(path.string(), "has no article title");
  end_article(text.size());
  return documents;
}

std::vector<Document> read_pg19(const fs::path& path) {
  std::vector<fs::path> files;
  if (!fs::is_directory(path)) {
    files.push_back(path);
  } else {
    for (const fs::directory_entry& entry : fs::directory_iterator(path))
      if (entry.is_regular_file() && entry.path().extension() == ".txt")
        files.push_back(entry.path());
    if (files.empty()) throw Error(path.string(), "has no files *.txt");
    std::sort(files.begin(), files.end());
  }
  std::vector<Document> documents;
  for (const fs::path& file : files)
    documents.push_back({file_name(file), book_body(file.string(), read_text(file))});
  return documents;
}

std::vector<Document> read_jsonl(const fs::path& path) {
  const std::string text = read_text(path);
  const std::vector<Line> lines = lines_of(text);
  std::vector<Document> documents;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (is_blank(lines[i].text)) continue;
    const std::string line = "line " + std::to_string(i + 1);
    const std::string where = path.string() + ": " + line;
    const auto object = nlohmann::json::parse(lines[i].text, nullptr, false);
    if (object.is_discarded()) throw Error(where, "is not JSON");
    if (!object.is_object()) throw Error(where, "is not an object");
    const auto field = object.find("text");
    if (field == object.end()) throw Error(where, "has no field \"text\"");
    if (!field->is_string()) throw Error(where, "field \"text\" is not a string");
    documents.push_back({file_name(path) + ": " + line, field->get<std::string>()});
  }
  if (documents.empty()) throw Error(path.string(), "has no documents");
  return documents;
}

}  // namespace neoxref::datasets
