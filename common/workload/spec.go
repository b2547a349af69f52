package workload

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
)

// Spec is what somebody wants to run. Its JSON form is what plugins see and
// may change, what policy decides on and what the launch record binds.
type Spec struct {
	// Name is unique on a node: a DNS label (RFC 1123), 1 to 63 characters.
	Name string `json:"name"`
	// Image is the reference as it was asked for.
	Image string `json:"image"`
	// Entrypoint replaces the image's entrypoint when not empty.
	Entrypoint []string `json:"entrypoint,omitempty"`
	// Args replaces the image's command; after Complete it is the whole argv.
	Args []string `json:"args,omitempty"`
	// Env holds KEY=value entries; later entries win.
	Env []string `json:"env,omitempty"`
	// WorkingDir is an absolute path inside the container.
	WorkingDir string `json:"workingDir,omitempty"`
	// User is "uid[:gid]" or "name[:group]", resolved inside the image.
	User string `json:"user,omitempty"`
	// Hostname is the container's host name; the Name when empty.
	Hostname string `json:"hostname,omitempty"`
	// Labels are free; segments and policies select by them.
	Labels map[string]string `json:"labels,omitempty"`
	// Terminal gives the container a pseudo-terminal.
	Terminal bool `json:"terminal,omitempty"`
	// TerminalSize is the terminal's size at the start. It is how somebody looks
	// at the container, not what runs: nobody decides on it or measures it.
	TerminalSize TerminalSize `json:"-"`
	// OpenStdin keeps standard input open for attach.
	OpenStdin bool `json:"openStdin,omitempty"`
	// WritableRootfs lays a writable overlay over the image; read-only otherwise.
	WritableRootfs bool `json:"writableRootfs,omitempty"`
	// Isolation is the isolation class ("native"); the node's default when empty.
	Isolation string `json:"isolation,omitempty"`
	// CapAdd names capabilities to keep ("CAP_NET_RAW"); none are kept otherwise.
	CapAdd []string `json:"capAdd,omitempty"`
	// AppArmor names the AppArmor profile of the container's processes; none when empty.
	AppArmor string `json:"apparmor,omitempty"`
	// SELinux is the context of the container's processes, user:role:type:level; none when empty.
	SELinux string `json:"selinux,omitempty"`
	// NoLandlock leaves out the Landlock layer, which is there where the kernel has it.
	NoLandlock bool `json:"noLandlock,omitempty"`
	// Mounts are file systems beside the image's.
	Mounts []Mount `json:"mounts,omitempty"`
	// Devices are devices of the node that the container may use.
	Devices []Device `json:"devices,omitempty"`
	// Sysctls are kernel parameters of the container's own namespaces.
	Sysctls map[string]string `json:"sysctls,omitempty"`
	// Ulimits are limits of each process.
	Ulimits []Ulimit `json:"ulimits,omitempty"`
	// ShmBytes is the size of /dev/shm; 64 MiB when 0.
	ShmBytes int64 `json:"shmBytes,omitempty"`
	// Resources are the limits of the container's cgroup.
	Resources Resources `json:"resources"`
	// Network is the network to join; "none" for a network namespace without one.
	Network string `json:"network"`
	// Log bounds what is kept of the container's output.
	Log LogLimits `json:"log,omitzero"`
	// StopSignal is a signal name ("SIGTERM"); the image's, else SIGTERM, when empty.
	StopSignal string `json:"stopSignal,omitempty"`
	// AutoRemove removes the container when it has exited.
	AutoRemove bool `json:"autoRemove,omitempty"`
	// MinLevel is the least assurance level that the node must have.
	MinLevel Level `json:"minLevel"`
	// StopTimeout is how many seconds stop waits before SIGKILL; 0 does not wait,
	// negative waits for ever, nil is DefaultStopTimeout.
	StopTimeout *int32 `json:"stopTimeout,omitempty"`
	// Restart says when the container is launched again after its end.
	Restart Restart `json:"restart,omitzero"`
	// Health checks the container; the image's check when it names no command.
	Health Health `json:"health,omitzero"`
}

// TerminalSize is in characters; zero is unknown.
type TerminalSize struct{ Rows, Columns uint16 }

