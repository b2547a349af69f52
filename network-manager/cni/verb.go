package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/cni/frame"
)

// Versions are the versions of the CNI specification that are spoken.
func Versions() []string { return []string{"0.4.0", "1.0.0", "1.1.0"} }

// config is the network configuration on standard input, the parts that count.
type config struct {
	CNIVersion string `json:"cniVersion"`
	Name       string `json:"name"`
	// Network is the network to join; "default" when empty.
	Network string `json:"network"`
	Args    struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels"`
		} `json:"cni"`
	} `json:"args"`
	PrevResult  json.RawMessage `json:"prevResult"`
	Attachments []attachment    `json:"cni.dev/valid-attachments"`
}

// attachment names one that is valid, for GC.
type attachment struct {
	ContainerID string `json:"containerID"`
	Interface   string `json:"ifname"`
}

// verb does what a request asks and gives the result to print, nil for none.
func (s *Server) verb(ctx context.Context, r frame.Request, ns *os.File) (result any, version string, err error) {
	var c config
	if err := json.Unmarshal(r.Stdin, &c); err != nil {
		if r.Command == "VERSION" { // SPEC, section 2, VERSION: only cniVersion, which we do not need
			return versionResult(), "1.1.0", nil
		}
		return nil, "1.1.0", cniError{codeDecode, "the network configuration is not JSON", err.Error()}
	}
	version = c.CNIVersion
	if version == "" || !slices.Contains(Versions(), version) {
		if r.Command == "VERSION" {
			return versionResult(), "1.1.0", nil
		}
		return nil, "1.1.0", cniError{
			codeVersion, fmt.Sprintf("cniVersion %q is not supported", c.CNIVersion),
			"supported are " + strings.Join(Versions(), ", "),
		}
	}
	if c.Network == "" {
		c.Network = workload.NetworkDefault
	}
	switch r.Command {
	case "VERSION":
		return versionResult(), version, nil
	case "STATUS":
		return nil, version, s.network.Status(c.Network)
	case "GC":
		return nil, version, s.collect(ctx, c)
	case "ADD", "DEL", "CHECK":
	default:
		return nil, version, cniError{codeEnvironment, fmt.Sprintf("CNI_COMMAND %q is not known", r.Command), ""}
	}
	if err := checkRequest(r); err != nil {
		return nil, version, err
	}
	if r.Command == "DEL" {
		return nil, version, s.network.DetachInterface(ctx, container(r.ContainerID), r.Interface)
	}
	if ns == nil {
		return nil, version, cniError{codeEnvironment, fmt.Sprintf("CNI_NETNS %q cannot be opened", r.NetNS), ""}
	}
	if r.Command == "CHECK" {
		return nil, version, s.network.Check(ctx, container(r.ContainerID), r.Interface, ns)
	}
	result, err = s.add(ctx, r, c, ns)
	return result, version, err
}

var (
	containerPattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`) // SPEC, section 2, CNI_CONTAINERID
	notLabel         = regexp.MustCompile(`[^a-z0-9-]+`)
)

func checkRequest(r frame.Request) error {
	if !containerPattern.MatchString(r.ContainerID) {
		return cniError{codeEnvironment, fmt.Sprintf("CNI_CONTAINERID %q is missing or has characters other than letters, digits, _, . and -", r.ContainerID), ""}
	}
	if r.Interface == "" || len(r.Interface) > 15 || strings.ContainsAny(r.Interface, "/: \t\n") || r.Interface == "." || r.Interface == ".." {
		return cniError{codeEnvironment, fmt.Sprintf("CNI_IFNAME %q is no name of an interface", r.Interface), ""}
	}
	return nil
}

// container keeps IDs of CNI apart from those of TERO's own containers.
func container(id string) workload.ID { return workload.ID("cni/" + id) }

func (s *Server) add(ctx context.Context, r frame.Request, c config, ns *os.File) (any, error) {
	args, err := parseArgs(r.Args)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{}
	for _, l := range c.Args.CNI.Labels {
		labels[l.Key] = l.Value
	}
	for from, to := range map[string]string{"K8S_POD_NAMESPACE": "k8s-namespace", "K8S_POD_NAME": "k8s-pod"} {
		if v := args[from]; v != "" {
			labels[to] = v
		}
	}
	e, err := s.network.AttachFile(ctx, workload.Attachment{
		Container: container(r.ContainerID), Name: workloadName(r.ContainerID, args), Network: c.Network,
		Labels: labels, Interface: r.Interface,
	}, ns, c.Name)
	if err != nil {
		return nil, err
	}
	result, err := addResult(c, r.NetNS, e)
	if err != nil { // the previous plugin's result made no sense: undo
		if undone := s.network.DetachInterface(context.WithoutCancel(ctx), e.Container, e.Interface); undone != nil {
			return nil, fmt.Errorf("%w (and clean-up failed: %w)", err, undone)
		}
	}
	return result, err
}

// workloadName is TERO_NAME of CNI_ARGS, the pod's name, or made of the ID.
func workloadName(id string, args map[string]string) string {
	for _, k := range []string{"TERO_NAME", "K8S_POD_NAME"} {
		if workload.ValidateName(args[k]) == nil {
			return args[k]
		}
	}
	name := "cni-" + strings.Trim(notLabel.ReplaceAllString(strings.ToLower(id), "-"), "-")
	return strings.TrimRight(name[:min(len(name), 63)], "-")
}

// parseArgs reads CNI_ARGS: "KEY=value;KEY=value".
func parseArgs(s string) (map[string]string, error) {
	out := map[string]string{}
	for part := range strings.SplitSeq(s, ";") {
		if part == "" {
			continue
		}
		k, v, ok := strings.Cut(part, "=")
		if !ok || k == "" {
			return nil, cniError{codeEnvironment, fmt.Sprintf("CNI_ARGS: %q is not KEY=value", part), ""}
		}
		out[k] = v
	}
	return out, nil
}

func (s *Server) collect(ctx context.Context, c config) error {
	if c.Name == "" {
		return cniError{codeConfig, "the network configuration has no name", ""}
	}
	valid := map[attachment]bool{}
	for _, a := range c.Attachments {
		valid[attachment{string(container(a.ContainerID)), a.Interface}] = true
	}
	return s.network.CollectCNI(ctx, c.Name, func(id workload.ID, name string) bool { return valid[attachment{string(id), name}] })
}

// Error codes of the CNI SPEC, section 5 "Error"; those from 100 are the plugin's own.
const (
	codeVersion     = 1
	codeUnsupported = 2
	codeUnknown     = 3
	codeEnvironment = 4
	codeDecode      = 6
	codeConfig      = 7
	codeUnavailable = 50
	codeFailed      = 100
	codeExhausted   = 101
	codeConflict    = 102
)

// cniError is an error with a code of the specification.
type cniError struct {
	code             int
	message, details string
}

// Error gives the message.
func (e cniError) Error() string { return e.message }

func codeOf(err error) int {
	switch fault.KindOf(err) {
	case fault.Invalid:
		return codeConfig
	case fault.NotFound:
		return codeUnknown
	case fault.Unsupported:
		return codeUnsupported
	case fault.Unavailable:
		return codeUnavailable
	case fault.Exhausted:
		return codeExhausted
	case fault.Exists, fault.Conflict:
		return codeConflict
	default:
		return codeFailed
	}
}
