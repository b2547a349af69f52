package prepared

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/setup"
)

// explainStep makes a fault of a failed step of a program. An unknown step, "", is
// taken for the last. root is the container's root file system, or nil.
func explainStep(step string, errno unix.Errno, p *specs.Process, root *os.File) error {
	if step == setup.StepExec || step == "" {
		return explainExec(errno, p, root)
	}
	if step == setup.StepOOM && (errno == unix.EACCES || errno == unix.EPERM) {
		return fault.New(fault.Unsupported, "oomScoreAdj %d would protect the container more than the node itself is: %w", *p.OOMScoreAdj, errno).
			WithHint("choose a higher one, 0 to 1000")
	}
	if name, ok := strings.CutPrefix(step, setup.StepFolder); ok && errno == unix.ENOENT {
		return fault.New(fault.NotFound, "working directory %q does not exist in the image", name).
			WithHint("choose another with --workdir")
	}
	if name, ok := strings.CutPrefix(step, setup.StepAppArmor); ok && errno == unix.ENOENT {
		return fault.New(fault.NotFound, "the AppArmor profile %q is not loaded on this node", name).
			WithHint("load it with \"apparmor_parser -r FILE\"; \"aa-status\" lists those that are")
	}
	if label, ok := strings.CutPrefix(step, setup.StepSELinux); ok && errno == unix.EINVAL {
		return fault.New(fault.Invalid, "the SELinux policy of this node has no label %q", label).
			WithHint("is the container policy (container-selinux) installed, and the label of the form user:role:type:level?")
	}
	if name, ok := strings.CutPrefix(step, setup.StepMount); ok {
		if f := explainMount(name, errno); f != nil {
			return f
		}
	}
	return fault.New(kindOf(errno), "the container could not be set up: %s: %w", step, errno).
		WithHint("\"tero doctor\" says what this machine lacks")
}

// explainMount says why nothing could be mounted on a path of the container; nil
// for what has no better words.
func explainMount(path string, errno unix.Errno) error {
	switch errno {
	case unix.ELOOP:
		return fault.New(fault.Invalid, "mount point %q is a symbolic link in the image or in another mount, or lies behind one: %w", path, errno).
			WithHint("name the folder that the link leads to")
	case unix.ENOENT:
		return fault.New(fault.Invalid, "mount point %q does not exist, and cannot be made there: %w", path, errno).
			WithHint("make it in the image, or in what is mounted around it")
	case unix.ENOTDIR:
		return fault.New(fault.Invalid, "mount point %q does not fit: one of the source and the mount point is a folder, the other is not, or a file lies on the way: %w", path, errno).
			WithHint("mount files on files, and folders on folders")
	}
	return nil
}

func kindOf(errno unix.Errno) fault.Kind {
	switch errno {
	case unix.ENOSPC, unix.ENOMEM, unix.EDQUOT, unix.EAGAIN, unix.EMFILE, unix.ENFILE:
		return fault.Exhausted
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.EINVAL:
		return fault.Invalid
	case unix.ENOSYS, unix.EPERM, unix.ENODEV, unix.EOPNOTSUPP:
		return fault.Unsupported
	}
	return fault.Internal
}

// explainExec says why a command was not executed, by looking at it in the
// container's root file system.
func explainExec(errno unix.Errno, p *specs.Process, root *os.File) error {
	command := p.Args[0]
	switch errno {
	case unix.EACCES, unix.EPERM, unix.EISDIR:
		return fault.New(fault.Invalid, "command %q is not executable by user %d: %w", command, p.User.UID, errno).
			WithHint("is it a regular file with the x bit (chmod +x), on a mount without noexec?")
	case unix.ENOEXEC:
		return fault.New(fault.Invalid, "command %q is not in a format that this machine executes: %w", command, errno).
			WithHint("is the image for another architecture, or a script without its \"#!\" line?")
	case unix.E2BIG:
		return fault.New(fault.Invalid, "the arguments and the environment of %q are too long: %w", command, errno).
			WithHint("the kernel takes a quarter of the stack limit, 2 MiB as a rule, names and pointers included: pass the rest as a file")
	case unix.ENOENT, unix.ENOTDIR:
	default:
		return fault.New(kindOf(errno), "command %q could not be executed: %w", command, errno)
	}
	if root != nil {
		for _, path := range setup.Candidates(command, p.Env) {
			if !filepath.IsAbs(path) {
				path = filepath.Join(p.Cwd, path)
			}
			if need := interpreter(root, path); need != "" {
				return fault.New(fault.NotFound, "command %q needs %q, which the image does not have: %w", command, need, errno).
					WithHint("the image lacks an interpreter or the C library; link the program statically, or use an image that has it")
			}
		}
	}
	return fault.New(fault.NotFound, "command %q was not found in the image: %w", command, errno).
		WithHint("check its spelling, and PATH in the image's environment")
}

// interpreter gives the loader or script interpreter that the file at path asks
// for; "" when there is no such file or it asks for none.
func interpreter(root *os.File, path string) string {
	fd := -1
	raw, err := root.SyscallConn()
	if err != nil {
		return ""
	}
	controlled := raw.Control(func(dir uintptr) {
		fd, err = unix.Openat2(int(dir), setup.Inside(path), &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
	})
	if controlled != nil || err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	k, _ := io.ReadFull(f, head)
	if line, ok := bytes.CutPrefix(head[:k], []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if fields := strings.Fields(string(line)); len(fields) > 0 {
			return fields[0]
		}
		return ""
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return ""
			}
			return strings.TrimRight(string(b), "\x00")
		}
	}
	return ""
}
