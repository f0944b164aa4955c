//! The few objects of ggml that the network needs, freed when they are dropped.
//!
//! Functions that take tensors are unsafe: ggml does not check that a tensor still has its context and its memory, and
//! ends the process on shapes that do not fit. `net` keeps contexts, back end and plans together and drops them in order.

use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::gguf::TensorType;
use crate::hidden::error::HiddenError;
use crate::kernels;

/// Most tensors of a context, and of a graph.
pub(super) const MAX_TENSORS: usize = 32;

/// A tensor of a [`Context`].
pub(super) type Tensor = NonNull<sys::ggml_tensor>;

/// ggml's CPU back end.
#[derive(Debug)]
pub(super) struct Backend(NonNull<sys::ggml_backend>);

impl Backend {
    /// A back end that computes on `n_threads` threads, at least one.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) fn cpu(n_threads: usize) -> Result<Backend, HiddenError> {
        let n_threads = i32::try_from(n_threads.max(1)).map_err(|_| HiddenError::Engine("too many threads"))?;
        // SAFETY: the call has no requirements. Its result is a CPU back end or NULL, so the number of threads can be
        // set.
        unsafe {
            let backend = NonNull::new(sys::ggml_backend_cpu_init()).ok_or(HiddenError::Engine("no CPU back end"))?;
            sys::ggml_backend_cpu_set_n_threads(backend.as_ptr(), n_threads);
            Ok(Backend(backend))
        }
    }
}

impl Drop for Backend {
    #[expect(unsafe_code, reason = "ggml's object is freed")]
    fn drop(&mut self) {
        // SAFETY: it was created by `cpu` and is freed once. No plan outlives it, as `Plan::new` demands.
        unsafe { sys::ggml_backend_free(self.0.as_ptr()) }
    }
}

/// Descriptions of tensors, and one block of memory for their elements.
#[derive(Debug)]
pub(super) struct Context {
    inner: NonNull<sys::ggml_context>,
    memory: Option<NonNull<sys::ggml_backend_buffer>>,
    /// Tensors that still fit.
    n_left: usize,
}

impl Context {
    /// Room for descriptions of [`MAX_TENSORS`] tensors, and a graph of as many.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) fn new() -> Result<Context, HiddenError> {
        // SAFETY: these calls have no requirements; ggml allocates the memory for the descriptions itself.
        let inner = unsafe {
            let graph = sys::ggml_graph_overhead_custom(MAX_TENSORS, false);
            let mem_size = MAX_TENSORS * sys::ggml_tensor_overhead() + graph;
            sys::ggml_init(sys::ggml_init_params { mem_size, mem_buffer: std::ptr::null_mut(), no_alloc: true })
        };
        let inner = NonNull::new(inner).ok_or(HiddenError::Engine("no memory for its graph"))?;
        Ok(Context { inner, memory: None, n_left: MAX_TENSORS })
    }

    /// Describes a matrix; its elements have no memory before [`Context::allocate`].
    ///
    /// # Panics
    /// If the context is full.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) fn matrix(&mut self, tensor_type: TensorType, n_columns: usize, n_rows: usize) -> Tensor {
        // SAFETY: the context lives, and `call` checks that it is not full. The type is one of ggml's, since
        // `TensorType` has no others.
        unsafe {
            let code = tensor_type.code as sys::ggml_type;
            self.call(|context| sys::ggml_new_tensor_2d(context, code, n_columns as i64, n_rows as i64))
        }
    }

    /// The product of a matrix with each row of `x`.
    ///
    /// # Safety
    /// Both tensors live as long as this context, and the rows have as many columns as the matrix.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn product(&mut self, matrix: Tensor, x: Tensor) -> Tensor {
        // SAFETY: by the contract above, and `call` checks that there is room.
        unsafe { self.call(|context| sys::ggml_mul_mat(context, matrix.as_ptr(), x.as_ptr())) }
    }

    /// The sum of two tensors. `b` may have a single row, which is added to each row of `a`.
    ///
    /// # Safety
    /// Both tensors live as long as this context, and have rows of the same length.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn sum(&mut self, a: Tensor, b: Tensor) -> Tensor {
        // SAFETY: by the contract above, and `call` checks that there is room.
        unsafe { self.call(|context| sys::ggml_add(context, a.as_ptr(), b.as_ptr())) }
    }

    /// `max(x, 0)` of each element.
    ///
    /// # Safety
    /// The tensor lives as long as this context.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn relu(&mut self, x: Tensor) -> Tensor {
        // SAFETY: by the contract above, and `call` checks that there is room.
        unsafe { self.call(|context| sys::ggml_relu(context, x.as_ptr())) }
    }

    /// The columns `columns` of a matrix of F32, without a copy.
    ///
    /// # Safety
    /// The tensor lives as long as this context, is contiguous and of F32, and has these columns.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn columns(&mut self, of: Tensor, columns: std::ops::Range<usize>) -> Tensor {
        let offset = columns.start * size_of::<f32>();
        // SAFETY: by the contract above, and `call` checks that there is room.
        unsafe {
            let sys::ggml_tensor { ne, nb, .. } = *of.as_ptr();
            self.call(|context| sys::ggml_view_2d(context, of.as_ptr(), columns.len() as i64, ne[1], nb[1], offset))
        }
    }

    /// Adds one tensor with a function of ggml.
    ///
    /// # Safety
    /// `add` must be sound for a context with room for one tensor, and return a tensor of it.
    ///
    /// # Panics
    /// If the context is full.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    unsafe fn call(&mut self, add: impl FnOnce(*mut sys::ggml_context) -> *mut sys::ggml_tensor) -> Tensor {
        self.n_left = self.n_left.checked_sub(1).expect("room for one more tensor");
        NonNull::new(add(self.inner.as_ptr())).expect("ggml returns a tensor or ends the process")
    }

    /// Gives memory of this kind to all tensors, once. It holds zeros.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) fn allocate(&mut self, kind: sys::ggml_backend_buffer_type_t) -> Result<(), HiddenError> {
        assert!(self.memory.is_none(), "tensors have memory already");
        // SAFETY: the context lives, was created without memory, and `kind` is one of ggml's static types of buffers.
        let memory = unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft(self.inner.as_ptr(), kind) };
        let memory = NonNull::new(memory).ok_or(HiddenError::Engine("not enough memory"))?;
        self.memory = Some(memory);
        // SAFETY: it is memory of the CPU that nothing uses yet.
        unsafe { sys::ggml_backend_buffer_clear(memory.as_ptr(), 0) };
        Ok(())
    }

    /// The kind of memory that every part of the program can read and write.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) fn plain_memory() -> sys::ggml_backend_buffer_type_t {
        // SAFETY: the call has no requirements; the result is static.
        unsafe { sys::ggml_backend_cpu_buffer_type() }
    }
}

