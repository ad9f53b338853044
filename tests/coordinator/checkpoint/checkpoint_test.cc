#include "coordinator/checkpoint/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "coordinator/checkpoint/inventory.h"
#include "tests/coordinator/checkpoint/test_checkpoint.h"

namespace whalepod {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kQb[] = "model.layers.1.self_attn.q_b_proj.weight";  // [48, 48], blocks of 32
constexpr char kScale[] = "model.layers.1.self_attn.q_b_proj.weight_scale_inv";

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

class CheckpointTest : public testing::Test {
 protected:
  absl::StatusOr<Checkpoint> Open() const { return Checkpoint::Open(dir_.path().string()); }
  absl::StatusOr<Checkpoint> WriteAndOpen() const {
    checkpoint_.Write(dir_.path());
    return Open();
  }
  // What Open() says, of this code.
  std::string Refused(absl::StatusCode code) const {
    const absl::Status status = Open().status();
    EXPECT_EQ(status.code(), code) << status;
    return std::string(status.message());
  }
  std::string WriteAndRefused(absl::StatusCode code = absl::StatusCode::kInvalidArgument) const {
    checkpoint_.Write(dir_.path());
    return Refused(code);
  }
  std::filesystem::path File(int i) const {
    return dir_.path() / checkpoint_.files[static_cast<size_t>(i)];
  }

  TempDir dir_;
  TestCheckpoint checkpoint_ = TestCheckpoint::Make(TinyConfig());
};

TEST_F(CheckpointTest, OpensAndFindsEveryTensorsBytes) {
  checkpoint_.generation = {{"eos_token_id", {5, 7}}, {"temperature", 0.6}, {"top_p", 0.95}};
  const auto opened = WriteAndOpen();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->dir, dir_.path().string());
  EXPECT_EQ(opened->model.name(), dir_.path().filename().string());
  EXPECT_THAT(opened->model.eos_token_ids(), ElementsAre(5, 7));
  EXPECT_EQ(opened->defaults.temperature, 0.6f);
  EXPECT_EQ(opened->defaults.top_p, 0.95f);
  EXPECT_EQ(opened->files, checkpoint_.files);
  EXPECT_TRUE(opened->skipped.empty());
  EXPECT_FALSE(opened->has_tokenizer);
  EXPECT_EQ(opened->tensors.size(), checkpoint_.tensors.size());
  const std::string bytes[] = {ReadFile(File(0)), ReadFile(File(1))};
  for (const auto& [name, written] : checkpoint_.tensors) {
    const StoredTensor& stored = opened->tensors.at(name);
    EXPECT_EQ(stored.shape, written.shape) << name;
    EXPECT_EQ(stored.file, static_cast<uint32_t>(written.file)) << name;
    EXPECT_EQ(bytes[stored.file].substr(static_cast<size_t>(stored.offset),
                                        static_cast<size_t>(stored.bytes)),
              written.data)
        << name;
  }
  EXPECT_EQ(opened->tensors.at(kQb).dtype, v1::DTYPE_F8_E4M3);
  EXPECT_EQ(opened->tensors.at(kScale).dtype, v1::DTYPE_F32);
  EXPECT_TRUE(opened->CheckScales().ok()) << opened->CheckScales();
}

TEST_F(CheckpointTest, OneFileNeedsNoIndex) {
  for (auto& [name, tensor] : checkpoint_.tensors) tensor.file = 0;
  checkpoint_.files = {"model.safetensors"};
  checkpoint_.with_index = false;
  checkpoint_.Write(dir_.path());
  WriteFile(dir_.path() / "tokenizer.json", "{}");
  const auto opened = Checkpoint::Open(dir_.path().string() + "/");
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->model.name(), dir_.path().filename().string());
  EXPECT_TRUE(opened->has_tokenizer);
  EXPECT_TRUE(opened->CheckScales().ok());
}

TEST_F(CheckpointTest, OtherTypesAreFineWhereNothingIsQuantised) {
  nlohmann::json config = TinyConfig();
  config.erase("quantization_config");
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    checkpoint_ = TestCheckpoint::Make(config);
    for (auto& [name, tensor] : checkpoint_.tensors) {
      const auto old = tensor;
      checkpoint_.Add(name, dtype, old.shape, old.file);
    }
    const auto opened = WriteAndOpen();
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_TRUE(opened->CheckScales().ok());
  }
}