// LogLimits bound a container's log; zero means the default.
type LogLimits struct {
	// MaxBytes is the size at which another file is begun.
	MaxBytes int64 `json:"maxBytes,omitempty"`
	// MaxFiles is how many files are kept.
	MaxFiles int `json:"maxFiles,omitempty"`
}

// What a log may be bound to, and what it is when nothing is said: at most 48 MiB
// of disk a container.
const (
	DefaultLogBytes = 16 << 20
	DefaultLogFiles = 3
	MinLogBytes     = 256 << 10
	MaxLogFiles     = 1000
)

// Or gives the limits with the defaults filled in.
func (l LogLimits) Or() LogLimits {
	if l.MaxBytes == 0 {
		l.MaxBytes = DefaultLogBytes
	}
	if l.MaxFiles == 0 {
		l.MaxFiles = DefaultLogFiles
	}
	return l
}

func (l LogLimits) validate() error {
	if l.MaxBytes != 0 && l.MaxBytes < MinLogBytes {
		return fmt.Errorf("log files of %d bytes are under the least that works, 256 KiB", l.MaxBytes)
	}
	if l.MaxFiles < 0 || l.MaxFiles > MaxLogFiles {
		return fmt.Errorf("a log of %d files is not one of 1 to %d", l.MaxFiles, MaxLogFiles)
	}
	return nil
}

// Resources are cgroup limits; zero means the default of the node.
type Resources struct {
	// MilliCPU is CPU time in thousandths of a core.
	MilliCPU int64 `json:"milliCpu,omitempty"`
	// MemoryBytes is the memory limit in bytes.
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
	// Pids is the most tasks at a time.
	Pids int64 `json:"pids,omitempty"`
	// CPUShares is the weight against other containers on busy CPUs, 2 to
	// 262144; 1024 is the kernel's default.
	CPUShares int64 `json:"cpuShares,omitempty"`
	// CPUSet lists the CPUs that may be used, such as "0-2,5".
	CPUSet string `json:"cpuSet,omitempty"`
	// MemoryReservation is what is left to the container, in bytes, when the
	// node runs short of memory.
	MemoryReservation int64 `json:"memoryReservation,omitempty"`
	// MemorySwap is the limit of memory and swap together, in bytes; Unlimited
	// for no limit. No swap when 0.
	MemorySwap int64 `json:"memorySwap,omitempty"`
	// IOWeight is the weight against other containers on busy disks, 10 to 1000.
	IOWeight int64 `json:"ioWeight,omitempty"`
	// IO are limits of single block devices.
	IO []IOLimit `json:"io,omitempty"`
}

// Defaults of a node for limits that a Spec leaves at zero.
const (
	DefaultPids    = 1024
	NetworkDefault = "default"
	NetworkNone    = "none"
	// IsolationNative is the class of namespaces on the node's own kernel.
	IsolationNative = "native"
)

// hostnamePattern has the kernel's length (__NEW_UTS_LEN), and what hosts(5) can hold.
var hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidateName tells whether s can name a workload, a network or a segment: a
// DNS label of RFC 1123.
func ValidateName(s string) error {
	if !namePattern.MatchString(s) {
		return fmt.Errorf("name %q is not a DNS label: 1 to 63 of a-z, 0-9 and -, not starting or ending with -", s)
	}
	return nil
}

// maxString is the kernel's MAX_ARG_STRLEN, 32 pages, without the NUL.
const maxString = 32*4096 - 1

