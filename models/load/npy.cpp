// NumPy's .npy: magic, version, length of the header, a Python dict literal, then the array
// (numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <optional>
#include <ostream>
#include <string_view>
#include <utility>

#include "models/load/problems.hpp"
#include "models/load/recording.hpp"
#include "models/load/trace.hpp"
#include "support/files.hpp"

namespace moesim::load {
namespace {

using namespace std::literals;

// A file's bytes: mapped, or decompressed into memory.
class FileView {
 public:
  explicit FileView(const std::string& path) {
    struct ::stat status{};
    const int file = path.ends_with(".gz") ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file >= 0 && ::fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
      size_ = static_cast<std::size_t>(status.st_size);
      void* const address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
      if (address != MAP_FAILED) mapped_ = static_cast<const char*>(address);
    }
    if (file >= 0) ::close(file);
    if (mapped_ == nullptr) content_ = read_file(path);  // compressed, empty, not a file: this knows what to say
  }
  FileView(const FileView&) = delete;
  FileView& operator=(const FileView&) = delete;
  ~FileView() {
    if (mapped_ != nullptr) ::munmap(const_cast<char*>(mapped_), size_);
  }
  [[nodiscard]] std::string_view bytes() const {
    return mapped_ != nullptr ? std::string_view(mapped_, size_) : std::string_view(content_);
  }

 private:
  const char* mapped_ = nullptr;
  std::size_t size_ = 0;
  std::string content_;
};

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;
  std::size_t data = 0;  // where the array begins
};

// The value after 'key': in the dict literal, up to what ends it.
std::optional<std::string_view> value_of(std::string_view dict, std::string_view key) {
  const std::size_t at = dict.find(fmt::format("'{}':", key));
  if (at == std::string_view::npos) return std::nullopt;
  std::string_view rest = dict.substr(at + key.size() + 3);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  const std::size_t end = rest.starts_with("(")   ? rest.find(')') + 1
                          : rest.starts_with("'") ? rest.find('\'', 1) + 1
                                                  : rest.find_first_of(",}");
  if (end == 0 || end == std::string_view::npos) return std::nullopt;
  return rest.substr(0, end);
}

std::optional<std::vector<std::int64_t>> parse_shape(std::string_view tuple) {
  std::vector<std::int64_t> out;
  tuple = tuple.substr(1, tuple.size() - 2);
  while (!tuple.empty()) {
    tuple.remove_prefix(std::min(tuple.find_first_not_of(" ,"), tuple.size()));
    if (tuple.empty()) break;
    std::int64_t n = 0;
    const auto [end, error] = std::from_chars(tuple.data(), tuple.data() + tuple.size(), n);
    if (error != std::errc{} || n < 0) return std::nullopt;
    out.push_back(n);
    tuple.remove_prefix(static_cast<std::size_t>(end - tuple.data()));
  }
  return out;
}

[[noreturn]] void refuse(const std::string& path, std::string message, std::string hint = {}) {
  throw InputError(SourcePlace{path, 0, 0}, std::move(message), std::move(hint));
}

Header parse_header(std::string_view bytes, const std::string& path) {
  constexpr std::string_view magic = "\x93NUMPY";
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  if (bytes.empty()) refuse(path, "is empty");
  if (!bytes.starts_with(magic)) refuse(path, "is not a .npy file: it does not begin with \\x93NUMPY");
  if (bytes.size() < 12) refuse(path, "is truncated: it ends inside the .npy header");
  if (byte(6) < 1 || byte(6) > 3)
    refuse(path, fmt::format("has .npy version {}.{}; versions 1 to 3 are known", byte(6), byte(7)));
  const std::size_t begin = byte(6) == 1 ? 10 : 12;
  const std::size_t length = byte(8) | byte(9) << 8 | (byte(6) == 1 ? 0 : byte(10) << 16 | byte(11) << 24);
  if (bytes.size() - begin < length)
    refuse(path, fmt::format("is truncated: its header has {} of {} bytes", bytes.size() - begin, length));

  const std::string_view dict = bytes.substr(begin, length);
  const auto descr = value_of(dict, "descr");
  const auto fortran = value_of(dict, "fortran_order");
  const auto shape_text = value_of(dict, "shape");
  if (!descr || !fortran || !shape_text || !shape_text->starts_with("("))
    refuse(path, fmt::format("has a .npy header without descr, fortran_order or shape: {:.100}", dict));
  const auto shape = parse_shape(*shape_text);
  if (!shape) refuse(path, fmt::format("has a .npy header with the shape {}", *shape_text));
  std::string_view type = *descr;
  if (type.starts_with("'")) type = type.substr(1, type.size() - 2);
  return {std::string(type), *fortran == "True", *shape, begin + length};
}

