// Decides for each operation of ggml-cpu whether it is exact, and computes products as one dot product per row. This
// follows the llama.cpp pinned in Cargo.lock. When it moves, read ops.cpp, ggml-cpu.c, repack.cpp, tiled/ and
// llamafile/sgemm.cpp again for every operation listed here. An operation that is not listed counts as not exact.
#include "audit.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <algorithm>
#include <atomic>

extern "C" {
void ggml_barrier(struct ggml_threadpool * pool);

// Records an operation that is not exact. The names must be static.
void    chaski_kernels_note(const char * op, const char * type, int32_t reason);
void    chaski_kernels_exact_at_any_cost(int32_t on);
int32_t chaski_kernels_inexact_left(int32_t type, int64_t rows);
}

namespace {

using chaski::reason;

// Whether to make products exact even if that makes reading prompts slower.
std::atomic<bool> g_at_any_cost{ false };

// How many operations to go back when looking for a tensor's origin.
constexpr int DEPTH = 8;

bool is_layout(const ggml_tensor * t) {
    return t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE || t->op == GGML_OP_TRANSPOSE ||
           t->op == GGML_OP_CONT;
}

// A matrix of the model file or of an adapter: its columns are features, never positions.
bool is_weights(const ggml_tensor * t) {
    if (t->op == GGML_OP_NONE) {
        return t->buffer && t->buffer->usage != GGML_BACKEND_BUFFER_USAGE_COMPUTE;
    }
    for (int i = 0; i < DEPTH && is_layout(t); i++) {
        t = t->src[0];
    }
    return t->op == GGML_OP_NONE && t->buffer && t->buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS;
}

// Whether rows of `t` may run along the positions of the batch, as in a copy of a transposed tensor.
bool is_turned(const ggml_tensor * t) {
    for (int i = 0; i < DEPTH && t && is_layout(t); i++) {
        if (t->nb[0] != ggml_type_size(t->type)) {
            return true;
        }
        t = t->src[0];
    }
    return false;
}

// Whether `t` comes from attention scores: a product without a weight matrix.
bool is_scores(const ggml_tensor * t) {
    for (int i = 0; i < DEPTH && t; i++) {
        switch (t->op) {
            case GGML_OP_MUL_MAT:
                return !is_weights(t->src[0]);
            case GGML_OP_SCALE:
            case GGML_OP_UNARY:
            case GGML_OP_ADD:
            case GGML_OP_MUL:
            case GGML_OP_VIEW:
            case GGML_OP_RESHAPE:
            case GGML_OP_PERMUTE:
            case GGML_OP_CONT:
                t = t->src[0];
                break;
            default:
                return false;
        }
    }
    return true;
}

// Types for which ggml has other kernels from eight rows on (tiled/tiled.cpp), also for rows of one expert.
bool has_wide_kernel(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q2_K:
        case GGML_TYPE_Q3_K:
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:
        case GGML_TYPE_Q6_K:
        case GGML_TYPE_IQ4_XS:
        case GGML_TYPE_IQ2_XXS:
        case GGML_TYPE_IQ2_XS:
        case GGML_TYPE_IQ2_S:
        case GGML_TYPE_IQ3_XXS:
        case GGML_TYPE_IQ3_S:
        case GGML_TYPE_IQ1_S:
        case GGML_TYPE_IQ1_M:
            return true;
        default:
            return false;
    }
}

// Types for which llamafile's products take over from two rows on (llamafile/sgemm.cpp).
bool has_sgemm(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_IQ4_NL:
            return true;
        default:
            return false;
    }
}

// Types that ggml computes as one dot product per row at any width.
bool is_one_dot(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_Q5_1:
        case GGML_TYPE_MXFP4:
        case GGML_TYPE_NVFP4:
        case GGML_TYPE_TQ1_0:
        case GGML_TYPE_TQ2_0:
        case GGML_TYPE_Q1_0:
        case GGML_TYPE_Q2_0:
            return true;
        default:
            return false;
    }
}

// Types that ggml repacks while loading, if the number of rows allows it (repack.cpp).
bool is_repacked(ggml_type type, int64_t rows) {
    const bool avx512 = type == GGML_TYPE_Q2_K && ggml_cpu_has_avx512();
    const bool avx2   = type == GGML_TYPE_Q4_0 || type == GGML_TYPE_Q4_K || type == GGML_TYPE_IQ4_NL || type == GGML_TYPE_MXFP4;
    return (avx2 || avx512) && rows % 8 == 0;
}

