package ocilayout

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
)

// BuildOptions says what image to build.
type BuildOptions struct {
	// Source is a folder, the image's root; or one file, which becomes
	// /<its name> and, without an Entrypoint, the entrypoint.
	Source string
	// Reference names the image ("web:v1").
	Reference string
	// Layout is the folder of the layout to add the image to; made when missing.
	Layout string
	// Entrypoint to Labels go into the image's configuration as they are.
	Entrypoint   []string
	Cmd          []string
	Env          []string
	User         string
	WorkingDir   string
	StopSignal   string
	ExposedPorts []string // "8080" or "8080/tcp"
	Labels       map[string]string
	// Architecture is in Go's words; this machine's when empty.
	Architecture string
	// Time is the time of every file and of the image (SOURCE_DATE_EPOCH); the
	// zero Time is 1970-01-01, so that equal sources give equal images.
	Time time.Time
}

// Built is an image in a layout.
type Built struct {
	Reference Reference
	Manifest  v1.Descriptor
	Config    v1.Descriptor
	Layer     v1.Descriptor
}

// SourceDateEpoch reads the variable of that name (reproducible-builds.org);
// the zero Time when it is not set.
func SourceDateEpoch() (time.Time, error) {
	v := os.Getenv("SOURCE_DATE_EPOCH")
	if v == "" {
		return time.Time{}, nil
	}
	var seconds int64
	if n, err := fmt.Sscanf(v, "%d", &seconds); err != nil || n != 1 || fmt.Sprint(seconds) != v || seconds < 0 {
		return time.Time{}, fault.New(fault.Invalid, "SOURCE_DATE_EPOCH=%q is not a number of seconds since 1970", v)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// Build makes a single-layer image and tags it in a layout. The layer is an
// uncompressed tar: it needs no unpacking work and its digest depends on no
// compressor. All files belong to root; modes and symbolic links are kept;
// extended attributes and hard links are not. Equal sources and options give
// equal digests.
func Build(ctx context.Context, o BuildOptions) (Built, error) {
	var b Built
	ref, err := ParseReference(o.Reference)
	if err != nil {
		return b, err
	}
	if ref.Digest != "" {
		return b, fault.New(fault.Invalid, "reference %q names a digest, which the build is to find out", o.Reference)
	}
	b.Reference = ref
	if err := o.complete(); err != nil {
		return b, err
	}
	l, err := Create(o.Layout)
	if err != nil {
		return b, err
	}
	b.Layer, err = l.writeBlobFrom(v1.MediaTypeImageLayer, func(w io.Writer) error {
		return writeLayer(ctx, w, o.Source, o.Time)
	})
	if err != nil {
		return b, err
	}
	config, err := json.Marshal(o.image(b.Layer))
	if err != nil {
		return b, fmt.Errorf("encode configuration: %w", err)
	}
	if b.Config, err = l.WriteBlob(v1.MediaTypeImageConfig, config); err != nil {
		return b, err
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: b.Config, Layers: []v1.Descriptor{b.Layer},
	})
	if err != nil {
		return b, fmt.Errorf("encode manifest: %w", err)
	}
	if b.Manifest, err = l.WriteBlob(v1.MediaTypeImageManifest, manifest); err != nil {
		return b, err
	}
	b.Manifest.Platform = &v1.Platform{OS: "linux", Architecture: o.Architecture}
	return b, l.Tag(ref.String(), b.Manifest)
}

var portPattern = regexp.MustCompile(`^([0-9]{1,5})(/(tcp|udp|sctp))?$`)

// complete fills in defaults and checks what would otherwise fail at a launch.
func (o *BuildOptions) complete() error {
	info, err := os.Stat(o.Source)
	if err != nil {
		return fault.New(fault.NotFound, "build source: %w", err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fault.New(fault.Invalid, "build source %s is neither a folder nor a file", o.Source)
	}
	if !info.IsDir() && len(o.Entrypoint) == 0 {
		o.Entrypoint = []string{"/" + filepath.Base(o.Source)}
	}
	if o.Architecture == "" {
		o.Architecture = runtime.GOARCH
	}
	if o.Time.IsZero() {
		o.Time = time.Unix(0, 0)
	}
	o.Time = o.Time.UTC().Truncate(time.Second)
	if o.WorkingDir != "" && !path.IsAbs(o.WorkingDir) {
		return fault.New(fault.Invalid, "working directory %q is not an absolute path", o.WorkingDir)
	}
	for _, e := range o.Env {
		if strings.IndexByte(e, '=') < 1 {
			return fault.New(fault.Invalid, "environment entry %q is not KEY=value", e)
		}
	}
	for _, p := range o.ExposedPorts {
		if !portPattern.MatchString(p) {
			return fault.New(fault.Invalid, "port %q is not a number, or a number with /tcp, /udp or /sctp", p)
		}
	}
	return nil
}

// image gives the OCI configuration.
func (o *BuildOptions) image(layer v1.Descriptor) v1.Image {
	img := v1.Image{
		Created:  &o.Time,
		Platform: v1.Platform{OS: "linux", Architecture: o.Architecture},
		Config: v1.ImageConfig{
			User: o.User, Env: o.Env, Entrypoint: o.Entrypoint, Cmd: o.Cmd,
			WorkingDir: o.WorkingDir, StopSignal: o.StopSignal, Labels: maps.Clone(o.Labels),
		},
		RootFS:  v1.RootFS{Type: "layers"},
		History: []v1.History{{Created: &o.Time, CreatedBy: "tero image build"}},
	}
	img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, layer.Digest) // uncompressed: the same
	if len(o.ExposedPorts) > 0 {
		img.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range o.ExposedPorts {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		img.Config.ExposedPorts[p] = struct{}{}
	}
	return img
}

// writeLayer writes the source as a tar, in the order of its names.
func writeLayer(ctx context.Context, w io.Writer, source string, at time.Time) error {
	tw := tar.NewWriter(w)
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("build source: %w", err)
	}
	if info.IsDir() {
		err = filepath.WalkDir(source, func(file string, _ fs.DirEntry, err error) error { // lexical order
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return err
			}
			name, err := filepath.Rel(source, file)
			if err != nil {
				return err
			}
			return addEntry(tw, file, filepath.ToSlash(name), at)
		})
	} else {
		err = addEntry(tw, source, filepath.Base(source), at)
	}
	if err != nil {
		return fmt.Errorf("build from %s: %w", source, err)
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("build from %s: %w", source, err)
	}
	return nil
}

// addEntry writes one file, folder or symbolic link.
func addEntry(tw *tar.Writer, file, name string, at time.Time) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if strings.HasPrefix(path.Base(name), ".wh.") {
		return fault.New(fault.Invalid, "%s: names that begin with .wh. delete files in image layers and cannot be files themselves", file)
	}
	h := &tar.Header{Name: name, Mode: unixMode(info.Mode()), ModTime: at, Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return tw.WriteHeader(h)
	case info.Mode()&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
		if h.Linkname, err = os.Readlink(file); err != nil {
			return err
		}
		return tw.WriteHeader(h)
	case info.Mode().IsRegular():
		return addFile(tw, file, h)
	default:
		return fault.New(fault.Invalid, "%s is neither a file, a folder nor a symbolic link", file)
	}
}

func unixMode(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	if m&fs.ModeSetuid != 0 {
		mode |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		mode |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	return mode
}