impl Drop for Context {
    #[expect(unsafe_code, reason = "ggml's objects are freed")]
    fn drop(&mut self) {
        // SAFETY: both were created by this struct and are freed once, the memory first. No plan outlives them, as
        // `Plan::new` demands.
        unsafe {
            if let Some(memory) = self.memory {
                sys::ggml_backend_buffer_free(memory.as_ptr());
            }
            sys::ggml_free(self.inner.as_ptr());
        }
    }
}

/// A graph that is ready to be computed any number of times, with the memory that takes.
#[derive(Debug)]
pub(super) struct Plan {
    inner: NonNull<std::ffi::c_void>,
    backend: NonNull<sys::ggml_backend>,
}

impl Plan {
    /// Plans the computation of `result`, and of everything it needs.
    ///
    /// # Safety
    /// `result` is a tensor of `context`, which has no other plan. All tensors it depends on, at most [`MAX_TENSORS`],
    /// have memory. The back end, those tensors and their memory live as long as the plan.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn new(backend: &Backend, context: &Context, result: Tensor) -> Result<Plan, HiddenError> {
        // SAFETY: by the contract above. A context has room for one graph of `MAX_TENSORS`, and this is its only one.
        let inner = unsafe {
            let graph = sys::ggml_new_graph_custom(context.inner.as_ptr(), MAX_TENSORS, false);
            sys::ggml_build_forward_expand(graph, result.as_ptr());
            // The audit is of the target's graphs, and looks at a graph while it is planned.
            kernels::without_audit(|| sys::ggml_backend_graph_plan_create(backend.0.as_ptr(), graph))
        };
        let inner = NonNull::new(inner).ok_or(HiddenError::Engine("no memory for its graph"))?;
        Ok(Plan { inner, backend: backend.0 })
    }

    /// Computes the graph from what its inputs hold now.
    ///
    /// # Safety
    /// Nothing else reads or writes the memory of its tensors meanwhile.
    #[expect(unsafe_code, reason = "the safe bindings do not offer ggml's graphs")]
    pub(super) unsafe fn compute(&mut self) -> Result<(), HiddenError> {
        // SAFETY: the plan and, by the contract of `new`, the back end live.
        let status = unsafe { sys::ggml_backend_graph_plan_compute(self.backend.as_ptr(), self.inner.as_ptr()) };
        if status == sys::GGML_STATUS_SUCCESS { Ok(()) } else { Err(HiddenError::Engine("ggml could not compute")) }
    }
}

impl Drop for Plan {
    #[expect(unsafe_code, reason = "ggml's object is freed")]
    fn drop(&mut self) {
        // SAFETY: it was created by `new` and is freed once; by the contract of `new` the back end still lives.
        unsafe { sys::ggml_backend_graph_plan_free(self.backend.as_ptr(), self.inner.as_ptr()) }
    }
}
