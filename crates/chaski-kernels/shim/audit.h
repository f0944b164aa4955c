// Decides which operations are exact: a row of the result depends, to the bit, only on its own input row, whatever else
// is in the batch and for any number of threads.
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

// Traits for an operation that none of our kernels takes. Null if ggml's own kernel is exact; traits that compute a
// product as one dot product per row, if that makes it exact; else traits that record the operation and leave it to
// ggml.
ggml::cpu::tensor_traits * other_traits(const ggml_tensor * op);

}  // namespace chaski