template <class T>
void convert(std::string_view data, Recording& out, int experts, Problems& problems) {
  const auto k = static_cast<std::size_t>(out.top_k);
  std::vector<std::int64_t> ids(k);
  TokenCheck check(experts);
  for (int layer = 0; layer < out.layers; ++layer) {
    for (std::int64_t token = 0; token < out.tokens; ++token) {
      const std::size_t offset = out.offset(layer, token);
      for (std::size_t i = 0; i < k; ++i) {
        T id{};
        std::memcpy(&id, data.data() + (offset + i) * sizeof(T), sizeof(T));
        // Above 2^63 only garbage: shown as negative.
        // NOLINTNEXTLINE(bugprone-signed-char-misuse): an int8 is a number here
        ids[i] = static_cast<std::int64_t>(id);
      }
      if (std::string fault = check.fault(ids); !fault.empty())
        problems.add(0, 0, fmt::format("[layer {}, token {}]: {}", layer, token, fault));
      else
        out.ids.set(offset, ids);
    }
  }
}

using Converter = void (*)(std::string_view, Recording&, int, Problems&);
struct Type {
  std::string_view name;
  std::size_t size;
  Converter converter;
};
constexpr Type types[] = {
    {"i1", 1, convert<std::int8_t>},   {"i2", 2, convert<std::int16_t>},  {"i4", 4, convert<std::int32_t>},
    {"i8", 8, convert<std::int64_t>},  {"u1", 1, convert<std::uint8_t>},  {"u2", 2, convert<std::uint16_t>},
    {"u4", 4, convert<std::uint32_t>}, {"u8", 8, convert<std::uint64_t>},
};

const Type& type_of(const Header& header, const std::string& path) {
  const std::string_view descr = header.descr;
  const auto* const it = std::find_if(std::begin(types), std::end(types),
                                      [&](const Type& t) { return descr.size() == 3 && descr.substr(1) == t.name; });
  if (it == std::end(types))
    refuse(path, fmt::format("holds {}; expert ids are integers of 1 to 8 bytes", descr),
           "save ids.astype('<i2') from NumPy");
  if (descr[0] == '>' && it->size > 1)
    refuse(path, fmt::format("holds big-endian integers ({})", descr), "save ids.astype('<i2') from NumPy");
  if (header.fortran_order) refuse(path, "is in Fortran order", "save numpy.ascontiguousarray(ids)");
  if (header.shape.size() != 3)
    refuse(path, fmt::format("has shape ({}); [layers, tokens, top_k] is needed", fmt::join(header.shape, ", ")),
           header.shape.size() == 2 ? "for one layer, save ids[None]" : "");
  return *it;
}

}  // namespace

Recording read_npy(const std::string& path, int experts) {
  const FileView file(path);
  const Header header = parse_header(file.bytes(), path);
  const Type& type = type_of(header, path);
  const auto [layers, tokens, top_k] = std::array{header.shape[0], header.shape[1], header.shape[2]};
  if (layers == 0 || tokens == 0 || top_k == 0)
    refuse(path, fmt::format("is empty: shape ({}, {}, {})", layers, tokens, top_k));
  if (top_k > experts)
    refuse(path, fmt::format("has {} ids per token, the model has {} experts", top_k, experts),
           "the order of the axes is [layers, tokens, top_k]");

  const std::string_view data = file.bytes().substr(header.data);
  const auto needed = static_cast<__int128>(layers) * tokens * top_k * static_cast<std::int64_t>(type.size);
  if (static_cast<__int128>(data.size()) != needed || layers > std::numeric_limits<int>::max())
    refuse(path, fmt::format("{}: shape ({}, {}, {}) of {} needs {} bytes, there are {}",
                             static_cast<__int128>(data.size()) < needed ? "is truncated" : "has bytes after the array",
                             layers, tokens, top_k, header.descr, static_cast<double>(needed), data.size()));
  Recording out{static_cast<int>(layers), static_cast<int>(top_k), tokens, ExpertIds(experts)};
  out.ids.resize(static_cast<std::size_t>(layers * tokens * top_k));
  Problems problems(path);
  type.converter(data, out, experts, problems);
  problems.throw_if_any();
  return out;
}

void write_npy(const std::string& path, const Routing& routing, std::int64_t first, std::int64_t count) {
  const bool narrow = routing.experts() <= 256;
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}, {}, {}), }}",
                                   narrow ? "|u1" : "<u2", routing.moe_layers(), count, routing.top_k());
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10, ' ');  // the array begins at a multiple of 64 bytes
  header.back() = '\n';
  write_file(path, [&](std::ostream& out) {
    out << "\x93NUMPY\x01" << '\0' << static_cast<char>(header.size() & 0xff) << static_cast<char>(header.size() >> 8)
        << header;
    constexpr std::int64_t block = 1 << 14;
    std::vector<ExpertIndex> ids;
    std::string bytes;
    for (int layer = 0; layer < routing.moe_layers(); ++layer) {
      for (std::int64_t at = 0; at < count; at += block) {
        ids.resize(static_cast<std::size_t>(std::min(block, count - at) * routing.top_k()));
        routing.assign(layer, first + at, ids);
        bytes.clear();
        for (const ExpertIndex e : ids) {
          bytes += static_cast<char>(e & 0xff);
          if (!narrow) bytes += static_cast<char>(e >> 8);
        }
        out << bytes;
      }
    }
  });
}

}  // namespace moesim::load
