// Files: whole reads with errors that name the file, atomic writes, and where shipped data lives.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <string_view>

namespace moesim {

// The whole file as bytes. Throws InputError: missing, a directory, unreadable, or larger than `limit` bytes.
// A name that ends in .gz is decompressed (zlib); a truncated or corrupt stream is an InputError too.
std::string read_file(const std::string& path, std::size_t limit = std::size_t{4} << 30);

// Writes to a temporary name beside `path` and renames it, so that a reader never sees half a file. Creates missing
// parent directories. Throws InputError when that cannot be done; the temporary is removed.
void write_file(const std::string& path, std::string_view content);
void write_file(const std::string& path, const std::function<void(std::ostream&)>& write);

// Shipped data ("models/hardware/h100_sxm.toml"): below $MOESIM_DATA_DIR, else beside the installed program in
// ../share/moesim, else in the source tree it was built from. Throws InputError when there is no such file.
std::string data_path(std::string_view relative);

}  // namespace moesim
