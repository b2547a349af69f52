package kernel

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the modules that the tests need, of which many are loaded on demand
// on a machine with modprobe; those that they depend on are found.
func wanted() []string {
	return []string{
		// What the machine is made of; others ask for crc32c by what it does.
		"crc32c_generic", "virtio_pci", "virtio_blk", "ext4", "9p", "9pnet_virtio",
		// Root file systems, and a device to grant.
		"overlay", "erofs", "loop", "fuse",
		// The network.
		"veth", "bridge", "br_netfilter", "dummy", "af_packet",
		"nf_tables", "nfnetlink_log", "nf_log_syslog", "nf_conntrack_netlink",
		"nft_ct", "nft_limit", "nft_log", "nft_reject_inet", "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir",
		"nft_fib_inet", "nft_numgen", "nft_hash", "nft_quota", "nft_connlimit", "nft_socket", "nft_tproxy",
	}
}

// modules are the kernel's modules in the order to load them.
type modules struct {
	paths   map[string]string // of files, by name
	builtin []string
	order   []string
}

// findModules finds the wanted modules and what they need in dir, /lib/modules/VERSION.
func findModules(dir string) (*modules, error) {
	m := &modules{paths: map[string]string{}}
	b, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		m.builtin = append(m.builtin, moduleName(strings.TrimSpace(line)))
	}
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".ko") {
			m.paths[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range wanted() {
		if err := m.need(name); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// moduleName gives the name that the kernel has for a module's file.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// need adds a module behind those that it needs.
func (m *modules) need(name string) error {
	path, ok := m.paths[name]
	switch {
	case slices.Contains(m.builtin, name), slices.Contains(m.order, path):
		return nil
	case !ok:
		return fmt.Errorf("the kernel's package has no module %s", name)
	}
	info, err := moduleInfo(path)
	if err != nil {
		return err
	}
	for n := range strings.SplitSeq(info["depends"], ",") {
		if n == "" {
			continue
		}
		if err := m.need(strings.ReplaceAll(n, "-", "_")); err != nil {
			return fmt.Errorf("%s needs: %w", name, err)
		}
	}
	m.order = append(m.order, path)
	return nil
}

// moduleInfo reads what modinfo(8) shows.
func moduleInfo(path string) (map[string]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s: no .modinfo", path)
	}
	b, err := section.Data()
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		if key, value, ok := strings.Cut(string(field), "="); ok {
			info[key] = value
		}
	}
	return info, nil
}
