#include "coordinator/checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "base/units.h"
#include "coordinator/checkpoint/config.h"
#include "coordinator/checkpoint/file_io.h"
#include "coordinator/checkpoint/index.h"
#include "coordinator/checkpoint/inventory.h"
#include "coordinator/checkpoint/json.h"
#include "coordinator/checkpoint/safetensors.h"

namespace whalepod {
namespace {

constexpr int64_t kMaxConfigBytes = kMiB;
constexpr int64_t kMaxIndexBytes = 256 * kMiB;
constexpr char kConfig[] = "config.json";
constexpr char kGenerationConfig[] = "generation_config.json";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kSingle[] = "model.safetensors";

class Opener {
 public:
  explicit Opener(const std::string& dir) { checkpoint_.dir = dir; }

  absl::StatusOr<Checkpoint> Run() {
    std::error_code error;
    if (!std::filesystem::is_directory(checkpoint_.dir, error)) {
      return absl::NotFoundError(absl::StrCat(checkpoint_.dir, ": no such folder"));
    }
    RETURN_IF_ERROR(ReadConfigs());
    RETURN_IF_ERROR(ReadIndex());
    for (uint32_t file = 0; file < checkpoint_.files.size(); ++file) {
      RETURN_IF_ERROR(ReadHeader(file));
    }
    RETURN_IF_ERROR(CheckIndexKept());
    inventory_ = Inventory(checkpoint_.model);
    for (const InventoryTensor& expected : inventory_) RETURN_IF_ERROR(CheckTensor(expected));
    RETURN_IF_ERROR(SortOutOthers());
    checkpoint_.has_tokenizer = FileExists(Path("tokenizer.json"));
    return std::move(checkpoint_);
  }

 private:
  std::string Path(const std::string& name) const {
    return (std::filesystem::path(checkpoint_.dir) / name).string();
  }
  // Where a tensor that is nowhere should have been listed.
  std::string Listing() const { return index_.has_value() ? Path(kIndex) : Path(kSingle); }

  absl::Status ReadConfigs() {
    const std::string path = Path(kConfig);
    ASSIGN_OR_RETURN(const std::string config, ReadWholeFile(path, kMaxConfigBytes));
    ASSIGN_OR_RETURN(checkpoint_.model, ParseModelConfig(config, path));
    checkpoint_.model.set_name(
        std::filesystem::absolute(checkpoint_.dir).lexically_normal().filename().string());
    if (checkpoint_.model.name().empty()) {  // a trailing slash
      checkpoint_.model.set_name(std::filesystem::absolute(checkpoint_.dir)
                                     .lexically_normal()
                                     .parent_path()
                                     .filename()
                                     .string());
    }
    const std::string generation = Path(kGenerationConfig);
    if (!FileExists(generation)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(generation, kMaxConfigBytes));
    return ApplyGenerationConfig(text, generation, checkpoint_.model, checkpoint_.defaults);
  }

