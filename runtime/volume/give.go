package volume

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/idmap"
)

// nobody is whom a file of none of a container's ids belongs to.
const nobody = 65534

// Give makes the files of a volume belong to the ids that begin at hostID, for
// file systems that cannot show them through a map of ids: then only one
// container can have the volume at a time, and container must be it. hostID 0
// takes that back. A crash half-way is mended by the next call: the folder
// itself changes last.
func (s *Store) Give(ctx context.Context, name string, container workload.ID, hostID uint32) error {
	s.mu.Lock() // nobody else comes to hold it meanwhile
	defer s.mu.Unlock()
	for other := range s.holds[name] {
		if other != container {
			return fault.New(fault.Conflict, "volume %q is mounted in container %s, and its file system cannot map user ids for a second one", name, other.Short()).
				WithHint("remove that container first, or keep TERO's state directory on a file system that can: ext4, xfs, btrfs, tmpfs")
		}
	}
	root, err := os.OpenRoot(s.path(name))
	if err == nil {
		err = giveAll(ctx, root, hostID)
		_ = root.Close()
	}
	if err != nil {
		return fmt.Errorf("give volume %s to a container: %w", name, err)
	}
	return nil
}

// giveAll changes the owners of a folder's files, then its own. No container
// runs on them, and no link is followed.
func giveAll(ctx context.Context, root *os.Root, hostID uint32) error {
	err := fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == "." {
			return err
		}
		return give(root, path, hostID)
	})
	if err != nil {
		return err
	}
	return give(root, ".", hostID)
}

func give(root *os.Root, path string, hostID uint32) error {
	st, err := root.Lstat(path)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is not known", path)
	}
	uid, gid := moved(sys.Uid, hostID), moved(sys.Gid, hostID)
	if uid == sys.Uid && gid == sys.Gid {
		return nil
	}
	return root.Lchown(path, int(uid), int(gid))
}

// moved gives the id that is, in the range from hostID, what id is in its own.
func moved(id, hostID uint32) uint32 {
	inside, ok := idmap.Inside(id)
	switch {
	case ok:
		return hostID + inside
	case id < idmap.Size:
		return hostID + id
	}
	return hostID + nobody
}
