package container

import (
	"fmt"
	"slices"
	"strings"
	"time"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/common/fault"
)

// psField is a column of "tero top", named as ps(1) does.
type psField struct {
	name string
	of   func(*runtimev1.Process) string
}

func allPsFields() []psField {
	number := func(get func(*runtimev1.Process) int32) func(*runtimev1.Process) string {
		return func(p *runtimev1.Process) string { return fmt.Sprint(get(p)) }
	}
	return []psField{
		{"pid", number((*runtimev1.Process).GetPid)},
		{"ppid", number((*runtimev1.Process).GetParentPid)},
		{"hpid", number((*runtimev1.Process).GetHostPid)},
		{"user", func(p *runtimev1.Process) string { return fmt.Sprint(p.GetUser()) }},
		{"stat", (*runtimev1.Process).GetState},
		{"nlwp", number((*runtimev1.Process).GetThreads)},
		{"rss", func(p *runtimev1.Process) string { return bytes(p.GetRssBytes()) }},
		{"time", func(p *runtimev1.Process) string {
			return p.GetCpuTime().AsDuration().Round(10 * time.Millisecond).String()
		}},
		{"start", func(p *runtimev1.Process) string { return render.Time(p.GetStarted()) }},
		{"comm", (*runtimev1.Process).GetName},
		{"args", func(p *runtimev1.Process) string {
			if len(p.GetArgs()) == 0 {
				return "[" + p.GetName() + "]"
			}
			return strings.Join(p.GetArgs(), " ")
		}},
	}
}

// psFields gives the columns that the user asked for.
func psFields(words []string) ([]psField, error) {
	all := allPsFields()
	if len(words) == 0 {
		words = []string{"pid,ppid,hpid,user,stat,rss,time,args"}
	}
	aliases := map[string]string{"uid": "user", "cmd": "args", "command": "args", "ucmd": "comm", "cputime": "time", "s": "stat", "state": "stat", "lstart": "start"}
	var fields []psField
	for name := range strings.SplitSeq(strings.Join(words, ","), ",") {
		key := strings.ToLower(name)
		if a, ok := aliases[key]; ok {
			key = a
		}
		i := slices.IndexFunc(all, func(f psField) bool { return f.name == key })
		if i < 0 {
			return nil, fault.New(fault.Invalid, "there is no column %q", name).WithHint("\"tero top --help\" lists them")
		}
		fields = append(fields, all[i])
	}
	return fields, nil
}
