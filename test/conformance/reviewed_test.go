package conformance

// reviewed are the differences that somebody has looked at, with the reason.
// TERO is never looser: there is no entry for that.
func reviewed() []review {
	return append(stricterThanPeers(), []review{
		{
			class: capable, keys: []string{"call.46?"},
			what: "calls of Linux 6.10 and newer that the profile allows (mseal, setxattrat ...)",
			why:  "the peers' libseccomp does not know their names and leaves the rules out; TERO does what the profile says",
		},
		{
			class: capable, peer: "crun", keys: []string{"outcome"}, bundles: []string{"resources processes unlimited"},
			what: "pids.limit -1", why: "crun writes -1 to a v1 cgroup, which takes \"max\"; the specification means unlimited",
		},
		{
			class: capable, peer: "runc", keys: []string{"outcome"}, bundles: []string{"filter with flags"},
			what: "flags of a seccomp profile", why: "runc 1.1 refuses all of them; TERO passes LOG and SPEC_ALLOW on and refuses others",
		},
		{
			class: different, keys: []string{"call.*"},
			what: "the error of calls that the profile does not know: ENOSYS, not the profile's",
			why:  "programs fall back from what a kernel does not have, and give up on EPERM; refused it is in both cases",
		},
		{
			class: different, keys: []string{"cgroup.path.*"}, bundles: []string{"namespace cgroup of the host"},
			what: "hierarchies without limits of TERO's are not entered (blkio, cpuset, freezer, name=systemd), v2 is",
			why:  "each costs a folder at every start and limits nothing; v2 is where a process can be cloned into",
		},
		{
			class: different, keys: []string{"env.HOME"},
			what: "HOME where the configuration has none", why: "the peers add it; TERO's own configurations always name it, and others are taken as they are",
		},
		{
			class: different, keys: []string{"key.keyring _ses"},
			what: "the session keyring: nameless, with fewer rights than runc's",
			why:  "each container gets one of its own; crun's is the host's user's, whom the container cannot name",
		},
		{
			class: different, keys: []string{"mode./dev/mqueue", "mount.mode./dev/mqueue", "owner.dev.mqueue"},
			what: "the folder of message queues belongs to nobody",
			why:  "the ipc namespace is cloned together with the user namespace, which saves a call; anybody in it may make queues as before",
		},
		{
			class: different, keys: []string{"mount.options./etc/*", "mount.type./etc/*"},
			what: "/etc/hosts, /etc/hostname and /etc/resolv.conf are mounts, read-only",
			why:  "TERO writes them, as engines around runc and crun do by mounts of their own",
		},
		{
			class: different, peer: "runc", keys: []string{"mode./mnt", "mode./work", "mount.mode./mnt", "mount.mode./work"},
			bundles: []string{"mount *", "paths *"},
			what:    "a tmpfs without a mode is 1777, and one with a mode has it",
			why:     "the kernel's default, as crun; runc takes the mode of the folder that the mount hides",
		},
		{
			class: different, peer: "runc", keys: []string{"mode./mnt", "mount.mode./mnt", "mount.options./mnt"}, bundles: []string{"mount bind with a folder's id map"},
			what: "a bind with the option idmap shows the container's ids", why: "runc 1.1 ignores the option",
		},
		{
			class: different, peer: "runc", keys: []string{"fd.0"},
			what: "standard input is /dev/null where none is given, not a pipe", why: "runc copies its own input in a process that stays",
		},
		{
			class: different, peer: "runc", keys: []string{"host.domain", "sysctl.kernel/domainname"}, bundles: []string{"process with a domain name"},
			what: "domainname is set", why: "runc 1.1 ignores it",
		},
		{
			class: different, peer: "runc", keys: []string{"process.personality"}, bundles: []string{"process for 32 bits"},
			what: "the personality is set", why: "runc 1.1 ignores it",
		},
		{
			class: different, keys: []string{"process.ioprio"}, bundles: []string{"process with idle I/O"},
			what: "ioPriority is set", why: "Debian's crun and runc ignore it",
		},
		{
			class: different, keys: []string{"try.mknod *"},
			what: "making device nodes is refused by another error",
			why:  "Landlock, or a file system without a writable layer, refuses before the user namespace does",
		},
		{
			class: different, keys: []string{"write./data/file", "write./etc/passwd"},
			what: "writing another's file on a read-only root: EROFS, not EACCES",
			why:  "the overlay has no upper layer, which the kernel checks first",
		},
	}...)
}

// stricterThanPeers are the ways in which TERO gives less.
func stricterThanPeers() []review {
	return []review{
		{
			class: stricter, peer: "crun", keys: []string{"dev.core"},
			what: "no /dev/core", why: "a link to /proc/kcore, which is masked; nothing needs it",
		},
		{
			class: stricter, keys: []string{"try.device *"},
			what: "the cgroup lets no device node be made, and neither console nor tun be opened",
			why:  "the peers add rules of their own to those of the configuration; TERO adds none",
		},
		{
			class: stricter, keys: []string{"mount.options./"},
			what: "the root is nodev, and nosuid with no_new_privs",
			why:  "devices come from the host's /dev alone, and set-user-id bits have no effect without new privileges",
		},
		{
			class: stricter, keys: []string{"mount.options./dev/*"},
			what: "device nodes are mounted nosuid and noexec", why: "nothing on them is executed",
		},
		{
			class: stricter, keys: []string{"mount.options./proc/*", "mount.options./sys/firmware"},
			what: "masked and read-only paths are nosuid, nodev, noexec too, and masked files read-only",
			why:  "a mask is an empty tmpfs or /dev/null with every restriction; read-only paths keep those of the mount below",
		},
		{
			class: stricter, keys: []string{"mount.options./data", "mount.options./etc/passwd"}, bundles: []string{"paths *"},
			what: "masks on files of the image are mounted with every restriction", why: "as in /proc",
		},
		{
			class: stricter, peer: "crun", keys: []string{"mount.options./mnt"}, bundles: []string{"mount bind noexec", "mount bind nosymfollow"},
			what: "options of a bind mount other than ro hold: noexec, nosymfollow",
			why:  "Debian's crun loses them where it does not remount",
		},
		{
			class: stricter, keys: []string{"outcome"}, bundles: []string{"folder that is *"},
			what: "a working directory that is missing, relative, or closed to the user, is an error",
			why:  "the peers make it as root, or go there as root; so a process could be where it may not go",
		},
		{
			class: stricter, keys: []string{"outcome"}, bundles: []string{"limits *", "namespace *", "refused *"},
			what: "refused where a peer goes along: limits that are wrong or double, namespaces to join or of the host, hooks, mounts over /proc",
			why:  "what TERO does not do is an answer, and what is no limit an error",
		},
		{
			class: stricter, keys: []string{"try.execute from tmp", "try.mount tmpfs", "try.remount root"}, bundles: []string{"no filter, all capabilities*"},
			what: "no mounting and no executing from /tmp even with all capabilities and no filter", why: "Landlock",
		},
		{
			class: stricter, keys: []string{"try.write etc", "try.write root"}, bundles: []string{"no filter, all capabilities*"},
			what: "a read-only root stays so for who can remount",
			why:  "the overlay has no upper layer; with the peers CAP_SYS_ADMIN of the container makes the root writable again",
		},
	}
}