  absl::Status ReadIndex() {
    const std::string path = Path(kIndex);
    if (!FileExists(path)) {
      if (!FileExists(Path(kSingle))) {
        return absl::NotFoundError(absl::StrCat(checkpoint_.dir, ": expected ", kIndex, " or ",
                                                kSingle, ", found neither"));
      }
      checkpoint_.files = {kSingle};
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxIndexBytes));
    ASSIGN_OR_RETURN(index_, ParseCheckpointIndex(text, path));
    checkpoint_.files = index_->files;
    for (const std::string& file : checkpoint_.files) {
      if (FileExists(Path(file))) continue;
      return absl::NotFoundError(
          absl::StrCat(path, ": names the file ", Quoted(file), ", which is missing"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadHeader(uint32_t file) {
    const std::string path = Path(checkpoint_.files[file]);
    ASSIGN_OR_RETURN(const OpenFile open, OpenForReading(path));
    std::string prefix(static_cast<size_t>(std::min<int64_t>(8, open.bytes)), '\0');
    RETURN_IF_ERROR(
        ReadExactly(open.fd.get(), path, 0, static_cast<int64_t>(prefix.size()), prefix.data()));
    ASSIGN_OR_RETURN(const int64_t bytes, SafetensorsHeaderBytes(prefix, open.bytes, path));
    std::string json(static_cast<size_t>(bytes), '\0');
    RETURN_IF_ERROR(ReadExactly(open.fd.get(), path, 8, bytes, json.data()));
    ASSIGN_OR_RETURN(std::vector<SafetensorsEntry> entries,
                     ParseSafetensorsHeader(json, open.bytes, path));
    for (SafetensorsEntry& entry : entries) {
      if (index_.has_value()) RETURN_IF_ERROR(CheckIndexed(entry, file));
      StoredTensor stored;
      stored.dtype = WeightDType(entry.dtype);
      stored.shape = std::move(entry.shape);
      stored.file = file;
      stored.offset = entry.begin;
      stored.bytes = entry.end - entry.begin;
      if (stored.dtype == v1::DTYPE_UNSPECIFIED) other_dtypes_[entry.name] = entry.dtype;
      checkpoint_.tensors.emplace(std::move(entry.name), std::move(stored));
    }
    return absl::OkStatus();
  }

  // A tensor found in `file` is one the index puts there.
  absl::Status CheckIndexed(const SafetensorsEntry& entry, uint32_t file) const {
    const auto it = index_->tensors.find(entry.name);
    if (it != index_->tensors.end() && it->second == file) return absl::OkStatus();
    const std::string found = absl::StrCat(Path(kIndex), ": tensor ", Quoted(entry.name),
                                           ": is in ", checkpoint_.files[file], ", and ");
    if (it == index_->tensors.end()) {
      return absl::InvalidArgumentError(absl::StrCat(found, "the index does not list it"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat(found, "the index says ", checkpoint_.files[it->second]));
  }

  // Every tensor of the index was found (in its file, by CheckIndexed).
  absl::Status CheckIndexKept() const {
    if (!index_.has_value() || index_->tensors.size() == checkpoint_.tensors.size()) {
      return absl::OkStatus();
    }
    const std::string* first = nullptr;
    for (const auto& [name, file] : index_->tensors) {
      if (checkpoint_.tensors.contains(name)) continue;
      if (first == nullptr || name < *first) first = &name;
    }
    return absl::InvalidArgumentError(
        absl::StrCat(Path(kIndex), ": tensor ", Quoted(*first), ": expected in ",
                     checkpoint_.files[index_->tensors.at(*first)], ", which does not have it"));
  }

  std::string FoundText(const std::string& name, const StoredTensor& stored) const {
    const auto other = other_dtypes_.find(name);
    return ShapeText(other == other_dtypes_.end() ? SafetensorsName(stored.dtype)
                                                  : absl::string_view(other->second),
                     stored.shape);
  }

  bool Quantised() const { return checkpoint_.model.fp8_block_rows() > 0; }

  absl::Status CheckTensor(const InventoryTensor& expected) const {
    const std::vector<int64_t> shape = expected.vector
                                           ? std::vector<int64_t>{expected.cols}
                                           : std::vector<int64_t>{expected.rows, expected.cols};
    bool allowed = false;
    const auto it = checkpoint_.tensors.find(expected.name);
    const v1::DType found =
        it == checkpoint_.tensors.end() ? v1::DTYPE_UNSPECIFIED : it->second.dtype;
    std::string dtypes = "BF16, F16 or F32";
    if (expected.is_scale) {
      dtypes = "F32";
      allowed = found == v1::DTYPE_F32;
    } else if (expected.quantisable && Quantised()) {
      dtypes = "F8_E4M3";
      allowed = found == v1::DTYPE_F8_E4M3;
    } else {
      allowed = found == v1::DTYPE_F32 || found == v1::DTYPE_BF16 || found == v1::DTYPE_F16;
    }
    const std::string what = absl::StrCat("tensor ", Quoted(expected.name), ": expected ",
                                          ShapeText(dtypes, shape), ", found ");
    if (it == checkpoint_.tensors.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Listing(), ": ", what, "none",
                       expected.is_scale ? " (the scales of an FP8 weight)" : ""));
    }
    if (allowed && it->second.shape == shape) return CheckLikeFirstExpert(expected, it->second);
    const char* hint = found == v1::DTYPE_F8_E4M3 && expected.quantisable && !Quantised()
                           ? " (config.json has no quantization_config)"
                           : "";
    return absl::InvalidArgumentError(absl::StrCat(Path(checkpoint_.files[it->second.file]), ": ",
                                                   what, FoundText(expected.name, it->second),
                                                   hint));
  }

  // The products of a layer's experts are made together, with weights of one type.
  absl::Status CheckLikeFirstExpert(const InventoryTensor& tensor,
                                    const StoredTensor& stored) const {
    if (tensor.expert == 0 || tensor.is_scale) return absl::OkStatus();
    const std::string first = absl::StrReplaceAll(
        tensor.name, {{absl::StrCat(".experts.", tensor.expert, "."), ".experts.0."}});
    const auto it = checkpoint_.tensors.find(first);
    if (it == checkpoint_.tensors.end() || it->second.dtype == stored.dtype) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat(Path(checkpoint_.files[stored.file]), ": tensor ", Quoted(tensor.name),
                     ": expected ", SafetensorsName(it->second.dtype), " as ", Quoted(first),
                     " has, found ", SafetensorsName(stored.dtype)));
  }

  // Tensors that the model does not have are skipped where it is known why, and refused otherwise.
  absl::Status SortOutOthers() {
    if (inventory_.size() == checkpoint_.tensors.size()) return absl::OkStatus();
    std::unordered_set<std::string_view> known;
    known.reserve(inventory_.size());
    for (const InventoryTensor& tensor : inventory_) known.insert(tensor.name);
    const v1::ModelSpec& model = checkpoint_.model;
    for (const auto& [name, stored] : checkpoint_.tensors) {
      if (known.contains(name)) continue;
      const bool nextn =
          IsNextnTensor(model, name) &&
          LayerOfTensor(name) < model.num_hidden_layers() + model.num_nextn_predict_layers();
      const bool tied_head = model.tie_word_embeddings() && name == "lm_head.weight";
      if (nextn || tied_head || absl::EndsWith(name, ".rotary_emb.inv_freq")) {
        checkpoint_.skipped.push_back(name);
        continue;
      }
      std::string why = "the model of config.json has no such tensor";
      if (IsNextnTensor(model, name)) {
        absl::StrAppend(&why, " (num_hidden_layers ", model.num_hidden_layers(),
                        ", num_nextn_predict_layers ", model.num_nextn_predict_layers(), ")");
      }
      return absl::InvalidArgumentError(absl::StrCat(Path(checkpoint_.files[stored.file]),
                                                     ": tensor ", Quoted(name), ": found ",
                                                     FoundText(name, stored), ", but ", why));
    }
    return absl::OkStatus();
  }

  Checkpoint checkpoint_;
  std::optional<CheckpointIndex> index_;
  std::map<std::string, std::string> other_dtypes_;  // of tensors with none of v1::DType
  std::vector<InventoryTensor> inventory_;
};

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) { return Opener(dir).Run(); }

}  // namespace whalepod
