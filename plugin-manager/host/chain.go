package host

import (
	"slices"
	"strings"
	"sync"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
)

// chain is the plugins that judge launches, in the order in which they are
// called. A launch uses one chain from its beginning to its end; a chain that
// was replaced is drained before a plugin of it is closed.
type chain struct {
	mutators, validators []*entry
	// blocked is a plugin whose word is wanted and cannot be had.
	blocked *entry
	// closed is the chain of a host that was closed.
	closed bool

	users sync.WaitGroup
}

func closedChain() *chain { return &chain{closed: true} }

// newChain orders the active plugins, which are sorted by name. Two plugins
// that may write the same value, or an order that cannot be, are an error.
func newChain(entries []*entry) (*chain, error) {
	c := &chain{}
	for _, e := range entries {
		if e.state == Quarantined && c.blocked == nil {
			c.blocked = e
		}
	}
	if err := checkWriters(entries); err != nil {
		return nil, err
	}
	var err error
	if c.mutators, err = order(entries, pluginpkg.PointMutate); err != nil {
		return nil, err
	}
	c.validators, err = order(entries, pluginpkg.PointValidate)
	return c, err
}

func (c *chain) empty() bool {
	return len(c.mutators) == 0 && len(c.validators) == 0 && c.blocked == nil && !c.closed
}

// drain waits until no launch uses c any more.
func (c *chain) drain() {
	if c != nil {
		c.users.Wait()
	}
}

// hooked gives the active ones of entries that have a hook at point, with it.
func hooked(entries []*entry, point string) (at []*entry, hooks []pluginpkg.Hook) {
	for _, e := range entries {
		if e.state != Active {
			continue
		}
		if h, ok := e.pkg.Manifest.Hook(point); ok {
			at, hooks = append(at, e), append(hooks, h)
		}
	}
	return at, hooks
}

// checkWriters refuses two plugins that may set the same value: which of them
// wins must not depend on their order.
func checkWriters(entries []*entry) error {
	at, hooks := hooked(entries, pluginpkg.PointMutate)
	for i := range at {
		for k := range i {
			for _, a := range hooks[i].Writes {
				for _, b := range hooks[k].Writes {
					if pluginpkg.Overlap(a, b) {
						return fault.New(fault.Conflict, "plugins %s and %s may both write: %s and %s overlap", at[k].record.Name, at[i].record.Name, b, a).
							WithHint("remove one of them, or use versions that declare narrower writes")
					}
				}
			}
		}
	}
	return nil
}

// order sorts the plugins at point so that each comes after those that it
// names; ties are by name.
func order(entries []*entry, point string) ([]*entry, error) {
	at, hooks := hooked(entries, point)
	var sorted []*entry
	done := map[string]bool{}
	present := map[string]bool{}
	for _, e := range at {
		present[e.record.Name] = true
	}
	for len(sorted) < len(at) {
		next := slices.IndexFunc(at, func(e *entry) bool {
			if done[e.record.Name] {
				return false
			}
			h := hooks[slices.Index(at, e)]
			return !slices.ContainsFunc(h.Order.After, func(a string) bool { return present[a] && !done[a] })
		})
		if next < 0 {
			var names []string
			for _, e := range at {
				if !done[e.record.Name] {
					names = append(names, e.record.Name)
				}
			}
			return nil, fault.New(fault.Conflict, "plugins %s each want to come after another of them at %s", strings.Join(names, ", "), point).
				WithHint("remove one of them")
		}
		done[at[next].record.Name] = true
		sorted = append(sorted, at[next])
	}
	return sorted, nil
}
