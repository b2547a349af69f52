package sandbox

import (
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/workload"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/keeper"
)

// boundLog tells the keeper how large the container's log may become.
func boundLog(req *protocol.Request, config *specs.Spec) {
	var l workload.LogLimits
	l.MaxBytes, _ = strconv.ParseInt(config.Annotations[annotationLogBytes], 10, 64) // ours: absent or a number
	l.MaxFiles, _ = strconv.Atoi(config.Annotations[annotationLogFiles])
	l = l.Or()
	req.LogSize, req.LogFiles = l.MaxBytes, uint32(l.MaxFiles) //nolint:gosec // at most 1000
}

// LogPath gives the first file of the container's output, which the keeper may
// have removed since; crilog finds the others by it.
func (n *Native) LogPath(id workload.ID) string {
	return filepath.Join(n.folder(id), keeper.LogFile)
}

// HoldLog makes the container, whose launch is to come, wait rather than lose
// output, from its first byte on, until ReleaseLog or Destroy. Who reads the log
// holds it with crilog by then, if it wants all of it.
func (n *Native) HoldLog(id workload.ID) { n.holds.Ask(n.LogPath(id)) }

// ReleaseLog ends HoldLog.
func (n *Native) ReleaseLog(id workload.ID) { n.holds.Release(n.LogPath(id)) }
