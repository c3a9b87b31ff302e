#include "support/files.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <system_error>

#include "moesim/error.hpp"

namespace moesim {
namespace fs = std::filesystem;

std::string read_file(const std::string& path, std::size_t limit) {
  const SourcePlace place{path, 0, 0};
  std::error_code ec;
  const fs::file_status status = fs::status(path, ec);
  if (!fs::exists(status)) throw InputError(place, "no such file");
  if (fs::is_directory(status)) throw InputError(place, "is a directory, not a file");

  // gzopen reads plain files as they are.
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> in(gzopen(path.c_str(), "rb"), gzclose);
  if (!in) throw InputError(place, fmt::format("cannot be opened: {}", std::strerror(errno)));
  gzbuffer(in.get(), 1U << 17);
  std::string out;
  std::string chunk(std::size_t{1} << 20, '\0');
  for (;;) {
    const int n = gzread(in.get(), chunk.data(), static_cast<unsigned>(chunk.size()));
    if (n < 0) {
      int code = 0;
      const char* what = gzerror(in.get(), &code);
      throw InputError(place, fmt::format("cannot be read: {}", code == Z_ERRNO ? std::strerror(errno) : what));
    }
    if (n == 0) break;
    out.append(chunk, 0, static_cast<std::size_t>(n));
    if (out.size() > limit) throw InputError(place, fmt::format("is larger than {} bytes", limit));
  }
  int code = Z_OK;
  gzerror(in.get(), &code);
  if (code == Z_BUF_ERROR) throw InputError(place, "is truncated: the gzip stream ends early");
  return out;
}

void write_file(const std::string& path, const std::function<void(std::ostream&)>& write) {
  const SourcePlace place{path, 0, 0};
  const fs::path target(path);
  std::error_code ec;
  if (fs::is_directory(target, ec)) throw InputError(place, "cannot be written: is a directory");
  if (target.has_parent_path()) {
    fs::create_directories(target.parent_path(), ec);
    if (ec) throw InputError(place, fmt::format("its directory cannot be made: {}", ec.message()));
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  struct Cleanup {
    const std::string& name;
    ~Cleanup() {
      std::error_code ignored;
      fs::remove(name, ignored);
    }
  } cleanup{temporary};
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    if (!out) throw InputError(place, fmt::format("cannot be written: {}", std::strerror(errno)));
    write(out);
    out.flush();
    if (!out) throw InputError(place, "cannot be written: the disk may be full");
  }
  fs::rename(temporary, target, ec);
  if (ec) throw InputError(place, fmt::format("cannot be written: {}", ec.message()));
}

void write_file(const std::string& path, std::string_view content) {
  write_file(path, [&](std::ostream& out) { out.write(content.data(), static_cast<std::streamsize>(content.size())); });
}

std::string data_path(std::string_view relative) {
  std::vector<fs::path> roots;
  if (const char* env = std::getenv("MOESIM_DATA_DIR")) roots.emplace_back(env);
  std::error_code ec;
  if (const fs::path self = fs::read_symlink("/proc/self/exe", ec); !ec)
    roots.push_back(self.parent_path().parent_path() / "share" / "moesim");
  roots.emplace_back(MOESIM_SOURCE_DIR);
  std::string tried;
  for (const fs::path& root : roots) {
    const fs::path candidate = root / relative;
    if (fs::exists(candidate, ec)) return candidate.string();
    tried += fmt::format("{}{}", tried.empty() ? "" : ", ", root.string());
  }
  throw InputError({std::string(relative), 0, 0}, fmt::format("not found among the shipped data (looked in {})", tried),
                   "set MOESIM_DATA_DIR to the directory that holds models/ and scenarios/");
}

}  // namespace moesim
