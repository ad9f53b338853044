#include "proto/plan/slices.h"

#include "base/units.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

void SetRows(Range range, SliceExtent* slice) {
  slice->row0 = range.begin;
  slice->rows = range.size();
}

void SetCols(Range range, SliceExtent* slice) {
  slice->col0 = range.begin;
  slice->cols = range.size();
}

// The rows of kv_b are heads x [keys (nope), values (v)].
void SetKvB(const v1::ModelSpec& model, Range heads, v1::TensorRole role, SliceExtent* slice) {
  const int64_t nope = model.qk_nope_head_dim();
  const int64_t v = model.v_head_dim();
  const bool values = role == v1::TENSOR_ROLE_KV_B_V;
  slice->row0 = heads.begin * (nope + v) + (values ? nope : 0);
  slice->rows = values ? v : nope;
  slice->batch = heads.size();
  slice->batch_stride = nope + v;
}

}  // namespace

SliceExtent SliceOf(const v1::ModelSpec& model, const v1::Layout& layout, const RankCoords& at,
                    v1::TensorRole role) {
  const TensorInfo info = InfoOf(model, role);
  SliceExtent slice;
  slice.tensor_rows = slice.rows = info.rows;
  slice.tensor_cols = slice.cols = info.cols;
  const int tp = layout.tp();
  const int64_t heads = model.num_attention_heads();
  switch (info.split) {
    case Split::kReplicated:
      break;
    case Split::kVocabRows:
      SetRows(VocabIdsOf(model, layout, at.tp), &slice);
      break;
    case Split::kHeadRows: {
      const Range range = EvenPart(heads, tp, at.tp);
      const int64_t width = info.rows / heads;
      SetRows({range.begin * width, range.end * width}, &slice);
      break;
    }
    case Split::kHeadCols: {
      const Range range = EvenPart(heads, tp, at.tp);
      const int64_t width = info.cols / heads;
      SetCols({range.begin * width, range.end * width}, &slice);
      break;
    }
    case Split::kKvB:
      SetKvB(model, EvenPart(heads, tp, at.tp), role, &slice);
      break;
    case Split::kTpRows:
      SetRows(EvenPart(info.rows, tp, at.tp), &slice);
      break;
    case Split::kTpPanels:
      SetRows(PanelPart(info.rows, tp, at.tp), &slice);
      break;
    case Split::kTpCols:
      SetCols(EvenPart(info.cols, tp, at.tp), &slice);
      break;
    case Split::kExpertRows:
      SetRows(EvenPart(info.rows, layout.moe_tp(), at.moe_tp), &slice);
      break;
  }
  return slice;
}

SliceExtent ScaleSliceOf(const v1::ModelSpec& model, const SliceExtent& weight) {
  const int64_t block_rows = model.fp8_block_rows();
  const int64_t block_cols = model.fp8_block_cols();
  SliceExtent scale;
  scale.tensor_rows = CeilDiv(weight.tensor_rows, block_rows);
  scale.tensor_cols = CeilDiv(weight.tensor_cols, block_cols);
  scale.row0 = weight.row0 / block_rows;
  scale.col0 = weight.col0 / block_cols;
  const int64_t last_row = weight.row0 + (weight.batch - 1) * weight.batch_stride + weight.rows;
  scale.rows = weight.rows > 0 ? CeilDiv(last_row, block_rows) - scale.row0 : 0;
  scale.cols = CeilDiv(weight.col0 + weight.cols, block_cols) - scale.col0;
  return scale;
}

int64_t DestBytes(const SliceExtent& slice, v1::DType dtype, v1::Transform transform) {
  switch (transform) {
    case v1::TRANSFORM_COPY:
      return slice.batch * slice.rows * slice.cols * DTypeBytes(dtype);
    case v1::TRANSFORM_PACK:
      return slice.batch * PackedWeightBytes(dtype, slice.rows, slice.cols);
    case v1::TRANSFORM_PACK_TRANSPOSED:
      return slice.batch * PackedWeightBytes(dtype, slice.cols, slice.rows);
    default:
      return 0;
  }
}

}  // namespace whalepod
