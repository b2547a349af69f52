package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"tero.internal/common/fault"
)

// maxFile bounds what is read: a configuration is written by hand.
const maxFile = 1 << 20

// file reads the YAML file of src. Its errors are those that leave nothing to
// read on; the others are gathered.
func (l *loader) file(src Source) error {
	if src.File == "" {
		return nil
	}
	data, err := read(src.File)
	switch {
	case errors.Is(err, fs.ErrNotExist) && src.Optional:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.NotFound, "configuration file %s does not exist", src.File).WithHint("%s", src.Help)
	case err != nil:
		return fault.New(fault.Invalid, "configuration file %s: %w", src.File, err).WithHint("%s", src.Help)
	}
	root, err := document(src.File, data)
	if err != nil {
		return fault.New(fault.Invalid, "%w", err).WithHint("%s", src.Help)
	}
	if root != nil {
		f := fileReader{loader: l, path: src.File}
		f.mapping(root, "")
	}
	return nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the path is the operator's
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	return data, nil
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// document parses the one YAML document in data; nil for an empty one.
func document(path string, data []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		where, text := path, err.Error()
		if m := yamlLine.FindStringSubmatch(text); m != nil {
			text = strings.TrimPrefix(text, m[0])
			if m[1] != "" {
				where += ":" + m[1]
			}
		}
		return nil, fmt.Errorf("%s: not YAML: %s", where, text)
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s:%d: a second YAML document: only one is read", path, max(more.Line, 1))
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d:%d: the file must hold keys and values", path, root.Line, root.Column)
	}
	return root, nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// fileReader walks the nodes of one file.
type fileReader struct {
	*loader
	path string
}

func (f fileReader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", f.path, n.Line, n.Column) }

// mapping reads the keys of one section.
func (f fileReader) mapping(n *yaml.Node, path string) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() == "!!merge" {
			f.problem(f.at(key), "a key must be a plain text")
			continue
		}
		full := join(path, key.Value)
		if line, dup := seen[full]; dup {
			f.problem(f.at(key), "key %q is given twice; first in line %d", full, line)
			continue
		}
		seen[full] = key.Line
		if fl, ok := f.table.byName[full]; ok {
			f.value(fl, key, value)
		} else if _, ok := f.table.sections[full]; ok {
			f.section(full, value)
		} else {
			f.problem(f.at(key), "unknown key %q%s", full, didYouMean(full, f.candidates(path)))
		}
	}
}

// candidates are the keys that may have been meant in a section: its own, and
// every other by its full name.
func (f fileReader) candidates(path string) []string {
	all := slices.Clone(f.table.order)
	slices.SortStableFunc(all, func(a, b string) int { return near(b, path) - near(a, path) })
	return all
}

func near(name, path string) int {
	if parent, _, ok := cutLast(name); parent == path && (ok || path == "") {
		return 1
	}
	return 0
}

func cutLast(name string) (parent, last string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i < 0 {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

func (f fileReader) section(full string, value *yaml.Node) {
	switch {
	case isNull(value): // a section of which every key is commented out
	case value.Kind != yaml.MappingNode:
		f.problem(f.at(value), "%s is a section: it must hold keys and values", full)
	default:
		f.mapping(value, full)
	}
}

// value stores what the node says into the field.
func (f fileReader) value(fl *field, key, n *yaml.Node) {
	var err error
	t := fl.value.Type()
	switch {
	case isNull(n):
		f.failed[fl.Name] = true
		f.problem(f.at(key), "%s has no value; remove the key for the default, or write \"\"", fl.Name)
		return
	case isList(t):
		var texts []string
		if texts, err = f.list(n, fl.Name); err == nil {
			err = fl.setList(texts)
		}
	case isMap(t):
		var m reflect.Value
		if m, err = f.texts(n, t); err == nil {
			fl.value.Set(m)
		}
	default:
		if err = plain(n); err == nil {
			err = fl.set(n.Value)
		}
	}
	if err != nil {
		f.failed[fl.Name] = true
		f.problem(f.at(n), "%s: %w", fl.Name, err)
		return
	}
	f.origins[fl.Name] = Origin{From: FromFile, Where: f.at(n)}
}

// plain refuses everything but one value written out: no alias, so that the
// file says what it means where it stands, and no tag that changes a meaning.
func plain(n *yaml.Node) error {
	switch n.Kind {
	case yaml.AliasNode:
		return fmt.Errorf("YAML aliases are not supported")
	case yaml.ScalarNode:
		if n.Style&yaml.TaggedStyle != 0 {
			return fmt.Errorf("YAML tags are not supported")
		}
		return nil
	case yaml.SequenceNode:
		return fmt.Errorf("one value is wanted, not a list")
	default:
		return fmt.Errorf("one value is wanted, not keys and values")
	}
}

func (f fileReader) list(n *yaml.Node, name string) ([]string, error) {
	if n.Kind != yaml.SequenceNode {
		return nil, fmt.Errorf("a list is wanted, such as [a, b]")
	}
	texts := make([]string, 0, len(n.Content))
	for _, e := range n.Content {
		if err := plain(e); err != nil {
			return nil, fmt.Errorf("line %d: %w", e.Line, err)
		}
		if isNull(e) {
			return nil, fmt.Errorf("line %d: an entry of %s has no value", e.Line, name)
		}
		texts = append(texts, e.Value)
	}
	return texts, nil
}

func (f fileReader) texts(n *yaml.Node, t reflect.Type) (reflect.Value, error) {
	m := reflect.MakeMap(t)
	if n.Kind != yaml.MappingNode {
		return m, fmt.Errorf("keys and values are wanted")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if err := errors.Join(plain(k), plain(v)); err != nil {
			return m, fmt.Errorf("line %d: %w", k.Line, err)
		}
		if isNull(v) {
			return m, fmt.Errorf("line %d: key %q has no value", k.Line, k.Value)
		}
		key := reflect.ValueOf(k.Value).Convert(t.Key())
		if m.MapIndex(key).IsValid() {
			return m, fmt.Errorf("line %d: key %q is given twice", k.Line, k.Value)
		}
		m.SetMapIndex(key, reflect.ValueOf(v.Value).Convert(t.Elem()))
	}
	return m, nil
}
