// Which operations are exact: what a row of the result is depends on its own row only, to the bit, whatever else is in the batch and on
// any number of threads.
#pragma once

#include "traits.h"

#include <cstdint>

namespace chaski {

// `Reason` in src/audit.rs.
enum class reason : int32_t {
    none      = -1,
    unknown   = 0,
    flash     = 1,
    softmax   = 2,
    values    = 3,
    wide      = 4,
    repacked  = 5,
    product   = 6,
    positions = 7,
};

// Traits for an operation that none of our kernels takes: null where ggml's own are exact; a product computed as one dot product per
// row, where that makes it exact; or traits that note the operation and leave it to ggml.
ggml::cpu::tensor_traits * other_traits(const ggml_tensor * op);

}  // namespace chaski