// Computes a product as ggml's mul_mat does for one row: each number is the dot product of a weight row and an
// activation row.
struct dots_traits : ggml::cpu::tensor_traits {
    static bool takes(const ggml_tensor * op) {
        const auto * type = ggml_get_type_traits_cpu(op->src[0]->type);
        const auto * x    = op->src[1];
        return type->vec_dot && type->nrows == 1 && x->nb[0] == ggml_type_size(x->type) && op->nb[0] == sizeof(float) &&
               op->src[0]->nb[0] == ggml_type_size(op->src[0]->type) &&
               (x->type == type->vec_dot_type ||
                (x->type == GGML_TYPE_F32 && ggml_get_type_traits_cpu(type->vec_dot_type)->from_float));
    }

    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        const ggml_type dot = ggml_get_type_traits_cpu(op->src[0]->type)->vec_dot_type;
        size = op->src[1]->type == dot ? 0 : ggml_row_size(dot, op->src[1]->ne[0]) * ggml_nrows(op->src[1]);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const ggml_tensor * w    = op->src[0];
        const ggml_tensor * x    = op->src[1];
        const ggml_tensor * ids  = op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr;
        const auto *        type = ggml_get_type_traits_cpu(w->type);
        const ggml_type     dot  = type->vec_dot_type;
        const size_t        row  = ggml_row_size(dot, x->ne[0]);

        // Activation row (i1, i2, i3), as stored and as converted to the type of the dot product.
        const auto at = [](const ggml_tensor * t, int64_t i1, int64_t i2, int64_t i3) {
            return (char *) t->data + i1 * t->nb[1] + i2 * t->nb[2] + i3 * t->nb[3];
        };
        const auto converted = [&](int64_t i1, int64_t i2, int64_t i3) {
            return (char *) params->wdata + ((i3 * x->ne[2] + i2) * x->ne[1] + i1) * row;
        };
        if (x->type != dot) {
            const auto from_float = ggml_get_type_traits_cpu(dot)->from_float;
            for (int64_t i = params->ith; i < ggml_nrows(x); i += params->nth) {
                const int64_t i1 = i % x->ne[1], i2 = i / x->ne[1] % x->ne[2], i3 = i / (x->ne[1] * x->ne[2]);
                from_float((const float *) at(x, i1, i2, i3), converted(i1, i2, i3), x->ne[0]);
            }
            ggml_barrier(params->threadpool);
        }

        // Work in blocks of weight rows, which stay in the cache while the activation rows pass.
        const int64_t n_rows = ggml_nrows(op), rows = w->ne[1];
        const int64_t block    = std::max<int64_t>(1, std::min<int64_t>(16, (rows + params->nth - 1) / params->nth));
        const int64_t n_blocks = (rows + block - 1) / block, n_groups = (n_rows + 15) / 16;
        for (int64_t item = params->ith; item < n_blocks * n_groups; item += params->nth) {
            const int64_t first = item % n_blocks * block, last = std::min(first + block, rows);
            const int64_t from = item / n_blocks * 16, to = std::min(from + 16, n_rows);
            for (int64_t i = from; i < to; i++) {
                const int64_t i1 = i % op->ne[1], i2 = i / op->ne[1] % op->ne[2], i3 = i / (op->ne[1] * op->ne[2]);
                const int64_t x1 = ids ? i1 % x->ne[1] : i1;
                const int64_t w2 = ids ? *(const int32_t *) ((const char *) ids->data + i1 * ids->nb[0] + i2 * ids->nb[1]) :
                                         i2 / (x->ne[2] / w->ne[2]);
                const int64_t w3 = ids ? 0 : i3 / (x->ne[3] / w->ne[3]);
                const char *  weights = (const char *) w->data + w2 * w->nb[2] + w3 * w->nb[3];
                const char *  input   = x->type == dot ? at(x, x1, i2, i3) : converted(x1, i2, i3);
                float *       out     = (float *) at(op, i1, i2, i3);
                for (int64_t r = first; r < last; r++) {
                    type->vec_dot(w->ne[0], out + r, 0, weights + r * w->nb[1], 0, input, 0, 1);
                }
            }
        }
        return true;
    }
} g_dots;

struct verdict {
    reason why  = reason::none;
    bool   dots = false;
};

verdict of_product(const ggml_tensor * op) {
    const ggml_tensor * w = op->src[0];
    const ggml_tensor * x = op->src[1];
    const bool          is_id = op->op == GGML_OP_MUL_MAT_ID;
    if (!is_id && ggml_get_op_params_i32(op, 1) == GGML_HINT_SRC0_IS_HADAMARD) {
        return {};  // transforms each row, and reads no matrix
    }
    if (x->op == GGML_OP_SOFT_MAX && !is_weights(w)) {
        return { reason::values };
    }
    // Attention scores: the columns are those of a head, whose order is fixed.
    const bool scores = !is_id && w->op == GGML_OP_PERMUTE && x->op == GGML_OP_PERMUTE && !is_turned(w) && !is_turned(x);
    if (!scores && !is_weights(w)) {
        return { reason::product };
    }
    if (w->buffer && !ggml_backend_buft_is_host(w->buffer->buft)) {
        return { reason::repacked };
    }
    if (is_one_dot(w->type) || (is_id && has_sgemm(w->type))) {
        return {};
    }
    const bool takes = dots_traits::takes(op);
    if (has_wide_kernel(w->type)) {
        return takes && g_at_any_cost.load(std::memory_order_relaxed) ? verdict{ reason::none, true } : verdict{ reason::wide };
    }
    if (takes && (has_sgemm(w->type) || scores)) {
        return { reason::none, true };
    }
    return { reason::product };
}

