// Sharding plans as bytes. Besides libFuzzer's own mutations, fields of plans that parse are
// changed one at a time, so that what is behind the first checks is reached.
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "proto/plan/hash.h"
#include "proto/plan/validate.h"
#include "whalepod/v1/plan.pb.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// A whole number near `old`, or one of the usual suspects.
int64_t Changed(int64_t old, std::mt19937& random) {
  constexpr int64_t kSuspects[] = {0,
                                   1,
                                   -1,
                                   2,
                                   31,
                                   64,
                                   1 << 20,
                                   int64_t{1} << 32,
                                   std::numeric_limits<int64_t>::max(),
                                   std::numeric_limits<int64_t>::min()};
  switch (random() % 4) {
    case 0:
      return static_cast<int64_t>(static_cast<uint64_t>(old) + 1);
    case 1:
      return static_cast<int64_t>(static_cast<uint64_t>(old) - 1);
    case 2:
      return static_cast<int64_t>(static_cast<uint64_t>(old) * 2);
    default:
      return kSuspects[random() % std::size(kSuspects)];
  }
}

// One scalar of `field`; `index` < 0: it is singular.
#define WHALEPOD_MUTATE(Kind, value)                                         \
  do {                                                                       \
    if (index < 0) {                                                         \
      const auto old = reflection.Get##Kind(*message, field);                \
      reflection.Set##Kind(message, field, value);                           \
    } else {                                                                 \
      const auto old = reflection.GetRepeated##Kind(*message, field, index); \
      reflection.SetRepeated##Kind(message, field, index, value);            \
    }                                                                        \
  } while (false)

void MutateScalar(Message* message, const FieldDescriptor* field, int index, std::mt19937& random) {
  const Reflection& reflection = *message->GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      WHALEPOD_MUTATE(Int32, static_cast<int32_t>(Changed(old, random)));
      return;
    case FieldDescriptor::CPPTYPE_INT64:
      WHALEPOD_MUTATE(Int64, Changed(old, random));
      return;
    case FieldDescriptor::CPPTYPE_UINT32:
      WHALEPOD_MUTATE(UInt32, static_cast<uint32_t>(Changed(old, random)));
      return;
    case FieldDescriptor::CPPTYPE_UINT64:
      WHALEPOD_MUTATE(UInt64, static_cast<uint64_t>(Changed(static_cast<int64_t>(old), random)));
      return;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      WHALEPOD_MUTATE(Double, random() % 2 ? old * 2 : -old);
      return;
    case FieldDescriptor::CPPTYPE_BOOL:
      WHALEPOD_MUTATE(Bool, !old);
      return;
    case FieldDescriptor::CPPTYPE_ENUM:
      WHALEPOD_MUTATE(EnumValue, static_cast<int>(old + static_cast<int>(random() % 5) - 2));
      return;
    case FieldDescriptor::CPPTYPE_STRING:
      WHALEPOD_MUTATE(String, random() % 2 ? old + "x" : old.substr(0, old.size() / 2));
      return;
    default:
      return;
  }
}

// One random field of `message` or of a message in it.
void MutateField(Message* message, std::mt19937& random) {
  const Reflection& reflection = *message->GetReflection();
  const auto* descriptor = message->GetDescriptor();
  const FieldDescriptor* field = descriptor->field(
      static_cast<int>(random() % static_cast<unsigned>(descriptor->field_count())));
  const bool is_message = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (!field->is_repeated()) {
    if (!is_message) return MutateScalar(message, field, -1, random);
    if (random() % 16 == 0) return reflection.ClearField(message, field);
    return MutateField(reflection.MutableMessage(message, field), random);
  }
  const int size = reflection.FieldSize(*message, field);
  if (size == 0) return;
  const int index = static_cast<int>(random() % static_cast<unsigned>(size));
  switch (random() % 8) {
    case 0:
      return reflection.RemoveLast(message, field);
    case 1:
      return reflection.SwapElements(message, field, index, size - 1);
    default:
      if (!is_message) return MutateScalar(message, field, index, random);
      return MutateField(reflection.MutableRepeatedMessage(message, field, index), random);
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned int seed) {
  std::mt19937 random(seed);
  whalepod::v1::ShardingPlan plan;
  if (random() % 8 == 0 || !plan.ParseFromArray(data, static_cast<int>(size))) {
    return LLVMFuzzerMutate(data, size, max_size);
  }
  const unsigned changes = 1 + random() % 3;
  for (unsigned i = 0; i < changes; ++i) MutateField(&plan, random);
  const std::string changed = plan.SerializeAsString();
  if (changed.size() > max_size) return size;
  std::copy(changed.begin(), changed.end(), data);
  return changed.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  whalepod::v1::ShardingPlan plan;
  if (!plan.ParseFromArray(bytes, static_cast<int>(size))) return 0;
  static_cast<void>(whalepod::ValidatePlan(plan));
  whalepod::HashPlan(&plan);
  static_cast<void>(whalepod::ValidatePlan(plan));
  if (plan.ranks_size() > 0) {
    static_cast<void>(whalepod::ValidatePlanPart(whalepod::MakePlanPart(plan, 0)));
  }
  return 0;
}