TEST_F(CheckpointTest, ExpertsOfALayerHaveOneType) {
  nlohmann::json config = TinyConfig();
  config.erase("quantization_config");
  checkpoint_ = TestCheckpoint::Make(config);
  const std::string second = "model.layers.1.mlp.experts.1.up_proj.weight";
  const TestTensor old = checkpoint_.tensors.at(second);
  const std::string other = old.dtype == "F32" ? "BF16" : "F32";
  checkpoint_.Add(second, other, old.shape, old.file);
  EXPECT_THAT(WriteAndRefused(),
              AllOf(HasSubstr(second), HasSubstr("expected " + old.dtype +
                                                 " as \"model.layers.1."
                                                 "mlp.experts.0.up_proj.weight\" has, found " +
                                                 other)));
}

TEST_F(CheckpointTest, TensorsBesideTheModelAreSkipped) {
  checkpoint_.config["tie_word_embeddings"] = true;
  checkpoint_.Add("model.layers.3.eh_proj.weight", "BF16", {64, 128});
  checkpoint_.Add("model.layers.3.mlp.gate.extra", "I16", {2});
  checkpoint_.Add("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {4});
  const auto opened = WriteAndOpen();
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT(opened->skipped,
              ElementsAre("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
                          "model.layers.3.eh_proj.weight", "model.layers.3.mlp.gate.extra"));
  EXPECT_EQ(opened->tensors.at("model.layers.3.eh_proj.weight").bytes, 64 * 128 * 2);
}

// --- Files.

TEST_F(CheckpointTest, MissingFilesAreNamed) {
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound), HasSubstr("config.json: No such file"));
  WriteFile(dir_.path() / "config.json", TinyConfig().dump());
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound),
              HasSubstr("expected model.safetensors.index.json or model.safetensors"));
  EXPECT_THAT(std::string(Checkpoint::Open(dir_.path() / "no").status().message()),
              HasSubstr("no such folder"));
}

TEST_F(CheckpointTest, IndexNamesAMissingFile) {
  checkpoint_.Write(dir_.path());
  std::filesystem::remove(File(1));
  EXPECT_THAT(Refused(absl::StatusCode::kNotFound),
              AllOf(HasSubstr("model.safetensors.index.json: names the file"),
                    HasSubstr("model-00002-of-00002.safetensors\", which is missing")));
}

TEST_F(CheckpointTest, WhatIsNotAFileIsRefused) {
  checkpoint_.Write(dir_.path());
  std::filesystem::remove(File(1));
  std::filesystem::create_directory(File(1));
  EXPECT_THAT(Refused(absl::StatusCode::kInvalidArgument),
              HasSubstr("model-00002-of-00002.safetensors: expected a regular file"));
  std::filesystem::remove(File(1));
  ASSERT_EQ(::mkfifo(File(1).c_str(), 0600), 0);
  EXPECT_THAT(Refused(absl::StatusCode::kInvalidArgument), HasSubstr("expected a regular file"));
}

TEST_F(CheckpointTest, LinksAreFollowed) {
  checkpoint_.Write(dir_.path());
  std::filesystem::rename(File(1), dir_.path() / "blob");
  std::filesystem::create_symlink("blob", File(1));
  EXPECT_TRUE(Open().ok()) << Open().status();
}

TEST_F(CheckpointTest, TruncatedFile) {
  checkpoint_.Write(dir_.path());
  const auto size = std::filesystem::file_size(File(0));
  std::filesystem::resize_file(File(0), size - 1);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              AllOf(HasSubstr("model-00001-of-00002.safetensors: tensor"),
                    HasSubstr("end outside the file, which holds")));
  std::filesystem::resize_file(File(0), size + 1);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("as the file's size says"));
  std::filesystem::resize_file(File(0), 100);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("in a file of 100"));
  std::filesystem::resize_file(File(0), 5);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              HasSubstr("expected at least 8 bytes, found 5"));
  std::filesystem::resize_file(File(0), 0);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              HasSubstr("expected at least 8 bytes, found 0"));
}

TEST_F(CheckpointTest, HeaderLargerThanTheFile) {
  checkpoint_.Write(dir_.path());
  std::string bytes = ReadFile(File(0));
  bytes[5] = 1;
  WriteFile(File(0), bytes);
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss),
              AllOf(HasSubstr("model-00001-of-00002.safetensors: header of"),
                    HasSubstr("expected at most 100000000")));
}

TEST_F(CheckpointTest, OverlappingRanges) {
  checkpoint_.Write(dir_.path());
  WriteFile(File(0), FileBytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                               R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                               "xyz"));
  EXPECT_THAT(Refused(absl::StatusCode::kDataLoss), HasSubstr("they overlap"));
}

