//! Tensor operations of the decoder: one function per op, CPU kernels chosen at run time.
