// The self-test: compares graphs that ggml computes with the hook to plain sums. It runs once, before the first model
// is loaded, and takes some milliseconds.
#include "bench.h"

#include <cmath>

extern "C" {
ggml_backend_buffer_type_t chaski_kernels_buffer_type(void);
int                        chaski_kernels_test_product(int32_t type, int32_t threads);
int                        chaski_kernels_test_experts(int32_t threads);
int                        chaski_kernels_test_attention(int32_t threads);
}

namespace {

// Whether the two differ only by rounding.
bool near(const std::vector<double> & want, const float * got, double tolerance) {
    double size = 0, error = 0;
    for (size_t i = 0; i < want.size(); i++) {
        size += want[i] * want[i];
        error += (want[i] - got[i]) * (want[i] - got[i]);
    }
    return error <= tolerance * tolerance * size;  // false for NaN
}

}  // namespace

int chaski_kernels_test_product(int32_t code, int32_t threads) {
    const ggml_type type = (ggml_type) code;
    const int64_t   k = 256, rows = 32, n = 3;
    numbers         random;
    const auto      weights = random.some(k * rows), x = random.some(k * n);
    bench           b(threads);
    ggml_tensor *   w = ggml_new_tensor_2d(b.ctx, type, k, rows);
    ggml_tensor *   a = ggml_new_tensor_2d(b.ctx, GGML_TYPE_F32, k, n);
    std::vector<uint8_t> packed(ggml_nbytes(w));
    ggml_quantize_chunk(type, weights.data(), packed.data(), 0, rows, k, nullptr);
    if (!b.allocate(w, chaski_kernels_buffer_type()) || !b.allocate(a, ggml_backend_cpu_buffer_type())) {
        return 0;
    }
    ggml_backend_tensor_set(w, packed.data(), 0, packed.size());
    ggml_backend_tensor_set(a, x.data(), 0, ggml_nbytes(a));
    ggml_tensor * out = ggml_mul_mat(b.ctx, w, a);
    if (!b.compute(out)) {
        return 0;
    }
    // The weights as ggml reads them from the same blocks.
    std::vector<float> read(weights);
    if (type != GGML_TYPE_F32) {
        ggml_get_type_traits(type)->to_float(packed.data(), read.data(), k * rows);
    }
    std::vector<double> want(rows * n);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t c = 0; c < k; c++) {
                want[i * rows + r] += (double) read[r * k + c] * x[i * k + c];
            }
        }
    }
    return near(want, (const float *) out->data, 0.02);
}

// Rows that choose among experts, with one activation row for all choices and with one for each.
int chaski_kernels_test_experts(int32_t threads) {
    const int64_t k = 256, rows = 32, experts = 4, used = 2, tokens = 5;
    for (int64_t x_rows : { (int64_t) 1, used }) {
        numbers     random;
        const auto  weights = random.some(k * rows * experts), x = random.some(k * x_rows * tokens);
        bench       b(threads);
        auto *      cpu = ggml_backend_cpu_buffer_type();
        ggml_tensor * w   = ggml_new_tensor_3d(b.ctx, GGML_TYPE_Q8_0, k, rows, experts);
        ggml_tensor * a   = ggml_new_tensor_3d(b.ctx, GGML_TYPE_F32, k, x_rows, tokens);
        ggml_tensor * ids = ggml_new_tensor_2d(b.ctx, GGML_TYPE_I32, used, tokens);
        std::vector<uint8_t> packed(ggml_nbytes(w));
        ggml_quantize_chunk(w->type, weights.data(), packed.data(), 0, rows * experts, k, nullptr);
        if (!b.allocate(w, chaski_kernels_buffer_type()) || !b.allocate(a, cpu) || !b.allocate(ids, cpu)) {
            return 0;
        }
        // No row chooses expert 3.
        const int32_t chosen[] = { 1, 0, 2, 1, 0, 2, 1, 2, 0, 1 };
        ggml_backend_tensor_set(w, packed.data(), 0, packed.size());
        ggml_backend_tensor_set(a, x.data(), 0, ggml_nbytes(a));
        ggml_backend_tensor_set(ids, chosen, 0, sizeof(chosen));
        ggml_tensor * out = ggml_mul_mat_id(b.ctx, w, a, ids);
        if (!b.compute(out)) {
            return 0;
        }
        std::vector<double> want(rows * used * tokens);
        for (int64_t i = 0; i < used * tokens; i++) {
            const float * row = &x[(i / used * x_rows + i % used % x_rows) * k];
            for (int64_t r = 0; r < rows; r++) {
                for (int64_t c = 0; c < k; c++) {
                    want[i * rows + r] += (double) weights[(chosen[i] * rows + r) * k + c] * row[c];
                }
            }
        }
        if (!near(want, (const float *) out->data, 0.02)) {
            return 0;
        }
    }
    return 1;
}

