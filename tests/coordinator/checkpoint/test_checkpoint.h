// A small R1-architecture checkpoint in memory that tests bend and write to a temporary folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace whalepod {

struct TestTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
  int file = 0;
};

struct TestCheckpoint {
  nlohmann::json config;
  nlohmann::json generation;  // null: no file
  std::map<std::string, TestTensor> tensors;
  std::vector<std::string> files;
  bool with_index = true;
  std::map<std::string, std::string> index;  // weight_map; filled from tensors where empty

  // Every tensor of the config's inventory with distinct bytes, over two files with an index.
  static TestCheckpoint Make(nlohmann::json config);

  void Add(const std::string& name, const std::string& dtype, std::vector<int64_t> shape,
           int file = 0);
  void Write(const std::filesystem::path& dir) const;
};

// One dense and two expert layers, FP8 blocks of 32 with ragged last blocks.
nlohmann::json TinyConfig();

// The bytes of a file with this JSON header and this much data after it.
std::string FileBytes(const std::string& header, const std::string& data);

void WriteFile(const std::filesystem::path& path, const std::string& bytes);

// A new empty folder, removed with everything in it at the end.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace whalepod