// Validate checks the forms of the fields; the first fault found is told.
func (s *Spec) Validate() error {
	if err := ValidateName(s.Name); err != nil {
		return err
	}
	if s.Image == "" {
		return fmt.Errorf("no image given")
	}
	if err := ValidateName(s.Network); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if s.Isolation != "" {
		if err := ValidateName(s.Isolation); err != nil {
			return fmt.Errorf("isolation class: %w", err)
		}
	}
	if s.WorkingDir != "" && !strings.HasPrefix(s.WorkingDir, "/") {
		return fmt.Errorf("working directory %q is not an absolute path", s.WorkingDir)
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return fmt.Errorf("environment entry %q is not KEY=value", e)
		}
	}
	for _, v := range slices.Concat(s.Entrypoint, s.Args, s.Env, s.Health.Command, []string{s.WorkingDir, s.User}) {
		if strings.ContainsRune(v, 0) {
			return fmt.Errorf("%q holds a NUL byte", v)
		}
		if len(v) > maxString {
			return fmt.Errorf("the argument or environment entry \"%.32s...\" has %d bytes; the kernel takes %d in one", v, len(v), maxString)
		}
	}
	// It becomes a line of the container's /etc/hosts and /etc/hostname.
	if s.Hostname != "" && !hostnamePattern.MatchString(s.Hostname) {
		return fmt.Errorf("host name %q is not 1 to 64 of letters, digits, - and ., beginning with a letter or digit", s.Hostname)
	}
	if err := s.Restart.validate(); err != nil {
		return err
	}
	if s.AutoRemove && !s.Restart.Never() {
		return fmt.Errorf("a container that is removed when it has exited cannot be restarted: %s", s.Restart)
	}
	if err := s.validateLabels(); err != nil {
		return err
	}
	if err := s.Log.validate(); err != nil {
		return err
	}
	if err := s.validateGrants(); err != nil {
		return err
	}
	if err := s.Health.Validate(); err != nil {
		return err
	}
	if s.AutoRemove && s.Health.OnFailure == HealthRestart {
		return fmt.Errorf("a container that is removed when it has exited cannot be restarted when it is unhealthy")
	}
	return s.validateLimits()
}

// Complete gives s with everything filled in that the image and the defaults
// say, so that Args is the whole argv and no field depends on the image any more.
func (s Spec) Complete(img Image) (Spec, error) {
	c := img.Config
	argv := slices.Clone(s.Entrypoint)
	if len(argv) == 0 {
		argv = slices.Clone(c.Entrypoint)
	}
	switch {
	case len(s.Args) > 0:
		argv = append(argv, s.Args...)
	case len(s.Entrypoint) == 0:
		argv = append(argv, c.Cmd...)
	}
	if len(argv) == 0 {
		return s, fault.New(fault.Invalid, "image %s names no command and none was given", img.Reference).
			WithHint("give a command after the image name")
	}
	s.Entrypoint, s.Args = nil, argv
	s.Env = mergeEnv([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.Env, s.Env)
	s.WorkingDir = first(s.WorkingDir, c.WorkingDir, "/")
	s.User = first(s.User, c.User, "0:0")
	s.Hostname = first(s.Hostname, s.Name)
	s.Isolation = first(s.Isolation, IsolationNative)
	s.StopSignal = first(s.StopSignal, c.StopSignal, "SIGTERM")
	s.Health = s.Health.complete(c.Health)
	if s.Terminal {
		s.Env = mergeEnv([]string{"TERM=xterm"}, s.Env)
	}
	if s.Resources.Pids == 0 {
		s.Resources.Pids = DefaultPids
	}
	s.Labels = maps.Clone(s.Labels)
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	return s, nil
}

// Digest is the SHA-256 of the spec's canonical JSON (RFC 8785).
func (s Spec) Digest() (digest.Digest, error) { return CanonicalDigest(s) }

// CanonicalDigest is the SHA-256 of v's canonical JSON (RFC 8785).
func CanonicalDigest(v any) (digest.Digest, error) {
	b, err := CanonicalJSON(v)
	if err != nil {
		return "", err
	}
	return digest.NewDigestFromBytes(digest.SHA256, sum(b)), nil
}

// CanonicalJSON gives v's JSON in the canonical form of RFC 8785.
func CanonicalJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	c := jsontext.Value(b)
	if err := c.Canonicalize(); err != nil {
		return nil, fmt.Errorf("canonicalise: %w", err)
	}
	return c, nil
}

func sum(b []byte) []byte { h := sha256.Sum256(b); return h[:] }

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}

// mergeEnv keeps the order of first appearance and the value of the last.
func mergeEnv(lists ...[]string) []string {
	var out []string
	at := map[string]int{}
	for _, e := range slices.Concat(lists...) {
		k, _, _ := strings.Cut(e, "=")
		if i, ok := at[k]; ok {
			out[i] = e
			continue
		}
		at[k] = len(out)
		out = append(out, e)
	}
	return out
}
