package main

import (
	"testing"

	tero "tero.internal/plugin-manager/sdk"
)

func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		image, settings string
		code            string
	}{
		{"localhost/web:v1", `{}`, ""},
		{"localhost/web:latest", `{}`, "image.latest"},
		{"localhost:5000/web", `{}`, "image.latest"},
		{"localhost/web@sha256:aa", `{}`, ""},
		{"localhost/web:latest", `{"tags":["dev"]}`, ""},
		{"localhost/web:dev", `{"tags":["dev"]}`, "image.latest"},
		{"localhost/web:v1", `{`, "settings"},
	} {
		d := tero.Admit(tero.Settings(c.settings), &tero.LaunchRequest{Image: c.image})
		if d.Code != c.code || d.Allowed != (c.code == "") {
			t.Errorf("%s with %s: %+v, want code %q", c.image, c.settings, d, c.code)
		}
	}
}
