// SPDX-License-Identifier: Apache-2.0
#include <zip.h>

#include <algorithm>
#include <string>

#include "engine/error.hpp"
#include "engine/safetensors.hpp"
#include "eval/foreign_readers.hpp"

namespace neoxref::eval::foreign {
namespace {

using engine::Error;

/// An archive over a mapped file.
class Archive {
public:
  Archive(SharedFile file, std::string place) : file_(std::move(file)), place_(std::move(place)) {
    zip_error_t problem;
    zip_error_init(&problem);
    zip_source_t* const source =
        zip_source_buffer_create(file_->bytes().data(), file_->bytes().size(), 0, &problem);
    if (source != nullptr) {
      zip_ = zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &problem);
      if (zip_ == nullptr) zip_source_free(source);
    }
    if (zip_ == nullptr) {
      const std::string text = zip_error_strerror(&problem);
      zip_error_fini(&problem);
      throw Error(place_, "not a whole zip archive: " + text);
    }
    zip_error_fini(&problem);
  }
  ~Archive() { zip_discard(zip_); }
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  zip_uint64_t members() const { return static_cast<zip_uint64_t>(zip_get_num_entries(zip_, 0)); }
  std::string name(zip_uint64_t index) const {
    const char* const text = zip_get_name(zip_, index, ZIP_FL_ENC_RAW);
    if (text == nullptr) fail(index, zip_strerror(zip_));
    return text;
  }
  std::uint64_t size(zip_uint64_t index) const {
    zip_stat_t facts;
    zip_stat_init(&facts);
    if (zip_stat_index(zip_, index, 0, &facts) != 0 || (facts.valid & ZIP_STAT_SIZE) == 0) {
      fail(index, zip_strerror(zip_));
    }
    return facts.size;
  }
  /// The first `count` bytes of a member, unpacked; its checksum is looked at when these are all.
  std::vector<std::byte> read(zip_uint64_t index, std::size_t count) const {
    zip_file_t* const member = zip_fopen_index(zip_, index, 0);
    if (member == nullptr) fail(index, zip_strerror(zip_));
    std::vector<std::byte> bytes(count);
    std::size_t done = 0;
    std::string problem;
    while (done < count) {
      const zip_int64_t got = zip_fread(member, bytes.data() + done, count - done);
      if (got <= 0) {
        problem = got < 0 ? zip_error_strerror(zip_file_get_error(member)) : "it ends too early";
        break;
      }
      done += static_cast<std::size_t>(got);
    }
    std::byte more{};
    if (problem.empty() && count == size(index) && zip_fread(member, &more, 1) < 0) {
      problem = zip_error_strerror(zip_file_get_error(member));
    }
    zip_fclose(member);
    if (!problem.empty()) fail(index, problem);
    return bytes;
  }

private:
  [[noreturn]] void fail(zip_uint64_t index, const std::string& problem) const {
    throw Error(place_ + ": member " + std::to_string(index), "cannot be read: " + problem);
  }

  SharedFile file_;
  std::string place_;
  zip_t* zip_ = nullptr;
};

}  // namespace

void read_npz(const SharedFile& file, const std::string& place, ForeignFile& into) {
  into.format = "npz";
  const auto archive = std::make_shared<const Archive>(file, place);
  for (zip_uint64_t index = 0; index < archive->members(); ++index) {
    const std::string name = archive->name(index);
    const std::string where = place + ": " + name;
    if (!name.ends_with(".npy")) {
      into.notes.push_back(where + ": not read, as it is no array");
      continue;
    }
    const std::uint64_t size = archive->size(index);
    const auto start =
        archive->read(index, static_cast<std::size_t>(std::min<std::uint64_t>(size, 65536)));
    const NpyHeader header = parse_npy(start, where);
    if (size != header.data + header.bytes) {
      throw Error(
          where, size < header.data + header.bytes ? "truncated" : "longer than its shape says",
          engine::shape_text(header.shape) + " = " + std::to_string(header.bytes) + " bytes",
          std::to_string(size - std::min<std::uint64_t>(size, header.data)));
    }
    into.arrays.push_back({name.substr(0, name.size() - 4), where, header.type, header.shape,
                           header.column_major, [archive, index, header] {
                             auto bytes = std::make_shared<const std::vector<std::byte>>(
                                 archive->read(index, header.data + header.bytes));
                             return ForeignBytes{std::span(*bytes).subspan(header.data), bytes};
                           }});
  }
}

}  // namespace neoxref::eval::foreign
