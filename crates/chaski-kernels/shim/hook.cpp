// The hook into ggml-cpu: a buffer type in front of ggml's own "extra" ones. ggml asks these for every weight while it
// loads a model, and before every operation. What the hook does not take goes to ggml's kernels. All arithmetic is in
// Rust.
//
// This relies on internal C++ of ggml-cpu (traits.h, ggml_compute_params), so it is compiled against the headers of the
// very llama.cpp that is linked.
#include "audit.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"

#include <cstdint>
#include <cstring>

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
void   chaski_kernels_softmax(const chaski_tensor * x, const chaski_tensor * mask, const chaski_tensor * sinks, float scale, float max_bias,
                              const chaski_tensor * out, const chaski_team * team);
int    chaski_kernels_takes_values(const chaski_tensor * v, const chaski_tensor * p);
size_t chaski_kernels_values_work(const chaski_tensor * v, const chaski_tensor * p, int32_t threads);
void   chaski_kernels_values(const chaski_tensor * v, const chaski_tensor * p, const chaski_tensor * out, const chaski_team * team, void * work);
void   chaski_kernels_pack(int32_t type, int64_t columns, int64_t rows, const void * from, void * to);
int    chaski_kernels_register(int32_t attention);
void   chaski_kernels_unregister(void);
// For the self-test, and for graphs of others (`buffer_type` in src/hook.rs).
ggml_backend_buffer_type_t chaski_kernels_buffer_type(void);
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

// Copies a tensor for the Rust side and converts to a pointer to the copy, or to null.
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
    // Use huge pages: a step reads every weight once, and small pages cost a table walk per 4 KiB.
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

// Attention's operations have no weights of ours. They are recognized by their shape in the graph.

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
        chaski_kernels_softmax(view(op->src[0]), view(op->src[1]), view(op->src[2]), ggml_get_op_params_f32(op, 0),
                               ggml_get_op_params_f32(op, 1), view(op), &team);
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

// Whether our kernel takes this softmax.
bool is_attention_softmax(const ggml_tensor * op) {
    const ggml_tensor * x = op->src[0];
    const ggml_tensor * m = op->src[1];
    const bool mask = !m || ((m->type == GGML_TYPE_F16 || m->type == GGML_TYPE_F32) && m->ne[0] == x->ne[0]);
    return x->type == GGML_TYPE_F32 && mask && chaski_kernels_takes_softmax(view(x), view(m));
}

ggml::cpu::tensor_traits * attention_traits(const ggml_tensor * op) {
    if (op->op == GGML_OP_SOFT_MAX) {
        return is_attention_softmax(op) ? &g_softmax : nullptr;
    }
    if (op->op != GGML_OP_MUL_MAT || op->src[1]->type != GGML_TYPE_F32) {
        return nullptr;
    }
    // V·P: the probabilities must come from our softmax, because the sums rely on their grid. V is a view of a cache
    // that stores it transposed, or a transposed copy.
    if (op->src[1]->op == GGML_OP_SOFT_MAX) {
        const bool v = op->src[0]->op == GGML_OP_PERMUTE || op->src[0]->op == GGML_OP_CONT;
        return v && is_attention_softmax(op->src[1]) && chaski_kernels_takes_values(view(op->src[0]), view(op->src[1])) ? &g_values : nullptr;
    }
    // K·Q: keys and queries are both permuted.
    return op->src[0]->op == GGML_OP_PERMUTE && op->src[1]->op == GGML_OP_PERMUTE && chaski_kernels_takes_keys(view(op->src[0]), view(op->src[1])) ? &g_keys : nullptr;
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
        auto * ours = attention ? attention_traits(op) : nullptr;
        return ours ? ours : chaski::other_traits(op);
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

ggml_backend_buffer_type_t chaski_kernels_buffer_type(void) {
    return buffer_type();
}

void chaski_kernels_unregister(void) {
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    if (!types.empty() && types.front() == buffer_type()) {
        types.erase(types.begin());
    }
}
