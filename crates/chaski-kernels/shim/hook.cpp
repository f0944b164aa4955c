// The hook into ggml-cpu: a buffer type in front of its own "extra" ones. ggml asks these for every weight while it loads a model
// and before every operation; what is not taken falls through to ggml's kernels. All arithmetic is in Rust.
//
// This relies on internal C++ of ggml-cpu (traits.h, ggml_compute_params), so it is compiled against the headers of the very
// llama.cpp that is linked.
#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

extern "C" {

// `Tensor` in src/tensor.rs.
struct chaski_tensor {
    void *  data;
    int64_t ne[4];
    int64_t nb[4];
    int32_t type;
};

// `Team` in src/product.rs.
struct chaski_team {
    size_t index, size;
    void * pool;
};

int    chaski_kernels_takes(int32_t type, int64_t columns, int64_t rows);
size_t chaski_kernels_tensor_bytes(void);
size_t chaski_kernels_product_work(const chaski_tensor * w, const chaski_tensor * x, const chaski_tensor * ids, const chaski_tensor * out);
void   chaski_kernels_product(const chaski_tensor * w, const chaski_tensor * x, const chaski_tensor * ids, const chaski_tensor * out,
                              const chaski_team * team, void * work);
int    chaski_kernels_takes_keys(const chaski_tensor * k, const chaski_tensor * q);
void   chaski_kernels_keys(const chaski_tensor * k, const chaski_tensor * q, const chaski_tensor * out, const chaski_team * team);
int    chaski_kernels_takes_softmax(const chaski_tensor * x, const chaski_tensor * mask);
void   chaski_kernels_softmax(const chaski_tensor * x, const chaski_tensor * mask, const chaski_tensor * sinks, float scale,
                              const chaski_tensor * out, const chaski_team * team);
int    chaski_kernels_takes_values(const chaski_tensor * v, const chaski_tensor * p);
size_t chaski_kernels_values_work(const chaski_tensor * v, const chaski_tensor * p, int32_t threads);
void   chaski_kernels_values(const chaski_tensor * v, const chaski_tensor * p, const chaski_tensor * out, const chaski_team * team, void * work);
void   chaski_kernels_pack(int32_t type, int64_t columns, int64_t rows, const void * from, void * to);
int    chaski_kernels_register(int32_t attention);
int    chaski_kernels_test_product(int32_t type);
int    chaski_kernels_test_attention(void);
void   chaski_kernels_unregister(void);
}

namespace {

ggml_backend_buffer_type_t buffer_type();

bool is_ours(const ggml_tensor * w) {
    return w && w->buffer && w->buffer->buft == buffer_type();
}

// Whether the kernels take `w` as the weights of `op`.
bool fits(const ggml_tensor * w, enum ggml_op op) {
    const bool shape = op == GGML_OP_MUL_MAT ? ggml_n_dims(w) <= 2 : op == GGML_OP_MUL_MAT_ID && w->ne[3] == 1;
    return shape && ggml_is_contiguous(w) && chaski_kernels_takes(w->type, w->ne[0], w->ne[1]);
}

// A tensor for the Rust side, and a pointer to it; null for none.
struct view {
    chaski_tensor t    = {};
    bool          some = false;

    view(const ggml_tensor * from) {
        if (!from) {
            return;
        }
        some   = true;
        t.data = from->data;
        t.type = from->type;
        for (int i = 0; i < 4; i++) {
            t.ne[i] = from->ne[i];
            t.nb[i] = (int64_t) from->nb[i];
        }
    }

    operator const chaski_tensor *() const { return some ? &t : nullptr; }
};

chaski_team team_of(const ggml_compute_params * params) {
    return { (size_t) params->ith, (size_t) params->nth, params->threadpool };
}

struct weights_traits : ggml::cpu::tensor_traits {
    static const ggml_tensor * ids(const ggml_tensor * op) { return op->op == GGML_OP_MUL_MAT_ID ? op->src[2] : nullptr; }

    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        size = chaski_kernels_product_work(view(op->src[0]), view(op->src[1]), view(ids(op)), view(op));
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const chaski_team team = team_of(params);
        chaski_kernels_product(view(op->src[0]), view(op->src[1]), view(ids(op)), view(op), &team, params->wdata);
        return true;
    }
};

weights_traits g_weights;

enum ggml_status init_tensor(ggml_backend_buffer_t, ggml_tensor * tensor) {
    tensor->extra = &g_weights;
    return GGML_STATUS_SUCCESS;
}

void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor));
    chaski_kernels_pack(tensor->type, tensor->ne[0], tensor->ne[1] * tensor->ne[2], data, tensor->data);
}

const char * get_name(ggml_backend_buffer_type_t) {
    return "CHASKI";
}

