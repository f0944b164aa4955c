// For the crate's tests: checks that a row has the same bits alone and among others, for the operations that
// `audit.cpp` calls exact. The library itself does not call this.
#include "bench.h"

#include <functional>
#include <map>
#include <string>
#include <tuple>

extern "C" {
const char * chaski_kernels_test_rows_name(int32_t number);
int          chaski_kernels_test_rows(int32_t number, int32_t threads);
int          chaski_kernels_test_inexact(int32_t number);
}

namespace {

constexpr int64_t N = 35;  // more rows than any kernel takes at a time

// Activation rows `from .. from + n`, each seeded by its index.
std::vector<float> activations(int64_t columns, int64_t from, int64_t n) {
    std::vector<float> v;
    for (int64_t i = from; i < from + n; i++) {
        numbers random{ (uint32_t) (17 + 7919 * i) };
        for (float x : random.some(columns)) {
            v.push_back(4 * x);
        }
    }
    return v;
}

ggml_tensor * input(bench & b, int64_t columns, int64_t from, int64_t n) {
    ggml_tensor * x = ggml_new_tensor_2d(b.ctx, GGML_TYPE_F32, columns, n);
    b.give(x, activations(columns, from, n).data());
    return x;
}

ggml_tensor * weights(bench & b, ggml_type type, int64_t columns, int64_t rows, int64_t experts = 1) {
    // Cached, because some types take long to quantize.
    static std::map<std::tuple<ggml_type, int64_t, int64_t>, std::vector<uint8_t>> made;
    ggml_tensor * w     = ggml_new_tensor_3d(b.ctx, type, columns, rows, experts);
    auto &        bytes = made[{ type, columns, rows * experts }];
    if (bytes.empty()) {
        numbers    random{ 5 };
        const auto floats = random.some(columns * rows * experts);
        const std::vector<float> importance(columns, 1.0f);
        bytes.resize(ggml_nbytes(w));
        ggml_quantize_init(type);
        ggml_quantize_chunk(type, floats.data(), bytes.data(), 0, rows * experts, columns, importance.data());
    }
    b.give(w, bytes.data());
    return w;
}

ggml_tensor * integers(bench & b, int64_t width, int64_t from, int64_t n, int32_t below) {
    std::vector<int32_t> v;
    for (int64_t i = from; i < from + n; i++) {
        for (int64_t j = 0; j < width; j++) {
            v.push_back((int32_t) ((i * 5 + j * 3) % below));
        }
    }
    ggml_tensor * t = width == 1 ? ggml_new_tensor_1d(b.ctx, GGML_TYPE_I32, n) : ggml_new_tensor_2d(b.ctx, GGML_TYPE_I32, width, n);
    b.give(t, v.data());
    return t;
}

// Builds the result for rows `from .. from + n`, stored one after another.
using builder = std::function<ggml_tensor *(bench & b, int64_t from, int64_t n)>;

struct test {
    std::string name;
    builder     build;
};

test product(ggml_type type) {
    return { std::string("MUL_MAT ") + ggml_type_name(type), [type](bench & b, int64_t from, int64_t n) {
        return ggml_mul_mat(b.ctx, weights(b, type, 512, 40), input(b, 512, from, n));
    } };
}

test experts(ggml_type type) {
    return { std::string("MUL_MAT_ID ") + ggml_type_name(type), [type](bench & b, int64_t from, int64_t n) {
        ggml_tensor * x = ggml_reshape_3d(b.ctx, input(b, 256, from, n), 256, 1, n);
        return ggml_mul_mat_id(b.ctx, weights(b, type, 256, 24, 3), x, integers(b, 2, from, n, 3));
    } };
}

// An operation on one tensor. The default of `columns` is a multiple of no vector.
test of_rows(const char * name, std::function<ggml_tensor *(ggml_context *, ggml_tensor *)> make, int64_t columns = 75) {
    return { name, [=](bench & b, int64_t from, int64_t n) { return make(b.ctx, input(b, columns, from, n)); } };
}

// Rotates heads of 16 numbers.
test rope(const char * name, int mode) {
    return { name, [mode](bench & b, int64_t from, int64_t n) {
        ggml_tensor * x = ggml_reshape_3d(b.ctx, input(b, 48, from, n), 16, 3, n);
        return ggml_rope_ext(b.ctx, x, integers(b, 1, from, n, 100000), nullptr, 16, mode, 4096, 10000.0f, 1.0f, 0.3f, 1.0f, 32.0f, 1.0f);
    } };
}

const std::vector<test> & tests() {
    static const std::vector<test> all = [] {
        std::vector<test> all;
        for (ggml_type type : { GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1,
                                GGML_TYPE_Q8_0, GGML_TYPE_IQ4_NL, GGML_TYPE_MXFP4, GGML_TYPE_NVFP4, GGML_TYPE_TQ1_0, GGML_TYPE_TQ2_0,
                                GGML_TYPE_Q1_0, GGML_TYPE_Q2_0,
                                // These are exact only with exact_at_any_cost.
                                GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS,
                                GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_XS, GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_XXS, GGML_TYPE_IQ3_S, GGML_TYPE_IQ1_S,
                                GGML_TYPE_IQ1_M }) {
            all.push_back(product(type));
            all.push_back(experts(type));
        }
        all.push_back({ "MUL_MAT of heads", [](bench & b, int64_t from, int64_t n) {
            // Three matrices, with a row for each, as in DeepSeek's latent attention.
            ggml_tensor * x = ggml_permute(b.ctx, ggml_reshape_3d(b.ctx, input(b, 3 * 64, from, n), 64, 3, n), 0, 2, 1, 3);
            ggml_tensor * y = ggml_mul_mat(b.ctx, weights(b, GGML_TYPE_Q8_0, 64, 24, 3), x);
            return ggml_cont(b.ctx, ggml_permute(b.ctx, y, 0, 2, 1, 3));
        } });
        all.push_back(of_rows("RMS_NORM", [](ggml_context * c, ggml_tensor * x) { return ggml_rms_norm(c, x, 1e-6f); }));
        all.push_back({ "RMS_NORM and MUL", [](bench & b, int64_t from, int64_t n) {
            return ggml_mul(b.ctx, ggml_rms_norm(b.ctx, input(b, 75, from, n), 1e-6f), input(b, 75, 900, 1));
        } });
        all.push_back(of_rows("NORM", [](ggml_context * c, ggml_tensor * x) { return ggml_norm(c, x, 1e-6f); }));
        all.push_back(of_rows("L2_NORM", [](ggml_context * c, ggml_tensor * x) { return ggml_l2_norm(c, x, 1e-6f); }));
        all.push_back(of_rows("SOFT_MAX", [](ggml_context * c, ggml_tensor * x) { return ggml_soft_max(c, x); }));
        all.push_back(of_rows("SUM_ROWS", [](ggml_context * c, ggml_tensor * x) { return ggml_sum_rows(c, x); }));
        all.push_back(of_rows("MEAN", [](ggml_context * c, ggml_tensor * x) { return ggml_mean(c, x); }));
        all.push_back(of_rows("SCALE", [](ggml_context * c, ggml_tensor * x) { return ggml_scale_bias(c, x, 0.3f, 0.7f); }));
        all.push_back(of_rows("SILU", [](ggml_context * c, ggml_tensor * x) { return ggml_silu(c, x); }));
        all.push_back(of_rows("GELU", [](ggml_context * c, ggml_tensor * x) { return ggml_gelu(c, x); }));
        all.push_back(of_rows("GELU_ERF", [](ggml_context * c, ggml_tensor * x) { return ggml_gelu_erf(c, x); }));
        all.push_back(of_rows("GELU_QUICK", [](ggml_context * c, ggml_tensor * x) { return ggml_gelu_quick(c, x); }));
        all.push_back(of_rows("TANH", [](ggml_context * c, ggml_tensor * x) { return ggml_tanh(c, x); }));
        all.push_back(of_rows("SIGMOID", [](ggml_context * c, ggml_tensor * x) { return ggml_sigmoid(c, x); }));
        all.push_back(of_rows("EXP", [](ggml_context * c, ggml_tensor * x) { return ggml_exp(c, x); }));
        all.push_back(of_rows("SOFTPLUS", [](ggml_context * c, ggml_tensor * x) { return ggml_softplus(c, x); }));
        all.push_back(of_rows("SWIGLU", [](ggml_context * c, ggml_tensor * x) { return ggml_swiglu(c, x); }, 150));
        all.push_back(of_rows("GEGLU", [](ggml_context * c, ggml_tensor * x) { return ggml_geglu(c, x); }, 150));
        all.push_back(of_rows("GEGLU_ERF", [](ggml_context * c, ggml_tensor * x) { return ggml_geglu_erf(c, x); }, 150));
        all.push_back(of_rows("GEGLU_QUICK", [](ggml_context * c, ggml_tensor * x) { return ggml_geglu_quick(c, x); }, 150));
        all.push_back(of_rows("REGLU", [](ggml_context * c, ggml_tensor * x) { return ggml_reglu(c, x); }, 150));
        all.push_back({ "SWIGLU_OAI", [](bench & b, int64_t from, int64_t n) {
            return ggml_swiglu_oai(b.ctx, input(b, 75, from, n), input(b, 75, from + 500, n), 1.7f, 7.0f);
        } });
        all.push_back(of_rows("ARGSORT", [](ggml_context * c, ggml_tensor * x) { return ggml_argsort(c, x, GGML_SORT_ORDER_DESC); }));
        all.push_back(of_rows("TOP_K", [](ggml_context * c, ggml_tensor * x) { return ggml_top_k(c, x, 8); }));
        all.push_back(of_rows("CPY to F16", [](ggml_context * c, ggml_tensor * x) { return ggml_cast(c, x, GGML_TYPE_F16); }));
        all.push_back(of_rows("CPY to Q8_0", [](ggml_context * c, ggml_tensor * x) { return ggml_cast(c, x, GGML_TYPE_Q8_0); }, 96));
        all.push_back(rope("ROPE", 0));
        all.push_back(rope("ROPE of halves", GGML_ROPE_TYPE_NEOX));
        all.push_back({ "GET_ROWS", [](bench & b, int64_t from, int64_t n) {
            return ggml_get_rows(b.ctx, weights(b, GGML_TYPE_Q6_K, 256, 50), integers(b, 1, from, n, 50));
        } });
        all.push_back({ "ADD_ID", [](bench & b, int64_t from, int64_t n) {
            ggml_tensor * x = ggml_reshape_3d(b.ctx, input(b, 150, from, n), 75, 2, n);
            return ggml_add_id(b.ctx, x, input(b, 75, 900, 3), integers(b, 2, from, n, 3));
        } });
        return all;
    }();
    return all;
}

bool has_same_rows(const test & t, int32_t threads) {
    bench         all(threads);
    ggml_tensor * together = t.build(all, 0, N);
    if (!all.compute(together)) {
        return false;
    }
    const size_t bytes = ggml_nbytes(together) / N;
    for (int64_t n : { 1, 2, 8, 19 }) {
        for (int64_t from = 0; from + n <= N; from += 16) {
            bench         some(1 + (int32_t) n % 3);
            ggml_tensor * alone = t.build(some, from, n);
            if (!some.compute(alone) || ggml_nbytes(alone) != bytes * n ||
                memcmp(alone->data, (const char *) together->data + from * bytes, bytes * n) != 0) {
                return false;
            }
        }
    }
    return true;
}

}  // namespace

