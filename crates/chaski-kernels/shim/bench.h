// Helpers for the shim's tests: reproducible numbers, and graphs for ggml to compute.
#pragma once

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Deterministic numbers between -1 and 1.
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

// A graph with one buffer per tensor.
struct bench {
    ggml_context *                     ctx;
    ggml_backend_t                     backend = ggml_backend_cpu_init();
    std::vector<ggml_backend_buffer_t> buffers;

    explicit bench(int32_t threads) {
        ggml_init_params params = { 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true };
        ctx = ggml_init(params);
        ggml_backend_cpu_set_n_threads(backend, threads);
    }

    ~bench() {
        for (auto buffer : buffers) {
            ggml_backend_buffer_free(buffer);
        }
        ggml_backend_free(backend);
        ggml_free(ctx);
    }

    // Allocates memory for one tensor.
    bool allocate(ggml_tensor * t, ggml_backend_buffer_type_t type) {
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, ggml_nbytes(t) + 64);
        if (!buffer) {
            return false;
        }
        buffers.push_back(buffer);
        ggml_backend_tensor_alloc(buffer, t, ggml_backend_buffer_get_base(buffer));
        return true;
    }

    // Allocates memory for a tensor and copies `data` into it.
    bool give(ggml_tensor * t, const void * data) {
        if (!allocate(t, ggml_backend_cpu_buffer_type())) {
            return false;
        }
        memcpy(t->data, data, ggml_nbytes(t));
        return true;
    }

    // Computes `out`. All inputs must have memory; views and results get theirs here.
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

}  // namespace