size_t get_alignment(ggml_backend_buffer_type_t) {
    return 64;
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (!buffer) {
        return nullptr;
    }
#if defined(__linux__)
    // Large pages: a step reads every weight once, and small ones cost a table walk for each four kilobytes.
    const uintptr_t page = uintptr_t(1) << 21;
    const uintptr_t from = (uintptr_t(ggml_backend_buffer_get_base(buffer)) + page - 1) & ~(page - 1);
    const uintptr_t to   = (uintptr_t(ggml_backend_buffer_get_base(buffer)) + size) & ~(page - 1);
    if (from < to) {
        madvise((void *) from, to - from, MADV_HUGEPAGE);
    }
#endif
    buffer->buft              = type;
    buffer->iface.init_tensor = init_tensor;
    buffer->iface.set_tensor  = set_tensor;
    buffer->iface.get_tensor  = nullptr;
    buffer->iface.cpy_tensor  = nullptr;
    return buffer;
}

// Attention's operations have no weights of ours; they are recognized by their shape in the graph.

struct keys_traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t & size) override {
        size = 0;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const chaski_team team = team_of(params);
        chaski_kernels_keys(view(op->src[0]), view(op->src[1]), view(op), &team);
        return true;
    }
} g_keys;

struct softmax_traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor *, size_t & size) override {
        size = 0;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const chaski_team team = team_of(params);
        chaski_kernels_softmax(view(op->src[0]), view(op->src[1]), view(op->src[2]), ggml_get_op_params_f32(op, 0), view(op), &team);
        return true;
    }
} g_softmax;

struct values_traits : ggml::cpu::tensor_traits {
    bool work_size(int threads, const ggml_tensor * op, size_t & size) override {
        size = chaski_kernels_values_work(view(op->src[0]), view(op->src[1]), threads);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const chaski_team team = team_of(params);
        chaski_kernels_values(view(op->src[0]), view(op->src[1]), view(op), &team, params->wdata);
        return true;
    }
} g_values;

// A softmax over attention's scores, without ALiBi's slopes.
bool is_attention_softmax(const ggml_tensor * op) {
    const ggml_tensor * x = op->src[0];
    const ggml_tensor * m = op->src[1];
    const bool mask = !m || ((m->type == GGML_TYPE_F16 || m->type == GGML_TYPE_F32) && m->ne[0] == x->ne[0]);
    return x->type == GGML_TYPE_F32 && mask && ggml_get_op_params_f32(op, 1) == 0.0f &&
           chaski_kernels_takes_softmax(view(x), view(m));
}

ggml::cpu::tensor_traits * attention_traits(const ggml_tensor * op) {
    if (op->op == GGML_OP_SOFT_MAX) {
        return is_attention_softmax(op) ? &g_softmax : nullptr;
    }
    if (op->op != GGML_OP_MUL_MAT || op->src[0]->op != GGML_OP_PERMUTE || op->src[1]->type != GGML_TYPE_F32) {
        return nullptr;
    }
    // Both factors are permuted, and the second one of V and P is a softmax.
    if (op->src[1]->op == GGML_OP_SOFT_MAX) {
        return is_attention_softmax(op->src[1]) && chaski_kernels_takes_values(view(op->src[0]), view(op->src[1])) ? &g_values : nullptr;
    }
    return op->src[1]->op == GGML_OP_PERMUTE && chaski_kernels_takes_keys(view(op->src[0]), view(op->src[1])) ? &g_keys : nullptr;
}

struct hook : ggml::cpu::extra_buffer_type {
    bool attention = false;

    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        return is_ours(w) && fits(w, op->op) && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) && x->ne[3] == 1 &&
               (!x->buffer || ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        const bool product = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID;
        if (product && is_ours(op->src[0])) {
            return (ggml::cpu::tensor_traits *) op->src[0]->extra;
        }
        return attention ? attention_traits(op) : nullptr;
    }
};

hook g_hook;

ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type t = {};
        t.iface.get_name      = get_name;
        t.iface.alloc_buffer  = alloc_buffer;
        t.iface.get_alignment = get_alignment;
        t.device              = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
        t.context             = &g_hook;
        return t;
    }();
    return &type;
}

}  // namespace

int chaski_kernels_register(int32_t attention) {
    if (chaski_kernels_tensor_bytes() != sizeof(chaski_tensor)) {
        return 0;
    }
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    for (auto * type : types) {
        if (type == buffer_type()) {
            return 1;
        }
    }
    g_hook.attention = attention != 0;
    types.insert(types.begin(), buffer_type());
    return 1;
}

void chaski_kernels_unregister(void) {
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    if (!types.empty() && types.front() == buffer_type()) {
        types.erase(types.begin());
    }
}

// ---- the self-test: what ggml computes with the hook, against plain sums ----