verdict of(const ggml_tensor * op) {
    switch (op->op) {
        // Computes nothing, or copies or converts numbers one by one.
        case GGML_OP_NONE:
        case GGML_OP_RESHAPE:
        case GGML_OP_VIEW:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE:
        case GGML_OP_DUP:
        case GGML_OP_CPY:
        case GGML_OP_CONT:
        case GGML_OP_CONCAT:
        case GGML_OP_REPEAT:
        case GGML_OP_PAD:
        case GGML_OP_FILL:
        case GGML_OP_ARANGE:
        case GGML_OP_SET:
        case GGML_OP_GET_ROWS:
        case GGML_OP_SET_ROWS:
        // Works number by number, with the same rounding in vectors and in the rest of a row.
        case GGML_OP_ADD:
        case GGML_OP_ADD_ID:
        case GGML_OP_ADD1:
        case GGML_OP_SUB:
        case GGML_OP_MUL:
        case GGML_OP_DIV:
        case GGML_OP_SQR:
        case GGML_OP_SQRT:
        case GGML_OP_LOG:
        case GGML_OP_SIN:
        case GGML_OP_COS:
        case GGML_OP_CLAMP:
        case GGML_OP_LEAKY_RELU:
        // Angles depend only on the row's position.
        case GGML_OP_ROPE:
        // Compares within a row.
        case GGML_OP_ARGSORT:
        case GGML_OP_TOP_K:
        case GGML_OP_ARGMAX:
        // States advance position by position, each channel or head on its own.
        case GGML_OP_SSM_CONV:
        case GGML_OP_SSM_SCAN:
        case GGML_OP_GATED_DELTA_NET:
            return {};

        // Sums along a row, or functions whose vectors round differently from the rest of a row. Exact only if the
        // length of a row does not depend on the batch.
        case GGML_OP_SCALE:
        case GGML_OP_UNARY:
        case GGML_OP_GLU:
        case GGML_OP_NORM:
        case GGML_OP_RMS_NORM:
        case GGML_OP_L2_NORM:
        case GGML_OP_SUM_ROWS:
        case GGML_OP_MEAN:
            return { is_turned(op->src[0]) || (op->src[1] && is_turned(op->src[1])) ? reason::positions : reason::none };

        case GGML_OP_SOFT_MAX:
            if (op->src[1] || is_scores(op->src[0])) {
                return { reason::softmax };
            }
            return { is_turned(op->src[0]) ? reason::positions : reason::none };

        case GGML_OP_MUL_MAT:
        case GGML_OP_MUL_MAT_ID:
            return of_product(op);

        case GGML_OP_FLASH_ATTN_EXT:
            return { reason::flash };

        // Sums over the positions of a batch.
        case GGML_OP_CUMSUM:
        case GGML_OP_SOLVE_TRI:
        case GGML_OP_SUM:
            return { reason::positions };

        default:
            return { reason::unknown };
    }
}

// Records an operation while its graph is planned, and leaves it to ggml.
struct noted_traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t &) override {
        // Report the type of the weights or of the cache, if the operation has any: it says the most.
        const ggml_tensor * t = op->op == GGML_OP_FLASH_ATTN_EXT ? op->src[1] : op->src[0] ? op->src[0] : op;
        chaski_kernels_note(ggml_op_desc(op), ggml_type_name(t->type), (int32_t) of(op).why);
        return false;
    }

    bool compute_forward(ggml_compute_params *, ggml_tensor *) override { return false; }
} g_noted;

}  // namespace

ggml::cpu::tensor_traits * chaski::other_traits(const ggml_tensor * op) {
    if (ggml_is_empty(op)) {
        return nullptr;
    }
    const verdict v = of(op);
    if (v.dots) {
        return &g_dots;
    }
    return v.why == reason::none ? nullptr : &g_noted;
}

void chaski_kernels_exact_at_any_cost(int32_t on) {
    g_at_any_cost.store(on != 0, std::memory_order_relaxed);
}

int32_t chaski_kernels_inexact_left(int32_t type, int64_t rows) {
    const reason why = is_repacked((ggml_type) type, rows)    ? reason::repacked :
                       has_wide_kernel((ggml_type) type)      ? (g_at_any_cost.load() ? reason::none : reason::wide) :
                       is_one_dot((ggml_type) type) || has_sgemm((ggml_type) type) ? reason::none :
                                                                reason::product;
    return (int32_t) why;
}