TEST_F(CheckpointTest, OversizedJson) {
  checkpoint_.Write(dir_.path());
  std::filesystem::resize_file(dir_.path() / "config.json", (1 << 20) + 1);
  EXPECT_THAT(Refused(absl::StatusCode::kInvalidArgument),
              HasSubstr("config.json: expected at most 1048576 bytes, found 1048577"));
}

TEST_F(CheckpointTest, BadGenerationConfig) {
  checkpoint_.generation = {{"eos_token_id", 4711}};
  EXPECT_THAT(WriteAndRefused(),
              HasSubstr("generation_config.json: eos_token_id: expected an integer from 0 to 79"));
}

// --- Index against files.

TEST_F(CheckpointTest, IndexListsATensorThatItsFileLacks) {
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    checkpoint_.index[name] = checkpoint_.files[static_cast<size_t>(tensor.file)];
  }
  checkpoint_.index["ghost"] = checkpoint_.files[0];
  EXPECT_THAT(WriteAndRefused(),
              HasSubstr("model.safetensors.index.json: tensor \"ghost\": expected in "
                        "model-00001-of-00002.safetensors, which does not have it"));
}

TEST_F(CheckpointTest, FileHoldsATensorThatTheIndexLacks) {
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    checkpoint_.index[name] = checkpoint_.files[static_cast<size_t>(tensor.file)];
  }
  checkpoint_.index.erase(kQb);
  EXPECT_THAT(WriteAndRefused(), AllOf(HasSubstr(kQb), HasSubstr("the index does not list it")));
  checkpoint_.index[kQb] =
      checkpoint_.files[static_cast<size_t>(1 - checkpoint_.tensors.at(kQb).file)];
  EXPECT_THAT(WriteAndRefused(), AllOf(HasSubstr(kQb), HasSubstr("and the index says model-0000")));
}

// --- Tensors against the config.

TEST_F(CheckpointTest, MissingTensor) {
  checkpoint_.tensors.erase("model.layers.2.mlp.experts.3.up_proj.weight");
  EXPECT_THAT(WriteAndRefused(),
              HasSubstr("model.safetensors.index.json: tensor "
                        "\"model.layers.2.mlp.experts.3.up_proj.weight\": expected F8_E4M3 [32, "
                        "64], found none"));
}

TEST_F(CheckpointTest, MissingTensorOfASingleFile) {
  for (auto& [name, tensor] : checkpoint_.tensors) tensor.file = 0;
  checkpoint_.files = {"model.safetensors"};
  checkpoint_.with_index = false;
  checkpoint_.tensors.erase("model.norm.weight");
  EXPECT_THAT(WriteAndRefused(), HasSubstr("model.safetensors: tensor \"model.norm.weight\": "
                                           "expected BF16, F16 or F32 [64], found none"));
}

TEST_F(CheckpointTest, MissingScales) {
  checkpoint_.tensors.erase(kScale);
  EXPECT_THAT(WriteAndRefused(), AllOf(HasSubstr(kScale), HasSubstr("expected F32 [2, 2]"),
                                       HasSubstr("none (the scales of an FP8 weight)")));
}

TEST_F(CheckpointTest, WrongShapes) {
  checkpoint_.Add(kQb, "F8_E4M3", {48, 47}, 1);
  EXPECT_THAT(WriteAndRefused(),
              AllOf(HasSubstr(".safetensors: tensor"), HasSubstr(kQb),
                    HasSubstr("expected F8_E4M3 [48, 48], found F8_E4M3 [48, 47]")));
  checkpoint_.Add(kQb, "F8_E4M3", {48, 48}, 1);
  checkpoint_.Add(kScale, "F32", {1, 2}, 1);
  EXPECT_THAT(WriteAndRefused(), HasSubstr("expected F32 [2, 2], found F32 [1, 2]"));
  checkpoint_.Add(kScale, "F32", {2, 2}, 1);
  checkpoint_.Add("model.norm.weight", "BF16", {1, 64}, 0);
  EXPECT_THAT(WriteAndRefused(), HasSubstr("expected BF16, F16 or F32 [64], found BF16 [1, 64]"));
}