namespace {

// Numbers between -1 and 1 that are the same everywhere.
struct numbers {
    uint32_t state = 1;

    float operator()() {
        state = state * 1664525u + 1013904223u;
        return (float) (int32_t) state / 2147483648.0f;
    }

    std::vector<float> some(size_t n) {
        std::vector<float> v(n);
        for (float & x : v) {
            x = (*this)();
        }
        return v;
    }
};

// A graph, with a buffer for each tensor.
struct bench {
    ggml_context *                     ctx;
    ggml_backend_t                     backend = ggml_backend_cpu_init();
    std::vector<ggml_backend_buffer_t> buffers;

    bench() {
        ggml_init_params params = { 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
        ctx = ggml_init(params);
        // One thread: OpenMP keeps a team for each thread that began one, and with more of them than CPUs all teams wait by sleeping
        // instead of spinning, which costs a small model a quarter of its speed.
        ggml_backend_cpu_set_n_threads(backend, 1);
    }

    ~bench() {
        for (auto buffer : buffers) {
            ggml_backend_buffer_free(buffer);
        }
        ggml_backend_free(backend);
        ggml_free(ctx);
    }

    // Memory for one tensor.
    bool allocate(ggml_tensor * t, ggml_backend_buffer_type_t type) {
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, ggml_nbytes(t) + 64);
        if (!buffer) {
            return false;
        }
        buffers.push_back(buffer);
        ggml_backend_tensor_alloc(buffer, t, ggml_backend_buffer_get_base(buffer));
        return true;
    }

    // Computes `out`; the tensors that it is made of have memory, except views and results.
    bool compute(ggml_tensor * out) {
        ggml_cgraph * graph = ggml_new_graph_custom(ctx, 32, false);
        ggml_build_forward_expand(graph, out);
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            ggml_tensor * node = ggml_graph_node(graph, i);
            if (node->view_src ? ggml_backend_view_init(node) != GGML_STATUS_SUCCESS : !allocate(node, ggml_backend_cpu_buffer_type())) {
                return false;
            }
        }
        return ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS;
    }
};

// Whether the two differ by rounding only.
bool near(const std::vector<double> & want, const float * got, double tolerance) {
    double size = 0, error = 0;
    for (size_t i = 0; i < want.size(); i++) {
        size += want[i] * want[i];
        error += (want[i] - got[i]) * (want[i] - got[i]);
    }
    return error <= tolerance * tolerance * size;  // false for NaN
}

}  // namespace

int chaski_kernels_test_product(int32_t code) {
    const ggml_type type = (ggml_type) code;
    const int64_t   k = 256, rows = 32, n = 3;
    numbers         random;
    const auto      weights = random.some(k * rows), x = random.some(k * n);
    bench           b;
    ggml_tensor *   w = ggml_new_tensor_2d(b.ctx, type, k, rows);
    ggml_tensor *   a = ggml_new_tensor_2d(b.ctx, GGML_TYPE_F32, k, n);
    std::vector<uint8_t> packed(ggml_nbytes(w));
    ggml_quantize_chunk(type, weights.data(), packed.data(), 0, rows, k, nullptr);
    if (!b.allocate(w, buffer_type()) || !b.allocate(a, ggml_backend_cpu_buffer_type())) {
        return 0;
    }
    ggml_backend_tensor_set(w, packed.data(), 0, packed.size());
    ggml_backend_tensor_set(a, x.data(), 0, ggml_nbytes(a));
    ggml_tensor * out = ggml_mul_mat(b.ctx, w, a);
    if (!b.compute(out)) {
        return 0;
    }
    // What ggml reads from the same blocks.
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

int chaski_kernels_test_attention(void) {
    const int64_t d = 64, cells = 32, tokens = 3, heads = 4, kv_heads = 2;
    const float   scale = 0.125f;
    numbers       random;
    const auto    ks = random.some(d * kv_heads * cells), vs = random.some(cells * d * kv_heads), qs = random.some(d * heads * tokens);
    bench         b;
    auto *        cpu = ggml_backend_cpu_buffer_type();
    ggml_tensor * k = ggml_new_tensor_3d(b.ctx, GGML_TYPE_F16, d, kv_heads, cells);
    ggml_tensor * v = ggml_new_tensor_3d(b.ctx, GGML_TYPE_F16, cells, d, kv_heads);
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
    ggml_fp32_to_fp16_row(ks.data(), (ggml_fp16_t *) k->data, ks.size());
    ggml_fp32_to_fp16_row(vs.data(), (ggml_fp16_t *) v->data, vs.size());
    memcpy(q->data, qs.data(), ggml_nbytes(q));
    memcpy(m->data, mask.data(), ggml_nbytes(m));
    // As build_attn_mha in llama-graph.cpp: V lies transposed in the cache.
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
    return near(want, (const float *) out->data, 0.005);
}