// The name of a test; null beyond the last.
const char * chaski_kernels_test_rows_name(int32_t number) {
    return (size_t) number < tests().size() ? tests()[number].name.c_str() : nullptr;
}

// Whether each row has the same bits in batches of any width.
int chaski_kernels_test_rows(int32_t number, int32_t threads) {
    return has_same_rows(tests()[number], threads);
}

// Computes an operation that is not exact. Returns zero beyond the last.
int chaski_kernels_test_inexact(int32_t number) {
    bench         b(2);
    ggml_tensor * x = input(b, 64, 0, 12);
    switch (number) {
        case 0:
            return b.compute(ggml_mul_mat(b.ctx, weights(b, GGML_TYPE_IQ3_S, 512, 40), input(b, 512, 0, 12)));
        case 1:
            return b.compute(ggml_mul_mat(b.ctx, ggml_scale(b.ctx, x, 2.0f), x));
        case 2: {
            // A number of cells that no cache has.
            ggml_tensor * y = input(b, 63, 0, 12);
            return b.compute(ggml_soft_max_ext(b.ctx, y, input(b, 63, 100, 12), 1.0f, 0.0f));
        }
        case 3: {
            ggml_tensor * k = ggml_cast(b.ctx, x, GGML_TYPE_F16);
            return b.compute(ggml_flash_attn_ext(b.ctx, x, k, k, nullptr, 0.125f, 0.0f, 0.0f));
        }
        case 4:
            return b.compute(ggml_cumsum(b.ctx, x));
        case 5:
            return b.compute(ggml_silu(b.ctx, ggml_cont(b.ctx, ggml_transpose(b.ctx, x))));
        case 6:
            return b.compute(ggml_timestep_embedding(b.ctx, ggml_view_1d(b.ctx, x, 8, 0), 16, 100));
        default:
            return 0;
    }
}
