// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace neoxref::datasets {

/// The one exception of the readers: a file cannot be used. what() is one line, "where: problem",
/// with control characters shown escaped.
class Error : public std::runtime_error {
public:
  Error(std::string_view where, std::string_view problem);
};

/// name  the file's name, and what stands behind it in a file of many documents.
/// text  as in the file, but for a byte-order mark at its start (dropped) and CR LF (read as LF).
///       Whether it is well-formed UTF-8 is for the tokenizer to say.
struct Document {
  std::string name;
  std::string text;
};

/// A whole file as one document. Nothing else is stripped.
/// Errors  Error when the path is not a readable regular file; so for all readers.
[[nodiscard]] Document read_plain(const std::filesystem::path& path);

enum class WikitextUnit { article, paragraph };

/// WikiText in its raw form. A title is a line " = Title = " (one sign on each side) that stands
/// between blank lines, or between one and an end of the file; an article goes from its title to
/// the next, and blank lines before the first title go with it: all texts joined are the file. A
/// paragraph is a line, without its line end, that is neither blank nor a heading (" = ... = " of
/// any depth between blank lines). Names   "file: Title" and "file: Title, paragraph 1". Errors
/// also: no title; text other than blank lines before the first.
[[nodiscard]] std::vector<Document> read_wikitext(const std::filesystem::path& path,
                                                  WikitextUnit unit = WikitextUnit::article);

/// Books from Project Gutenberg: a file, or all files *.txt of a folder (not of folders in it) in
/// byte order of their names. What the marker lines enclose is kept without the blank lines at both
/// ends; credits and title pages inside stay. These are not the bytes of the published PG-19 set,
/// whose files were stripped by other rules. First marker   a line "*** START OF THE|THIS PROJECT
/// GUTENBERG EBOOK ...", with or without the blank
///   after the stars and in any case of letters, which may go on over up to five lines until one
///   that ends in "***"; or the older "*END*THE SMALL PRINT!..." or "*END THE SMALL PRINT!...".
/// Last marker    "*** END OF THE|THIS PROJECT GUTENBERG EBOOK ..." likewise, or the line "End of
/// the
///   Project Gutenberg EBook ..." or "End of Project Gutenberg's ..." that stands before it in
///   many.
/// A file with neither marker has its header and footer stripped already and is kept as it is.
/// Errors  also: a folder without such files; one marker without the other.
[[nodiscard]] std::vector<Document> read_pg19(const std::filesystem::path& path);

/// One JSON object per line, its string field "text"; other fields are ignored, blank lines
/// skipped. Names   "file: line 7". Errors  also: a line that is not such an object; no document at
/// all.
[[nodiscard]] std::vector<Document> read_jsonl(const std::filesystem::path& path);

}  // namespace neoxref::datasets
