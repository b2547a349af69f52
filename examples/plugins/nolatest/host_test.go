package main

import (
	"strings"
	"testing"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/plugintest"
)

// TestInTheHost runs the plugin as a node does: compiled, packed, signed,
// verified, metered.
func TestInTheHost(t *testing.T) {
	h := plugintest.New(t)
	manifest, wasm := plugintest.Read(t, "manifest.json"), plugintest.Build(t, ".")
	start := time.Now()
	h.Install(t, manifest, wasm, `{}`)
	t.Logf("installed %d bytes in %v", len(wasm), time.Since(start).Round(time.Millisecond))
	_, _, err := h.Admit(t, workload.Spec{Name: "web", Image: "localhost/web:latest"}, workload.Image{Reference: "localhost/web:latest"})
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "image.latest") {
		t.Errorf("latest: %v", err)
	}
	_, v, err := h.Admit(t, workload.Spec{Name: "web", Image: "localhost/web:v1"}, workload.Image{Reference: "localhost/web:v1"})
	if err != nil || len(v) != 1 || v[0].Plugin != "nolatest" {
		t.Errorf("v1: %v, %v", v, err)
	}
	h.Close(t)
	start = time.Now()
	h.Open(t)
	t.Logf("opened from cache in %v", time.Since(start).Round(time.Millisecond))
	start = time.Now()
	const calls = 6000 // a guest whose clock starves its garbage collector runs out of memory by then
	for range calls {
		if _, v, err = h.Admit(t, workload.Spec{Name: "web", Image: "localhost/web:v1"}, workload.Image{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%v a call, %d ticks", (time.Since(start) / calls).Round(time.Microsecond), v[0].Ticks)
	if _, err := h.Host.Remove(t.Context(), "nolatest"); err != nil {
		t.Fatal(err)
	}
	h.Install(t, manifest, wasm, `{"tags":["dev"]}`)
	if _, _, err = h.Admit(t, workload.Spec{Name: "web", Image: "localhost/web:latest"}, workload.Image{}); err != nil {
		t.Errorf("latest, with other settings: %v", err)
	}
}
