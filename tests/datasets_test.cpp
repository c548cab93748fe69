// SPDX-License-Identifier: Apache-2.0
#define BOOST_TEST_MODULE datasets
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "datasets/lambada.hpp"
#include "datasets/reader.hpp"

namespace {

namespace fs = std::filesystem;
using neoxref::datasets::Document;
using neoxref::datasets::Error;
using neoxref::datasets::read_jsonl;
using neoxref::datasets::read_lambada;
using neoxref::datasets::read_pg19;
using neoxref::datasets::read_plain;
using neoxref::datasets::read_wikitext;
using neoxref::datasets::WikitextUnit;

fs::path source_dir() {
  const char* folder = std::getenv("NEOXREF_SOURCE_DIR");
  if (folder == nullptr) throw std::runtime_error("NEOXREF_SOURCE_DIR is not set");
  return folder;
}

std::string raw(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  BOOST_REQUIRE_MESSAGE(stream, path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

/// A folder of its own for each test case.
struct Folder {
  Folder() {
    std::random_device seed;
    path = fs::temp_directory_path() /
           ("neoxref_datasets_" + std::to_string(seed()) + "_" + std::to_string(seed()));
    fs::create_directory(path);
  }
  ~Folder() { fs::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] fs::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return path / name;
  }

  fs::path path;
};

void check_error(const std::function<void()>& read, const std::string& part) {
  try {
    read();
    BOOST_ERROR("accepted, though: " << part);
  } catch (const Error& error) {
    const std::string what = error.what();
    BOOST_TEST(what.find(part) != std::string::npos, what << " | lacks: " << part);
    BOOST_TEST(what.find('\n') == std::string::npos, what);
  }
}

std::string joined(const std::vector<Document>& documents) {
  std::string text;
  for (const Document& document : documents) text += document.text;
  return text;
}

BOOST_FIXTURE_TEST_CASE(plain_keeps_all_but_mark_and_line_ends, Folder) {
  const Document document =
      read_plain(write("a.txt", "\xef\xbb\xbf  one\r\ntwo\r\r\n\rthree \xef\xbb\xbf\n\n four\r"));
  BOOST_TEST(document.name == "a.txt");
  BOOST_TEST(document.text == "  one\ntwo\r\n\rthree \xef\xbb\xbf\n\n four\r");
  BOOST_TEST(read_plain(write("empty", "")).text == "");
  BOOST_TEST(read_plain(write("broken", "a\xff\n")).text == "a\xff\n");
  check_error([&] { return read_plain(path / "none"); }, "none: does not exist");
  check_error([&] { return read_plain(path); }, "is not a file");
  check_error([&] { return read_plain(path / "no\nne"); }, "no\\x0ane: does not exist");
}

BOOST_FIXTURE_TEST_CASE(wikitext_articles_and_paragraphs, Folder) {
  const std::string text =
      " \n = First = \n \n One . \n \n = = Part = = \n \n Two \n = 1 rad / s = \n Three \n \n"
      " = Second ( thing ) = \n \n Four \n";
  const fs::path file = write("w.raw", text);
  const std::vector<Document> articles = read_wikitext(file);
  BOOST_REQUIRE(articles.size() == 2U);
  BOOST_TEST(articles[0].name == "w.raw: First");
  BOOST_TEST(articles[1].name == "w.raw: Second ( thing )");
  BOOST_TEST(articles[1].text == " = Second ( thing ) = \n \n Four \n");
  BOOST_TEST(joined(articles) == text);

  const std::vector<Document> paragraphs = read_wikitext(file, WikitextUnit::paragraph);
  std::vector<std::string> texts;
  for (const Document& paragraph : paragraphs) texts.push_back(paragraph.text);
  BOOST_TEST((texts == std::vector<std::string>{" One . ", " Two ", " = 1 rad / s = ", " Three ",
                                                " Four "}));
  BOOST_TEST(paragraphs[3].name == "w.raw: First, paragraph 4");
  BOOST_TEST(paragraphs[4].name == "w.raw: Second ( thing ), paragraph 1");

  check_error([&] { return read_wikitext(write("x", "text\n \n = A = \n \n")); },
              "x: line 1: stands before");
  check_error([&] { return read_wikitext(write("y", " \n\n")); }, "has no article title");
}

BOOST_FIXTURE_TEST_CASE(gutenberg_markers, Folder) {
  const auto body = [&](const std::string& text) {
    const std::vector<Document> documents = read_pg19(write("b.txt", text));
    BOOST_REQUIRE(documents.size() == 1U);
    return documents[0].text;
  };
  BOOST_TEST(
      body("Head\r\n*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\r\n\r\n\r\n  Body\r\n\r\n"
           "more\r\n\r\n*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\r\nFoot") ==
      "  Body\n\nmore\n");
  BOOST_TEST(body("***START OF THE PROJECT GUTENBERG EBOOK DAYS IN\nST. PAUL***\nBody\n"
                  "***END OF THE PROJECT GUTENBERG EBOOK DAYS IN ST.\nPAUL***\n"
                  "*** START: FULL LICENSE ***\n") == "Body\n");
  BOOST_TEST(body("*** START OF THIS PROJECT GUTENBERG EBOOK X *** \nBody, the end of it.\n\n"
                  "End of the Project Gutenberg EBook of X\n\n"
                  "*** END OF THIS PROJECT GUTENBERG EBOOK X ***\n") == "Body, the end of it.\n");
  BOOST_TEST(body("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\nBody\n"
                  "End of Project Gutenberg's X\n") == "Body\n");
  BOOST_TEST(body("\n*** Start of the Project Gutenberg eBook X ***\nBody\n"
                  "*** End of the Project Gutenberg eBook X ***") == "Body\n");
  BOOST_TEST(body("No markers\n\n*** at all\n\n") == "No markers\n\n*** at all\n\n");

  const std::string start = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n";
  const std::string end = "*** END OF THE PROJECT GUTENBERG EBOOK X ***\n";
  check_error([&] { return body(start + "Body\n"); }, "b.txt: has a START marker but no END");
  check_error([&] { return body("Body\n" + end); }, "b.txt: has an END marker but no START");
  check_error([&] { return body(end + start); }, "has an END marker but no START");
  check_error([&] { return body(start + "\n\n" + end); }, "has nothing between");
  check_error(
      [&] {
        return body("*** START OF THE PROJECT GUTENBERG EBOOK X\n1\n2\n3\n4\n5\n***\n" + end);
      },
      "does not end in");
}

BOOST_FIXTURE_TEST_CASE(gutenberg_folder, Folder) {
  check_error([&] { return read_pg19(path); }, "has no files *.txt");
  static_cast<void>(write("20.txt", "b"));
  static_cast<void>(write("100.txt", "a"));
  static_cast<void>(write("notes.md", "c"));
  fs::create_directory(path / "z.txt");
  const std::vector<Document> books = read_pg19(path);
  BOOST_REQUIRE(books.size() == 2U);
  BOOST_TEST(books[0].name == "100.txt");
  BOOST_TEST(books[1].text == "b");
  check_error([&] { return read_pg19(path / "none"); }, "does not exist");
}

BOOST_FIXTURE_TEST_CASE(json_lines, Folder) {
  const std::vector<Document> documents =
      read_jsonl(write("d.jsonl", "{\"text\": \"a\\n\\u00e9\", \"id\": 1}\r\n\n{\"text\": \"\"}"));
  BOOST_REQUIRE(documents.size() == 2U);
  BOOST_TEST(documents[0].name == "d.jsonl: line 1");
  BOOST_TEST(documents[0].text == "a\n\xc3\xa9");
  BOOST_TEST(documents[1].name == "d.jsonl: line 3");
  BOOST_TEST(documents[1].text == "");
  const std::string good = "{\"text\": \"a\"}\n";
  check_error([&] { return read_jsonl(write("d", good + "{\"text\": ")); },
              "d: line 2: is not JSON");
  check_error([&] { return read_jsonl(write("d", good + "{\"text\": \"\xff\"}")); },
              "line 2: is not JSON");
  check_error([&] { return read_jsonl(write("d", "[]\n")); }, "line 1: is not an object");
  check_error([&] { return read_jsonl(write("d", "{\"Text\": \"a\"}\n")); },
              "has no field \"text\"");
  check_error([&] { return read_jsonl(write("d", "{\"text\": 3}\n")); }, "is not a string");
  check_error([&] { return read_jsonl(write("d", "\n \n")); }, "has no documents");
}

BOOST_FIXTURE_TEST_CASE(lambada_items, Folder) {
  const auto items = read_lambada(
      write("l.jsonl", "{\"text\": \"He asked for his hat\"}\n\n{\"text\": \"a\\n b c's\"}\n"));
  BOOST_REQUIRE(items.size() == 2U);
  BOOST_TEST(items[0].name == "l.jsonl: line 1");
  BOOST_TEST(items[0].context == "He asked for his");
  BOOST_TEST(items[0].target == " hat");
  BOOST_TEST(items[1].name == "l.jsonl: line 3");
  BOOST_TEST(items[1].context == "a\n b");
  BOOST_TEST(items[1].target == " c's");
  for (const char* text : {"word", " word", "word ", ""}) {
    const auto file = write("bad", std::string("{\"text\": \"") + text + "\"}\n");
    check_error([&] { return read_lambada(file); }, "bad: line 1: has no last word");
  }
}

BOOST_AUTO_TEST_CASE(external_lambada) {
  const fs::path file = source_dir() / "../shared/data/eval/lambada_test.openai.jsonl";
  if (!fs::exists(file)) {
    std::cout << "SKIP external_lambada: the external items are not here\n";
    return;
  }
  const auto items = read_lambada(file);
  BOOST_TEST(items.size() == 5153U);
  BOOST_TEST(items[0].target == " signs");
}

BOOST_AUTO_TEST_CASE(embedded_texts) {
  const fs::path folder = source_dir() / "datasets/texts";
  const std::vector<Document> articles = read_wikitext(folder / "wikitext2_test_excerpt.txt");
  BOOST_REQUIRE(articles.size() == 3U);
  BOOST_TEST(articles[0].name == "wikitext2_test_excerpt.txt: Robert Boulter");
  BOOST_TEST(articles[1].name == "wikitext2_test_excerpt.txt: Du Fu");
  BOOST_TEST(joined(articles) == raw(folder / "wikitext2_test_excerpt.txt"));
  const std::string book = raw(folder / "pg19_10146_excerpt.txt");
  BOOST_TEST(read_pg19(folder / "pg19_10146_excerpt.txt")[0].text == book);
  BOOST_TEST(book.size() > 40000U);
  BOOST_TEST(book.find("Gutenberg") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(external_wikitext) {
  const fs::path file = source_dir() / "../shared/data/text/wikitext-2-raw/wiki.test.raw";
  if (!fs::exists(file)) {
    std::cout << "SKIP external_wikitext: the external texts are not here\n";
    return;
  }
  const std::vector<Document> articles = read_wikitext(file);
  BOOST_TEST(articles.size() == 60U);
  BOOST_TEST(joined(articles) == raw(file));
  const std::vector<Document> paragraphs = read_wikitext(file, WikitextUnit::paragraph);
  BOOST_TEST(paragraphs.size() > articles.size());
  BOOST_TEST(paragraphs.front().text.find(" Robert Boulter is an English film") == 0U);
  const std::string excerpt = raw(source_dir() / "datasets/texts/wikitext2_test_excerpt.txt");
  BOOST_TEST(joined({articles.begin(), articles.begin() + 3}) == excerpt);
}

BOOST_AUTO_TEST_CASE(external_books) {
  const fs::path folder = source_dir() / "../shared/data/text";
  if (!fs::exists(folder / "pg19")) {
    std::cout << "SKIP external_books: the external texts are not here\n";
    return;
  }
  const std::vector<Document> test_set = read_pg19(folder / "pg19");
  BOOST_REQUIRE(test_set.size() == 2U);
  BOOST_TEST(test_set[0].name == "10146.txt");
  BOOST_TEST(test_set[0].text.find("E-text prepared by") == 0U);
  BOOST_TEST(test_set[0].text.ends_with("\nto have as a fellow workman.\n"));
  BOOST_TEST(test_set[1].text.find("Produced by Juliet") == 0U);
  std::vector<Document> all = read_pg19(folder / "books");
  BOOST_TEST(all.size() == 3U);
  all.insert(all.end(), test_set.begin(), test_set.end());
  for (const Document& book : all) {
    BOOST_TEST(book.text.size() > 200000U, book.name);
    BOOST_TEST(book.text.find("PROJECT GUTENBERG") == std::string::npos, book.name);
    BOOST_TEST(book.text.find("Project Gutenberg License") == std::string::npos, book.name);
    BOOST_TEST(book.text.find('\r') == std::string::npos, book.name);
  }
  const std::string excerpt = raw(source_dir() / "datasets/texts/pg19_10146_excerpt.txt");
  BOOST_TEST((test_set[0].text.find(excerpt) != std::string::npos));
}

}  // namespace
