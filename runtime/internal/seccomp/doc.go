// Package seccomp compiles OCI seccomp profiles into classic BPF for the
// kernel, and holds the default profile.
//
// The compiler is TERO's own because libseccomp takes 12 ms and 1,144
// instructions for a profile of Docker's kind, where a binary tree over the
// call numbers takes under a millisecond and a sixth of the instructions; and
// because every start of a container would pay for it.
package seccomp