TEST_F(CheckpointTest, WrongTypes) {
  checkpoint_.Add(kQb, "BF16", {48, 48}, 1);
  EXPECT_THAT(WriteAndRefused(), HasSubstr("expected F8_E4M3 [48, 48], found BF16 [48, 48]"));
  checkpoint_.Add(kQb, "F8_E4M3", {48, 48}, 1);
  checkpoint_.Add(kScale, "BF16", {2, 2}, 1);
  EXPECT_THAT(WriteAndRefused(), HasSubstr("expected F32 [2, 2], found BF16 [2, 2]"));
  checkpoint_.Add(kScale, "F32", {2, 2}, 1);
  checkpoint_.Add("model.embed_tokens.weight", "I16", {80, 64}, 0);
  EXPECT_THAT(WriteAndRefused(),
              HasSubstr("expected BF16, F16 or F32 [80, 64], found I16 [80, 64]"));
}

TEST_F(CheckpointTest, ConfigContradictsTheFiles) {
  nlohmann::json& config = checkpoint_.config;
  config.erase("quantization_config");
  EXPECT_THAT(WriteAndRefused(), HasSubstr("(config.json has no quantization_config)"));
  config = TinyConfig();
  config["num_hidden_layers"] = 4;
  EXPECT_THAT(WriteAndRefused(), HasSubstr("tensor \"model.layers.3.input_layernorm.weight\""));
  config = TinyConfig();
  config["num_hidden_layers"] = 1;  // layer 1 would be the MTP layer, layer 2 is nothing
  EXPECT_THAT(WriteAndRefused(),
              AllOf(HasSubstr("tensor \"model.layers.2."),
                    HasSubstr("(num_hidden_layers 1, num_nextn_predict_layers 1)")));
  config = TinyConfig();
  config["q_lora_rank"] = nullptr;
  EXPECT_THAT(WriteAndRefused(),
              HasSubstr("q_proj.weight\": expected F8_E4M3 [48, 64], found none"));
  config = TinyConfig();
  config["n_shared_experts"] = 0;
  EXPECT_THAT(WriteAndRefused(), AllOf(HasSubstr("shared_experts"),
                                       HasSubstr("the model of config.json has no such tensor")));
}

TEST_F(CheckpointTest, UnknownTensor) {
  checkpoint_.Add("model.layers.1.self_attn.q_a_proj.bias", "BF16", {48});
  EXPECT_THAT(WriteAndRefused(),
              AllOf(HasSubstr("tensor \"model.layers.1.self_attn.q_a_proj.bias\": found BF16 [48]"),
                    HasSubstr("no such tensor")));
}

// --- Scales.

TEST_F(CheckpointTest, ScalesAreFiniteAndNotNegative) {
  const auto check = [&](float value) {
    std::memcpy(checkpoint_.tensors.at(kScale).data.data() + 2 * sizeof(float), &value,
                sizeof(value));
    const auto opened = WriteAndOpen();
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened->CheckScales();
  };
  EXPECT_TRUE(check(0).ok());
  EXPECT_TRUE(check(1e30f).ok());
  for (const float bad : {NAN, INFINITY, -INFINITY, -1e-20f}) {
    const absl::Status status = check(bad);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(
        std::string(status.message()),
        AllOf(HasSubstr(".safetensors: tensor"), HasSubstr(kScale),
              HasSubstr("expected finite scales of at least 0, found "), HasSubstr(" at [1, 0]")));
  }
}

TEST_F(CheckpointTest, ScalesOfAFileThatChangedAfterOpen) {
  const auto opened = WriteAndOpen();
  ASSERT_TRUE(opened.ok());
  std::filesystem::resize_file(File(0), 50);
  EXPECT_EQ(opened->CheckScales().code(), absl::StatusCode::kDataLoss);
  std::filesystem::remove(File(0));
  EXPECT_EQ(opened->CheckScales().code(), absl::StatusCode::kNotFound);
}

// --- Real ones.

TEST(RealCheckpointTest, R1Draft) {
  const std::filesystem::path dir = std::filesystem::path(WHALEPOD_SHARED) / "data" / "r1-draft";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "skipped, no reference data";
  const auto opened = Checkpoint::Open(dir.string());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->tensors.size(), 885u);
  EXPECT_EQ(opened->skipped.size(), 220u);
  for (const std::string& name : opened->skipped) EXPECT_THAT(name, HasSubstr("model.layers.4."));
  EXPECT_TRUE(opened->has_tokenizer);
  EXPECT_EQ(opened->defaults.temperature, 0.6f);
  EXPECT_TRUE(opened->CheckScales().ok()) << opened->CheckScales();
}

}  // namespace
}  // namespace whalepod