// Tests attention with these types of keys and values in the cache.
static int test_attention(int32_t threads, ggml_type k_type, ggml_type v_type) {
    const int64_t d = 64, cells = 32, tokens = 3, heads = 4, kv_heads = 2;
    const float   scale = 0.125f;
    numbers       random;
    const auto    ks = random.some(d * kv_heads * cells), vs = random.some(cells * d * kv_heads), qs = random.some(d * heads * tokens);
    bench         b(threads);
    auto *        cpu = ggml_backend_cpu_buffer_type();
    ggml_tensor * k = ggml_new_tensor_3d(b.ctx, k_type, d, kv_heads, cells);
    ggml_tensor * v = ggml_new_tensor_3d(b.ctx, v_type, cells, d, kv_heads);
    ggml_tensor * q = ggml_new_tensor_3d(b.ctx, GGML_TYPE_F32, d, heads, tokens);
    ggml_tensor * m = ggml_new_tensor_2d(b.ctx, GGML_TYPE_F32, cells, tokens);
    for (auto * t : { k, v, q, m }) {
        if (!b.allocate(t, cpu)) {
            return 0;
        }
    }
    std::vector<float> mask(cells * tokens);
    for (int64_t i = 0; i < cells * tokens; i++) {
        mask[i] = i % cells > cells - 8 + i / cells ? -INFINITY : 0.0f;
    }
    ggml_quantize_chunk(k_type, ks.data(), k->data, 0, kv_heads * cells, d, nullptr);
    ggml_quantize_chunk(v_type, vs.data(), v->data, 0, kv_heads * d, cells, nullptr);
    memcpy(q->data, qs.data(), ggml_nbytes(q));
    memcpy(m->data, mask.data(), ggml_nbytes(m));
    // As in build_attn_mha in llama-graph.cpp: V is stored transposed in the cache.
    ggml_tensor * vt = ggml_permute(b.ctx, ggml_permute(b.ctx, v, 0, 2, 1, 3), 0, 2, 1, 3);
    ggml_tensor * kq = ggml_mul_mat(b.ctx, ggml_permute(b.ctx, k, 0, 2, 1, 3), ggml_permute(b.ctx, q, 0, 2, 1, 3));
    ggml_tensor * p  = ggml_soft_max_ext(b.ctx, kq, m, scale, 0.0f);
    ggml_tensor * out = ggml_mul_mat(b.ctx, vt, p);
    if (!b.compute(out)) {
        return 0;
    }
    std::vector<double> want(d * tokens * heads);
    for (int64_t h = 0; h < heads; h++) {
        const int64_t g = h / (heads / kv_heads);
        for (int64_t t = 0; t < tokens; t++) {
            std::vector<double> e(cells);
            double sum = 0;
            for (int64_t c = 0; c < cells; c++) {
                double dot = 0;
                for (int64_t i = 0; i < d; i++) {
                    dot += (double) ks[(c * kv_heads + g) * d + i] * qs[(t * heads + h) * d + i];
                }
                e[c] = exp(dot * scale + mask[t * cells + c]);
                sum += e[c];
            }
            for (int64_t i = 0; i < d; i++) {
                for (int64_t c = 0; c < cells; c++) {
                    want[(h * tokens + t) * d + i] += e[c] / sum * vs[(g * d + i) * cells + c];
                }
            }
        }
    }
    return near(want, (const float *) out->data, 0.01);
}

int chaski_kernels_test_attention(int32_t threads) {
    return test_attention(threads, GGML_TYPE_F16, GGML_TYPE_F16) && test_attention(threads, GGML_TYPE_F32, GGML_TYPE_F32) &&
           test_attention(threads, GGML_TYPE_BF16, GGML_TYPE_BF16) && test_attention(threads, GGML_TYPE_Q8_0, GGML_TYPE_F16);
}
