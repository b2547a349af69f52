package doctor

import (
	"os"
	"os/exec"
	"slices"
	"strings"
)

// isolationChecks say which isolation classes work here, and why not the others.
func isolationChecks(found []Check) []Check {
	return []Check{kvmCheck(), nativeCheck(found), gvisorCheck(), microvmCheck(), wasmCheck()}
}

func kvmCheck() Check {
	c := check("isolation", "KVM", "fast virtual machines for the class microvm")
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return c.warn("turn virtualisation on in the firmware or in the host of this machine; machines are emulated otherwise", "/dev/kvm is %s", reason(err))
	}
	_ = f.Close()
	return c.ok("/dev/kvm")
}

// nativeCheck follows from the checks of what the class is made of.
func nativeCheck(found []Check) Check {
	c := check("isolation", "class native", "namespaces, cgroups, seccomp and Landlock on the host's kernel")
	parts := []string{
		"root", "namespaces", "user namespaces and idmapped mounts", "overlayfs", "seccomp", "pidfd", "system calls", "device filter",
		"hierarchy", "pids controller", "may be changed", "throw-away namespace",
	}
	var lacking []string
	for _, f := range found {
		if f.Status == Missing && slices.Contains(parts, f.Name) {
			lacking = append(lacking, f.Name)
		}
	}
	if lacking != nil {
		return c.missing("see the hints of these checks", "cannot work: %s", strings.Join(lacking, ", "))
	}
	return c.ok("works")
}

// notYet is the hint for the classes that this version has no driver for.
const notYet = "use the class native: this version of TERO has no driver for this one"

func gvisorCheck() Check {
	c := check("isolation", "class gvisor", "system calls served by a kernel in user space")
	if path, err := exec.LookPath("runsc"); err == nil {
		return c.warn(notYet, "no driver yet; runsc is at %s", path)
	}
	return c.warn(notYet, "no driver yet, and no runsc")
}

func microvmCheck() Check {
	c := check("isolation", "class microvm", "a kernel of its own for each workload")
	if path, err := exec.LookPath("qemu-system-x86_64"); err == nil {
		return c.warn(notYet, "no driver yet; QEMU is at %s", path)
	}
	return c.warn(notYet, "no driver yet, and no QEMU")
}

func wasmCheck() Check {
	return check("isolation", "class wasm", "WebAssembly modules as workloads").warn(notYet, "no driver yet")
}
