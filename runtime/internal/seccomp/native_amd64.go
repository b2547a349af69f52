package seccomp

// nativeABI is the ABI of this program and of its kernel.
const nativeABI = x8664
