#include "coordinator/checkpoint/safetensors.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "coordinator/checkpoint/json.h"

namespace whalepod {
namespace {

constexpr int64_t kPrefixBytes = 8;
constexpr size_t kMaxRank = 16;

// Bits of one element; 0 for an unknown type.
int BitsOf(absl::string_view dtype) {
  struct Known {
    absl::string_view name;
    int bits;
  };
  static constexpr Known kKnown[] = {
      {"BF16", 16},       {"F8_E4M3", 8},    {"F32", 32},    {"F16", 16},    {"BOOL", 8},
      {"U8", 8},          {"I8", 8},         {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16},        {"I32", 32},       {"U32", 32},    {"I64", 64},    {"U64", 64},
      {"F64", 64},        {"C64", 64},       {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
      {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}};
  for (const Known& known : kKnown) {
    if (known.name == dtype) return known.bits;
  }
  return 0;
}

// Reads the header's JSON into entries. Offsets stay relative to the buffer.
class HeaderSax : public StrictSax {
 public:
  std::vector<SafetensorsEntry> entries;

  bool start_object(size_t) override {
    switch (at_) {
      case At::kStart:
        at_ = At::kNames;
        return true;
      case At::kName:
        at_ = name_ == "__metadata__" ? At::kMetadata : At::kEntry;
        return true;
      default:
        return FailHere("an object where none is allowed");
    }
  }

  bool end_object() override {
    switch (at_) {
      case At::kEntry:
        at_ = At::kNames;
        return FinishEntry();
      case At::kMetadata:
        at_ = At::kNames;
        return true;
      default:
        return true;
    }
  }

  bool key(std::string& value) override {
    if (at_ == At::kNames) {
      at_ = At::kName;
      name_ = std::move(value);
      entry_ = SafetensorsEntry();
      offsets_.clear();
      fields_ = 0;
      if (name_ != "__metadata__") return true;
      if (metadata_seen_) return Fail("__metadata__ twice");
      metadata_seen_ = true;
      return true;
    }
    if (at_ == At::kMetadata) {
      metadata_keys_.push_back(value);
      at_ = At::kMetadataValue;
      return true;
    }
    if (value == "dtype") return Field(At::kDtype, kDtypeField, "dtype");
    if (value == "shape") return Field(At::kShape, kShapeField, "shape");
    if (value == "data_offsets") return Field(At::kOffsets, kOffsetsField, "data_offsets");
    return FailHere(
        absl::StrCat("unknown field ", Quoted(value), ", expected dtype, shape and data_offsets"));
  }

  bool string(std::string& value) override {
    if (at_ == At::kMetadataValue) {
      at_ = At::kMetadata;
      return true;
    }
    if (at_ != At::kDtype) return FailHere(absl::StrCat("unexpected string ", Quoted(value)));
    entry_.dtype = std::move(value);
    at_ = At::kEntry;
    return true;
  }

  bool start_array(size_t) override {
    if (at_ == At::kShape) {
      at_ = At::kShapeValues;
    } else if (at_ == At::kOffsets) {
      at_ = At::kOffsetValues;
    } else {
      return FailHere("an array where none is allowed");
    }
    return true;
  }

  bool end_array() override {
    if (at_ == At::kOffsetValues && offsets_.size() != 2) {
      return FailHere(absl::StrCat("data_offsets: expected 2 numbers, found ", offsets_.size()));
    }
    at_ = At::kEntry;
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return FailHere(absl::StrCat("the number ", value, " is too large"));
    }
    if (at_ == At::kShapeValues) {
      if (entry_.shape.size() == kMaxRank) {
        return FailHere(absl::StrCat("shape: more than ", kMaxRank, " dimensions"));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (at_ == At::kOffsetValues) {
      if (offsets_.size() == 2) return FailHere("data_offsets: expected 2 numbers, found more");
      offsets_.push_back(static_cast<int64_t>(value));
      return true;
    }
    return FailHere(absl::StrCat("unexpected number ", value));
  }
  bool number_integer(int64_t value) override {
    return FailHere(absl::StrCat("unexpected negative number ", value));
  }
  bool number_float(double, const std::string& text) override {
    return FailHere(absl::StrCat("unexpected number ", text));
  }
  bool boolean(bool) override { return FailHere("unexpected boolean"); }
  bool null() override { return FailHere("unexpected null"); }

  // The first metadata key that is there twice, or nothing.
  std::string RepeatedMetadataKey() {
    std::sort(metadata_keys_.begin(), metadata_keys_.end());
    const auto it = std::adjacent_find(metadata_keys_.begin(), metadata_keys_.end());
    return it == metadata_keys_.end() ? std::string() : Quoted(*it);
  }

 private:
  enum class At {
    kStart,          // before the outer object
    kNames,          // in it, before a name
    kName,           // after a name
    kEntry,          // in a tensor's object
    kDtype,          // after its key
    kShape,          // after its key
    kShapeValues,    // in its array
    kOffsets,        // after its key
    kOffsetValues,   // in its array
    kMetadata,       // in __metadata__
    kMetadataValue,  // after one of its keys
  };
  enum FieldBit { kDtypeField = 1, kShapeField = 2, kOffsetsField = 4 };

  bool FailHere(const std::string& what) {
    if (at_ == At::kStart) return Fail(absl::StrCat(what, ", expected an object"));
    if (at_ == At::kMetadata || at_ == At::kMetadataValue || name_ == "__metadata__") {
      return Fail(absl::StrCat("__metadata__: ", what, ", expected strings"));
    }
    return Fail(absl::StrCat("tensor ", Quoted(name_), ": ", what));
  }

  bool Field(At next, FieldBit bit, const char* field) {
    if (fields_ & bit) return FailHere(absl::StrCat(field, " twice"));
    fields_ |= bit;
    at_ = next;
    return true;
  }

  bool FinishEntry() {
    if (!(fields_ & kDtypeField)) return FailHere("no dtype");
    if (!(fields_ & kShapeField)) return FailHere("no shape");
    if (!(fields_ & kOffsetsField)) return FailHere("no data_offsets");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    entry_.name = std::move(name_);
    entries.push_back(std::move(entry_));
    return true;
  }

  At at_ = At::kStart;
  std::string name_;
  SafetensorsEntry entry_;
  int fields_ = 0;
  std::vector<int64_t> offsets_;
  bool metadata_seen_ = false;
  std::vector<std::string> metadata_keys_;
};

absl::Status CheckEntry(const SafetensorsEntry& entry, int64_t buffer_bytes,
                        const std::string& file) {
  const auto fail = [&](const std::string& what) {
    return absl::DataLossError(absl::StrCat(file, ": tensor ", Quoted(entry.name), ": ", what));
  };
  const int bits = BitsOf(entry.dtype);
  if (bits == 0) return fail(absl::StrCat("unknown dtype ", Quoted(entry.dtype)));
  int64_t total_bits = bits;
  bool empty = false;
  bool overflow = false;
  for (const int64_t dim : entry.shape) {
    empty |= dim == 0;
    overflow |= __builtin_mul_overflow(total_bits, dim == 0 ? 1 : dim, &total_bits);
  }
  const std::string shape = ShapeText(entry.dtype, entry.shape);
  if (overflow) return fail(absl::StrCat(shape, " overflows 64 bits"));
  if (empty) total_bits = 0;
  if (total_bits % 8 != 0) return fail(absl::StrCat(shape, " is not a whole number of bytes"));
  const std::string range = absl::StrCat("data_offsets [", entry.begin, ", ", entry.end, "]");
  if (entry.end < entry.begin) return fail(absl::StrCat(range, " end before they begin"));
  if (entry.end > buffer_bytes) {
    return fail(absl::StrCat(range, " end outside the file, which holds ", buffer_bytes,
                             " bytes of tensors"));
  }
  if (entry.end - entry.begin != total_bits / 8) {
    return fail(absl::StrCat(range, " hold ", entry.end - entry.begin, " bytes, expected ",
                             total_bits / 8, " for ", shape));
  }
  return absl::OkStatus();
}

// Names distinct; ranges, in order of position, one after the other from 0 to the buffer's end.
absl::Status CheckTogether(const std::vector<SafetensorsEntry>& entries, int64_t buffer_bytes,
                           const std::string& file) {
  std::vector<const SafetensorsEntry*> order(entries.size());
  std::transform(entries.begin(), entries.end(), order.begin(),
                 [](const SafetensorsEntry& entry) { return &entry; });
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return a->name < b->name; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->name == order[i]->name) {
      return absl::DataLossError(
          absl::StrCat(file, ": tensor ", Quoted(order[i]->name), ": listed twice"));
    }
  }
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  int64_t at = 0;
  const SafetensorsEntry* before = nullptr;
  for (const SafetensorsEntry* entry : order) {
    if (entry->begin != at) {
      return absl::DataLossError(absl::StrCat(
          file, ": tensor ", Quoted(entry->name), ": begins at ", entry->begin, ", expected ", at,
          before == nullptr ? std::string(" as the first")
                            : absl::StrCat(" where ", Quoted(before->name), " ends"),
          entry->begin < at ? " (they overlap)" : " (a hole)"));
    }
    at = entry->end;
    before = entry;
  }
  if (at != buffer_bytes) {
    return absl::DataLossError(absl::StrCat(file, ": tensors end at ", at,
                                            " of the data, expected ", buffer_bytes,
                                            " as the file's size says"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::string_view prefix, int64_t file_bytes,
                                               const std::string& file) {
  if (prefix.size() < kPrefixBytes || file_bytes < kPrefixBytes) {
    return absl::DataLossError(absl::StrCat(file, ": expected at least 8 bytes, found ",
                                            std::min<int64_t>(prefix.size(), file_bytes)));
  }
  uint64_t bytes = 0;
  for (int i = kPrefixBytes - 1; i >= 0; --i) {
    bytes = bytes << 8 | static_cast<unsigned char>(prefix[i]);
  }
  if (bytes > static_cast<uint64_t>(kMaxSafetensorsHeader)) {
    return absl::DataLossError(absl::StrCat(file, ": header of ", bytes,
                                            " bytes, expected at most ", kMaxSafetensorsHeader));
  }
  if (static_cast<int64_t>(bytes) > file_bytes - kPrefixBytes) {
    return absl::DataLossError(absl::StrCat(file, ": header of ", bytes,
                                            " bytes, expected at most ", file_bytes - kPrefixBytes,
                                            " in a file of ", file_bytes));
  }
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view json,
                                                                     int64_t file_bytes,
                                                                     const std::string& file) {
  if (json.empty() || json[0] != '{') {
    return absl::DataLossError(absl::StrCat(file,
                                            ": header: expected '{' as the first byte, found ",
                                            json.empty() ? "nothing" : Quoted(json.substr(0, 1))));
  }
  HeaderSax sax;
  RETURN_IF_ERROR(
      ParseStrict(json, absl::StrCat(file, ": header"), absl::StatusCode::kDataLoss, sax));
  if (const std::string key = sax.RepeatedMetadataKey(); !key.empty()) {
    return absl::DataLossError(absl::StrCat(file, ": header: __metadata__: ", key, " twice"));
  }
  const int64_t data = kPrefixBytes + static_cast<int64_t>(json.size());
  const int64_t buffer_bytes = file_bytes - data;
  for (const SafetensorsEntry& entry : sax.entries) {
    RETURN_IF_ERROR(CheckEntry(entry, buffer_bytes, file));
  }
  RETURN_IF_ERROR(CheckTogether(sax.entries, buffer_bytes, file));
  for (SafetensorsEntry& entry : sax.entries) {
    entry.begin += data;
    entry.end += data;
  }
  return std::move(sax.entries);
}

v1::DType WeightDType(absl::string_view safetensors_dtype) {
  for (const v1::DType dtype : {v1::DTYPE_F8_E4M3, v1::DTYPE_F32, v1::DTYPE_BF16, v1::DTYPE_F16}) {
    if (SafetensorsName(dtype) == safetensors_dtype) return dtype;
  }
  return v1::DTYPE_UNSPECIFIED;
}

absl::string_view SafetensorsName(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F32:
      return "F32";
    case v1::DTYPE_BF16:
      return "BF16";
    case v1::DTYPE_F16:
      return "F16";
    case v1::DTYPE_F8_E4M3:
      return "F8_E4M3";
    default:
      return "?";
  }
}

std::string ShapeText(absl::string_view dtype, const std::vector<int64_t>& shape) {
  return absl::StrCat(dtype, " [", absl::StrJoin(shape, ", "), "]");
}

}  // namespace whalepod
